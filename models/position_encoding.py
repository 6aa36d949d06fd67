"""Sine position encodings of pixels and of words; no parameters."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-6


def _sine(position: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape {dim}"]:
    """Sines on even and cosines on odd channels, at wave lengths from 2 pi to 10000 * 2 pi."""
    channel = torch.arange(dim, device=position.device, dtype=position.dtype)
    wavelength = 10000 ** (2 * (channel // 2) / dim)
    angle = position[..., None] / wavelength
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)


def pixel_positions(
    is_padding: Bool[Tensor, "batch time height width"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "batch time {dim} height width"]:
    """Position of every pixel of a map among the unpadded ones, in (0, 2 pi): half the channels for y, half for x.

    In rows and columns that are padding throughout, the scale divides by nearly zero. The published model computes
    the same ill-conditioned values there, and its outputs for padded batches depend on them.

    Source: the encoding of DETR (arXiv:2005.12872) with pixels counted at their centre, as in Deformable DETR.
    """
    is_valid = (~is_padding).to(dtype)
    y, x = is_valid.cumsum(dim=2), is_valid.cumsum(dim=3)
    y = (y - 0.5) / (y[:, :, -1:] + EPSILON) * (2 * math.pi)
    x = (x - 0.5) / (x[:, :, :, -1:] + EPSILON) * (2 * math.pi)
    encoding = torch.cat([_sine(y, dim // 2), _sine(x, dim // 2)], dim=-1)  # (b, t, h, w, c)
    return encoding.movedim(-1, 2)


def word_positions(
    is_padding: Bool[Tensor, "batch word"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "batch word {dim}"]:
    """Position of every token among those of its sentence, scaled to (0, 2 pi]; tokens count from one, not a half."""
    position = (~is_padding).to(dtype).cumsum(dim=1)
    position = position / (position[:, -1:] + EPSILON) * (2 * math.pi)
    return _sine(position, dim)
