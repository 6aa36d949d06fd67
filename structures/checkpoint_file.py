"""Reading checkpoint files: the only module that calls `torch.load`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
