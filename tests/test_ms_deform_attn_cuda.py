"""The CUDA kernels of deformable attention: on a CPU by emulation, in the compiler, and where there is one on a GPU."""

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.ops.ms_deform_attn import build
from models.ops.ms_deform_attn.emulation.emulator import Emulator, Inputs
from models.ops.ms_deform_attn.reference import ms_deform_attn_reference

WIDE = {torch.float64: torch.float64, torch.float32: torch.float32}
# Relative to the largest number: sums of at most some hundred terms, and for half precisions one rounding at the end.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

COUNTS = {"batch": 3, "queries": 9, "heads": 4, "channels": 48, "points": 6, "seed": 1000}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator.compile(tmp_path_factory.mktemp("emulator"))


def make_inputs(
    shapes: Sequence[tuple[int, int]],
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    channels: int = 8,
    points: int = 2,
    seed: int = 0,
) -> Inputs:
    """Random, with a third of the locations outside the map."""
    generator = torch.Generator().manual_seed(seed)
    wide = WIDE.get(dtype, torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    samples = (batch, queries, heads, len(shapes), points)
    locations = torch.rand((*samples, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    return Inputs(
        value=normal(batch, sum(height * width for height, width in shapes), heads, channels).to(dtype),
        shapes=shapes,
        locations=locations.to(wide),
        weights=normal(*samples).to(wide),
        grad_output=normal(batch, queries, heads * channels).to(dtype),
    )


def with_changes(inputs: Inputs, **changes: object) -> Inputs:
    fields = {name: getattr(inputs, name) for name in Inputs.__slots__}
    return Inputs(**(fields | changes))


def expected(inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of the reference in float64."""
    tensors = [tensor.double().requires_grad_() for tensor in (inputs.value, inputs.locations, inputs.weights)]
    output = ms_deform_attn_reference(tensors[0], inputs.shapes, tensors[1], tensors[2])
    if output.grad_fn is None:
        return output, [torch.zeros_like(tensor) for tensor in tensors]
    options = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad(output, tensors, inputs.grad_output.double(), **options)
    return output.detach(), list(gradients)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    if not expected.numel():
        assert actual.shape == expected.shape
        return
    error = (actual.double() - expected).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item())


def check(emulator: Emulator, inputs: Inputs) -> None:
    tolerance = TOLERANCE[inputs.value.dtype]
    # Gradients in float32 are sums of products of rounded numbers: they have the error of float32.
    wide_tolerance = TOLERANCE[inputs.locations.dtype] * 10
    output, (value, locations, weights) = expected(inputs)
    results = emulator.run(inputs)
    assert_near(results.output, output, tolerance)
    assert_near(results.gradients[0], value, wide_tolerance)
    assert_near(results.gradients[1], locations, wide_tolerance)
    assert_near(results.gradients[2], weights, max(wide_tolerance, TOLERANCE[inputs.weights.dtype]))
    assert_near(results.fixed_order[0], value, max(wide_tolerance, tolerance))
    assert all(torch.equal(a, b) for a, b in zip(results.fixed_order[1:], results.gradients[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_kernels_equal_the_reference_in_every_dtype(emulator: Emulator, dtype: torch.dtype):
    check(emulator, make_inputs([(3, 4), (2, 2)], dtype, channels=16, points=3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_may_be_of_half_precision_as_well(emulator: Emulator, dtype: torch.dtype):
    inputs = make_inputs([(3, 4), (2, 2)], dtype)
    check(emulator, with_changes(inputs, weights=inputs.weights.to(dtype)))


@pytest.mark.parametrize("channels", [1, 3, 4, 20, 24, 36, 130, 160])
def test_any_number_of_channels(emulator: Emulator, channels: int):
    check(emulator, make_inputs([(3, 5), (1, 2)], channels=channels, batch=1, queries=3))


@pytest.mark.parametrize(("heads", "levels", "points"), [(1, 1, 1), (3, 3, 5), (5, 1, 7), (1, 5, 3), (2, 2, 40)])
def test_any_number_of_heads_levels_and_points(emulator: Emulator, heads: int, levels: int, points: int):
    shapes = [(4, 3), (2, 5), (1, 1), (3, 1), (1, 6)][:levels]
    check(emulator, make_inputs(shapes, heads=heads, points=points, batch=1, queries=4))


def test_more_levels_than_travel_with_a_launch(emulator: Emulator):
    check(emulator, make_inputs([(1, 2), (2, 1)] * 20, batch=1, queries=2, heads=1, points=1))


def test_more_queries_than_a_block_has_rows_and_more_blocks_than_the_grid(emulator: Emulator):
    inputs = make_inputs([(3, 4)], queries=37, heads=3, points=1)
    check(emulator, with_changes(inputs, max_grid=2))


def test_values_that_cannot_be_read_in_large_pieces(emulator: Emulator):
    check(emulator, with_changes(make_inputs([(3, 4), (2, 2)], channels=40), one_channel_per_lane=True))


@pytest.mark.parametrize("changes", [{"batch": 0}, {"queries": 0}, {"heads": 0}, {"channels": 0}, {"points": 0}])
def test_empty_inputs(emulator: Emulator, changes: dict[str, Any]):
    inputs = make_inputs([(2, 3)], **changes)
    results = emulator.run(inputs)
    assert not any(tensor.any() for tensor in (results.output, *results.gradients, *results.fixed_order))


def test_levels_without_tokens(emulator: Emulator):
    check(emulator, make_inputs([(0, 4), (3, 0)]))


def test_a_level_without_tokens_among_others(emulator: Emulator):
    check(emulator, make_inputs([(2, 3), (0, 5), (3, 2)]))


def test_locations_on_and_next_to_every_border(emulator: Emulator):
    height, width = 2, 4
    # In units of a quarter of a pixel, exactly representable: two pixels outside to two pixels outside.
    x = torch.arange(-8, 4 * width + 9) / (4 * width)
    y = torch.arange(-8, 4 * height + 9) / (4 * height)
    locations = torch.cartesian_prod(x.double(), y.double()).view(1, -1, 1, 1, 1, 2)
    inputs = make_inputs([(height, width)], torch.float64, batch=1, queries=locations.shape[1], heads=1, points=1)
    check(emulator, with_changes(inputs, locations=locations))


def test_locations_that_are_not_finite_add_nothing_and_get_no_gradient(emulator: Emulator):
    inputs = make_inputs([(3, 4), (2, 2)], points=4)
    wild = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e10])
    choice = torch.randint(0, 9, inputs.locations.shape, generator=torch.Generator().manual_seed(1))
    locations = torch.where(choice < 6, wild[choice.clamp(max=5)], inputs.locations)
    check(emulator, with_changes(inputs, locations=locations))


def test_a_weight_that_is_not_a_number_shows_even_outside(emulator: Emulator):
    inputs = make_inputs([(3, 4), (2, 2)])
    locations, weights = inputs.locations.clone(), inputs.weights.clone()
    locations[1, 2, 1, 1, 0] = 5.0
    weights[1, 2, 1, 1, 0] = math.nan
    output = emulator.run(with_changes(inputs, locations=locations, weights=weights)).output.view(2, 5, 2, 8)
    assert output[1, 2, 1].isnan().all()
    assert output.isnan().sum() == 8


def test_tokens_that_no_sample_touches_are_not_read(emulator: Emulator):
    inputs = make_inputs([(3, 4)], heads=1, batch=1)
    inputs = with_changes(inputs, locations=inputs.locations.clamp(-0.3, 0.4))
    output, (grad_value, _, _) = expected(inputs)
    untouched = grad_value == 0
    assert untouched.any()
    value = inputs.value.masked_fill(untouched, math.nan)
    assert_near(emulator.run(with_changes(inputs, value=value)).output, output, TOLERANCE[torch.float32])


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_problem_equals_the_reference(emulator: Emulator, data: st.DataObject):
    sides = st.integers(0, 6)
    shapes = data.draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
    counts = {name: data.draw(st.integers(1, most)) for name, most in COUNTS.items()}
    check(emulator, make_inputs(shapes, dtype, **counts))


def test_the_layout_counts_with_64_bits(emulator: Emulator):
    # 3e9 tiles: more than a grid may have, and more than 32 bits count.
    sizes = [3, 20, 8 * 10**9, 2, 32, 1, 4]
    layout = emulator.layout(sizes, [(4, 5)], tile=-1, row=15)
    assert layout.lanes_per_row == 8
    assert layout.rows_per_tile == 16
    assert layout.tiles == 3 * 10**9
    assert layout.grid == 2**31 - 1
    assert (layout.batch, layout.head, layout.query, layout.exists) == (2, 1, 8 * 10**9 - 1, True)
    assert layout.row_number == 3 * 8 * 10**9 * 2 - 1
    assert layout.map_offset == (2 * 20 * 2 + 1) * 32


def test_rows_after_the_last_query_repeat_it(emulator: Emulator):
    layout = emulator.layout([1, 20, 17, 1, 32, 1, 4], [(4, 5)], tile=1, row=5)
    assert (layout.tiles, layout.query, layout.exists) == (2, 16, False)


def test_the_layout_says_what_does_not_fit(emulator: Emulator):
    sizes = [10**6, 2**31 - 1, 10**6, 2**10, 2**10, 1, 4]
    assert emulator.layout(sizes, [(1, 1)], tile=0, row=0).fits
    assert not emulator.layout([1, 2**31, 1, 1, 32, 1, 4], [(1, 1)], tile=0, row=0).fits
    assert not emulator.layout([1, 20, 1, 2**14, 2**14, 1, 4], [(1, 1)], tile=0, row=0).fits
    assert not emulator.layout([1, 2**24, 1, 1, 32, 1, 4], [(1, 2**24)], tile=0, row=0).fits


REGISTERS = re.compile(
    r"Compiling entry function '_ZN8soc_msda\d+(?P<kernel>[a-z_]+?)_kernelI\w*' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)
# Four dtypes; forward and backward with channels one by one and in pieces of 16 bytes.
NUM_KERNELS = {"backward": 8, "forward": 8, "gather_value_gradient": 4}
# Per thread; nvcc 13.0 needs up to 64 (72 for float64), 117 and 56. More would mean fewer warps at a time.
REGISTER_LIMITS = {"forward": 64, "forward of float64": 128, "backward": 128, "gather_value_gradient": 64}


@pytest.mark.parametrize(
    "architecture",
    ["90", pytest.param("80", marks=pytest.mark.slow), pytest.param("100", marks=pytest.mark.slow)],
)
def test_the_compiler_keeps_everything_in_registers(architecture: str, tmp_path: Path):
    try:
        nvcc = build.find_compiler("cuda")
    except build.BuildError as error:
        pytest.skip(str(error))
    offered = subprocess.run([*nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if f"sm_{architecture}" not in offered:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    code = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    include = Path(torch.__file__).parent / "include"
    sources = [str(path) for path in (build.SOURCES / "cuda").glob("*.cu")]
    options = ["-isystem", str(include), "-Xptxas", "-v", "-c", "-o", str(tmp_path / "kernels.o")]
    run = subprocess.run(
        [*nvcc, *build.CUDA_FLAGS, code, *options, *sources], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr
    found = list(REGISTERS.finditer(run.stdout + run.stderr))
    kernels = [match["kernel"] for match in found]
    assert {name: kernels.count(name) for name in sorted(set(kernels))} == NUM_KERNELS
    for match in found:
        of_float64 = match["kernel"] == "forward" and "kernelId" in match[0]
        limit = REGISTER_LIMITS["forward of float64" if of_float64 else match["kernel"]]
        assert int(match["registers"]) <= limit, match[0]
        assert (match["stack"], match["stores"], match["loads"]) == ("0", "0", "0"), match[0]


def test_without_nvcc_the_installation_fails_with_one_sentence_of_what_to_do(tmp_path: Path, repository: Path):
    folder = tmp_path / "ms_deform_attn"
    shutil.copytree(repository / "models" / "ops" / "ms_deform_attn", folder)
    build_py = folder / "build.py"
    build_py.write_text(build_py.read_text().replace("/usr/local/cuda/bin/nvcc", "no-nvcc-here"))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "g++").symlink_to(str(shutil.which("g++")))
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")]
    environment = {**os.environ, "PATH": str(tools)}
    for name in ("CUDA_HOME", "CUDA_PATH", "SOC_MS_DEFORM_ATTN_BUILD"):
        environment.pop(name, None)
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    expected = "no nvcc found: install the CUDA toolkit or set CUDA_HOME" if torch.version.cuda else "without CUDA"
    assert expected in run.stderr
    assert "set SOC_MS_DEFORM_ATTN_BUILD=cpu" in run.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "lib").exists()


# What follows needs a GPU; the tests of tests/test_ms_deform_attn.py with the backend `cuda` do too.


def on_gpu(inputs: Inputs) -> tuple[Tensor, list[int], Tensor, Tensor]:
    """Arguments of the operator; makes sure that it is there."""
    try:
        build.load_library("cuda")
    except build.BuildError as error:
        pytest.skip(str(error))
    shapes = [side for shape in inputs.shapes for side in shape]
    return inputs.value.cuda(), shapes, inputs.locations.cuda(), inputs.weights.cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [3, 24, 32, 130])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_computes_what_the_emulation_computes(dtype: torch.dtype, channels: int, deterministic: bool):
    inputs = make_inputs([(13, 17), (7, 5), (1, 1)], dtype, queries=70, heads=3, channels=channels, points=3)
    arguments = on_gpu(inputs)
    output, gradients = expected(inputs)
    assert_near(torch.ops.soc_ms_deform_attn_cuda.forward(*arguments).cpu(), output, TOLERANCE[dtype])
    actual = torch.ops.soc_ms_deform_attn_cuda.backward(inputs.grad_output.cuda(), *arguments, deterministic)
    tolerance = max(TOLERANCE[dtype], 10 * TOLERANCE[inputs.locations.dtype])
    for ours, right in zip(actual, gradients, strict=True):
        assert_near(ours.cpu(), right, tolerance)


@pytest.mark.gpu
def test_the_deterministic_gradient_has_the_same_bits_every_time():
    inputs = make_inputs([(30, 40), (3, 4)], queries=3000, channels=32, points=4)
    arguments = on_gpu(inputs)
    grad_output = inputs.grad_output.cuda()
    first = torch.ops.soc_ms_deform_attn_cuda.backward(grad_output, *arguments, True)
    for _ in range(5):
        again = torch.ops.soc_ms_deform_attn_cuda.backward(grad_output, *arguments, True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
def test_work_goes_to_the_current_stream():
    inputs = make_inputs([(64, 64)], queries=4096, channels=32, points=4)
    value, shapes, locations, weights = on_gpu(inputs)
    right = torch.ops.soc_ms_deform_attn_cuda.forward(value, shapes, locations, weights)
    torch.cuda.synchronize()
    results = []
    for stream in [torch.cuda.Stream() for _ in range(2)]:
        with torch.cuda.stream(stream):
            # The stream is busy when the inputs are made: a launch on another one would read zeros.
            late = torch.zeros_like(value)
            torch.cuda._sleep(20_000_000)
            late.copy_(value)
            results.append(torch.ops.soc_ms_deform_attn_cuda.forward(late, shapes, locations, weights))
    torch.cuda.synchronize()
    assert all(torch.equal(result, right) for result in results)


@pytest.mark.gpu
def test_tensors_on_the_second_gpu_are_served_there():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = make_inputs([(5, 7)])
    value, shapes, locations, weights = (
        item.to("cuda:1") if isinstance(item, Tensor) else item for item in on_gpu(inputs)
    )
    output = torch.ops.soc_ms_deform_attn_cuda.forward(value, shapes, locations, weights)
    assert output.device.index == 1
    assert torch.cuda.current_device() == 0
    assert_near(output.cpu(), expected(inputs)[0], TOLERANCE[torch.float32])
    with pytest.raises(RuntimeError, match="one device"):
        torch.ops.soc_ms_deform_attn_cuda.forward(value.to("cuda:0"), shapes, locations, weights)


@pytest.mark.gpu
def test_tensors_of_more_than_two_thousand_million_numbers():
    height, width, heads, channels, batch = 512, 512, 8, 128, 9  # 2.4e9 numbers, 4.8 GB in half precision
    shapes = [(height, width)]
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GB of free GPU memory")
    inputs = make_inputs([(1, 1)], torch.float16, batch=batch, queries=3, heads=heads, channels=channels)
    _, _, locations, weights = on_gpu(inputs)
    value = torch.zeros(batch, height * width, heads, channels, dtype=torch.float16, device="cuda")
    value[-1, -1, -1] = 1.0  # the very last cell
    assert value.numel() > 2**31
    centre = torch.tensor([(width - 0.5) / width, (height - 0.5) / height], device="cuda")
    output = torch.ops.soc_ms_deform_attn_cuda.forward(
        value, list(shapes[0]), centre.expand_as(locations).contiguous(), weights
    ).view(batch, 3, heads, channels)
    torch.testing.assert_close(
        output[-1, :, -1, 0].float(), weights[-1, :, -1].float().sum(dim=(-1, -2)), rtol=2e-3, atol=2e-3
    )
    assert not output[:-1].any()
    assert not output[:, :, :-1].any()


@pytest.mark.gpu
def test_a_cuda_graph_can_hold_it():
    inputs = make_inputs([(16, 16), (8, 8)], queries=64, channels=32)
    value, shapes, locations, weights = on_gpu(inputs)
    right = torch.ops.soc_ms_deform_attn_cuda.forward(value, shapes, locations, weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = torch.ops.soc_ms_deform_attn_cuda.forward(value, shapes, locations, weights)
    output.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, right)


SANITIZED = """
import sys

import torch

torch.ops.load_library(sys.argv[1])
operators = torch.ops.soc_ms_deform_attn_cuda
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    for channels in (3, 32):
        wide = dtype if dtype.itemsize > 2 else torch.float32
        value = torch.randn(2, 41, 3, channels).to(dtype).cuda()
        locations = (torch.rand(2, 9, 3, 2, 3, 2) * 2 - 0.5).to(wide)
        locations[0, 0, 0, 0, 0] = float("nan")
        locations[0, 0, 0, 0, 1] = float("inf")
        arguments = (value, [5, 7, 2, 3], locations.cuda(), torch.rand(2, 9, 3, 2, 3).to(wide).cuda())
        output = operators.forward(*arguments)
        for deterministic in (False, True):
            operators.backward(output, *arguments, deterministic)
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_has_no_complaints(tool: str, tmp_path: Path):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).is_file():
        pytest.skip("no compute-sanitizer")
    try:
        library = build.load_library("cuda")
    except build.BuildError as error:
        pytest.skip(str(error))
    # Without the caching allocator every tensor has memory of its own, and its end is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Only our kernels are watched: others read what they do not use. But initcheck must see who fills the zeros that
    # ours add to, so it watches all, and the complaints about ours are counted here.
    watched = [] if tool == "initcheck" else ["--kernel-name", "kns=soc_msda", "--error-exitcode", "9"]
    run = subprocess.run(
        [sanitizer, "--tool", tool, *watched, sys.executable, "-c", SANITIZED, str(library)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " SUMMARY: " in run.stdout
    complaints = [line for line in run.stdout.splitlines() if " at " in line and "soc_msda" in line]
    assert not complaints, "\n".join(complaints[:20])
