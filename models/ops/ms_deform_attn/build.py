"""Finds or compiles the two libraries with kernels: `_cpu` (g++) and `_cuda` (nvcc).

That of the CPU holds window attention and dropout, too (`models/ops/cpu_kernels.py`).

A library is looked for in the installed package `soc_ms_deform_attn` first, then compiled on first use and kept in a
cache. The name of a cached file holds a hash of everything that decides what is in it (sources, flags, processor or
GPU), so an old or foreign file is never loaded. Only the standard library is imported at the top: `setup.py` loads
this file by its path to use the same flags.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

Target = Literal["cpu", "cuda"]

SOURCES = Path(__file__).resolve().parent / "csrc"
INSTALLED_PACKAGE = "soc_ms_deform_attn"

# Stable ABI of torch 2.10: one file works with every later version.
TORCH_TARGET_VERSION = "0x020a000000000000"
COMMON_FLAGS = ("-std=c++20", "-O3", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}")
# None of these lets the compiler assume that there is no NaN or infinity.
CPU_FLAGS = (
    *COMMON_FLAGS,
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)
CUDA_FLAGS = (*COMMON_FLAGS, "-Xcompiler", "-fPIC", "-DUSE_CUDA")
# GPU architectures where none can be seen: A100, H100 and H200, and newer ones through PTX.
DEFAULT_CUDA_ARCHITECTURES = ("80", "90")

COMPILE_TIMEOUT_S = 1200


class BuildError(RuntimeError):
    """A library that is neither installed nor can be compiled; the message gives the reason."""


_outcomes: dict[Target, Path | BuildError] = {}


def load_library(target: Target) -> Path:
    """Loads the operators of a library into PyTorch, compiling it first where needed; remembers the outcome.

    Returns:
        The file.

    Raises:
        BuildError: if there is no library and none can be made. Later calls raise it again without another attempt.
    """
    outcome = _outcomes.get(target)
    if outcome is None:
        try:
            outcome = _find_and_load(target)
        except BuildError as error:
            outcome = error
        _outcomes[target] = outcome
    if isinstance(outcome, BuildError):
        raise outcome
    return outcome


def _find_and_load(target: Target) -> Path:
    installed = installed_library(target)
    if installed is not None:
        try:
            return _load(installed)
        except BuildError as error:
            logger.warning("ignoring the installed library: %s", error)
    return _load(compiled_library(target))


def _load(path: Path) -> Path:
    import torch

    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error
    return path


def installed_library(target: Target) -> Path | None:
    """The library that `pip install ./models/ops/ms_deform_attn` left in the environment."""
    spec = importlib.util.find_spec(INSTALLED_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob(f"_{target}*.so")):
            return path
    return None


def compiled_library(target: Target) -> Path:
    """The cached library; compiles it where there is none yet. Where several processes call this at once, one compiles.

    Raises:
        BuildError: if there is no compiler, or it fails.
    """
    flags = cpu_flags() if target == "cpu" else cuda_flags()
    folder = cache_folder()
    path = folder / f"soc_ms_deform_attn_{target}_{_key(target, flags)}.so"
    if path.exists():
        return path
    compiler = find_compiler(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            if not path.exists():  # another process was faster
                compile_library(target, [*compiler, *flags], path)
    except OSError as error:
        raise BuildError(f"cannot write to {folder} ({error}); set SOC_CACHE_DIR to a folder that can") from error
    return path


def cache_folder() -> Path:
    """Where compiled libraries are kept: SOC_CACHE_DIR, else `soc` in the user's cache folder."""
    if own := os.environ.get("SOC_CACHE_DIR"):
        return Path(own)
    # As structures.user_cache has it; setup.py loads this file alone, where no other module of the project is found.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soc"


