"""Samples that cannot be read: `data.on_error`, in the loader and in the loop."""

import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.logging import METRICS_FILE
from loading.clips import MOST_SKIPPED_IN_A_ROW
from loading.loaders import build_train_loader
from loading.sampling import SampleKey
from loading.skipping import SkipCount
from structures.samples import SkippedSample, VideoSample
from tests.tiny_clips import make_clips, make_config, where
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_run import read_metrics, tiny_config, write_tiny_root
from train import fit

HANGING = """
import os, sys, time
from pathlib import Path
from loading.loaders import build_train_loader
from tests.tiny_clips import make_config

def read(*_):
    Path(sys.argv[2]).write_text(str(os.getpid()))
    time.sleep(60)

loader = build_train_loader(make_config(Path(sys.argv[1]), num_workers=1), seed=0)
type(loader.dataset).__getitem__ = read
next(iter(loader))
"""

NUM_SAMPLES = 10
"""Of the tiny data in windows of four frames; seven of them are of video "long"."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def truncate(root, video, frame):
    path = root / "train" / "JPEGImages" / video / f"{frame:05d}.jpg"
    path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_sample_ends_the_run_by_default_with_one_message(root, num_workers):
    path = truncate(root, "long", 0)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: not a readable image .*$") as caught:
        list(build_train_loader(make_config(root, batch_size=3, num_workers=num_workers), seed=0))
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_run_in_time(root, monkeypatch):
    loader = build_train_loader(make_config(root, num_workers=1, worker_timeout=1.0), seed=0)
    monkeypatch.setattr(type(loader.dataset), "__getitem__", lambda *_: time.sleep(60))
    with pytest.raises(ValueError, match=r"1 loader processes have not finished a batch in 1 s.*data.worker_timeout"):
        next(iter(loader))
    assert build_train_loader(make_config(root, num_workers=0, worker_timeout=1.0), seed=0).timeout == 0


def test_workers_end_with_the_process_that_reads_from_them(root, repository, tmp_path):
    """Killed with -9, while its worker is in a read that does not end."""
    file = tmp_path / "worker"
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(root), str(file)], cwd=repository)
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    worker = Path(f"/proc/{file.read_text()}/stat")
    end = time.monotonic() + 10
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert time.monotonic() < end


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipping_keeps_all_other_samples_and_the_number_of_batches(root, num_workers):
    whole = list(build_train_loader(make_config(root, batch_size=5), seed=0))
    path = truncate(root, "long", 0)
    settings = make_config(root, batch_size=5, on_error="skip", num_workers=num_workers)
    batches = list(build_train_loader(settings, seed=0))
    assert len(batches) == len(whole)
    skipped = [sample for batch in batches for sample in batch.skipped]
    assert len(skipped) == 2, "two sentences are about the first window"
    assert all(str(path) in sample.reason and sample.video == "long" for sample in skipped)
    left = {sample for batch in batches for sample in where(batch)}
    assert left == {sample for batch in whole for sample in where(batch) if "00000" not in sample[2]} | {
        sample for batch in whole for sample in where(batch) if sample[0] == "short"
    }
    for before, after in zip(whole, batches, strict=True):
        assert len(after.clips.sizes_px) + len(after.skipped) == len(before.clips.sizes_px)


def test_a_batch_of_nothing_but_damaged_samples_goes_on_with_the_next_ones(root):
    clips = make_clips(root, on_error="skip")
    bad = [i for i in range(NUM_SAMPLES) if where(clips[i])[0][2][0] == "00000" and where(clips[i])[0][0] == "long"]
    truncate(root, "long", 0)
    found = clips.__getitems__([SampleKey(bad[0], 0)])
    assert isinstance(found[0], SkippedSample)
    assert [type(item) for item in found[1:-1]] == [SkippedSample] * (len(found) - 2)
    assert isinstance(found[-1], VideoSample)
    assert where(found[-1]) == where(clips[bad[0] + len(found) - 1])


def test_nothing_but_damaged_samples_is_an_error(root):
    clips = make_clips(root, on_error="skip")
    for path in (root / "train" / "JPEGImages").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"{MOST_SKIPPED_IN_A_ROW + 2} samples in a row.*\n.*no such frame"):
        clips.__getitems__([SampleKey(0, 0), SampleKey(1, 0)])


def test_processes_make_equally_many_steps_whatever_is_damaged(root):
    truncate(root, "long", 0)
    settings = make_config(root, on_error="skip")
    steps = [len(list(build_train_loader(settings, seed=1, rank=rank, world_size=2))) for rank in (0, 1)]
    assert steps == [5, 5]


def test_too_large_a_share_ends_the_epoch_and_every_file_is_listed(caplog):
    count = SkipCount(num_samples=20, max_share=0.1)
    with caplog.at_level(logging.WARNING):
        count.add(())
        count.report()
        assert not caplog.records
        count.add([SkippedSample("v", ("0", "2"), f"{name}.jpg: broken") for name in "ab"])
        count.report()
    assert "skipped video v, expression 0, 2: a.jpg: broken" in caplog.text
    assert "skipped 2 of 20 samples" in caplog.text
    with pytest.raises(ValueError, match=r"3 of 20 samples .*max_skipped_share=0\.1; the last one: c\.jpg"):
        count.add([SkippedSample("v", ("0",), "c.jpg: broken")])


def test_training_goes_on_without_damaged_samples_and_fails_above_the_share(tmp_path, caplog):
    root = write_tiny_root(tmp_path / "data")
    truncate(root, "long", 0)
    settings = {"on_error": "skip", "max_skipped_share": 0.5, "num_frames": 4, "batch_size": 5}
    stages = ({"epochs": 2},)
    with caplog.at_level(logging.WARNING):
        fit(tiny_config(root, tmp_path / "run", data=settings, stages=stages, train={"log_every": 1}))
    steps = [line for line in read_metrics(tmp_path / "run" / METRICS_FILE) if line["event"] == "train"]
    assert len(steps) == 2 * NUM_SAMPLES / 5
    assert caplog.text.count("00000.jpg: not a readable image") == 2 * 2
    assert caplog.text.count(f"skipped 2 of {NUM_SAMPLES} samples") == 2
    strict = tiny_config(root, tmp_path / "other", data={**settings, "max_skipped_share": 0.1}, stages=stages)
    with pytest.raises(ValueError, match=r"max_skipped_share=0\.1"):
        fit(strict)


def test_workers_draw_different_numbers_from_the_global_generators(root):
    loader = build_train_loader(make_config(root, num_workers=2, batch_size=1), seed=0)
    loader.collate_fn = lambda _: torch.initial_seed()
    assert len(set(loader)) == 2


def test_batches_are_prepared_ahead_and_pinned_only_for_a_gpu(root):
    loader = build_train_loader(make_config(root, num_workers=2, prefetch=3), seed=0)
    assert loader.prefetch_factor == 3
    assert loader.pin_memory is torch.cuda.is_available()
    assert not build_train_loader(make_config(root, pin_memory=False), seed=0).pin_memory
