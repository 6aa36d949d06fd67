"""Layers that take a part of their input after the other."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

TOKENS_AT_ONCE = 1024
"""Whose hidden values, eight times as wide as the token in a feed-forward layer, stay in the cache of a CPU."""


def is_split(x: Tensor) -> bool:
    """Whether layers take a part of their input after the other: on a CPU, without gradients.

    That takes the memory of a part's hidden values instead of all, and fewer trips to it. With gradients all hidden
    values are kept for the backward pass anyway; on a GPU, and in a compiled graph, more and smaller kernels would only
    wait for each other.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_parts(
    layer: Callable[[Shaped[Tensor, "part ..."]], Float[Tensor, "part ..."]],
    x: Shaped[Tensor, "entry ..."],
    *,
    size: int,
    out: Float[Tensor, "entry ..."] | None = None,
) -> Float[Tensor, "entry ..."]:
    """What a layer makes of each entry along the first axis, of `size` of them after the other where that helps.

    Args:
        layer: does the same with every entry.
        x: the entries.
        size: of a part.
        out: where the results are written; it may be `x`. None: into a new tensor.
    """
    if not is_split(x) or len(x) <= size:
        return layer(x) if out is None else out.copy_(layer(x))
    for start in range(0, len(x), size):
        part = layer(x[start : start + size])
        if out is None:  # known when the first part is
            is_last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
            form = torch.channels_last if is_last else torch.contiguous_format
            out = torch.empty((len(x), *part.shape[1:]), dtype=part.dtype, device=x.device, memory_format=form)
        out[start : start + size] = part
    assert out is not None  # there was a part
    return out


def token_by_token(
    layer: Callable[[Float[Tensor, "token dim"]], Float[Tensor, "token out"]],
    x: Float[Tensor, "*shape dim"],
    *,
    overwrites: bool = False,
) -> Float[Tensor, "*shape out"]:
    """What a layer makes of each token, of a few tokens after the other where that helps.

    Args:
        layer: does the same with every token.
        x: the tokens.
        overwrites: `x` may be overwritten, because nobody needs it any more; its results are then of its type.
    """
    if not is_split(x) or x.numel() <= TOKENS_AT_ONCE * x.shape[-1]:
        return layer(x)
    tokens = x.reshape(-1, x.shape[-1])
    made = in_parts(layer, tokens, size=TOKENS_AT_ONCE, out=tokens if overwrites else None)
    return made.view(*x.shape[:-1], made.shape[-1])
