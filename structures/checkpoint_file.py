"""Weight files: read without running code (the only caller of `torch.load`), unwrapped, and loaded strictly.

There is one reader for all of them: checkpoints of this code and of the published SOC, pretrained encoders of frames
and of sentences, and what people make of these (`safetensors`, half precision, names with the prefixes of wrappers).
"""

import argparse
import datetime
import logging
import pathlib
import re
import types
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from structures.state_dicts import (
    AVERAGE,
    OTHER_PARTS,
    STATE_DICT_KEYS,
    bare_names,
    find_state_dict,
    is_state_dict,
    misfit,
    other_averages,
    state_digest,
    unusable,
)
from structures.unreadable import is_safetensors, what_it_is
from structures.whole_zip import find_damage

logger = logging.getLogger(__name__)

MIN_SCORE = "min_score"
"""Key of what `tools.calibrate` stores beside the state dict: `value`, the score below which sentences are rejected,
and where it comes from."""

CHECKSUM_KEY = "sha256"
"""Key in the header of a safetensors file of this project: the digest of its weights, see `state_digest`."""

MOST_MAPPED = 64 * 2**20
"""Bytes of a safetensors file that are in memory beside the tensors read from it; one tensor may be larger."""

SHOWN = 3
"""How many names of each kind of problem a message shows."""

_NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]  # declared as str | tuple
_Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
NUMPY_NUMBERS: tuple[_Allowed, ...] = (
    # Under the name that NumPy 1 writes, and under that of NumPy 2.
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]},
)
"""What the pickle of a NumPy number names: the published A2D trainer stores its best score as one."""

PLAIN_VALUES: tuple[_Allowed, ...] = (
    argparse.Namespace,
    types.SimpleNamespace,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    # Paths of another system cannot be made here; as names they can. Python 3.13 calls the module `pathlib._local`.
    *(
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name, pure in (
            ("PosixPath", pathlib.PurePosixPath),
            ("WindowsPath", pathlib.PureWindowsPath),
            ("PurePosixPath", pathlib.PurePosixPath),
            ("PureWindowsPath", pathlib.PureWindowsPath),
        )
        if (module, name) not in (("pathlib", "PurePosixPath"), ("pathlib", "PureWindowsPath"))
    ),
)
"""What trainers store beside the weights (arguments, paths, times): to make one of them runs no code of the file."""


def read_checkpoint_file(path: Path, *, in_place: bool = False) -> Any:
    """The content of a file that `torch.save` or safetensors wrote, on the CPU, without running code from it.

    What it is shows its content, not its name. The checksums that `torch.save` and saved models store are verified.

    Args:
        path: the file.
        in_place: leave tensors in the file until they are looked at, and their checksums alone, for who does not need
            them.

    Raises:
        ValueError: if the file is missing, unreadable, damaged, or holds objects other than tensors, plain values and
            NumPy numbers.
    """
    if path.is_dir():
        raise ValueError(f"checkpoint {path} is a folder; name the file in it")
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_safetensors(path) or (path.suffix == ".safetensors" and not is_zip):
            return _read_safetensors(path, in_place=in_place)
        if is_zip:
            _require_whole(path, in_place=in_place)
        with torch.serialization.safe_globals([*NUMPY_NUMBERS, *PLAIN_VALUES]), path.open("rb") as file:
            # Only a path is mapped, and no file from before PyTorch 1.6; torch goes by the name `.safetensors`.
            mapped = in_place and is_zip and path.suffix != ".safetensors"
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except _UnreadableError as error:
        raise ValueError(f"checkpoint {path} cannot be read{error}") from error
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"checkpoint {path} cannot be read: {_reason(error, path)}") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, wherever in it they lie (see `find_state_dict`).

    The names are without the prefixes of wrappers; half-precision tensors come as float32.

    Raises:
        ValueError: as `read_checkpoint_file`, and if the file holds no tensors by name, several sets of them, or some
            that are no weights (sparse, quantised, complex, or without numbers).
    """
    content = read_checkpoint_file(path)
    try:
        place = find_state_dict(content)
        if place is None:
            raise ValueError(f"holds no state dict (a mapping from names to tensors){_found(content)}")
        state = content
        for key in place:
            state = state[key]
        names = bare_names(state)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} {error}") from None
    average = other_averages(content, place)
    if place and AVERAGE.search(place[0]):
        logger.info("%s: the averaged weights below %r are read; it holds no others", path, place[0])
    elif average is not None:
        logger.info("%s: the weights below %r are read, not the averaged ones below %r", path, place[0], average)
    named: dict[str, Tensor] = {}
    num_half = 0
    for name, bare in names.items():
        tensor = state[name]
        reason = unusable(tensor)
        if reason is not None:
            raise ValueError(f"checkpoint {path}: {name} {reason}")
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
            f"checkpoint {path}: {MIN_SCORE}={str(stored)[:100]} is no score between 0 and 1 as tools.calibrate stores "
            "it; predict.min_score=0 does without"
        )
    return value


def with_min_score(content: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint file with a threshold stored in it; a bare state dict comes below `model`."""
    wrapped = {STATE_DICT_KEYS[0]: content} if is_state_dict(content) else content
    return {**wrapped, MIN_SCORE: dict(stored)}


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, hint: str = "", take: bool = False
) -> None:
    """Load a state dict that must fit name by name and shape by shape; nothing is changed if it does not.

    Args:
        module: takes the weights.
        state: tensors by name.
        source: where they are from, for the error message.
        hint: ends the message where something does not fit.
        take: the tensors become the weights instead of being copied to them, for who does nothing else with them: no
            weight is in memory twice.

    Raises:
        ValueError: with the parameters that are missing, unknown, of another shape, or hold what no weight is, such as
            NaN or integers.
    """
    if not is_state_dict(state):
        raise ValueError(f"{source} holds no state dict (a mapping from names to tensors)")
    own = module.state_dict()
    missing = [f"{name} {tuple(own[name].shape)}" for name in own if name not in state]
    unknown = [f"{name} {tuple(state[name].shape)}" for name in state if name not in own]
    misfits = {name: misfit(state[name], own[name]) for name in own if name in state}
    unfit = [f"{name} {reason}" for name, reason in misfits.items() if reason is not None]
    kinds = {"missing": missing, "unknown": unknown, "unfit": unfit}
    num = sum(map(len, kinds.values()))
    if num:
        shown = "; ".join(f"{kind}: {_first(problems)}" for kind, problems in kinds.items() if problems)
        raise ValueError(f"{source} does not fit the model ({num} problem{'s'[: num != 1]}): {shown}{hint}")
    if take:
        _take(module, state)
    else:
        module.load_state_dict(dict(state))


