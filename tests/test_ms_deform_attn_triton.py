"""The Triton kernels of deformable attention without a GPU: interpreted, and compiled for those that are not here."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

# In a process of its own: the kernels are interpreted if Triton was imported with TRITON_INTERPRET=1.
INTERPRETED = """
import math

import torch

from models.ops.ms_deform_attn import triton_kernels
from models.ops.ms_deform_attn.reference import ms_deform_attn_reference

LEVELS = [(3, 4), (0, 3), (2, 2)]
SHAPES = [side for level in LEVELS for side in level]
generator = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


for dtype, channels, tolerance in (
    (torch.float64, 5, 1e-13),
    (torch.float32, 8, 1e-5),
    (torch.float16, 3, 1e-3),
    (torch.bfloat16, 8, 8e-3),
):
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    value, grad_output = normal(2, 16, 2, channels).to(dtype), normal(2, 5, 2 * channels).to(dtype)
    locations = torch.rand(2, 5, 2, 3, 2, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    locations[0, 0, 0, 0, 0, 0], locations[0, 1, 0, 0, 0, 0], locations[1, 1, 1, 2, 0, 1] = math.nan, math.inf, -1e30
    locations, weights = locations.to(wide), normal(2, 5, 2, 3, 2).to(wide)
    output = triton_kernels.forward(value, SHAPES, locations, weights)
    gradients = triton_kernels.backward(grad_output, value, SHAPES, locations, weights)
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    expected = ms_deform_attn_reference(leaves[0], LEVELS, leaves[1], leaves[2])
    expected_gradients = torch.autograd.grad(expected, leaves, grad_output.double())
    for ours, right in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        error = ((ours.double() - right).abs().max() / right.abs().max()).item()
        assert error <= tolerance, (dtype, error)
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.ops.ms_deform_attn import triton_kernels

WIDE = ("locations", "weights", "grad_value", "grad_locations", "grad_weights")
CONSTANTS = {"QUERIES": 32, "CHANNELS": 32}
SIZES = ("tokens", "queries", "heads", "channels", "levels", "points")


def type_of(name):
    if name in CONSTANTS:
        return "constexpr"
    if name in SIZES:
        return "i32"
    return "*i32" if name == "shapes" else "*fp32" if name in WIDE else "*bf16"


for architecture in (80, 90):
    for kernel in (triton_kernels._forward_kernel, triton_kernels._backward_kernel):
        names = kernel.arg_names
        signature = {name: type_of(name) for name in names}
        constants = {(names.index(name),): number for name, number in CONSTANTS.items()}
        aligned = [i for i, name in enumerate(names) if signature[name].startswith("*") or name == "channels"]
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
        assembly = triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["ptx"]
        assert "ld.global.v4" in assembly, "values are not read in pieces of 16 bytes"
        assert "ld.local" not in assembly and "st.local" not in assembly, "registers are spilled"
        if architecture == 90 and kernel is triton_kernels._backward_kernel:
            assert "add.v4.f32" in assembly, "gradients are not added four at a time"
"""


def run(program: str, repository: Path, tmp_path: Path, **environment: str) -> None:
    settings = {**os.environ, "PYTHONPATH": str(repository), "TRITON_CACHE_DIR": str(tmp_path), **environment}
    # Triton reads the source of its kernels, so the program has to be a file too.
    script = tmp_path / "program.py"
    script.write_text(program)
    result = subprocess.run([sys.executable, script], env=settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_interpreted_kernels_equal_the_reference(repository: Path, tmp_path: Path):
    run(INTERPRETED, repository, tmp_path, TRITON_INTERPRET="1")


@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here(repository: Path, tmp_path: Path):
    run(COMPILED, repository, tmp_path)
