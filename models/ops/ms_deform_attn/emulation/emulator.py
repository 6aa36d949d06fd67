"""The CUDA kernels of deformable attention on a CPU: compiles `emulate.cpp` and talks to it."""

import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
KERNELS = FOLDER.parent / "csrc" / "cuda"
# Reads and writes outside a tensor, misaligned vectors and overflowing integers all stop the program.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

FORWARD, BACKWARD, DETERMINISTIC_BACKWARD, PLAN = range(4)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MAX_GRID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the operator takes; `grad_output` has the shape of the output.

    Attributes:
        one_channel_per_lane: use the kernels for values that cannot be read in pieces of 16 bytes.
        max_grid: blocks that a launch may have.
    """

    value: Tensor
    shapes: Sequence[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    grad_output: Tensor
    one_channel_per_lane: bool = False
    max_grid: int = MAX_GRID


@dataclass(frozen=True, slots=True)
class LaunchLayout:
    """How a launch is laid out, and where one of its rows is."""

    lanes_per_row: int
    rows_per_tile: int
    tiles: int
    grid: int
    batch: int
    query: int
    head: int
    exists: bool
    row_number: int
    map_offset: int
    gather_warps: int
    gather_grid: int
    fits: bool


@dataclass(frozen=True, slots=True)
class Results:
    """What the kernels computed; gradients are those of value, locations and weights.

    Attributes:
        output: of `forward_kernel`.
        gradients: of `backward_kernel`; that of the value is in float32 or float64.
        fixed_order: the same of the deterministic backward; that of the value has its dtype.
    """

    output: Tensor
    gradients: tuple[Tensor, Tensor, Tensor]
    fixed_order: tuple[Tensor, Tensor, Tensor]


class Emulator:
    """Runs kernels; each call is a process of its own."""

    def __init__(self, program: Path) -> None:
        self.program = program

    @classmethod
    def compile(cls, folder: Path) -> "Emulator":
        """Compiles the emulator into `folder`.

        Raises:
            FileNotFoundError: if there is no g++.
        """
        compiler = shutil.which("g++")
        if compiler is None:
            raise FileNotFoundError("no g++")
        program = folder / "emulate"
        include = Path(torch.__file__).parent / "include"
        warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
        command = [compiler, "-std=c++20", "-O1", *warnings, *SANITIZERS, "-I", KERNELS, "-isystem", include]
        subprocess.run([*map(str, command), str(FOLDER / "emulate.cpp"), "-o", str(program)], check=True)
        return cls(program)

    def run(self, inputs: Inputs) -> Results:
        """Forward and both backwards."""
        tensors = _tensors(inputs.value, inputs.locations, inputs.weights)
        gradient = _tensors(inputs.grad_output)
        cases = [_header(FORWARD, inputs) + tensors]
        cases += [_header(task, inputs) + tensors + gradient for task in (BACKWARD, DETERMINISTIC_BACKWARD)]
        data = self._run(*cases)
        wide = inputs.locations.dtype
        output, at = _read(data, 0, inputs.grad_output, inputs.value.dtype)
        gradients = []
        for dtype in (wide, inputs.value.dtype):
            grad_value, at = _read(data, at, inputs.value, dtype)
            grad_locations, at = _read(data, at, inputs.locations, wide)
            grad_weights, at = _read(data, at, inputs.weights, inputs.weights.dtype)
            gradients.append((grad_value, grad_locations, grad_weights))
        assert at == len(data)
        return Results(output, *gradients)

    def layout(self, sizes: Sequence[int], shapes: Sequence[tuple[int, int]], *, tile: int, row: int) -> LaunchLayout:
        """The layout for [batch, tokens, queries, heads, channels, levels, points] and four channels per lane."""
        flat = [side for shape in shapes for side in shape]
        data = self._run(_numbers(PLAN, 1, 0, 0, MAX_GRID, *sizes, *flat, 4, tile, row))
        numbers = torch.frombuffer(bytearray(data), dtype=torch.int64).tolist()
        values = dict(zip((field.name for field in fields(LaunchLayout)), numbers, strict=True))
        return LaunchLayout(**values | {name: bool(values[name]) for name in ("exists", "fits")})

    def _run(self, *cases: bytes) -> bytes:
        cases_file, results_file = self.program.with_name("cases"), self.program.with_name("results")
        cases_file.write_bytes(_numbers(len(cases)) + b"".join(cases))
        run = subprocess.run([self.program, cases_file, results_file], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(run.stderr[-4000:])
        return results_file.read_bytes()


def _numbers(*numbers: int) -> bytes:
    return torch.tensor(numbers, dtype=torch.int64).numpy().tobytes()


def _tensors(*tensors: Tensor) -> bytes:
    return b"".join(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors if tensor.numel())


def _header(task: int, inputs: Inputs) -> bytes:
    batch, tokens, heads, channels = inputs.value.shape
    _, queries, _, levels, points = inputs.weights.shape
    return _numbers(
        task,
        DTYPES.index(inputs.value.dtype),
        int(inputs.weights.dtype != inputs.value.dtype),
        int(inputs.one_channel_per_lane),
        inputs.max_grid,
        *(batch, tokens, queries, heads, channels, levels, points),
        *(side for shape in inputs.shapes for side in shape),
    )


def _read(data: bytes, at: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    end = at + math.prod(like.shape) * dtype.itemsize
    if end == at:
        return torch.empty(like.shape, dtype=dtype), end
    return torch.frombuffer(bytearray(data[at:end]), dtype=dtype).view(like.shape), end
