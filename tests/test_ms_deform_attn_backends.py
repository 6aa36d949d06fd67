"""Choosing and building backends of deformable attention, and the operator inside graphs."""

import logging
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist

from configs.model_schema import ModelConfig
from models.ops.ms_deform_attn import __main__ as command
from models.ops.ms_deform_attn import backends, build
from models.ops.ms_deform_attn.backends import AUTO, BACKENDS, choose, use_backend
from models.ops.ms_deform_attn.build import BuildError, compiled_library
from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.ops.ms_deform_attn.problems import make_problem

FLOAT = torch.float32
NUM_SOURCES = len(list((build.SOURCES / "cpu").glob("*.cpp")))


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As on a new machine: no library installed, cached or remembered. Returns the cache folder."""
    monkeypatch.setattr(build, "_outcomes", {})
    monkeypatch.setattr(build, "INSTALLED_PACKAGE", "soc_no_such_package")
    monkeypatch.setattr(backends, "_choices", {})
    monkeypatch.setattr(backends, "_logged", set())
    folder = tmp_path / "cache"
    monkeypatch.setenv("SOC_CACHE_DIR", str(folder))
    return folder


def set_compiler(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def needs_cpu_backend() -> None:
    if reason := BACKENDS["cpu"].why_unavailable():
        pytest.skip(f"backend cpu: {reason}")


def test_the_variable_is_read_at_each_call_and_overrules_the_setting(monkeypatch: pytest.MonkeyPatch):
    needs_cpu_backend()
    with use_backend("reference"):
        assert choose("cpu", FLOAT).name == "reference"
        monkeypatch.setenv("SOC_MS_DEFORM_ATTN", "cpu")
        assert choose("cpu", FLOAT).name == "cpu"
        monkeypatch.setenv("SOC_MS_DEFORM_ATTN", "reference")
        assert choose("cpu", FLOAT).name == "reference"
        monkeypatch.setenv("SOC_MS_DEFORM_ATTN", "auto")
        assert choose("cpu", FLOAT).name == "cpu"


def test_the_chosen_backend_computes(monkeypatch: pytest.MonkeyPatch):
    called = []

    def spy(*arguments: object) -> torch.Tensor:
        called.append(arguments)
        return torch.zeros(1, 3, 8)

    watched = backends.Backend("cpu", "a spy", ("cpu",), (FLOAT,), lambda: None, spy, BACKENDS["cpu"].backward)
    monkeypatch.setitem(BACKENDS, "cpu", watched)
    monkeypatch.setattr(backends, "_choices", {})
    problem = make_problem([(2, 2)], batch=1, heads=2, channels=4, points=1, queries=3).to(FLOAT)
    problem.forward()
    assert len(called) == 1
    with use_backend("reference"):
        problem.forward()
    assert len(called) == 1


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"set_backend='gpu'.*auto, .*reference"):
        backends.set_backend("gpu")
    monkeypatch.setenv("SOC_MS_DEFORM_ATTN", "cdua")
    with pytest.raises(ValueError, match="SOC_MS_DEFORM_ATTN='cdua'"):
        choose("cpu", FLOAT)


def test_the_configuration_knows_every_backend():
    assert set(get_args(ModelConfig.model_fields["ms_deform_attn"].annotation)) == {AUTO, *BACKENDS}


def test_a_forced_backend_that_does_not_fit_is_an_error_that_says_why():
    with use_backend("cuda"), pytest.raises(ValueError, match=r"'cuda'.*runs on cuda, the tensors are on cpu"):
        make_problem([(2, 2)], batch=1, heads=1, channels=4, points=1).forward()
    with use_backend("reference"), pytest.raises(ValueError, match=r"the tensors are torch\.float8"):
        choose("cpu", torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="convert value to float32"):
        choose("cpu", torch.float8_e4m3fn)


def test_the_choice_is_logged_once(nothing_built: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO), use_backend("reference"):
        for dtype in (torch.float32, torch.float64, torch.float32):
            choose("cpu", dtype)
    assert [record.getMessage() for record in caplog.records] == [
        "deformable attention on cpu: reference (pure PyTorch)"
    ]


def test_without_a_compiler_the_reference_serves_and_a_warning_says_so(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = make_problem([(2, 2)], batch=1, heads=1, channels=4, points=1)
    for _ in range(3):
        problem.forward_backward()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "no C++ compiler found: install g++ or set CXX" in warnings[0]
    with use_backend("cpu"), pytest.raises(ValueError, match="install g"):
        problem.forward()
    assert not nothing_built.exists()


def test_the_first_errors_of_a_compiler_are_passed_on_and_it_is_not_asked_again(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    calls = tmp_path / "calls"
    body = f'echo called >> {calls}; echo "In file x:" >&2; echo "x.cpp:3: error: no such thing" >&2; exit 1'
    set_compiler(tmp_path / "cxx", body, monkeypatch)
    assert choose("cpu", torch.float32).name == choose("cpu", torch.float64).name == "reference"
    assert "failed: x.cpp:3: error: no such thing" in caplog.text
    assert calls.read_text(encoding="utf-8").split() == ["called"] * NUM_SOURCES
    assert not [path for path in nothing_built.iterdir() if path.suffix == ".so"]


def test_a_file_that_is_no_library_is_a_reason_and_not_a_crash(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    set_compiler(tmp_path / "cxx", 'while [[ $1 != -o ]]; do shift; done; echo junk > "$2"', monkeypatch)
    with pytest.raises(BuildError, match="cannot be loaded"):
        build.load_library("cpu")


def test_processes_that_start_at_once_compile_once(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = tmp_path / "calls"
    body = f'echo called >> {calls}; sleep 0.5; while [[ $1 != -o ]]; do shift; done; echo library > "$2"'
    set_compiler(tmp_path / "cxx", body, monkeypatch)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(4) as pool:
        targets: list[build.Target] = ["cpu"] * 4
        paths = pool.map(compiled_library, targets, chunksize=1)
    assert len(set(paths)) == 1
    assert paths[0].read_text(encoding="utf-8") == "library\n"
    assert calls.read_text(encoding="utf-8").split() == ["called"] * (NUM_SOURCES + 1)  # and linked
    assert sorted(path.suffix for path in nothing_built.iterdir()) == [".lock", ".so"]


def test_another_processor_or_other_flags_never_get_the_same_file(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    set_compiler(tmp_path / "cxx", 'while [[ $1 != -o ]]; do shift; done; echo library > "$2"', monkeypatch)
    names = {compiled_library("cpu").name}
    monkeypatch.setattr(build, "_processor", lambda: "another processor")
    names.add(compiled_library("cpu").name)
    monkeypatch.setattr(build, "CPU_FLAGS", (*build.CPU_FLAGS, "-O1"))
    names.add(compiled_library("cpu").name)
    monkeypatch.setattr(build, "SOURCES", _changed_sources(tmp_path / "csrc"))
    names.add(compiled_library("cpu").name)
    assert len(names) == 4


def _changed_sources(folder: Path) -> Path:
    (folder / "cpu").mkdir(parents=True)
    for path in (build.SOURCES / "cpu").iterdir():
        (folder / "cpu" / path.name).write_bytes(path.read_bytes() + b"\n")
    return folder


def test_a_folder_that_cannot_be_written_is_a_reason_with_advice(
    nothing_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    set_compiler(tmp_path / "cxx", "exit 0", monkeypatch)
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("SOC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set SOC_CACHE_DIR"):
        compiled_library("cpu")


def test_importing_compiles_and_loads_nothing(tmp_path: Path, repository: Path):
    code = "from models.ops.ms_deform_attn import build; print(build._outcomes)"
    environment = {**os.environ, "SOC_CACHE_DIR": str(tmp_path / "cache"), "CXX": "/bin/false"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "{}"
    assert not (tmp_path / "cache").exists()


def test_the_report_finds_every_available_backend_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["ms_deform_attn"])
    monkeypatch.setattr(command, "milliseconds", lambda run, device: 1.0)
    assert command.main() == 0
    output = capsys.readouterr().out
    assert "WRONG" not in output
    assert "reference  float64   right" in output
    assert f"  `auto` takes: {choose('cpu', FLOAT).name}\n" in output


@pytest.mark.parametrize(("has_gpu", "asked"), [(True, ["cpu", "cuda"]), (False, ["cpu"])])
def test_the_report_is_about_every_device_and_fails_with_one_of_them(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, asked: list[str]
):
    devices: list[str] = []

    def report(device: str) -> bool:
        devices.append(device)
        return device == "cpu"

    monkeypatch.setattr(sys, "argv", ["ms_deform_attn"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(command, "report", report)
    assert command.main() == (1 if has_gpu else 0)
    assert devices == asked


def test_the_report_goes_on_after_a_backend_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(BACKENDS, "cpu", replace(BACKENDS["cpu"], why_unavailable=lambda: "no compiler"))
    monkeypatch.setattr(command, "milliseconds", lambda run, device: 1.0)
    monkeypatch.setattr(command, "choose", lambda device, dtype: BACKENDS["reference"])
    assert command.report("cpu")
    assert "  cpu        not available: no compiler\n" in capsys.readouterr().out


def test_each_library_is_compiled_with_the_flags_of_its_target(nothing_built: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[tuple[str, list[str]]] = []

    def compile_library(target: str, command: list[str], path: Path) -> None:
        assert path.name.startswith(f"soc_ms_deform_attn_{target}_")
        compiled.append((target, command))

    monkeypatch.setattr(build, "find_compiler", lambda target: [f"compiler of {target}"])
    monkeypatch.setattr(build, "cpu_flags", lambda: ["-cpu"])
    monkeypatch.setattr(build, "cuda_flags", lambda: ["-cuda"])
    monkeypatch.setattr(build, "compile_library", compile_library)
    compiled_library("cpu")
    compiled_library("cuda")
    assert compiled == [("cpu", ["compiler of cpu", "-cpu"]), ("cuda", ["compiler of cuda", "-cuda"])]


SHAPES = [(5, 7), (3, 2)]


def layer_and_inputs() -> tuple[MSDeformAttn, tuple]:
    torch.manual_seed(0)
    reference = torch.rand(2, 41, 1, 2).expand(-1, -1, 2, -1)
    inputs = (torch.randn(2, 41, 16), reference, torch.randn(2, 41, 16), SHAPES)
    return MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2), inputs


def test_autocast_reaches_the_operator_and_gradients_stay_float32():
    layer, inputs = layer_and_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(*inputs)
    output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), layer(*inputs), rtol=0.02, atol=0.02)
    assert all(p.grad is not None and p.grad.dtype == FLOAT and p.grad.any() for p in layer.parameters())


def test_gradients_arrive_through_distributed_data_parallel():
    layer, inputs = layer_and_inputs()
    layer(*inputs).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    layer.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.nn.parallel.DistributedDataParallel(layer)(*inputs).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for parameter, right in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, right)


# Run without the shape checker of the tests, which compiled graphs cannot pass.
GRAPHS = """
import sys
import torch
from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.ops.ms_deform_attn.problems import make_problem

