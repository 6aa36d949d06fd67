"""Multi-scale deformable attention in plain PyTorch: the specification of every faster version."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

_BILINEAR, _ZEROS = 0, 0  # numbers of grid_sample's modes in the operator behind it


def ms_deform_attn_reference(
    value: Float[Tensor, "batch token head channel"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "batch query head level point 2"],
    attention_weights: Float[Tensor, "batch query head level point"],
) -> Float[Tensor, "batch query head*channel"]:
    """Sample the value maps at a few locations per query and add the samples up, weighted.

    Args:
        value: tokens of all levels, one per pixel of a map, finest level first, row by row.
        spatial_shapes: (height, width) of each level; their areas add up to the number of tokens.
        sampling_locations: (x, y) in [0, 1] from the outer edge of the first to that of the last pixel. Outside is
            zero, and so is a location that is not finite: it adds nothing and gets no gradient. (`grid_sample` makes a
            NaN of it on the CPU.) NaN weights give NaN.
        attention_weights: how much each sample counts.

    Source: Deformable DETR, equation 3; sampling is bilinear with zero padding and pixel areas (`align_corners=False`).
    """
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    grids = rearrange(_sampling_grid(sampling_locations), "b q m l p xy -> l (b m) q p xy")
    level_weights = rearrange(attention_weights, "b q m l p -> l (b m) 1 q p")
    total = value.new_zeros(())
    # Level by level: the samples of all levels at once would be the largest tensor of the model.
    for level, (height, width), grid, weight in zip(levels, spatial_shapes, grids, level_weights, strict=True):
        if height * width:
            samples = F.grid_sample(
                rearrange(level, "b (h w) m c -> (b m) c h w", h=height, w=width),
                grid,
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
            total = total + (samples * weight).sum(dim=-1)
    if total.numel() == 0 or total.ndim == 0:  # no query, no sample or no token
        return value.new_zeros(value.shape[0], sampling_locations.shape[1], value.shape[2] * value.shape[3])
    return rearrange(total, "(b m) c q -> b q (m c)", b=value.shape[0])


def _sampling_grid(locations: Tensor) -> Tensor:
    """Coordinates of `grid_sample`; far outside and not finite become 3, which is outside on every map."""
    grid = 2 * locations - 1
    return torch.where(grid.abs() <= 3, grid, 3.0)


def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator as a backend: half precisions are computed in float32."""
    output = ms_deform_attn_reference(value.to(locations.dtype), _pairs(shapes), locations, weights)
    return output.to(value.dtype).contiguous()


def backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; samples again instead of keeping the samples of the forward pass."""
    dtype = locations.dtype
    heads = value.shape[2]
    levels = value.to(dtype).split([height * width for height, width in _pairs(shapes)], dim=1)
    grad = rearrange(grad_output.to(dtype), "b q (m c) -> (b m) c q 1", m=heads)
    grids = rearrange(_sampling_grid(locations), "b q m l p xy -> l (b m) q p xy")
    level_weights = rearrange(weights, "b q m l p -> l (b m) 1 q p")
    grad_levels, grad_grids, grad_weights = [], [], []
    for level, (height, width), grid, weight in zip(levels, _pairs(shapes), grids, level_weights, strict=True):
        if height * width == 0:
            grad_levels.append(torch.zeros_like(level))
            grad_grids.append(torch.zeros_like(grid))
            grad_weights.append(grid.new_zeros(grid.shape[:-1]))
            continue
        image = rearrange(level, "b (h w) m c -> (b m) c h w", h=height)
        samples = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)
        grad_weights.append((samples * grad).sum(dim=1))
        grad_image, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * weight, image, grid, _BILINEAR, _ZEROS, False, [True, True]
        )
        grad_levels.append(rearrange(grad_image, "(b m) c h w -> b (h w) m c", m=heads))
        grad_grids.append(grad_grid)
    grad_locations = 2 * rearrange(grad_grids, "l (b m) q p xy -> b q m l p xy", m=heads)
    is_near = (2 * locations - 1).abs() <= 3
    return (
        torch.cat(grad_levels, dim=1).to(value.dtype).contiguous(),
        torch.where(is_near, grad_locations, 0.0).contiguous(),
        rearrange(grad_weights, "l (b m) q p -> b q m l p", m=heads).contiguous(),
    )


def _pairs(shapes: Sequence[int]) -> list[tuple[int, int]]:
    """[height, width, height, ...] -> [(height, width), ...]."""
    return list(zip(shapes[::2], shapes[1::2], strict=True))
