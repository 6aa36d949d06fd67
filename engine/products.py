"""Matrix products in float32 by oneDNN, on processors where MKL is slower.

PyTorch on x86 computes them with MKL. On an AMD EPYC with AVX-512 that reached 113 GFLOP/s a core, and oneDNN, which
PyTorch brings for convolutions, 250; see benchmarks/results. Products of two matrices, forward and backward, go there;
results differ by rounding.
"""

import logging
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

VARIABLE = "SOC_ONEDNN"
"""Of the environment: 0 leaves products to what PyTorch takes, 1 has them computed by oneDNN on any processor."""

FEWEST_PRODUCTS = 2**20
"""Of numbers, in a product of two matrices; below, the way there takes what is gained."""

logger = logging.getLogger(__name__)


def use_onednn(environment: Mapping[str, str] = os.environ) -> bool:
    """Has this process compute products in float32 by oneDNN where that is faster, and says so in the log.

    Args:
        environment: variables and their values.

    Returns:
        Whether it does.

    Raises:
        ValueError: `SOC_ONEDNN` is neither 0 nor 1.
    """
    wanted = environment.get(VARIABLE)
    if wanted not in (None, "0", "1"):
        raise ValueError(f"environment variable {VARIABLE}={wanted!r}: expected 1 (products by oneDNN) or 0")
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if wanted == "0" or not has_operator or not (wanted == "1" or _is_amd_with_avx512()):
        return False
    _register()
    logger.info("matrix products by oneDNN (%s=0 leaves them to PyTorch's choice)", VARIABLE)
    return True


def _is_amd_with_avx512() -> bool:
    """By name, not by a measurement: a run that goes on must round as it did before."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    about = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (about.read_text(encoding="utf-8") if about.is_file() else platform.processor())


@cache
def _register() -> torch.library.Library:
    """Replaces two operators of PyTorch on CPUs, for as long as the process runs."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("mm", _mm, "CPU")
    library.impl("addmm", _addmm, "CPU")
    return library


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if _is_for_onednn(a, b):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
        return result
    return torch.mm(a, b, out=a.new_empty(0))  # PyTorch's own: with `out` it is another operator


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: int | float = 1, alpha: int | float = 1) -> Tensor:
    is_plain = beta == 1 and alpha == 1 and bias.shape == b.shape[1:] and bias.dtype == a.dtype
    # oneDNN reads the bias as if its numbers lay side by side.
    if is_plain and bias.is_contiguous() and _is_for_onednn(a, b):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
        return result
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(0))


def _is_for_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.dim() == b.dim() == 2
        and a.shape[1] == b.shape[0]
        and a.shape[0] * b.numel() >= FEWEST_PRODUCTS
    )
