"""Shapes are checked in all tests: jaxtyping's import hook must stand before the first import of the project."""

import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

CHECKED_PACKAGES = [
    *("structures", "media", "metrics", "datasets", "loading", "models", "engine", "evaluation", "prediction"),
    *("soc_rvos.frames", "soc_rvos.result", "soc_rvos.tracks"),  # the segmenter itself tells users what they got wrong
]

shape_checker = install_import_hook(CHECKED_PACKAGES, "beartype.beartype")

# What a command has switched on stays on in its process: tests after it would round in another way than those before.
os.environ["SOC_ONEDNN"] = "0"

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared` beside the repository, with real data; tests that ask for it are skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` beside the repository, which is absent")
    return folder


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a test does not depend on who runs it."""
    for name in ("SOC_DATA_ROOT", "SOC_ENCODERS", "SOC_MS_DEFORM_ATTN", "SOC_COMPILED_METRICS"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test, and the fixtures made for it, draw the same numbers alone, among others and in any order."""
    seed = zlib.crc32(item.nodeid.encode())
    for draw in (random.seed, np.random.seed, torch.manual_seed):
        draw(seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips GPU tests where there is no GPU."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
