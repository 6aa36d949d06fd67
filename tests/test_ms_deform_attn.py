"""Deformable attention: the operator against a loop, its gradients, and the layer's start."""

import math

import pytest
import torch

from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn

SHAPES = [(3, 4), (2, 2)]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    value = torch.randn(2, 16, 2, 3, dtype=dtype)
    locations = torch.rand(2, 5, 2, 2, 2, 2, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 5, 2, 2, 2, dtype=dtype)
    return value, locations, weights


def sample(cells: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear with zeros outside; (x, y) in cells from the outer edge."""
    height, width = cells.shape[:2]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = torch.zeros_like(cells[0, 0])
    for j, i in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= j < height and 0 <= i < width:
            total += cells[j, i] * (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
    return total


def test_the_operator_equals_a_loop_over_every_sample():
    value, locations, weights = inputs()
    output = ms_deform_attn(value, SHAPES, locations, weights).view(2, 5, 2, 3)
    starts = [0, 12]
    for b, q, m in [(0, 0, 0), (1, 4, 1), (0, 3, 1)]:
        expected = torch.zeros(3, dtype=torch.float64)
        for level, (height, width) in enumerate(SHAPES):
            cells = value[b, starts[level] :][: height * width, m].view(height, width, 3)
            for point in range(2):
                x, y = locations[b, q, m, level, point].tolist()
                expected += weights[b, q, m, level, point] * sample(cells, x * width, y * height)
        torch.testing.assert_close(output[b, q, m], expected)


def test_gradients_are_those_of_finite_differences():
    arguments = [tensor.requires_grad_() for tensor in inputs()]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, SHAPES, x, w), arguments)


def test_cells_that_do_not_fit_the_levels_are_an_error():
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match="15 cells"):
        ms_deform_attn(value[:, :15], SHAPES, locations, weights)


def test_padded_cells_are_never_read():
    layer = MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2)
    query, memory = torch.randn(1, 3, 16), torch.randn(1, 16, 16)
    reference = torch.rand(1, 3, 2, 2)
    is_padding = torch.zeros(1, 16, dtype=torch.bool)
    is_padding[0, 5:9] = True
    changed = torch.where(is_padding[..., None], torch.randn(1, 16, 16), memory)
    torch.testing.assert_close(
        layer(query, reference, memory, SHAPES, memory_is_padding=is_padding),
        layer(query, reference, changed, SHAPES, memory_is_padding=is_padding),
    )


def test_at_the_start_every_head_looks_in_its_own_direction():
    layer = MSDeformAttn(16, num_levels=2, num_heads=4, num_points=3)
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 0, 2], 3 * expected, rtol=0, atol=1e-6)


def test_references_are_points_or_boxes():
    layer = MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2)
    with pytest.raises(ValueError, match="3 coordinates"):
        layer.places(torch.randn(1, 1, 16), torch.rand(1, 1, 2, 3), SHAPES)
