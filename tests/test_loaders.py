import os
import resource
from pathlib import Path

import pytest
import torch

from loading.loaders import build_train_loader
from tests.tiny_clips import make_config, set_epoch, where
from tests.tiny_ref_youtube_vos import (
    write_tiny_data,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def test_the_loader_yields_batches_and_a_new_order_per_epoch(root):
    loader = build_train_loader(make_config(root, batch_size=4), seed=1)
    orders = []
    for epoch in (0, 0, 1):
        set_epoch(loader, epoch)
        batches = list(loader)
        assert [len(batch.clips.sizes_px) for batch in batches] == [4, 4, 2]
        orders.append([where(batch) for batch in batches])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_workers_change_nothing_but_the_speed(root):
    settings = {
        "batch_size": 2, "sentences_per_clip": 3, "frame_sampling": "random", "flip_probability": 0.5
    }  # fmt: skip
    for alone, helped in zip(
        build_train_loader(make_config(root, **settings), seed=1),
        build_train_loader(make_config(root, num_workers=2, **settings), seed=1),
        strict=True,
    ):
        assert where(alone) == where(helped)
        assert alone.sentences == helped.sentences
        assert torch.equal(alone.clips.frames, helped.clips.frames)
        assert torch.equal(alone.targets[0].masks, helped.targets[0].masks)


def test_workers_keep_few_files_open(root):
    loader = build_train_loader(make_config(root, num_workers=1, sentences_per_clip=3, batch_size=4), seed=1)
    loader.timeout = 20  # seconds; without descriptors the loader would wait for ever
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as file:  # its number says how many are open now
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, file.fileno() + 40), hard))
    try:
        kept = []
        for epoch in range(6):
            set_epoch(loader, epoch)
            kept += list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(len(batch.targets) for batch in kept) == 6 * 10


def test_processes_see_different_samples(root):
    loaders = [build_train_loader(make_config(root), seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    seen = [[where(batch)[0] for batch in loader] for loader in loaders]
    assert [len(share) for share in seen] == [5, 5]
    assert set(seen[0]).isdisjoint(seen[1])
