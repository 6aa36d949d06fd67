"""Frames for the model are the same however many threads read them."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.readers import ImageFrames, KeptFrames
from loading.frames import as_clip, resize_frames
from loading.resized import read_resized, start_reading

SIDES = {"short_side": 12, "long_side": 40}
POSITIONS = (2, 0, 1, 2)


@pytest.fixture
def reader(tmp_path):
    generator = np.random.default_rng(0)
    for name in "abc":
        pixels = generator.integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    return ImageFrames(tmp_path, ("a", "b", "c"))


def plainly(reader, positions):
    return resize_frames(as_clip(reader.read(positions)), **SIDES)


@pytest.mark.parametrize("kept", [False, True], ids=["files of frames", "another reader"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_frames_are_those_of_reading_all_and_resizing_them(reader, kept, workers):
    expected = plainly(reader, POSITIONS)
    assert not torch.equal(expected, plainly(reader, (0, 1, 2, 2)))
    reader = KeptFrames(reader) if kept else reader
    if not workers:
        frames = read_resized(reader, POSITIONS, **SIDES)
    else:
        with ThreadPoolExecutor(workers) as pool:
            frames = start_reading(reader, POSITIONS, **SIDES, pool=pool)()
    assert torch.equal(frames, expected)
    assert frames.shape == (4, 3, 12, 20)


def test_files_of_single_frames_are_read_at_the_same_time(reader, monkeypatch):
    together = Barrier(3)
    read = ImageFrames.read_one
    monkeypatch.setattr(ImageFrames, "read_one", lambda self, p: (together.wait(timeout=60), read(self, p))[1])
    with ThreadPoolExecutor(3) as pool:
        frames = start_reading(reader, (0, 1, 2), **SIDES, pool=pool)()
    assert len(frames) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["damaged", "missing", "another size"])
def test_a_frame_that_cannot_be_used_is_an_error(reader, fault, workers):
    path = reader.path(1)
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "missing":
        path.unlink()
    else:
        Image.new("RGB", (20, 12)).save(path)  # which resizing makes as large as the others
    expected = {
        "damaged": r"b\.jpg: not a readable image",
        "missing": r"b\.jpg: no such frame",
        "another size": r"frames of different sizes \[\(12, 20\), \(24, 40\)\]",
    }[fault]
    with ThreadPoolExecutor(2) as pool:
        wait = partial(read_resized, reader, (0, 1, 2), **SIDES)
        if workers:
            wait = start_reading(reader, (0, 1, 2), **SIDES, pool=pool)
        with pytest.raises(ValueError, match=expected):
            wait()
