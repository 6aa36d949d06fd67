"""One run, one folder: a process that writes to an output folder keeps every other one out of it.

The claim is a lock of the operating system on a hidden file in the folder, so it ends with the process, however that
ends: a run that was killed can be started again at once. File systems without locks (some network drives) get a lock
file instead, which says who made it; one whose process no longer lives does not count.
"""

import errno
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"

PATIENCE_S = 3.0
"""How long a second process waits: one that was just killed needs a moment to end."""

RETRY_S = 0.1

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What the operating system says where a file system has no locks."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that writes to a folder.

    Attributes:
        host: name of its machine.
        pid: its number there.
        since: local time at which it claimed the folder.
        started: when the process began, in clock ticks since the machine started; numbers of processes are used again.
            None where the system does not tell.
    """

    host: str
    pid: int
    since: str
    started: int | None

    @classmethod
    def myself(cls) -> "Holder":
        """This process."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), since, _start_of(os.getpid()))

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to live no longer; nobody can tell from another machine."""
        if self.host != socket.gethostname() or sys.platform == "win32":  # asking there would end the process
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # it lives, and is another user's
        return self.started is not None and _start_of(self.pid) not in (None, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Makes an output folder, and keeps other processes out of it for the length of the block.

    Processes that are forked in the block do not keep the folder when this one ends.

    Args:
        folder: that results go to.

    Raises:
        ValueError: another process writes there; the message says which.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir={folder} is a file, expected a folder")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    deadline = time.monotonic() + PATIENCE_S
    while (file := _try_to_claim(path)) is None:
        if time.monotonic() > deadline:
            holder = _read_holder(path)
            cannot_be_asked = holder is None or holder.host != socket.gethostname()
            hint = f"; if that one has been killed, delete {path}" if cannot_be_asked else ""
            raise ValueError(
                f"output_dir={folder} is in use by {holder or 'another process'}; "
                f"wait until it has ended, or name another output_dir{hint}"
            )
        time.sleep(RETRY_S)
    try:
        yield
    finally:
        _HELD.discard(file)
        # The folder may have become read-only or be gone. A file that stays keeps nobody out: its process is gone.
        with suppress(OSError):
            path.unlink()
            if is_new:
                folder.rmdir()  # where nothing was written, nothing stays
        os.close(file)


_HELD: set[int] = set()
"""Open lock files of this process."""


def _try_to_claim(path: Path) -> int | None:
    """The open lock file; None where another process has it."""
    _close_in_forked_processes()
    file = _lock(path) if _has_locks(path.parent) else _make(path)
    if file is None:
        return None
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps(asdict(Holder.myself())).encode())
    except OSError as error:  # a full disk; the error does not name the file by itself
        path.unlink()
        os.close(file)
        raise OSError(error.errno, error.strerror, str(path)) from None
    _HELD.add(file)
    return file


def _has_locks(folder: Path) -> bool:
    """Whether the file system has locks that end with their process."""
    if sys.platform == "win32":
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return False
            raise
    return True


def _lock(path: Path) -> int | None:
    """The lock file, locked; None where another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        if _is_at(file, path):
            return file
        os.close(file)  # the one before has ended between the two calls, and has removed its file


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one that has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _make(path: Path) -> int | None:
    """A lock file where there are no locks: whoever makes it has the folder. None where a process that lives has it."""
    holder = _read_holder(path)
    if holder is not None and holder.is_gone:
        # Of two processes that see this only one can rename the file, and it must not take one that is newer.
        taken = path.with_name(f"{LOCK_FILE}.{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            path.rename(taken)
            if _read_holder(taken) != holder:
                taken.rename(path)
                return None
            taken.unlink()
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None


def _read_holder(path: Path) -> Holder | None:
    """Who claimed the folder; None where the file does not say so (yet)."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _start_of(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine started; None where Linux' `/proc` is not there."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])  # the name of the program may hold spaces


@cache
def _close_in_forked_processes() -> None:
    """A lock is shared with forked processes; loader workers must not hold it when the process that has it is gone."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for file in _HELD:
        os.close(file)
    _HELD.clear()
