"""Paths that people write: in settings, on the command line, in the Python interface."""

from pathlib import Path


def expand_home(text: str) -> str:
    """`~` and `~user` at the start as that home folder, as a shell would; without such a user it stays a name."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # no such user, or one without a home
        return text


def user_path(text: str | Path) -> Path:
    """A path as it was written, with `~` for the home folder; the `type` of options that are paths."""
    return Path(expand_home(str(text)))
