"""Batches of clips, padded to one shape."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PaddedClips:
    """Clips of different sizes, zero-padded at the bottom, the right and the end to one shape.

    Attributes:
        frames: RGB, already normalised with the ImageNet mean and deviation.
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
