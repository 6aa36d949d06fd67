"""Vision-language fusion by cross-attention, in both directions."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.layers import Attention
from models.outputs import TextFeatures


class VisionLanguageFusion(nn.Module):
    """Early fusion of the projected maps with the words; all levels share the weights.

    Source: SOC (arXiv:2305.17011), section 3.2; as ReferFormer's, a product without residual or norm.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.words_into_pixels = Attention(dim, num_heads)
        self.pixels_into_words = Attention(dim, num_heads)

    def forward(
        self, level: Float[Tensor, "batch time dim height width"], text: TextFeatures
    ) -> Float[Tensor, "batch time dim height width"]:
        """Every pixel times its attention output over the words."""
        _, t, _, h, w = level.shape
        pixels = rearrange(level, "b t c h w -> b (t h w) c")
        attended = self.words_into_pixels(
            pixels, text.words + text.word_positions, text.words, key_is_padding=text.is_padding
        )
        return rearrange(pixels * attended, "b (t h w) c -> b t c h w", t=t, h=h, w=w)

    def sentence(
        self,
        level: Float[Tensor, "batch time dim height width"],
        position: Float[Tensor, "batch time dim height width"],
        is_padding: Bool[Tensor, "batch time height width"],
        text: TextFeatures,
    ) -> Float[Tensor, "batch dim"]:
        """Mean of the words after attention to the clip: the text side of the contrastive loss."""
        words = self.words(level, position, is_padding, text)
        is_word = (~text.is_padding)[..., None]
        return (words * is_word).sum(dim=1) / is_word.sum(dim=1)

    def words(
        self,
        level: Float[Tensor, "batch time dim height width"],
        position: Float[Tensor, "batch time dim height width"],
        is_padding: Bool[Tensor, "batch time height width"],
        text: TextFeatures,
    ) -> Float[Tensor, "batch word dim"]:
        """Every word times its attention output over the (unfused) pixels of the clip."""
        pixels = rearrange(level, "b t c h w -> b (t h w) c")
        keys = pixels + rearrange(position, "b t c h w -> b (t h w) c")
        pixel_is_padding = rearrange(is_padding, "b t h w -> b (t h w)")
        return text.words * self.pixels_into_words(text.words, keys, pixels, key_is_padding=pixel_is_padding)
