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
pages = []
for _ in range(32):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**23)  # 32 MiB, freed at once
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(pages[-8:]))  # the first ones leave gaps that are a little too small for the next
"""


def pages_of_later_tensors(**environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` says, and the pages that the system hands out for eight tensors like freed ones."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_PAGES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    said, pages = run.stdout.split()
    return said, int(pages)


COUNT_KEPT = """
import torch
from engine.allocator import keep_freed_memory

def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

print(keep_freed_memory(largest=2**26))
before = resident_mib()
torch.ones(2**25)  # 128 MiB, freed at once
print(round(resident_mib() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the C library of Linux alone")
def test_larger_tensors_than_asked_for_are_given_back():
    run = subprocess.run(
        [sys.executable, "-c", COUNT_KEPT], cwd=ROOT, env={}, capture_output=True, text=True, check=True
    )
    said, kept_mib = run.stdout.split()
    if said == "False":
        pytest.skip("this C library is not glibc")
    assert int(kept_mib) < 64


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the C library of Linux alone")
def test_tensors_get_the_memory_of_those_before():
    said, pages = pages_of_later_tensors()
    if said == "False":
        pytest.skip("this C library is not glibc")
    assert pages < 8192  # of 65536


@pytest.mark.slow
def test_the_c_library_is_left_alone_where_somebody_says_so():
    said, pages = pages_of_later_tensors(SOC_KEEP_MEMORY="0")
    assert (said, pages >= 65536) == ("False", True)
    assert pages_of_later_tensors(MALLOC_TRIM_THRESHOLD_="100000")[0] == "False"


def test_another_value_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="SOC_KEEP_MEMORY='yes': expected 1"):
        keep_freed_memory({"SOC_KEEP_MEMORY": "yes"})
