"""Inputs like those of a trained model, for checks and timings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from models.ops.ms_deform_attn.backends import use_backend
from models.ops.ms_deform_attn.functional import ms_deform_attn

Shapes = tuple[tuple[int, int], ...]

# Strides 8 to 64 of frames of 360 x 640 and of 64 x 96 pixels.
FULL_LEVELS: Shapes = ((45, 80), (23, 40), (12, 20), (6, 10))
SMALL_LEVELS: Shapes = ((8, 12), (4, 6), (2, 3), (1, 2))

# What `error_against_reference` may be: one unit in the last place for half precisions, whose sums are float32.
BOUNDS = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@dataclass(frozen=True, slots=True)
class Problem:
    """Arguments of one call, and the gradient of its output.

    Attributes:
        value: tokens of all levels.
        spatial_shapes: (height, width) of each level.
        sampling_locations: within some pixels of each query's own location, now and then outside; never at the centre
            of a pixel, where the gradient jumps, and rounding would decide to which side.
        attention_weights: sum to one.
        grad_output: what flows back.
    """

    value: Float[Tensor, "batch token head channel"]
    spatial_shapes: Shapes
    sampling_locations: Float[Tensor, "batch query head level point 2"]
    attention_weights: Float[Tensor, "batch query head level point"]
    grad_output: Float[Tensor, "batch query out"]

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> "Problem":
        """The same numbers in another dtype, on another device; leaves of the graph that want gradients."""
        tensors = (self.value, self.sampling_locations, self.attention_weights)
        value, locations, weights = (
            tensor.detach().to(device=device, dtype=dtype).requires_grad_() for tensor in tensors
        )
        return Problem(value, self.spatial_shapes, locations, weights, self.grad_output.to(device=device, dtype=dtype))

    def forward(self) -> Tensor:
        """One call."""
        return ms_deform_attn(self.value, self.spatial_shapes, self.sampling_locations, self.attention_weights)

    def forward_backward(self) -> tuple[Tensor, ...]:
        """One call and its gradients: (output, of value, of locations, of weights)."""
        output = self.forward()
        leaves = (self.value, self.sampling_locations, self.attention_weights)
        return (output.detach(), *torch.autograd.grad(output, leaves, self.grad_output))


def make_problem(
    spatial_shapes: Sequence[tuple[int, int]],
    *,
    batch: int,
    heads: int,
    channels: int,
    points: int,
    queries: int | None = None,
    seed: int = 0,
) -> Problem:
    """Random inputs in float64 on the CPU, the same for the same arguments.

    Args:
        spatial_shapes: (height, width) of each level.
        batch: frames.
        heads: attention heads.
        channels: of a head.
        points: samples per head and level.
        queries: how many, at random locations; None: every token is one, as in the encoder.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if queries is None:
        centres = torch.cat([_centres(height, width) for height, width in spatial_shapes])
        locations = repeat(centres, "q xy -> b q xy", b=batch)
    else:
        locations = torch.rand(batch, queries, 2, generator=generator, dtype=torch.float64)
    count, levels = locations.shape[1], len(spatial_shapes)
    sizes = torch.tensor([(width, height) for height, width in spatial_shapes], dtype=torch.float64)
    offsets = 2 * normal(batch, count, heads, levels, points, 2) / sizes[:, None]
    weights = normal(batch, count, heads, levels * points).softmax(dim=-1).unflatten(-1, (levels, points))
    problem = Problem(
        normal(batch, sum(height * width for height, width in spatial_shapes), heads, channels),
        tuple(spatial_shapes),
        _off_pixel_centres(locations[:, :, None, None, None] + offsets, sizes[:, None]),
        weights,
        normal(batch, count, heads * channels),
    )
    return problem.to(torch.float64)


def error_against_reference(backend: str, problem: Problem, device: str, dtype: torch.dtype) -> float:
    """Largest deviation of output and gradients from the reference in float64 on the same, rounded inputs.

    It is relative to the largest magnitude of each tensor.
    """
    rounded = problem.to(dtype, device)
    with use_backend("reference"):
        expected = rounded.to(torch.float64).forward_backward()
    with use_backend(backend):
        result = rounded.forward_backward()
    errors = [
        (ours.double() - right).abs().amax() / right.abs().amax() for ours, right in zip(result, expected, strict=True)
    ]
    return float(torch.stack(errors).amax())


def _off_pixel_centres(locations: Tensor, sizes: Tensor, *, margin_px: float = 1e-3) -> Tensor:
    position = locations * sizes - 0.5
    pixel = position.floor()
    return (pixel + (position - pixel).clamp(margin_px, 1 - margin_px) + 0.5) / sizes


def _centres(height: int, width: int) -> Tensor:
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)  # (height*width, 2)
