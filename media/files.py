"""Files that are complete or absent, names from data as paths, and output folders that hold one run each."""

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_BYTES = 255
"""Of the name of a file or folder, on the file systems of Linux, macOS and Windows."""

MOST_SHOWN = 80
"""Characters of a value that a message repeats."""

_MAY_PASS = {
    errno.EAGAIN, errno.EBUSY, errno.EHOSTDOWN, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENOLCK, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_ERRNO_OF_HDF5 = re.compile(r"errno = (\d+)")

_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_SUFFIX = 16

_TEMPORARY = re.compile(r"\..{0,16}\.[0-9a-f]{16}(\.[^.]*)?", re.DOTALL)

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Of errors that name no file: those that cannot come from reading another one in the meantime."""

_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems answer that have nothing to wait for."""


def plain_name(name: str, *, what: str) -> str:
    """The name itself, if it can be that of one file or folder.

    Args:
        name: from data: an index file, an annotation, an archive.
        what: whose name it is, and in which file it stands; begins the message.

    Raises:
        ValueError: it is empty, `.` or `..`, has a separator of folders (of Windows, too: archives go there), a
            control character or half a surrogate pair, or is longer than file systems allow.
    """
    reason = _fault_of(name)
    if reason:
        shown = repr(name)
        shown = shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}..."
        raise ValueError(f"{what} {shown}: {reason}; expected the name of one file or folder")
    return name


def _fault_of(name: str) -> str:
    """Why a name is none; empty where it is one."""
    if name in ("", ".", ".."):
        return "an empty name" if not name else "a step between folders, not a name"
    bad = _NOT_IN_NAMES.search(name)
    if bad:
        return f"names cannot hold {bad[0]!r}" if bad[0] not in "/\\" else f"a path ({bad[0]}), not a name"
    num_bytes = len(name.encode())
    return f"{num_bytes} bytes, more than the {MOST_BYTES} of file names" if num_bytes > MOST_BYTES else ""


def path_inside(folder: Path, *names: str, what: str) -> Path:
    """The path of a file or folder that data names: the only way by which such a name becomes a path.

    Args:
        folder: where it lies.
        names: of the folders on the way, from the outside in, and of the file; each is one name. `video/00000.png` is
            given as `"video", "00000.png"`.
        what: as for `plain_name`.

    Raises:
        ValueError: as `plain_name`.
    """
    return folder.joinpath(*(plain_name(name, what=what) for name in names))


def output_path(folder: Path, *names: str, what: str) -> Path:
    """As `path_inside`, for a file or folder that is written: links on the way do not lead out of the folder.

    Args:
        folder: of the output; may be a link itself, because the user named it.
        names: as for `path_inside`.
        what: as for `plain_name`.

    Raises:
        ValueError: as `plain_name`, or a link leads elsewhere.
    """
    path = path_inside(folder, *names, what=what)
    real, real_folder = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([real, real_folder]) != real_folder:
        raise ValueError(f"{path}: a link leads out of {folder}, to {real}; remove it, or name another output folder")
    return path


class UnavailableError(ValueError):
    """A file that cannot be read now, for a reason of the disk or network: it may be whole, so it is not damaged."""


def may_pass(error: BaseException) -> bool:
    """Whether an error of reading is one of the disk, network or system, and may be gone next time."""
    number = getattr(error, "errno", None)
    if number is None:
        found = _ERRNO_OF_HDF5.search(str(error))
        number = int(found[1]) if found else None
    return number in _MAY_PASS


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells failures of the file system from damage; both may reach the block as OSError.

    Raises:
        UnavailableError: the file cannot be read now.
    """
    try:
        yield
    except OSError as error:
        if may_pass(error):
            raise unavailable(path, error) from None
        raise


def unavailable(path: Path, error: BaseException) -> UnavailableError:
    """What to raise about a file after an error that `may_pass`."""
    reason = getattr(error, "strerror", None) or str(error)
    return UnavailableError(f"{path}: cannot be read now ({reason}); see to the disk or network, then start again")


def regular_file(path: Path) -> Path:
    """The path itself, if a file can be read there to its end: pipes and devices may never give one.

    Raises:
        OSError: there is nothing, or nothing that can be looked at.
        ValueError: it is something else than a file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise ValueError(f"{path}: a {kind}, expected a file")
    return path


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name in the folder of `path`, renamed to it when the block succeeds and deleted when it fails.

    The file reaches the disk before it gets its name, and the name before the block is left: after a power cut there is
    the old file or the new one, and never an empty one.

    The suffix is kept, because some writers choose the format by it. The name is random, because processes of
    several machines may write the same file; it does not grow with the name of the file, which may be as long as names
    can be.

    Args:
        path: of the file; its folder is made if it is missing.
        durable: False for one of very many files, such as the masks of a video, for which the disk is not waited for
            each time; `flush_disk` does it once for all.

    Raises:
        OSError: it cannot be written; names `path`, which the error of a full disk does not do by itself.
        ValueError: there is a device or pipe of this name, such as /dev/null, which a file would take the place of.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a device, pipe or socket; name a file to write to")
    with named_errors(path):
        _make_folder(path.parent, durable=durable)
        suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
        temporary = path.with_name(f".{path.stem[:16]}.{secrets.token_hex(8)}{suffix}")
        try:
            yield temporary
            if durable:
                _sync(temporary)
            temporary.replace(path)
            if durable:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Where writing fails in the block, the error names this file, and not none, or the temporary one beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None:
            is_ours = error.errno in _CANNOT_WRITE
        else:
            named = Path(os.fsdecode(error.filename))
            is_ours = named.parent == path.parent and is_temporary(named)
        if not is_ours:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def is_temporary(path: Path) -> bool:
    """Whether the name is one that `atomic_path` gives: of a file that is being written, or that a killed run left."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporary(folder: Path) -> None:
    """Deletes the files that killed runs left half written, below a folder that nobody else writes to."""
    for path in folder.rglob(".*"):
        if is_temporary(path) and path.is_file() and not path.is_symlink():
            path.unlink()


def flush_disk(folder: Path) -> None:
    """Waits until everything that was written to the file system of a folder has reached its disk."""
    if sys.platform == "linux":
        # os.sync waits for all other file systems, too, and for ever for one whose server is gone.
        file = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(file):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
        finally:
            os.close(file)
    elif sys.platform != "win32":
        os.sync()


def _make_folder(folder: Path, *, durable: bool) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing if durable else ():
        _sync(made.parent)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(file)


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
    try:
        temporary.mkdir()  # within the block: Ctrl-C can come when the folder is there and its name not yet returned
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
        ValueError: if the folder holds one of the markers, or one that is a link to elsewhere, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={folder} is a file, expected a folder")
    for marker in markers:
        output_path(folder, *marker.split("/"), what="output")
    existing = [marker for marker in markers if (folder / marker).exists()]
    if existing and not overwrite:
        raise ValueError(
            f"output_dir={folder} already holds {', '.join(existing)} of an earlier run; "
            f"name another output_dir, or set overwrite=true to replace them{hint}"
        )
    folder.mkdir(parents=True, exist_ok=True)
