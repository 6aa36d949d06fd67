"""Weight files: read without running code (the only caller of `torch.load`), unwrapped, and loaded strictly.

There is one reader for all of them: checkpoints of this code and of the published SOC, pretrained visual encoders, and
what people make of these (`safetensors`, half precision, names with the prefixes of DDP and `torch.compile`).
"""

import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

STATE_DICT_KEYS = ("model", "model_state_dict", "state_dict")
"""Keys of the state dict in checkpoints of this code, of the published SOC, and of Kinetics Video-Swin files."""

MIN_SCORE = "min_score"
"""Key of what `tools.calibrate` stores beside the state dict: `value`, the score below which sentences are rejected,
and where it comes from."""

WRAPPER_PREFIX = re.compile(r"(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and `torch.compile` put before the names of parameters."""

_NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]  # declared as str | tuple
NUMPY_NUMBERS: tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...] = (
    # Under the name that NumPy 1 writes, and under that of NumPy 2.
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]},
)
"""What the pickle of a NumPy number names: the published A2D trainer stores its best score as one."""


def read_checkpoint_file(path: Path, *, in_place: bool = False) -> Any:
    """The content of a file that `torch.save` or safetensors wrote, on the CPU, without running code from it.

    Args:
        path: the file.
        in_place: leave tensors in the file until they are looked at, for who does not need them.

    Raises:
        ValueError: if the file is missing, unreadable, or holds objects other than tensors, plain values and NumPy
            numbers.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"checkpoint {path} cannot be read as safetensors: {error}") from error
    try:
        with torch.serialization.safe_globals(list(NUMPY_NUMBERS)):
            mapped = in_place and zipfile.is_zipfile(path)  # files from before PyTorch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"checkpoint {path} cannot be read: {_reason(error, path)}") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, below any of `STATE_DICT_KEYS` (or two of them), or at the top.

    The names are without the prefixes of wrappers; half-precision tensors come as float32.

    Raises:
        ValueError: as `read_checkpoint_file`, and if the file holds no tensors by name.
    """
    content = read_checkpoint_file(path)
    state = _unwrapped(_unwrapped(content))
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"checkpoint {path} holds no state dict (a mapping from names to tensors){_found(content)}")
    named: dict[str, Tensor] = {}
    num_half = 0
    for name, tensor in state.items():
        bare = WRAPPER_PREFIX.sub("", name, count=1) if WRAPPER_PREFIX.match(name) else name
        if bare in named:
            raise ValueError(f"checkpoint {path} holds {bare} twice: with and without a prefix like 'module.'")
        is_half = tensor.dtype in (torch.float16, torch.bfloat16)
        num_half += is_half
        named[bare] = tensor.float() if is_half else tensor
    if num_half:
        logger.info("%s: %d tensors are in half precision and are converted to float32", path, num_half)
    return named


def read_min_score(path: Path) -> float | None:
    """The score below which sentences are rejected, as `tools.calibrate` has stored it; None where it has not.

    Raises:
        ValueError: as `read_checkpoint_file`, and if what is stored is no score.
    """
    content = read_checkpoint_file(path, in_place=True)
    stored = content.get(MIN_SCORE) if isinstance(content, Mapping) else None
    if stored is None:
        return None
    value = stored.get("value") if isinstance(stored, Mapping) else None
    if not isinstance(value, float) or not 0 <= value <= 1:
        raise ValueError(
            f"checkpoint {path}: {MIN_SCORE}={stored!r} is no score between 0 and 1 as tools.calibrate stores it; "
            "predict.min_score=0 does without"
        )
    return value


def with_min_score(content: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint file with a threshold stored in it; a bare state dict comes below `model`."""
    wrapped = content if _unwrapped(content) is not content else {STATE_DICT_KEYS[0]: content}
    return {**wrapped, MIN_SCORE: dict(stored)}


def _unwrapped(content: Any) -> Any:
    """What is below the first of `STATE_DICT_KEYS`; the content itself if none is there."""
    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content


def _found(content: Any) -> str:
    """What a file without a state dict holds instead, for the error message."""
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    averages = [str(key) for key in content if re.search(r"(^|_)ema(_|$)", str(key))]
    if averages:
        return (
            f": there are only averaged weights, below {averages[0]!r}; to use them, save their state dict as "
            "{'model': state_dict}"
        )
    shown = ", ".join(repr(str(key)) for key in list(content)[:8])
    return f" below {', '.join(map(repr, STATE_DICT_KEYS))} or at the top; it has {shown or 'nothing'}"


def _reason(error: Exception, path: Path) -> str:
    """One sentence; torch's own messages advise to read the file without protection."""
    if isinstance(error, OSError):
        return str(error.strerror)
    refused = re.search(r"GLOBAL (\S+)|but got <class '([^']+)'>", str(error))
    if refused is not None:
        return (
            f"it holds an object of type {refused[1] or refused[2]}, and only tensors, numbers, text and collections "
            "of these are read, because other objects may run code; save its state dict alone"
        )
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; run `git lfs pull`"
    if start.startswith(b"<"):
        return "it is a web page, not weights; the download failed"
    return f"it is damaged, or no file of torch.save ({type(error).__name__})"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str, hint: str = "") -> None:
    """Load a state dict that must fit name by name and shape by shape; nothing is changed if it does not.

    Args:
        module: takes the weights.
        state: tensors by name.
        source: where they are from, for the error message.
        hint: a line below its list of problems.

    Raises:
        ValueError: with every parameter that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing: {name} {tuple(own[name].shape)}" for name in own if name not in state]
    problems += [f"unknown: {name} {tuple(state[name].shape)}" for name in state if name not in own]
    problems += [
        f"shape: {name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        shown = problems[:40] + ([f"and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise ValueError(f"{source} does not fit the model ({len(problems)} problems):\n  " + "\n  ".join(shown) + hint)
    module.load_state_dict(dict(state))
