"""Small tensors on their way to a GPU that is busy."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; where that is a GPU, nobody waits until it has done what it has to do before."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory would wait
    return tensor.to(device, non_blocking=True)
