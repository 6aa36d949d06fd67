"""Files that are complete or absent, and output folders that hold one run each."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`, renamed to it when the block succeeds and deleted when it fails.

    The suffix is kept, because some writers choose the format by it. The name is random, because processes of
    several machines may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, renamed to it when the block succeeds and deleted when it fails.

    What is at `folder` stays there until then, and is deleted after. Between the two renames nothing is there: a
    process that is killed at that moment leaves both folders beside it, under names that begin with a dot.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    temporary, old = (folder.with_name(f".{folder.name}.{token}.{kind}") for kind in ("new", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=not rest.exists())


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Writes a JSON file atomically, indented unless `indent` is None, with a newline at its end."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def claim_output(folder: Path, *, markers: tuple[str, ...], overwrite: bool, hint: str = "") -> None:
    """Makes the output folder; refuses one that already holds results.

    Args:
        folder: where the results will go.
        markers: files or folders that an earlier run would have written.
        overwrite: accept a folder with results.
        hint: another way out for the user, added to the message.

    Raises:
        ValueError: if the folder holds one of the markers, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={folder} is a file, expected a folder")
    existing = [marker for marker in markers if (folder / marker).exists()]
    if existing and not overwrite:
        raise ValueError(
            f"output_dir={folder} already holds {', '.join(existing)} of an earlier run; "
            f"name another output_dir, or set overwrite=true to replace them{hint}"
        )
    folder.mkdir(parents=True, exist_ok=True)