def find_compiler(target: Target) -> list[str]:
    """The compiler as the beginning of a command line.

    Raises:
        BuildError: if there is none, with what to do.
    """
    if target == "cuda":
        homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
        candidates = [*(str(Path(home) / "bin" / "nvcc") for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
        advice = "no nvcc found: install the CUDA toolkit or set CUDA_HOME"
    else:
        candidates = [*([os.environ["CXX"]] if os.environ.get("CXX") else []), "g++", "c++", "clang++"]
        advice = "no C++ compiler found: install g++ or set CXX"
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise BuildError(advice)


def cpu_flags() -> list[str]:
    """Flags of the CPU library for the processor of this machine."""
    if platform.machine() in ("aarch64", "arm64"):
        return [*CPU_FLAGS, "-mcpu=native"]
    # Registers of 256 bits: eight samples, as there are in small models, fill one.
    return [*CPU_FLAGS, "-march=native", "-mprefer-vector-width=256"]


def cuda_flags() -> list[str]:
    """Flags of the CUDA library: for TORCH_CUDA_ARCH_LIST, else for the GPUs that can be seen, else for the usual ones.

    Raises:
        BuildError: if TORCH_CUDA_ARCH_LIST is set and cannot be read.
    """
    import torch

    if listed := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return [*CUDA_FLAGS, *(flag for entry in listed.replace(";", " ").split() for flag in _codes_for(entry))]
    seen: set[str] = set()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            seen.add(f"{major}{minor}")
    architectures = sorted(seen, key=int) or list(DEFAULT_CUDA_ARCHITECTURES)
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    newest = architectures[-1]
    return [*CUDA_FLAGS, *codes, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def _codes_for(entry: str) -> list[str]:
    """`9.0` or `9.0+PTX` of TORCH_CUDA_ARCH_LIST as flags."""
    match = re.fullmatch(r"(\d+)\.(\d+[a-z]?)(\+PTX)?", entry)
    if match is None:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST has {entry!r}; expected numbers as in '8.0;9.0+PTX'")
    name = match[1] + match[2]
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}"]
    return [*codes, f"-gencode=arch=compute_{name},code=compute_{name}"] if match[3] else codes


def include_flags() -> list[str]:
    """Where the headers of the PyTorch in use are. They are not part of a library's cache key."""
    return ["-isystem", str(_torch_folder() / "include")]


def link_flags(target: Target) -> list[str]:
    """Where its libraries are; no part of the key either."""
    flags = ["-shared", f"-L{_torch_folder() / 'lib'}", "-ltorch_cpu"]
    if target == "cuda":
        flags += ["-ltorch_cuda", "-cudart", "static"]
    return flags


def _torch_folder() -> Path:
    import torch

    return Path(torch.__file__).parent


def _key(target: Target, flags: list[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted((SOURCES / target).rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update("\0".join(flags).encode())
    digest.update((_processor() if target == "cpu" else platform.machine()).encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    """What the processor can do: `native` code of another one must never be loaded (home folders are shared)."""
    parts = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    identifying = ("flags", "Features", "model name", "CPU part")
    parts += sorted({line for line in lines if line.startswith(identifying)})
    return "\n".join(parts)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Only one process at a time; on file systems without locks all go on, which the renaming makes safe."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("no lock on %s (%s): several processes may compile the same", path, error)
        yield


def compile_library(target: Target, command: list[str], path: Path) -> None:
    """Runs the compiler; a file that is there is whole.

    Args:
        target: which library.
        command: compiler and flags.
        path: the library.

    Raises:
        BuildError: if the compiler fails.
    """
    sources = sorted((SOURCES / target).glob("*.cpp" if target == "cpu" else "*.cu"))
    if not sources:
        raise BuildError(f"no sources in {SOURCES / target}")
    logger.info("compiling the %s kernels (once, some seconds) into %s", target, path)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        objects = [folder / f"{source.stem}.o" for source in sources]
        compiling = [
            pool.submit(_run, [*command, "-c", str(source), "-o", str(to), *include_flags()])
            for source, to in zip(sources, objects, strict=True)
        ]
        for each in compiling:
            each.result()
        _run([*command, *map(str, objects), "-o", str(folder / path.name), *link_flags(target)])
        (folder / path.name).replace(path)
    logger.info("compiled in %.0f s", time.monotonic() - begin)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {COMPILE_TIMEOUT_S} s") from error
    if done.returncode:
        raise BuildError(f"{command[0]} failed: {_first_errors(done.stderr or done.stdout)}")


def _first_errors(text: str, limit: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return " | ".join((errors or lines)[:limit]) or "no message"
