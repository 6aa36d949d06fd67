"""Compiles `mask_pairs.cpp` on first use and keeps the library in a cache; without a compiler there is none.

The name of the file holds a hash of everything that decides what is in it (source, flags, processor), so that an old or
foreign one is never loaded. The source needs the standard library alone: it takes a second or two, once.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from structures.user_cache import user_cache_folder

VARIABLE = "SOC_COMPILED_METRICS"
"""Of the environment: 0 leaves everything to NumPy."""

SOURCE = Path(__file__).with_name("mask_pairs.cpp")
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden")
COMPILE_TIMEOUT_S = 120

logger = logging.getLogger(__name__)

CountMaskPairs = Callable[..., None]


@cache
def count_mask_pairs() -> CountMaskPairs | None:
    """The compiled function, see the end of `mask_pairs.cpp`; None where it is switched off or cannot be had.

    The log says why, once in a process.

    Raises:
        ValueError: `SOC_COMPILED_METRICS` is neither 0 nor 1.
    """
    if not is_wanted():
        return None
    try:
        function: CountMaskPairs = _load(compiled_library())
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        logger.info("J and F are computed by NumPy, because %s cannot be compiled or loaded: %s", SOURCE.name, error)
        return None
    return function


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """What `SOC_COMPILED_METRICS` says: 1, which it is where nothing is said, or 0.

    Raises:
        ValueError: it says something else.
    """
    value = environment.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise ValueError(f"environment variable {VARIABLE}={value!r}: expected 1 (compiled) or 0 (NumPy)")
    return value == "1"


def compiled_library() -> Path:
    """The library in the cache (`SOC_CACHE_DIR`, else the user's); compiles it where there is none yet.

    Raises:
        OSError: there is no compiler, or the cache cannot be written.
        subprocess.SubprocessError: the compiler fails or takes too long.
    """
    own = os.environ.get("SOC_CACHE_DIR")
    folder = Path(own) if own else user_cache_folder()
    flags = [*FLAGS, "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"]
    parts = [SOURCE.read_text(encoding="utf-8"), *flags, _processor()]
    path = folder / f"soc_mask_pairs_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    if path.exists():
        return path
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("compiling %s (once, a second or two) into %s", SOURCE.name, path)
    # others may compile the same at the same time: each writes a file of its own, and the last one is kept
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        built = Path(temporary) / path.name
        command = [*compiler, *flags, str(SOURCE), "-o", str(built)]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)
        built.replace(path)
    return path


def _compiler() -> list[str]:
    """The first compiler that is there, as the beginning of a command line."""
    for candidate in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise FileNotFoundError("no C++ compiler found: install g++ or set CXX")


def _processor() -> str:
    """What the processor can do: `native` code of another one must never be loaded (home folders are shared)."""
    parts = [platform.system(), platform.machine(), platform.processor()]
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = about.read_text(encoding="utf-8").splitlines()
        parts += sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    return "\n".join(parts)


def _load(path: Path) -> CountMaskPairs:
    function = ctypes.CDLL(str(path.resolve())).soc_count_mask_pairs
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 5 + [ctypes.c_void_p]
    function.restype = None
    return function
