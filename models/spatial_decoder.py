"""From the encoder's maps to mask features at stride 4."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NUM_GROUPS = 8
MIN_CHANNELS = 16


class ConvNorm(nn.Module):
    """3 x 3 convolution, group norm, ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(NUM_GROUPS, out_channels), out_channels)

    def forward(self, x: Float[Tensor, "frame channel height width"]) -> Float[Tensor, "frame out height width"]:
        """Same size, `out_channels` channels."""
        return F.relu(self.norm(self.conv(x)))


class SpatialDecoder(nn.Module):
    """Feature pyramid: coarse maps are doubled in size and added to projected finer ones, halving the channels.

    Args:
        dim: channels of the encoder maps.
        stride4_channels: of the visual encoder's finest map, which the transformer has not seen.
        mask_dim: channels of the mask features.
    """

    def __init__(self, dim: int, *, stride4_channels: int, mask_dim: int) -> None:
        super().__init__()
        widths = [max(dim // 2**step, MIN_CHANNELS) for step in range(1, 5)]
        self.entry = nn.ModuleList([ConvNorm(dim, dim), ConvNorm(dim, widths[0])])
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels, width, kernel_size=1)
            for channels, width in zip((dim, dim, stride4_channels), widths, strict=False)
        )
        self.blocks = nn.ModuleList(ConvNorm(a, b) for a, b in pairwise(widths))
        self.exit = nn.Conv2d(widths[-1], mask_dim, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self,
        memory: Sequence[Float[Tensor, "batch time dim _ _"]],
        stride4: Float[Tensor, "batch time width height4 width4"],
    ) -> Float[Tensor, "batch time mask height4 width4"]:
        """Mask features of every frame.

        Args:
            memory: encoder maps of strides 8, 16 and 32.
            stride4: the visual encoder's finest map after `project_stride4`.
        """
        batch = stride4.shape[0]
        stride8, stride16, stride32 = (rearrange(level, "b t c h w -> (b t) c h w") for level in memory)
        x = stride32
        for conv in self.entry:
            x = conv(x)
        skips = (self.adapters[0](stride16), self.adapters[1](stride8), rearrange(stride4, "b t c h w -> (b t) c h w"))
        for block, skip in zip(self.blocks, skips, strict=True):
            x = block(skip + F.interpolate(x, size=skip.shape[-2:], mode="nearest"))
        return rearrange(self.exit(x), "(b t) c h w -> b t c h w", b=batch)

    def project_stride4(
        self, frames: Float[Tensor, "frame channel height4 width4"]
    ) -> Float[Tensor, "frame width height4 width4"]:
        """What mask features need of the visual encoder's finest map; it does not depend on the sentence."""
        return self.adapters[-1](frames)
