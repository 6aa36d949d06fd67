"""Four maps out of the one of a plain ViT."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def forward(self, x: Float[Tensor, "image dim height width"]) -> Float[Tensor, "image dim height width"]:
        """Same shape out as in."""
        return rearrange(super().forward(rearrange(x, "n c h w -> n h w c")), "n h w c -> n c h w")


class FeaturePyramid(nn.Module):
    """Maps of strides 4, 8, 16 and 32 from the last map of a plain ViT, of stride 16.

    Transposed convolutions enlarge it, a maximum over 2 x 2 neighbours halves it. The 1 x 1 convolutions to a common
    width that follow in the paper are the model's level projections.

    Args:
        dim: channels of the map.

    Attributes:
        channels: of the four maps.

    Source: the simple feature pyramid of ViTDet (arXiv:2203.16527), section 3.
    """

    STRIDE = 16

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = (dim // 4, dim // 2, dim, dim)
        self.to_stride4 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
            ChannelNorm(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, kernel_size=2, stride=2),
        )
        self.to_stride8 = nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2)
        self.to_stride32 = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, tokens: Float[Tensor, "image dim height width"]) -> tuple[Float[Tensor, "image _ _ _"], ...]:
        """One map per stride, finest first."""
        return self.to_stride4(tokens), self.to_stride8(tokens), tokens, self.to_stride32(tokens)
