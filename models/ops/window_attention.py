"""Attention inside windows in C++ on a CPU: nothing in the order of the windows is made or stored.

PyTorch computes attention whose bias is trained operator by operator on a CPU, and keeps the weights of every pair of
tokens for the gradient. The kernel (`ms_deform_attn/csrc/cpu/window_attention_cpu.cpp`) computes them once more
instead. In evaluation it is faster than PyTorch's kernel in float32. Without it, `WindowAttention` computes the same
with operators of PyTorch.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.ops.cpu_kernels import has_kernel

DTYPES = (torch.float32, torch.bfloat16)
"""Of queries, keys and values; sums are made in float32."""


def is_suitable(qkv: Tensor, bias: Tensor) -> bool:
    """Whether the kernel is used for these tensors: by dtype and device, and because it is there and wanted.

    Without gradients PyTorch's own kernel is faster in bfloat16.
    """
    fits = qkv.device.type == "cpu" and qkv.dtype in DTYPES and bias.dtype == torch.float32
    pays = torch.is_grad_enabled() or qkv.dtype == torch.float32
    return fits and pays and not torch.compiler.is_compiling() and has_kernel("soc_window_attention_cpu::forward")


def window_attention(
    qkv: Float[Tensor, "row three_dim"],
    rows: Int[Tensor, " place"],
    bias: Float[Tensor, "head place_in place_in"],
    masks: Float[Tensor, "mask place_in place_in"],
    mask_of_window: Int[Tensor, " window"],
    *,
    num_tokens: int,
) -> Float[Tensor, "token dim"]:
    """Self-attention of the tokens of each window, for tensors that are suitable (see `is_suitable`).

    Args:
        qkv: queries, keys and values of all tokens; one more row, if there is one, is that of all padding.
        rows: of each place, window by window, a row of `qkv`; every token has one place.
        bias: added to the logit of each pair of places.
        masks: added likewise.
        mask_of_window: which of them; -1 where there is none.
        num_tokens: rows of `qkv` without that of the padding.

    Returns:
        What is attended, of the tokens in their own order, heads side by side. That of padding is not computed.

    Raises:
        RuntimeError: if the tensors do not fit each other.
    """
    return _WindowAttention.apply(qkv, rows, bias, masks, mask_of_window, num_tokens)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, rows: Tensor, bias: Tensor, masks: Tensor, mask_of_window: Tensor, num_tokens: int
    ) -> Tensor:
        qkv, bias = qkv.contiguous(), bias.contiguous()
        ctx.save_for_backward(qkv, rows, bias, masks, mask_of_window)
        ctx.settings = num_tokens, (qkv.shape[1] // (3 * len(bias))) ** -0.5
        return torch.ops.soc_window_attention_cpu.forward(qkv, rows, bias, masks, mask_of_window, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operator = torch.ops.soc_window_attention_cpu.backward
        of_qkv, of_bias = operator(grad.contiguous(), *ctx.saved_tensors, *ctx.settings)
        return of_qkv, None, of_bias, None, None, None
