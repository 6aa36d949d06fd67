"""Batches of clips, padded to one shape: as bytes for the transfer to the device, as floats for the model."""

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from structures.transfer import constant


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What pixels are shifted and scaled by before an encoder sees them; both of values in [0, 1].

    Attributes:
        mean: of red, green and blue.
        std: of red, green and blue.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""That of the published encoders."""


@dataclass(frozen=True, slots=True)
class PaddedClips:
    """Clips of different sizes, zero-padded at the bottom, the right and the end to one shape.

    Attributes:
        frames: RGB, already normalised as the visual encoder was trained.
        is_padding: True where a pixel was added by padding.
        sizes_px: (height, width) of each clip before padding, in pixels of the resized frames.
    """

    frames: Float[Tensor, "batch time 3 height width"]
    is_padding: Bool[Tensor, "batch time height width"]
    sizes_px: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> "PaddedClips":
        """The same clips on another device."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            is_padding=self.is_padding.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class ByteClips:
    """`PaddedClips` before normalisation: a quarter of the bytes to transfer between processes and to the device.

    Attributes:
        frames: RGB in [0, 255]; 0 in the padding.
        is_padding: True where a pixel was added by padding.
        sizes_px: (height, width) of each clip before padding, in pixels of the resized frames.
    """

    frames: UInt8[Tensor, "batch time 3 height width"]
    is_padding: Bool[Tensor, "batch time height width"]
    sizes_px: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> "ByteClips":
        """The same clips on another device."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            is_padding=self.is_padding.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "ByteClips":
        """The same clips in memory from which copies to a GPU need not wait."""
        return replace(self, frames=self.frames.pin_memory(), is_padding=self.is_padding.pin_memory())

    def normalised(self, normalisation: Normalisation = IMAGENET) -> PaddedClips:
        """The input of a model with this normalisation, on the device of the clips; padding is 0."""
        frames = normalise(self.frames, normalisation)
        # A GPU would have to be asked, and waited for.
        if self.is_padding.device.type != "cpu" or self.is_padding.any():
            frames.masked_fill_(self.is_padding[:, :, None], 0)  # (b, t, 1, h, w)
        return PaddedClips(frames, self.is_padding, self.sizes_px)


def one_clip(frames: UInt8[Tensor, "time 3 height width"]) -> ByteClips:
    """A batch of a single clip, without padding."""
    time, _, height, width = frames.shape
    is_padding = torch.zeros(1, time, height, width, dtype=torch.bool, device=frames.device)
    return ByteClips(frames[None], is_padding, ((height, width),))


def normalise(
    frames: UInt8[Tensor, "*shape 3 height width"], normalisation: Normalisation = IMAGENET
) -> Float[Tensor, "*shape 3 height width"]:
    """RGB in [0, 255], shifted and scaled as the encoder was trained; the order of memory stays.

    A byte has 256 values: on a CPU their results are looked up, which takes a fifth of the time and gives the same
    numbers.
    """
    if frames.device.type == "cpu" and not torch.compiler.is_compiling():
        return _looked_up(frames, normalisation)
    mean, deviation = (
        constant(tuple(numbers), dtype=torch.float, device=frames.device)[:, None, None]
        for numbers in (normalisation.mean, normalisation.std)
    )
    return frames.float().div_(255).sub_(mean).div_(deviation)


def _looked_up(
    frames: UInt8[Tensor, "*shape 3 height width"], normalisation: Normalisation
) -> Float[Tensor, "*shape 3 height width"]:
    table, width = _table(normalisation), frames.shape[-1]
    # NumPy asks for large pages of memory, PyTorch does not: half of the time would go to faults.
    if frames.stride(-3) == 1:  # the channels of a pixel lie side by side
        pixels = np.ascontiguousarray(frames.movedim(-3, -1).numpy())
        normal = np.empty(pixels.shape, dtype=np.float32)
        # one long picture, because OpenCV knows no clips
        cv2.LUT(pixels.reshape(-1, width, 3), table, dst=normal.reshape(-1, width, 3))
        return torch.from_numpy(normal).movedim(-1, -3)
    planes = np.ascontiguousarray(frames.numpy())
    normal = np.empty(planes.shape, dtype=np.float32)
    of_channel = [np.ascontiguousarray(table[:, 0, channel]) for channel in range(3)]
    pairs = zip(planes.reshape(-1, *planes.shape[-2:]), normal.reshape(-1, *planes.shape[-2:]), strict=True)
    for number, (plane, result) in enumerate(pairs):
        cv2.LUT(plane, of_channel[number % 3], dst=result)
    return torch.from_numpy(normal)


@cache
def _table(normalisation: Normalisation) -> Float32[np.ndarray, "256 1 3"]:
    """What becomes of each byte, for each channel, by the same operations as on a GPU."""
    values = torch.arange(256, dtype=torch.uint8).float().div_(255)[:, None]
    return (values.sub(torch.tensor(normalisation.mean)).div_(torch.tensor(normalisation.std)))[:, None].numpy()
