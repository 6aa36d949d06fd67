"""Variables of `torchrun`, as schedulers and old shells leave them behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.process_variables import VARIABLES, read_process_variables

WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}


def test_what_torchrun_sets_is_taken():
    assert read_process_variables(WHOLE) == (4, 3, 1)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"RANK": "0"},
        {"MASTER_PORT": "29500"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
    ],
)
def test_one_process_is_one_process(variables: dict[str, str]):
    assert read_process_variables(variables) == (1, 0, 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but RANK, LOCAL_RANK, MASTER_PORT, MASTER_ADDR not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE=2, but MASTER_PORT, MASTER_ADDR not set"),
        (WHOLE | {"LOCAL_RANK": ""}, "WORLD_SIZE=4, but LOCAL_RANK not set"),
        ({"WORLD_SIZE": "abc"}, "environment variable WORLD_SIZE='abc': expected a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2': expected a whole number"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0': expected a whole number"),
        ({"WORLD_SIZE": "\u0662"}, "expected a whole number"),
        ({"WORLD_SIZE": "9" * 5000}, "expected a whole number"),
        (WHOLE | {"RANK": "x\n"}, "RANK='x': expected a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: expected the number of processes"),
        ({"RANK": "1"}, "RANK=1, but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK=1, but WORLD_SIZE=1"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1, but WORLD_SIZE is not set"),
        (WHOLE | {"RANK": "4"}, "RANK=4 must be below WORLD_SIZE=4"),
        (WHOLE | {"RANK": "0"}, "LOCAL_RANK=1 must not be above RANK=0"),
        (WHOLE | {"MASTER_PORT": "0"}, "MASTER_PORT=0: expected a port"),
        (WHOLE | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000: expected a port"),
        (WHOLE | {"MASTER_PORT": "http"}, "MASTER_PORT='http': expected a whole number"),
    ],
)
def test_what_does_not_fit_together_is_one_line_with_a_way_out(variables: dict[str, str], message: str):
    with pytest.raises(ValueError, match="torchrun --nproc_per_node") as caught:
        read_process_variables(variables)
    assert message in str(caught.value)
    assert "unset WORLD_SIZE" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_half_set_variables_end_a_command_before_it_reads_or_waits(mode: str, repository: Path, tmp_path: Path):
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "main.py", mode, "--config", "configs/shapes_ci.yaml", "data.root=nowhere",
         f"output_dir={tmp_path / 'out'}", "device=cpu"],
        cwd=repository, env=clean | {"WORLD_SIZE": "2"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: WORLD_SIZE=2, but RANK")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
