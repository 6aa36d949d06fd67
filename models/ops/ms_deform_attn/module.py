"""Deformable attention as a layer: projections, sampling locations and weights around the operator."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.ops.ms_deform_attn.functional import ms_deform_attn
from structures.transfer import constant


class MSDeformAttn(nn.Module):
    """Every query samples the maps of all levels at a few learned locations near its reference.

    Args:
        dim: width of queries and values.
        num_levels: value maps.
        num_heads: attention heads; must divide `dim`.
        num_points: sampling points per head and level.

    Source: Deformable DETR (arXiv:2010.04159), section 4.1.
    """

    def __init__(self, dim: int, *, num_levels: int = 4, num_heads: int = 8, num_points: int = 4) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide dim={dim}")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, num_samples * 2)
        self.attention_weights = nn.Linear(dim, num_samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each head starts in a direction of its own, its point k at k pixels of the map from the reference."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        bias = directions[:, None, None] * steps[None, None, :, None]  # (head, 1, point, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "batch query dim"],
        reference: Float[Tensor, "batch query level ref"],
        memory: Float[Tensor, "batch token dim"],
        level_shapes: Sequence[tuple[int, int]],
        *,
        memory_is_padding: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attend from `query` to `memory`.

        Args:
            query: content plus position.
            reference: (x, y) or (x, y, w, h) per level, as fractions of the padded map.
            memory: tokens of all levels, finest first.
            level_shapes: (height, width) of each level.
            memory_is_padding: tokens whose value counts as zero.
        """
        value = self.value_proj(memory.flatten(0, 1))  # of rows, since a view that is overwritten costs copies
        if memory_is_padding is not None:
            value = value.masked_fill_(memory_is_padding.flatten()[:, None], 0.0)
        locations, weights = self.sampling_locations(query, reference, level_shapes)
        value = rearrange(value.view(memory.shape), "b s (m c) -> b s m c", m=self.num_heads)
        return self.output_proj(ms_deform_attn(value, level_shapes, locations, weights))

    def sampling_locations(
        self,
        query: Float[Tensor, "batch query dim"],
        reference: Float[Tensor, "batch query level ref"],
        level_shapes: Sequence[tuple[int, int]],
    ) -> tuple[Float[Tensor, "batch query head level point 2"], Float[Tensor, "batch query head level point"]]:
        """Where each query samples, (x, y) in [0, 1] of the padded map, and with which weights.

        Raises:
            ValueError: if a reference is neither a point nor a box.
        """
        layout = {"m": self.num_heads, "l": self.num_levels, "p": self.num_points}
        offsets = rearrange(self.sampling_offsets(query), "b q (m l p xy) -> b q m l p xy", xy=2, **layout)
        logits = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))  # (b, q, m, l*p)
        weights = logits.softmax(dim=-1).unflatten(-1, (self.num_levels, self.num_points))
        if reference.shape[-1] == 2:
            shapes = tuple((width, height) for height, width in level_shapes)
            sizes = constant(shapes, dtype=reference.dtype, device=reference.device)
            sizes = repeat(sizes, "l xy -> (l p xy)", p=self.num_points)
            # In long rows, because loops over the last axes of 4, 4 and 2 numbers take ten times as long on a CPU.
            points = repeat(reference, "b q l xy -> b q 1 (l p xy)", p=self.num_points)
            locations = torch.addcdiv(points, rearrange(offsets, "b q m l p xy -> b q m (l p xy)"), sizes)
            return rearrange(locations, "b q m (l p xy) -> b q m l p xy", l=self.num_levels, xy=2), weights
        reference = rearrange(reference, "b q l ref -> b q 1 l 1 ref")
        if reference.shape[-1] == 4:
            return reference[..., :2] + offsets / self.num_points * reference[..., 2:] * 0.5, weights
        raise ValueError(f"reference has {reference.shape[-1]} coordinates, expected 2 (point) or 4 (box)")
