"""Checkpoint files: read without running code (the only caller of `torch.load`), and loaded strictly."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Keys of the state dict in checkpoints of this code, of the published SOC, and of Kinetics Video-Swin files.
STATE_DICT_KEYS = ("model", "model_state_dict", "state_dict")


def read_checkpoint_file(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU, without running code from it.

    Raises:
        ValueError: if the file is missing, unreadable, or holds objects other than tensors and plain values.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"checkpoint {path} cannot be read: {_reason(error)}") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, below any of `STATE_DICT_KEYS`, or at the top.

    Raises:
        ValueError: as `read_checkpoint_file`, and if the file holds no tensors by name.
    """
    content = read_checkpoint_file(path)
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"checkpoint {path} holds no state dict (a mapping from names to tensors)")
    return dict(content)


def _reason(error: Exception) -> str:
    """One sentence; torch's own messages advise to read the file without protection."""
    if isinstance(error, OSError):
        return str(error.strerror)
    refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if refused is not None:
        return (
            f"it holds an object of type {refused[1]}, and only tensors, numbers, text and collections of these are "
            "read, because other objects may run code; save its state dict alone"
        )
    return f"it is damaged, or no file of torch.save ({type(error).__name__})"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that must fit name by name and shape by shape; nothing is changed if it does not.

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
        raise ValueError(f"{source} does not fit the model ({len(problems)} problems):\n  " + "\n  ".join(shown))
    module.load_state_dict(dict(state))
