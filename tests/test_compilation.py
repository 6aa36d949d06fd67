"""Blocks of the model under `torch.compile`."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_blocks_compile_without_breaks_for_any_size_and_equal_the_plain_ones(repository):
    command = [sys.executable, "-m", "tests.compiled_blocks"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
