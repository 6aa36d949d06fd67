"""The frames of a reader at the size at which the model sees them, in training, evaluation and prediction alike.

Prediction needs no more of torchvision than its resizing of bytes, which is PyTorch's, and importing torchvision takes
a second; so what it asks before it resizes stands here, too. A test compares with it.
"""

import platform

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor


def as_clip(frames: UInt8[np.ndarray, "time height width 3"]) -> UInt8[Tensor, "time 3 height width"]:
    """The frames of a reader as a tensor.

    The channels of a pixel stay side by side: PyTorch resizes bytes in this order of memory four times as fast as
    in the usual one.
    """
    return torch.from_numpy(frames).permute(0, 3, 1, 2)  # (time, 3, height, width)


def resized_size(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) after resizing: the short side becomes `short_side`, unless the long one would exceed its limit.

    Source: the published transforms, rounding included (and so DETR's).
    """
    low, high = min(height, width), max(height, width)
    target = short_side
    if high / low * target > long_side:
        target = round(long_side * low / high)
        if target == 0:  # nothing would be left of so narrow a frame
            return (1, long_side) if height <= width else (long_side, 1)
    if low == target:
        return height, width
    if height <= width:
        return target, int(target * width / height)
    return int(target * height / width), target


def resize_frames(
    frames: UInt8[Tensor, "time 3 height width"], *, short_side: int, long_side: int
) -> UInt8[Tensor, "time 3 resized_height resized_width"]:
    """Frames at the size of `resized_size`."""
    height, width = frames.shape[-2:]
    size = resized_size(height, width, short_side=short_side, long_side=long_side)
    return frames if size == (height, width) else bytes_resized(frames, size)


def bytes_resized(
    frames: UInt8[Tensor, "time 3 height width"], size: tuple[int, int]
) -> UInt8[Tensor, "time 3 resized_height resized_width"]:
    """Frames of `size` (height, width), smoothed where they become smaller, as torchvision's `resize` has them.

    On bytes, as the published code does with Pillow: equal where sizes divide, else a few values differ by 1.
    """
    # Four times as fast with channels last; frames of the readers have this memory format already.
    pixels = frames.contiguous(memory_format=torch.channels_last)
    if len(pixels) == 1:  # strides of a batch of one are free; with these the result has channels last, too
        pixels = pixels.as_strided(pixels.shape, (pixels.numel(), *pixels.stride()[1:]))
    if _resizes_bytes(frames.device):
        return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
    resized = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round_().to(torch.uint8)


def _resizes_bytes(device: torch.device) -> bool:
    """Whether PyTorch resizes bytes faster than floats there; the results differ by 1 in a few values."""
    is_fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return device.type == "cpu" and (is_fast or platform.machine() in ("aarch64", "arm64"))
