"""What the machine refuses: memory, disk space, permissions, ports. Each is one message that says what can be done.

The libraries raise these as very different errors: `MemoryError`, `OSError` with a number, or `RuntimeError` with a
text only; here is the one place that knows them. PyTorch is not imported: its errors are known by names and texts.
"""

import errno
import importlib.util
import re

from structures.wording import one_line

MOST_CHARACTERS = 200
"""Of a library's own text in a message."""

LESS_MEMORY = "close other programs, or use a machine with more memory"
"""What can be done about memory where a command knows nothing better."""

OF_SYSTEM: dict[int, str] = {
    errno.ENOSPC: "no space left on this disk; free some, or name a folder on another one",
    errno.EDQUOT: "your share of this disk is used up; free some, or name a folder on another one",
    errno.EFBIG: "the file would be larger than this system allows; see `ulimit -f`, or name a folder on another disk",
    errno.EROFS: "this disk can only be read; name a folder on another one",
    errno.EACCES: "permission denied; check who owns it (`ls -ld`), or name another place",
    errno.EPERM: "not permitted; check who owns it (`ls -ld`), or name another place",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n 4096`), or set data.num_workers=0",
    errno.ENFILE: "the system has too many open files; end other programs",
    errno.EPIPE: "a process that was read from or written to has ended, mostly because memory was used up",
    errno.EADDRINUSE: "this port is in use; end the program that has it, or name another port (--port of the page, "
    "--master_port of torchrun)",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "symbolic links that lead in a circle",
}
"""Number of a system error -> what it means and what can be done."""

PEER_LOST = "another process of this run has ended or cannot be reached; its own message says why"

IN_TEXT: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"DataLoader worker .*killed by signal: Bus error|unable to \w+ .*shared memory.*No space",
            "the shared memory of this machine (/dev/shm) is too small for the processes that read data; set "
            "data.num_workers=0, lower data.prefetch, or give a container more (`docker run --shm-size=8g`)",
        ),
        (
            r"DataLoader worker .*(killed by signal|exited unexpectedly)",
            "a process that reads data was killed, mostly by the system because memory was used up; lower "
            "data.num_workers (0 reads in the main process and shows the error), data.prefetch or data.batch_size",
        ),
        (r"received \d+ items of ancdata|Too many open files", OF_SYSTEM[errno.EMFILE]),
        (r"PytorchStreamWriter failed|inline_container.*(unexpected pos|write)|iostream error", "a file could not be "
         "written whole, mostly because the disk is full (`df`, `ulimit -f`); free some, or name another folder"),
        (r"No space left on device|os error 28\b", OF_SYSTEM[errno.ENOSPC]),
        (r"EADDRINUSE|address already in use", OF_SYSTEM[errno.EADDRINUSE]),
        (r"Connection (closed|reset) by peer|NCCL (error|communicator was aborted)|Watchdog caught", PEER_LOST),
        (
            r"no kernel image is available|driver version is insufficient|forward compatibility was attempted",
            "this PyTorch does not fit the GPU or its driver; install one that does (pytorch.org), or use device=cpu",
        ),
    )
)  # fmt: skip
"""Texts of `RuntimeError` and its kin -> what they mean."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED|"
    r"Unable to allocate|os error 12\b",
    re.IGNORECASE,
)
OF_GPU = re.compile(r"CUDA|HIP|MPS|CUBLAS|CUDNN", re.IGNORECASE)
OF_PEERS = ("DistNetworkError", "DistStoreError", "DistBackendError")


def describe_limit(error: BaseException, *, less_memory: str = LESS_MEMORY) -> str | None:
    """One message for an error that comes from the machine, not from the program; None for any other.

    Args:
        error: of any kind.
        less_memory: what can be done where memory is used up.
    """
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and OUT_OF_MEMORY.search(text)):
        where = "memory of the GPU" if OF_GPU.search(text) else "memory"
        return f"the {where} is used up{_in_brackets(text)}; {less_memory}"
    if isinstance(error, OSError):
        return describe_system_error(error)
    if isinstance(error, ModuleNotFoundError):
        return _describe_missing_package(error)
    if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
        meaning = next((meaning for pattern, meaning in IN_TEXT if pattern.search(text)), None)
        if meaning is None and type(error).__name__ in OF_PEERS:
            meaning = PEER_LOST
        return None if meaning is None else f"{meaning}{_in_brackets(text)}"
    return None


def describe_system_error(error: OSError) -> str:
    """One message for an error of the system: the file, what is wrong, and what can be done where that is known."""
    meaning = OF_SYSTEM.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    names = [one_line(str(name), 300) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([" -> ".join(names), meaning] if names else [meaning])


def _describe_missing_package(error: ModuleNotFoundError) -> str | None:
    """None for a module of a package that is there: the program names one that does not exist."""
    package = (error.name or "").partition(".")[0]
    if not package or importlib.util.find_spec(package) is not None:
        return None
    return f"the Python package {package} is not installed; install the requirements: pip install -r requirements.txt"


def _in_brackets(text: str) -> str:
    """The first line of a library's text; nothing where there is none."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f" ({one_line(first, MOST_CHARACTERS)})" if first else ""
