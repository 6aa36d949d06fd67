"""State dicts as people wrap them: where the tensors lie in a file's content, and which tensors are weights at all."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

STATE_DICT_KEYS = ("model", "model_state_dict", "state_dict", "net", "module")
"""Keys of the state dict in checkpoints of this code, of the published SOC, of Kinetics Video-Swin files, and of what
other trainers write, in the order in which they are looked for."""

AVERAGE = re.compile(r"(^|_)ema(_|$)")
"""In a key: the weights below are a running average of others."""

OTHER_PARTS = re.compile(r"optim|sched|criterion|loss", re.IGNORECASE)
"""In a key: what lies below has tensors with names, and is no model."""

MAX_DEPTH = 4
"""How many keys may lie one below the other above the tensors."""

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Parts of names that DistributedDataParallel, `torch.compile` and other wrappers add, at the start or within."""

SHELLS = ("model.", "net.", "network.")
"""What stands before every name where a trainer keeps the model as an attribute of itself, as Lightning's do."""

NUM_AVERAGED = "n_averaged"
"""A counter that `torch.optim.swa_utils.AveragedModel` keeps beside the weights."""


def is_state_dict(content: Any) -> bool:
    """Whether it is a mapping from names to tensors with at least one of them."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def find_state_dict(content: Any) -> tuple[str, ...] | None:
    """The keys below which the state dict lies; () where the content is one, None where there is none.

    The key of `STATE_DICT_KEYS` that comes first decides, then any other, and averaged weights are taken only where
    there are no others.

    Raises:
        ValueError: if there are several that nothing tells apart.
    """
    return _find(content, MAX_DEPTH)


def _find(content: Any, depth: int) -> tuple[str, ...] | None:
    if is_state_dict(content):
        return ()
    if not isinstance(content, Mapping) or depth == 0:
        return None
    keys = [key for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    keys = [key for key in keys if not OTHER_PARTS.search(key)]
    raw = [key for key in keys if not AVERAGE.search(key)]
    averages = [key for key in keys if AVERAGE.search(key)]
    known = [key for key in STATE_DICT_KEYS if key in raw]
    for candidates in (*([key] for key in known), [key for key in raw if key not in known], averages):
        places = {key: _find(content[key], depth - 1) for key in candidates}
        found = [(key, *place) for key, place in places.items() if place is not None]
        if len(found) > 1:
            names = ", ".join(repr(place[0]) for place in found[:4])
            raise ValueError(
                f"holds several state dicts, below {names}; save the one that is meant as {{'model': state_dict}}"
            )
        if found:
            return found[0]
    return None


def other_averages(content: Any, place: Sequence[str]) -> str | None:
    """The key of averaged weights beside those that were found, if there are some."""
    if not place or not isinstance(content, Mapping) or AVERAGE.search(place[0]):
        return None
    return next((key for key in content if isinstance(key, str) and AVERAGE.search(key) and content[key]), None)


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers have put into it; what only counts averages is left out.

    Raises:
        ValueError: if two names are the same then.
    """
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    bare = {name: short for name, short in bare.items() if short != NUM_AVERAGED}
    for shell in SHELLS:
        if bare and all(short.startswith(shell) for short in bare.values()):
            bare = {name: short.removeprefix(shell) for name, short in bare.items()}
    seen: set[str] = set()
    for short in bare.values():
        if short in seen:
            raise ValueError(f"holds {short} twice: with and without a prefix like 'module.'")
        seen.add(short)
    return bare


def unusable(tensor: Tensor) -> str | None:
    """Why a tensor of a file is no weight, whatever the model; None where it may be one."""
    dtype, layout = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, tensor.layout))
    reason = None
    if tensor.is_meta:
        reason = "holds no numbers, only a shape (it was saved from the device 'meta')"
    elif tensor.is_nested or tensor.layout != torch.strided:
        reason = f"is not dense but {'nested' if tensor.is_nested else layout}"
    elif tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        reason = f"is quantised ({dtype})"
    elif tensor.is_complex():
        reason = f"holds complex numbers ({dtype})"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        reason = f"claims a shape of {tuple(tensor.shape)}, and the file holds fewer numbers"
    return reason


def misfit(tensor: Tensor, own: Tensor) -> str | None:
    """Why a tensor of a file cannot take the place of a model's own; None where it can."""
    reason = unusable(tensor)
    if reason is not None:
        return reason
    if tensor.shape != own.shape:
        return f"is {tuple(tensor.shape)}, expected {tuple(own.shape)}"
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"holds {str(tensor.dtype).removeprefix('torch.')}, expected fractional numbers"
    if tensor.is_floating_point() and tensor.numel():
        # Both are NaN where one number is. A mask of finite numbers would take thirty times as long.
        smallest, largest = (extreme.item() for extreme in tensor.aminmax())
        if math.isnan(smallest):
            return "holds NaN"
        if math.isinf(smallest) or math.isinf(largest):
            return "holds infinite numbers"
    return None


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all weights of a state dict with their names and types, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
