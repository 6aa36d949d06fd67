"""Multi-scale deformable attention in plain PyTorch: the specification of every faster version."""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def ms_deform_attn_reference(
    value: Float[Tensor, "batch cell head channel"],
    level_shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "batch query head level point 2"],
    weights: Float[Tensor, "batch query head level point"],
) -> Float[Tensor, "batch query head*channel"]:
    """Sample the value maps at a few places per query and add the samples up, weighted.

    Args:
        value: cells of all levels, finest first, row by row.
        level_shapes: (height, width) of each level; their areas add up to the number of cells.
        locations: (x, y) in [0, 1] from the outer edge of the first to that of the last cell; outside is zero.
        weights: how much each sample counts.

    Source: Deformable DETR, equation 3; sampling is bilinear with zero padding and pixel areas (`align_corners=False`).
    """
    levels = value.split([height * width for height, width in level_shapes], dim=1)
    grids = rearrange(2 * locations - 1, "b q m l p xy -> l (b m) q p xy")
    level_weights = rearrange(weights, "b q m l p -> l (b m) 1 q p")
    total = value.new_zeros(())
    # Level by level: the samples of all levels at once would be the largest tensor of the model.
    for level, (height, width), grid, weight in zip(levels, level_shapes, grids, level_weights, strict=True):
        samples = F.grid_sample(
            rearrange(level, "b (h w) m c -> (b m) c h w", h=height, w=width),
            grid,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        total = total + (samples * weight).sum(dim=-1)
    return rearrange(total, "(b m) c q -> b q (m c)", b=value.shape[0])
