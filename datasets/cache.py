"""Files that are made from the data once and kept: which ones are still true, and where they are."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from datasets.index_file import IndexEntry, Place, read_json, validate
from media.files import write_json

logger = logging.getLogger(__name__)


def fingerprint(files: Iterable[Path], *, root: Path, version: int, settings: str = "") -> str:
    """Changes whenever one of the files is added, removed, replaced or rewritten.

    Args:
        files: what a derived file is made of; missing ones count as such.
        root: names are taken relative to it, so that moving the whole data set changes nothing.
        version: of the derived file's format.
        settings: of how it is made.

    Raises:
        OSError: a file cannot be looked at; another fingerprint would say that it has changed.
    """
    digest = hashlib.sha256(f"{version}\n{settings}\n".encode())
    for path in sorted(files):
        try:
            state = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            digest.update(f"{path.relative_to(root).as_posix()} missing\n".encode())
            continue
        digest.update(f"{path.relative_to(root).as_posix()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class _Kept(IndexEntry):
    """A derived file."""

    key: str
    content: Any


M = TypeVar("M", bound=BaseModel)


def cached(candidates: Sequence[Path], key: str, make: Callable[[], Any], model: type[M]) -> M:
    """The content of a derived JSON file: as kept if it is still true, else made anew and kept.

    Args:
        candidates: files that may hold it, in order of preference; a new one goes to the first that can be written.
            If none can, the log says so, and the content is made again next time.
        key: see `fingerprint`.
        make: the content, something that JSON can hold.
        model: of the content; a file with another one is damaged.
    """
    for path in candidates:
        kept = read_cached(path, key, model)
        if kept is not None:
            return kept
    content = make()
    result = model.model_validate(content)
    reasons = []
    for path in candidates:
        try:
            write_cached(path, key, content)
        except OSError as error:
            reasons.append(f"{path} ({error})")
        else:
            return result
    logger.warning("cannot write %s; the content will be made again next time", " or ".join(reasons))
    return result


def read_cached(path: Path, key: str, model: type[M]) -> M | None:
    """The content of a derived file; None, with a line in the log, where it is missing, stale or damaged."""
    if not path.exists():
        return None  # it was not made yet
    try:
        file = validate(_Kept, read_json(path), Place(path))
        if file.key == key:
            return validate(model, file.content, Place(path, "content"))
        logger.info("%s is stale: files of the data, or its own format, have changed", path)
    except ValueError as error:
        logger.warning("%s; it is damaged and will be made anew", error)
    return None


def write_cached(path: Path, key: str, content: Any) -> None:
    """Writes a derived file, whole or not at all; several processes may do so at once."""
    write_json(path, {"key": key, "content": content}, indent=None)
