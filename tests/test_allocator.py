"""Freed memory that is kept: seen by the pages that the system has to hand out again."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.allocator import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent

COUNT_PAGES = """
import resource
import torch
from engine.allocator import keep_freed_memory
print(keep_freed_memory())
torch.ones(2**25)  # 128 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_of_a_second_tensor(**environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` says, and the pages that the system hands out for a tensor as large as a freed one."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PAGES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    said, pages = run.stdout.split()
    return said, int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the C library of Linux alone")
def test_the_next_tensor_gets_the_memory_of_the_last():
    said, pages = pages_of_a_second_tensor()
    if said == "False":
        pytest.skip("this C library is not glibc")
    assert pages < 100


def test_the_c_library_is_left_alone_where_somebody_says_so():
    said, pages = pages_of_a_second_tensor(SOC_KEEP_MEMORY="0")
    assert (said, pages > 100) == ("False", True)
    assert pages_of_a_second_tensor(MALLOC_TRIM_THRESHOLD_="100000")[0] == "False"


def test_another_value_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="SOC_KEEP_MEMORY='yes': expected 1"):
        keep_freed_memory({"SOC_KEEP_MEMORY": "yes"})
