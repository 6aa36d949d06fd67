"""Tensors on their way to a GPU that is busy, and back."""

from collections.abc import Callable

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; where that is a GPU, nobody waits until it has done what it has to do before."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory would wait
    return tensor.to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Callable[[], Tensor]:
    """Starts to copy a tensor to the CPU; what is returned waits for it, in whatever thread, and gives it.

    The thread that calls this goes on at once, and may give the device more to do.
    """
    if tensor.device.type != "cuda":
        copy = tensor.cpu()
        return lambda: copy
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)  # to other memory the copy would wait
    copy.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait
