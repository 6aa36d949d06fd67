"""Sine position encodings of pixels and of words; no parameters."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.parts import is_split
from structures.kept import kept

EPSILON = 1e-6


def _sine(position: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape {dim}"]:
    """Sines on even and cosines on odd channels, at wave lengths from 2 pi to 10000 * 2 pi."""
    angle = position[..., None] / _wave_lengths(dim, position.device, position.dtype)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


@kept(number=16)
def _wave_lengths(dim: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " half"]:
    return 10000 ** (torch.arange(0, dim, 2, device=device, dtype=dtype) / dim)


def pixel_positions(
    is_padding: Bool[Tensor, "batch time height width"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "batch time {dim} height width"]:
    """Position of every pixel of a map among the unpadded ones, in (0, 2 pi): half the channels for y, half for x.

    In rows and columns that are padding throughout, the scale divides by nearly zero. The published model computes
    the same ill-conditioned values there, and its outputs for padded batches depend on them.

    Source: the encoding of DETR (arXiv:2005.12872) with pixels counted at their centre, as in Deformable DETR.
    """
    num_frames = is_padding.shape[1]
    if is_split(is_padding) and num_frames > 1 and bool((is_padding == is_padding[:, :1]).all()):
        # The frames of a clip have the same ones, which are made and held once. (A GPU would be waited for.)
        return pixel_positions(is_padding[:, :1], dim, dtype).expand(-1, num_frames, -1, -1, -1)
    is_valid = (~is_padding).to(dtype)
    y, x = is_valid.cumsum(dim=2), is_valid.cumsum(dim=3)
    last = torch.stack([y[:, :, -1:].expand_as(y), x[:, :, :, -1:].expand_as(x)], dim=-1)
    position = (torch.stack([y, x], dim=-1) - 0.5) / (last + EPSILON) * (2 * math.pi)
    return _sine(position, dim // 2).flatten(-2).movedim(-1, 2)  # channels of y before those of x


def word_positions(
    is_padding: Bool[Tensor, "batch word"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "batch word {dim}"]:
    """Position of every token among those of its sentence, scaled to (0, 2 pi]; tokens count from one, not a half."""
    position = (~is_padding).to(dtype).cumsum(dim=1)
    position = position / (position[:, -1:] + EPSILON) * (2 * math.pi)
    return _sine(position, dim)