@torch.no_grad()
def _take(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives the module these tensors; those of another type or layout, or that share their memory, are copied."""
    taken: set[int] = set()
    for name, own in module.state_dict(keep_vars=True).items():
        tensor = state[name].detach()
        memory = tensor.untyped_storage()
        kinds = [(each.dtype, each.device, each.stride()) for each in (tensor, own)]
        if kinds[0] == kinds[1] and memory.nbytes() == tensor.nbytes and memory.data_ptr() not in taken:
            own.data = tensor  # and stays the same parameter, wherever else the module has it
            taken.add(memory.data_ptr())
        else:
            own.copy_(tensor)


def require_numbers(state: Mapping[str, Tensor], *, source: str) -> None:
    """Checks tensors whose model is not known yet: fractional numbers must be finite, and weights and biases be such.

    Raises:
        ValueError: with the first tensor that is no weight.
    """
    for name, tensor in state.items():
        is_weight = tensor.is_floating_point() or name.endswith(("weight", "bias"))
        reason = misfit(tensor, torch.empty_like(tensor, dtype=torch.float32, device="meta")) if is_weight else None
        if reason is not None:
            raise ValueError(f"{source}: {name} {reason}")


class _UnreadableError(Exception):
    """The end of the sentence "the file cannot be read"."""


def _read_safetensors(path: Path, *, in_place: bool) -> dict[str, Tensor]:
    """The tensors by name, each in memory of its own: whoever writes to the file later does not change them."""
    state: dict[str, Tensor] = {}
    try:
        if in_place:
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            expected, names = (file.metadata() or {}).get(CHECKSUM_KEY), list(file.keys())
        while len(state) < len(names):
            with safe_open(path, framework="pt") as file:  # anew: what was looked at before is let go of
                num_bytes = 0
                while len(state) < len(names) and num_bytes < MOST_MAPPED:
                    name = names[len(state)]
                    state[name] = file.get_tensor(name).clone()
                    num_bytes += state[name].nbytes
    except SafetensorError as error:
        reason = what_it_is(path) or f"is damaged ({_first_line(error)})"
        raise _UnreadableError(f" as safetensors: it {reason}") from error
    if expected is not None and state_digest(state) != expected:
        raise _UnreadableError(": it is damaged (its weights are not those that were written); copy it again")
    return state


def _require_whole(path: Path, *, in_place: bool) -> None:
    """Raises _UnreadableError unless a zip archive is a checkpoint whose bytes are those that were written."""
    other = what_it_is(path)
    if other is not None:
        raise _UnreadableError(f": it {other}")
    damage = find_damage(path, with_tensors=not in_place)
    if damage is not None:
        raise _UnreadableError(f": it is damaged ({damage}); copy it again, or take another one")


def _found(content: Any) -> str:
    """What a file without a state dict holds instead, for the error message."""
    if not isinstance(content, Mapping):
        return f", but {'nothing' if content is None else 'a ' + type(content).__name__}"
    for key, value in (("", content), *content.items()):
        if isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values()):
            name = next((name for name, one in value.items() if not isinstance(one, Tensor)), None)
            if name is not None and not OTHER_PARTS.search(str(key)) and not isinstance(value[name], Mapping):
                below = f"below {str(key)[:40]!r}, " if key else ""
                return f": {below}{str(name)[:100]!r} is a {type(value[name]).__name__}, no tensor"
    shown = ", ".join(repr(str(key)[:40]) for key in list(content)[:8])
    return f"; it has {shown or 'nothing'}"


def _reason(error: Exception, path: Path) -> str:
    """One sentence; torch's own messages advise to read the file without protection."""
    refused = re.search(r"GLOBAL (\S+)|but got <class '([^']+)'>|unrecognized function (.+?)(?: which|$)", str(error))
    if refused is not None:
        return (
            f"it holds an object of type {refused[1] or refused[2] or refused[3]}, and only tensors, numbers, text and "
            "collections of these are read, because other objects may run code; save its state dict alone"
        )
    known = what_it_is(path)
    if known is not None:
        return f"it {known}"
    return f"it is damaged, or no file of torch.save ({type(error).__name__})"


def _first(problems: list[str]) -> str:
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return ", ".join(problems[:SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