SHAPES = [(5, 7), (3, 2)]
compiler = sys.argv[1]


def arguments(batch):
    chosen = make_problem(SHAPES, batch=batch, heads=2, channels=8, points=2).to(torch.float32)
    return chosen.value, chosen.sampling_locations, chosen.attention_weights


def call(value, locations, weights):
    return ms_deform_attn(value, SHAPES, locations, weights) * 2


class Call(torch.nn.Module):
    def forward(self, value, locations, weights):
        return call(value, locations, weights)


compiled = torch.compile(call, fullgraph=True, backend=compiler, dynamic=True)
for batch in (2, 3):
    tensors = arguments(batch)
    output = compiled(*tensors)
    gradients = torch.autograd.grad(output.square().sum(), tensors)
    expected = call(*tensors)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), tensors))
if compiler == "aot_eager":
    layer = MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2)
    inputs = torch.randn(2, 41, 16), torch.rand(2, 41, 2, 2), torch.randn(2, 41, 16), SHAPES
    whole = torch.compile(layer, fullgraph=True, backend=compiler)
    torch.testing.assert_close(whole(*inputs), layer(*inputs))

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Call(), arguments(2), dynamic_shapes=[{0: batch}] * 3)
    assert any("soc_ms_deform_attn.forward" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*arguments(5)), call(*arguments(5)))
