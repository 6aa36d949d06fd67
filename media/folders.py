"""What lies in a folder of frames, masks, videos or labels, without what file managers and archivers leave there."""

from collections.abc import Collection
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Of frames, in lower case; `listing` takes upper case for the same."""

MASK_SUFFIXES = (".png",)

_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"})
"""What Windows, and archives made by macOS, leave; other systems hide theirs by a dot."""


def is_clutter(name: str) -> bool:
    """Whether a file or folder is no part of the data, such as `._00000.jpg`, `.DS_Store` and `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _CLUTTER


def listing(folder: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """What lies in a folder, sorted by name, without clutter.

    Args:
        folder: to look into; what lies in its folders is not seen.
        suffixes: only files of these, in lower case, such as `IMAGE_SUFFIXES`; none: all files and folders.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    inside = sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    return [path for path in inside if not suffixes or path.suffix.lower() in suffixes]
