"""Files that are made from the data once and kept: which ones are still true, and where they are."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

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


def cached(candidates: Sequence[Path], key: str, make: Callable[[], Any]) -> Any:
    """The content of a derived JSON file: as kept if it is still true, else made anew and kept.

    Args:
        candidates: files that may hold it, in order of preference; a new one goes to the first that can be written.
            If none can, the log says so, and the content is made again next time.
        key: see `fingerprint`.
        make: the content, something that JSON can hold.
    """
    for path in candidates:
        kept = read_cached(path, key)
        if kept is not None:
            return kept
    content = make()
    reasons = []
    for path in candidates:
        try:
            write_cached(path, key, content)
        except OSError as error:
            reasons.append(f"{path} ({error})")
        else:
            return content
    logger.warning("cannot write %s; the content will be made again next time", " or ".join(reasons))
    return content


def read_cached(path: Path, key: str) -> Any | None:
    """The content of a derived file; None, with a line in the log, where it is missing, stale or damaged."""
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        if file["key"] == key:
            return file["content"]
        logger.info("%s is stale: files of the data, or its own format, have changed", path)
    except OSError:
        pass  # it was not made yet
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged and will be made anew", path)
    return None


def write_cached(path: Path, key: str, content: Any) -> None:
    """Writes a derived file, whole or not at all; several processes may do so at once."""
    write_json(path, {"key": key, "content": content}, indent=None)
