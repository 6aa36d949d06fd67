"""Multi-scale deformable attention as one operator of PyTorch, computed by one of several backends.

The operator is registered once, `soc_ms_deform_attn::forward`, with its gradient, `soc_ms_deform_attn::backward`.
Which backend computes is decided inside, whenever tensors arrive: compiled and exported graphs hold the operator and
not a backend.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.ops.ms_deform_attn.backends import HALF, choose

NAMESPACE = "soc_ms_deform_attn"


def ms_deform_attn(
    value: Float[Tensor, "batch token head channel"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "batch query head level point 2"],
    attention_weights: Float[Tensor, "batch query head level point"],
) -> Float[Tensor, "batch query head*channel"]:
    """Multi-scale deformable attention; arguments as in `ms_deform_attn_reference`.

    Half-precision values are accumulated in float32, and their locations and weights are taken in float32: a location
    in half precision would be off by a good part of a pixel of the map.

    Raises:
        ValueError: if the tensors do not fit each other, or the backend that was asked for cannot be used.
    """
    batch, num_tokens, heads, _ = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    levels = len(spatial_shapes)
    shapes = [side for shape in spatial_shapes for side in shape]
    expected_tokens = sum(height * width for height, width in spatial_shapes)
    if num_tokens != expected_tokens:
        raise ValueError(
            f"value has {num_tokens} tokens, but spatial_shapes={list(spatial_shapes)} have {expected_tokens}"
        )
    expected = (batch, queries, heads, levels, points)
    if attention_weights.shape != expected or sampling_locations.shape != (*expected, 2):
        raise ValueError(
            f"sampling_locations {tuple(sampling_locations.shape)} and attention_weights "
            f"{tuple(attention_weights.shape)} do not fit value {tuple(value.shape)} with {levels} levels; expected "
            "(batch, query, head, level, point[, 2])"
        )
    dtype = torch.float32 if value.dtype in HALF else value.dtype
    return torch.ops.soc_ms_deform_attn.forward(
        value, shapes, sampling_locations.to(dtype), attention_weights.to(dtype)
    )


def _forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    backend = choose(value.device.type, value.dtype)
    if value.numel() == 0 or locations.numel() == 0:
        return value.new_zeros(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    return backend.forward(value, shapes, locations, weights)


def _backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    backend = choose(value.device.type, value.dtype)
    if value.numel() == 0 or locations.numel() == 0:
        return torch.zeros_like(value), torch.zeros_like(locations), torch.zeros_like(weights)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return backend.backward(grad_output, value, shapes, locations, weights, deterministic)


def _fake_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))  # type: ignore[return-value]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradient(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    gradients = torch.ops.soc_ms_deform_attn.backward(grad_output, value, ctx.shapes, locations, weights)
    return gradients[0], None, gradients[1], gradients[2]


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "deformable attention has no second derivative; for one, call ms_deform_attn_reference instead"
    )


_library = torch.library.Library(NAMESPACE, "DEF")
_library.define(
    "forward(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "backward(Tensor grad_output, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# For every device: the reference computes what no compiled backend can.
_library.impl("forward", _forward, "CompositeExplicitAutograd")
_library.impl("backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::forward", _fake_forward, lib=_library)
torch.library.register_fake(f"{NAMESPACE}::backward", _fake_backward, lib=_library)
torch.library.register_autograd(f"{NAMESPACE}::forward", _gradient, setup_context=_save_for_backward, lib=_library)
torch.library.register_autograd(
    f"{NAMESPACE}::backward", _no_second_derivative, setup_context=_save_nothing, lib=_library
)
