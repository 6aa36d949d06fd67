"""Dropout whose mask costs little on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

LANES = 4
"""Random numbers of 16 bits in one of 64, which is what the generator of PyTorch draws fastest."""

LEVELS = 2**16


class Dropout(nn.Module):
    """In training sets values to zero and makes up for it in the others, as `nn.Dropout` does.

    On a CPU that of PyTorch draws one Bernoulli number per value, which took a twelfth of a training step, and keeps
    them as floats. Here four values share one random number of 64 bits, and the mask is kept as booleans. The share of
    zeros is rounded to a multiple of 1/65536; the mean is that of the input for this share.

    Args:
        probability: of a zero, from 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"probability of dropout is {probability}, expected 0 to below 1")
        self.probability = probability

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Same shape out as in."""
        if not self.training or self.probability == 0:
            return x
        if not _is_cheap(x):
            return F.dropout(x, self.probability)
        zeros = round(self.probability * LEVELS)
        return (x * _draw(x.shape, zeros)).mul_(LEVELS / (LEVELS - zeros))

    def of_relu(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """ReLU, then dropout; overwrites `x`.

        In training on a CPU both are one step: what comes out says which gradients are zero, so nothing else is kept.
        """
        if not self.training or self.probability == 0 or not _is_cheap(x):
            return self(F.relu(x, inplace=True))
        return _ReluDropout.apply(x, round(self.probability * LEVELS))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"probability={self.probability}"


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


def _is_cheap(x: Tensor) -> bool:
    """Where dropout of our own is faster; elsewhere PyTorch has one kernel for it."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _draw(shape: torch.Size, zeros: int) -> Bool[Tensor, "*shape"]:
    """Values to keep: all but those whose number of 16 bits is among the `zeros` smallest."""
    count = shape.numel()
    numbers = torch.empty(-(-count // LANES), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    lanes = numbers.view(torch.int16)[:count].view(shape)
    return lanes >= torch.iinfo(torch.int16).min + zeros
