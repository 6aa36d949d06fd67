"""Deformable attention in Triton, for GPUs where neither `nvcc` nor an installed library is found.

Importing this module imports Triton; the choice of backends does so only where it is needed. Checked on a CPU with
Triton's interpreter, and on an H100 by `scripts/gpu_check.sh`. The kernels say `no_type_check`: Triton compiles what is
written, and a checker around them would stand in its way.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from structures.kept import kept

# A program works on this many numbers at once: queries times channels.
TILE = 1024
MAX_QUERIES = 64


@triton.jit
@no_type_check
def _position(coordinate, side):
    """Pixel before a coordinate, the offset from it, and whether it lies on the map or less than a pixel outside."""
    position = coordinate * side - 0.5
    inside = (position >= -1) & (position < side)  # false for NaN
    position = tl.where(inside, position, 0.0)
    pixel = tl.floor(position)
    return pixel.to(tl.int32), position - pixel, inside


@triton.jit
@no_type_check
def _forward_kernel(  # noqa: PLR0913, PLR0917 - as many as the data has axes
    value, shapes, locations, weights, output,
    tokens, queries, heads, channels, levels, points,
    QUERIES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(queries, QUERIES)
    head_of_all = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = head_of_all // heads, head_of_all % heads
    query = (tl.program_id(0) % tiles) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    has_query, has_channel = query < queries, channel < channels
    row = (batch * queries + query) * heads + head
    total = tl.zeros((QUERIES, CHANNELS), dtype=locations.dtype.element_ty)
    start = 0
    for level in range(levels):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(points):
            sample = (row * levels + level) * points + point
            x, dx, inside_x = _position(tl.load(locations + 2 * sample, mask=has_query, other=0.0), width)
            y, dy, inside_y = _position(tl.load(locations + 2 * sample + 1, mask=has_query, other=0.0), height)
            weight = tl.load(weights + sample, mask=has_query, other=0.0)
            inside = has_query & inside_x & inside_y
            for corner in tl.static_range(4):
                column, map_row = x + corner % 2, y + corner // 2
                is_on_map = inside & (column >= 0) & (column < width) & (map_row >= 0) & (map_row < height)
                corner_weight = weight * (dx if corner % 2 else 1 - dx) * (dy if corner // 2 else 1 - dy)
                offset = ((batch * tokens + start + map_row * width + column) * heads + head) * channels
                mask = is_on_map[:, None] & has_channel[None, :]
                token = tl.load(value + offset[:, None] + channel[None, :], mask=mask, other=0.0)
                total += corner_weight[:, None] * token.to(total.dtype)
        start += height * width
    mask = has_query[:, None] & has_channel[None, :]
    tl.store(output + row[:, None] * channels + channel[None, :], total.to(output.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def _backward_kernel(  # noqa: PLR0913, PLR0917 - as many as the data has axes
    grad_output, value, shapes, locations, weights, grad_value, grad_locations, grad_weights,
    tokens, queries, heads, channels, levels, points,
    QUERIES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(queries, QUERIES)
    head_of_all = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = head_of_all // heads, head_of_all % heads
    query = (tl.program_id(0) % tiles) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    has_query, has_channel = query < queries, channel < channels
    row = (batch * queries + query) * heads + head
    mask = has_query[:, None] & has_channel[None, :]
    gradient = tl.load(grad_output + row[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    gradient = gradient.to(locations.dtype.element_ty)
    start = 0
    for level in range(levels):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(points):
            sample = (row * levels + level) * points + point
            x, dx, inside_x = _position(tl.load(locations + 2 * sample, mask=has_query, other=0.0), width)
            y, dy, inside_y = _position(tl.load(locations + 2 * sample + 1, mask=has_query, other=0.0), height)
            weight = tl.load(weights + sample, mask=has_query, other=0.0)
            inside = has_query & inside_x & inside_y
            grad_x, grad_y = tl.zeros_like(dx), tl.zeros_like(dx)
            grad_weight = tl.zeros_like(dx)
            for corner in tl.static_range(4):
                column, map_row = x + corner % 2, y + corner // 2
                is_on_map = inside & (column >= 0) & (column < width) & (map_row >= 0) & (map_row < height)
                along_x = dx if corner % 2 else 1 - dx
                along_y = dy if corner // 2 else 1 - dy
                offset = ((batch * tokens + start + map_row * width + column) * heads + head) * channels
                mask = is_on_map[:, None] & has_channel[None, :]
                offsets = offset[:, None] + channel[None, :]
                token = tl.load(value + offsets, mask=mask, other=0.0).to(gradient.dtype)
                product = tl.sum(token * gradient, axis=1)
                grad_weight += along_x * along_y * product
                grad_x += (along_y if corner % 2 else -along_y) * product
                grad_y += (along_x if corner // 2 else -along_x) * product
                tl.atomic_add(
                    grad_value + offsets, (weight * along_x * along_y)[:, None] * gradient, mask=mask, sem="relaxed"
                )
            tl.store(grad_locations + 2 * sample, tl.where(inside, grad_x * weight * width, 0.0), mask=has_query)
            tl.store(grad_locations + 2 * sample + 1, tl.where(inside, grad_y * weight * height, 0.0), mask=has_query)
            tl.store(grad_weights + sample, grad_weight, mask=has_query)
        start += height * width


def forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The output; arguments as those of a backend."""
    batch, tokens, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    output = value.new_empty(batch, queries, heads * channels)
    sizes = (tokens, queries, heads, channels, levels, points)
    table = _table(tuple(shapes), value.device)
    tensors = (value.contiguous(), table, locations.contiguous(), weights.contiguous(), output)
    tile = _tile(channels)
    with torch.cuda.device_of(value):
        _forward_kernel[_grid(batch * heads, queries, tile)](*tensors, *sizes, **tile)
    return output


def backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights. Sums into the first come in any order."""
    batch, tokens, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    # Sums in half precision would lose most of what is added late.
    grad_value = torch.zeros(value.shape, dtype=locations.dtype, device=value.device)
    grad_locations, grad_weights = torch.empty_like(locations.contiguous()), torch.empty_like(weights.contiguous())
    sizes = (tokens, queries, heads, channels, levels, points)
    table = _table(tuple(shapes), value.device)
    inputs = (grad_output.contiguous(), value.contiguous(), table, locations.contiguous(), weights.contiguous())
    tile = _tile(channels)
    with torch.cuda.device_of(value):
        _backward_kernel[_grid(batch * heads, queries, tile)](
            *inputs, grad_value, grad_locations, grad_weights, *sizes, **tile
        )
    return grad_value.to(value.dtype), grad_locations, grad_weights


@kept(number=64)
def _table(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """Sides of the levels where the kernels can read them; kept, because the copy would stop the GPU."""
    return torch.tensor(shapes, dtype=torch.int32, device=device)


def _tile(channels: int) -> dict[str, int]:
    wide = triton.next_power_of_2(channels)
    return {"QUERIES": max(1, min(MAX_QUERIES, TILE // wide)), "CHANNELS": wide}


def _grid(maps: int, queries: int, tile: dict[str, int]) -> tuple[int]:
    return (maps * triton.cdiv(queries, tile["QUERIES"]),)
