"""Tensors on their way to a GPU that is busy, and back."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from structures.kept import kept

Numbers = tuple[float | int, ...] | tuple[tuple[float | int, ...], ...]

Item = TypeVar("Item")
Sent = TypeVar("Sent")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; where that is a GPU, nobody waits until it has done what it has to do before."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy from other memory would wait
    return tensor.to(device, non_blocking=True)


def constant(numbers: Numbers, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of Python as a tensor on a device; sent once, and kept. Not to be written to."""
    if torch.compiler.is_compiling():
        return torch.tensor(numbers, dtype=dtype, device=device)  # becomes a part of what is compiled
    return _sent(numbers, dtype, device)


@kept(number=256)
def _sent(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    return send(torch.tensor(numbers, dtype=dtype), device)


def sent_ahead(items: Iterable[Item], send_item: Callable[[Item], Sent], device: torch.device) -> Iterator[Sent]:
    """Each item on the device; a GPU copies it beside what it has to do for the item before.

    Args:
        items: one is taken when the item before has been dealt with, or given to the GPU to be dealt with.
        send_item: copies what it has, from pinned memory if that is not to wait.
        device: that the copies go to.
    """
    if device.type != "cuda":
        yield from map(send_item, items)
        return
    main, beside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    given: torch.cuda.Event | None = None  # when all was launched that reads the item before the last
    for item in items:
        # That one's memory may be free, and written to now. The last item is still in `sent`.
        if given is not None:
            beside.wait_event(given)
        with torch.cuda.stream(beside):
            following = send_item(item)
        given = main.record_event()
        main.wait_stream(beside)
        sent = following
        yield sent


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
