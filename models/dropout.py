"""Dropout whose mask costs little on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.ops.cpu_kernels import has_kernel

LANES = 4
"""Random numbers of 16 bits in one of 64, which is what the generator of PyTorch draws fastest."""

LEVELS = 2**16


class Dropout(nn.Dropout):
    """In training sets values to zero and makes up for it in the others.

    On a CPU that of PyTorch draws one Bernoulli number per value, which took a twelfth of a training step, and keeps
    them as floats. Where there is a C++ compiler, what is kept follows from a seed here, and no mask is needed. Else
    four values share one random number of 64 bits, and the mask is kept as booleans. The share of zeros is rounded to a
    multiple of 1/65536; the mean is that of the input for this share.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Same shape out as in."""
        if not self._is_cheap(x):
            return super().forward(x)
        zeros = round(self.p * LEVELS)
        if _is_seeded(x):
            return _SeededDropout.apply(x, zeros)
        return (x * _draw(x.shape, zeros)).mul_(LEVELS / (LEVELS - zeros))

    def of_relu(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """ReLU, then dropout; overwrites `x`.

        In training on a CPU both are one step: what comes out says which gradients are zero, so nothing else is kept.
        """
        if not self._is_cheap(x):
            return super().forward(F.relu(x, inplace=True))
        way = _SeededReluDropout if _is_seeded(x) and x.is_contiguous() else _ReluDropout
        return way.apply(x, round(self.p * LEVELS))

    def _is_cheap(self, x: Tensor) -> bool:
        """Where ours is faster; elsewhere PyTorch has one kernel for it, or nothing is drawn."""
        is_drawn = self.training and 0 < self.p < 0.999
        return is_drawn and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _is_seeded(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.bfloat16) and has_kernel("soc_dropout_cpu::dropout")


def _new_seed() -> int:
    return int(torch.empty((), dtype=torch.int64).random_())


class _SeededDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, zeros: int) -> Tensor:
        ctx.settings = _new_seed(), zeros, LEVELS / (LEVELS - zeros)
        return torch.ops.soc_dropout_cpu.dropout(x.contiguous(), *ctx.settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.ops.soc_dropout_cpu.dropout(grad.contiguous(), *ctx.settings), None


class _SeededReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, zeros: int) -> Tensor:
        ctx.scale = LEVELS / (LEVELS - zeros)
        ctx.mark_dirty(x)
        torch.ops.soc_dropout_cpu.relu_dropout_(x, _new_seed(), zeros, ctx.scale)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.ops.soc_dropout_cpu.relu_dropout_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, zeros: int) -> Tensor:
        ctx.scale = LEVELS / (LEVELS - zeros)
        ctx.mark_dirty(x)
        x.relu_().mul_(_draw(x.shape, zeros)).mul_(ctx.scale)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, output, 0).mul_(ctx.scale), None


def _draw(shape: torch.Size, zeros: int) -> Bool[Tensor, "*shape"]:
    """Values to keep: all but those whose number of 16 bits is among the `zeros` smallest."""
    count = shape.numel()
    numbers = torch.empty(-(-count // LANES), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    lanes = numbers.view(torch.int16)[:count].view(shape)
    return lanes >= torch.iinfo(torch.int16).min + zeros
