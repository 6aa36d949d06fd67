"""What is said and written about a fault of the program: what the log holds, and where it lies (docs/exit_codes.md).

`engine.last_net` imports this once there is a fault, because what a log needs to know takes longer to import than most
commands need to answer.
"""

import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.revision import ROOT, git_revision
from media.files import write_text
from structures.user_cache import user_cache_folder
from structures.wording import MOST_CHARACTERS_OF_LINE, one_line

PACKAGES = (
    "torch", "torchvision", "numpy", "pydantic", "ruamel.yaml", "pillow", "av", "transformers", "tokenizers",
    "safetensors", "timm", "scipy", "h5py", "pycocotools", "gradio",
)  # fmt: skip
"""Whose versions a log names."""

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LANG", "LC_ALL")
"""Of the environment, beside those that begin with SOC_, that a log names."""

LAST_NET = Path(__file__).with_name("last_net.py")
"""Every command goes through it, so it says nothing about where a fault is."""


def report_fault(error: BaseException, *, command: str, output_folder: Path | None) -> str:
    """Writes the log; returns the message that says so, and that the program is at fault.

    Args:
        error: that nobody had foreseen.
        command: as a shell reads it.
        output_folder: see `write_log`.
    """
    text = fault_log(error, command)
    place = write_log(text, output_folder)
    lines = [
        f"this is a fault of the program: {one_line(summary(error), 300)}",
        f"command: {one_line(command, MOST_CHARACTERS_OF_LINE)}",
    ]
    if place is None:
        lines += ["no folder could be written, so here is what the log would hold:", text.rstrip()]
    else:
        lines.append(f"please report it with the file {place}, which holds the traceback and the versions")
    return "\n".join(lines)


def summary(error: BaseException) -> str:
    """Kind, text, and the last line of this code on the way: `KeyError: 'x' (models/soc.py, line 231)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(Path(frame.filename)) and Path(frame.filename) != LAST_NET]
    text = " ".join(str(error).split())
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{named} ({Path(own[-1].filename).relative_to(ROOT)}, line {own[-1].lineno})" if own else named


def is_own(path: Path) -> bool:
    """Whether a file is of this code, and not of a library in an environment below its folder."""
    return path.is_relative_to(ROOT) and "site-packages" not in path.relative_to(ROOT).parts


def fault_log(error: BaseException, command: str) -> str:
    """What is needed to find the fault: the command, where it ran, versions, and the traceback."""
    facts = {
        "command": command,
        "folder": working_folder(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "code": git_revision(),
        "system": platform.platform(),
        "Python": sys.version.replace("\n", " "),
        "packages": ", ".join(installed()),
        "environment": ", ".join(f"{name}={value}" for name, value in environment()) or "nothing of interest",
    }
    head = "A fault of the program. The names of folders below may be private: look before it is passed on."
    lines = [head, "", *(f"{name}: {value}" for name, value in facts.items()), ""]
    text = "\n".join(lines) + "\n" + "".join(traceback.format_exception(error))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # arguments may hold bytes that are no text


def working_folder() -> str:
    """Where the command runs."""
    try:
        return str(Path.cwd())
    except OSError as error:  # deleted meanwhile
        return f"unknown: {error}"


def installed() -> Iterator[str]:
    """Names and versions of the packages that results depend on."""
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def environment() -> Iterator[tuple[str, str]]:
    """Variables that change what the program does."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("SOC_") or name in VARIABLES:
            yield name, value


def write_log(text: str, output_folder: Path | None) -> Path | None:
    """Writes the log, whole or not at all, to the first folder that takes it; None where none does.

    Args:
        text: of the log.
        output_folder: comes first, if it is there: a folder that was not made yet is not made for a log.
    """
    name = f"fault_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.log"
    candidates: list[Callable[[], Path]] = [lambda: user_cache_folder() / "faults", lambda: Path(tempfile.gettempdir())]
    if output_folder is not None and output_folder.is_dir():
        candidates.insert(0, lambda: output_folder)
    for candidate in candidates:
        try:
            path = candidate() / name
            write_text(path, text)
        except (OSError, RuntimeError):  # it cannot be written, or there is no home folder
            continue
        return path.absolute()
    return None
