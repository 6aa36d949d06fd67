"""The one door to multi-scale deformable attention: a compiled backend joins here and nowhere else."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from models.ops.ms_deform_attn.reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Float[Tensor, "batch cell head channel"],
    level_shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "batch query head level point 2"],
    weights: Float[Tensor, "batch query head level point"],
) -> Float[Tensor, "batch query head*channel"]:
    """Multi-scale deformable attention; arguments as in `ms_deform_attn_reference`.

    Raises:
        ValueError: if the cells do not fit the shapes of the levels.
    """
    num_cells = sum(height * width for height, width in level_shapes)
    if value.shape[1] != num_cells:
        raise ValueError(f"value has {value.shape[1]} cells, but level_shapes={list(level_shapes)} hold {num_cells}")
    return ms_deform_attn_reference(value, level_shapes, locations, weights)