"""


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_and_exported_graphs_hold_the_operator_whole(compiler: str, repository: Path):
    run = subprocess.run(
        [sys.executable, "-c", GRAPHS, compiler],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


OTHER_VERSION = """
import sys
import torch

torch.ops.load_library(sys.argv[1])
arguments, expected = torch.load(sys.argv[2], weights_only=True)
grad_output, value, shapes, locations, weights = arguments
operators = torch.ops.soc_ms_deform_attn_cpu
output = operators.forward(value, shapes, locations, weights)
gradients = operators.backward(grad_output, value, shapes, locations, weights, True)
torch.testing.assert_close((output, *gradients), tuple(expected), rtol=0, atol=0)
print(torch.__version__)
"""


@pytest.mark.slow
def test_one_file_serves_another_version_of_pytorch(tmp_path: Path):
    other = os.environ.get("SOC_OTHER_PYTHON")
    if not other:
        pytest.skip("SOC_OTHER_PYTHON names no interpreter with another version of PyTorch (2.11 to 2.15)")
    needs_cpu_backend()
    problem = make_problem([(5, 7), (3, 2)], batch=2, heads=2, channels=8, points=2).to(FLOAT)
    with use_backend("cpu"):
        expected = list(problem.forward_backward())
    shapes = [side for shape in problem.spatial_shapes for side in shape]
    inputs = (problem.value, shapes, problem.sampling_locations, problem.attention_weights)
    arguments = [item.detach() if isinstance(item, torch.Tensor) else item for item in (problem.grad_output, *inputs)]
    torch.save([arguments, expected], tmp_path / "example.pt")
    library = build.load_library("cpu")
    run = subprocess.run(
        [other, "-c", OTHER_VERSION, str(library), str(tmp_path / "example.pt")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() != torch.__version__


def test_empty_inputs_get_empty_outputs_and_zero_gradients():
    value = torch.randn(2, 4, 2, 3, requires_grad=True)
    locations, weights = torch.rand(2, 0, 2, 1, 1, 2), torch.rand(2, 0, 2, 1, 1)
    output = ms_deform_attn(value, [(2, 2)], locations, weights)
    assert output.shape == (2, 0, 6)
    output.sum().backward()
    assert value.grad is not None
    assert not value.grad.any()


@pytest.mark.parametrize(
    ("has_gpu", "package", "capability", "reason"),
    [
        (False, object(), (9, 0), "PyTorch sees no CUDA device"),
        (True, None, (9, 0), "the package triton is not installed"),
        (True, object(), (6, 1), "this one has 6.1"),
        (True, object(), (7, 0), None),
        (True, object(), (9, 0), None),
    ],
)
def test_triton_says_why_it_cannot_be_used(monkeypatch, has_gpu, package, capability, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: package)
    message = BACKENDS["triton"].why_unavailable()
    assert message is None if reason is None else reason in message
