"""Flags of the compiler, the package that is built ahead, and the random problems that backends are compared on."""

import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

import models.ops.ms_deform_attn
from models.ops.ms_deform_attn import backends
from models.ops.ms_deform_attn.build import BuildError, compile_library, cuda_flags, find_compiler, link_flags
from models.ops.ms_deform_attn.problems import error_against_reference, make_problem


def architectures(flags: list[str]) -> list[str]:
    prefix = "-gencode=arch="
    return [flag.removeprefix(prefix) for flag in flags if flag.startswith(prefix)]


def test_cuda_code_is_made_for_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    capabilities = [(10, 0), (8, 6), (8, 6)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    assert architectures(cuda_flags()) == [
        "compute_86,code=sm_86",
        "compute_100,code=sm_100",
        "compute_100,code=compute_100",  # which later GPUs can compile
    ]


def test_cuda_code_is_made_for_what_the_variable_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert architectures(cuda_flags()) == [
        "compute_80,code=sm_80",
        "compute_90,code=sm_90",
        "compute_90,code=compute_90",
    ]


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_the_cuda_compiler_is_looked_for_where_the_variable_says(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("#!/bin/bash\n")
    compiler.chmod(0o755)
    monkeypatch.setenv(variable, str(tmp_path / "cuda"))
    assert find_compiler("cuda") == [str(compiler)]
    assert find_compiler("cpu") != [str(compiler)]


def test_the_variable_comes_first_when_a_compiler_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="install g\\+\\+ or set CXX"):
        find_compiler("cpu")
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/bash\n")
    compiler.chmod(0o755)
    assert find_compiler("cpu") == ["clang++"]
    monkeypatch.setenv("CXX", "clang++ -O1")
    assert find_compiler("cpu") == ["clang++", "-O1"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_triton_leaves_a_deterministic_backward_pass_to_the_reference(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
):
    used = []

    def backward(name: str):
        def run(*arguments):
            used.append(name)
            return (torch.zeros(1),) * 3

        return run

    stand_in = types.ModuleType("triton_kernels")
    monkeypatch.setattr(stand_in, "backward", backward("triton"), raising=False)
    monkeypatch.setattr(models.ops.ms_deform_attn, "triton_kernels", stand_in, raising=False)
    monkeypatch.setattr(backends.reference, "backward", backward("reference"))
    tensor = torch.zeros(1)
    backends._triton_backward(tensor, tensor, [1, 1], tensor, tensor, deterministic)
    assert used == ["reference" if deterministic else "triton"]


@pytest.mark.slow
def test_the_package_is_one_wheel_for_every_python_with_a_library_that_computes(repository: Path, tmp_path: Path):
    folder = repository / "models" / "ops" / "ms_deform_attn"
    before = sorted(folder.rglob("*"))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)],
        cwd=folder,
        env={**os.environ, "SOC_MS_DEFORM_ATTN_BUILD": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("soc_ms_deform_attn-0.1.0-py3-none-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    assert sorted(path.name for path in (tmp_path / "soc_ms_deform_attn").iterdir()) == ["__init__.py", "_cpu.so"]

    program = """
import torch
from models.ops.ms_deform_attn.problems import error_against_reference, make_problem
problem = make_problem([(3, 4), (2, 2)], batch=2, heads=2, channels=4, points=2)
assert error_against_reference("cpu", problem, "cpu", torch.float64) < 1e-12
"""
    settings = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}", "SOC_CACHE_DIR": str(tmp_path / "cache")}
    used = subprocess.run(
        [sys.executable, "-c", program],
        env={**settings, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert used.returncode == 0, used.stderr[-3000:]


def test_a_library_of_an_unknown_name_is_not_built(repository: Path):
    folder = repository / "models" / "ops" / "ms_deform_attn"
    built = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=folder,
        env={**os.environ, "SOC_MS_DEFORM_ATTN_BUILD": "gpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode != 0
    assert "SOC_MS_DEFORM_ATTN_BUILD='gpu': expected 'cpu' or 'cpu,cuda'" in built.stderr


def test_cells_of_a_problem_look_round_their_own_place_row_by_row():
    problem = make_problem([(2, 3)], batch=64, heads=8, channels=1, points=8)
    where = problem.sampling_locations.mean(dim=(0, 2, 3, 4))  # offsets are zero on average
    places = [((column + 0.5) / 3, (row + 0.5) / 2) for row in range(2) for column in range(3)]
    torch.testing.assert_close(where, torch.tensor(places, dtype=torch.float64), atol=0.1, rtol=0)


def test_only_cuda_code_is_linked_with_the_cuda_libraries():
    assert [flag for flag in link_flags("cpu") if "cuda" in flag] == []
    assert link_flags("cuda")[-3:] == ["-ltorch_cuda", "-cudart", "static"]
    assert "-ltorch_cpu" in link_flags("cuda")


def test_a_compiler_that_fails_is_quoted_with_its_first_three_errors(tmp_path: Path):
    compiler = tmp_path / "compiler"
    lines = ["note: x", *(f"file.cpp:{i}: error: number {i}" for i in range(1, 5))]
    compiler.write_text("#!/bin/sh\n" + "".join(f"echo '{line}' >&2\n" for line in lines) + "exit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(BuildError, match=r"failed: file.cpp:1: error: number 1 \| .*number 2 \| .*number 3$"):
        compile_library("cpu", [str(compiler)], tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()


def test_the_error_of_a_backend_is_that_of_its_worst_tensor(monkeypatch: pytest.MonkeyPatch):
    problem = make_problem([(3, 4)], batch=1, heads=1, channels=4, points=2)
    results = iter([[torch.tensor([2.0]), torch.tensor([8.0])], [torch.tensor([2.0]), torch.tensor([6.0])]])
    monkeypatch.setattr(type(problem), "forward_backward", lambda self: next(results))
    assert error_against_reference("reference", problem, "cpu", torch.float64) == pytest.approx(0.25)
