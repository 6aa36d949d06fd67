"""From the configuration to something to iterate over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import DataConfig
from datasets.base import ClipDataset, EvalDataset, VideoRecord
from datasets.collate import collate
from datasets.ref_davis17 import RefDavis17
from datasets.ref_youtube_vos import RefYoutubeVos
from datasets.sampling import EpochSampler
from structures.samples import VideoBatch


@runtime_checkable
class VideoSource(Protocol):
    """One split of a data set on disk."""

    videos: tuple[VideoRecord, ...]

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with what training needs: the object of each sentence and where it is visible."""


def _open_ref_youtube_vos(data: DataConfig, root: Path, split: str, raw: bool) -> VideoSource:
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    return RefYoutubeVos(
        root,
        split,
        lower_case=data.lower_case,
        raw_sentences=raw,
        label_categories=data.num_classes_from_categories,
    )


def _open_ref_davis17(data: DataConfig, root: Path, split: str, raw: bool) -> VideoSource:
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: Ref-DAVIS17 has no categories")
    return RefDavis17(
        root,
        split,
        expressions=data.expressions,
        sequences=data.sequences,
        lower_case=data.lower_case,
        raw_sentences=raw,
    )


DATASETS: dict[str, Callable[[DataConfig, Path, str, bool], VideoSource]] = {
    "ref_youtube_vos": _open_ref_youtube_vos,
    "ref_davis17": _open_ref_davis17,
}
"""Formats by their name in the configuration; opened with settings, root, split, and whether sentences stay raw."""


def build_train_loader(data: DataConfig, *, seed: int, rank: int = 0, world_size: int = 1) -> DataLoader[VideoBatch]:
    """Batches of training clips for one of `world_size` processes.

    Call `loader.sampler.set_epoch(epoch)` before each pass. What a pass yields follows from seed and epoch alone: it
    does not depend on the number of workers, nor on the state of any global generator.
    """
    source = _open(data, data.train_split)
    clips = ClipDataset(
        _keep_kinds(source.training_videos(), data.kinds),
        num_frames=data.num_frames,
        frame_sampling=data.frame_sampling,
        supervised_frames=data.supervised_frames,
        sentences_per_clip=data.sentences_per_clip,
        short_side=data.short_side,
        long_side=data.long_side,
        flip_probability=data.flip_probability,
        seed=seed,
    )
    # collate turns VideoSample into VideoBatch, which the type of DataLoader cannot say
    return DataLoader(
        cast("Dataset[VideoBatch]", clips),
        batch_size=data.batch_size,
        sampler=EpochSampler(len(clips), seed=seed, rank=rank, world_size=world_size),
        collate_fn=collate,
        num_workers=data.num_workers,
        persistent_workers=data.num_workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),
    )


def _keep_kinds(videos: tuple[VideoRecord, ...], kinds: tuple[str, ...]) -> tuple[VideoRecord, ...]:
    """The videos with only the sentences of these kinds, without those that have none left; all if none is named."""
    if not kinds:
        return videos
    present = {expression.kind for video in videos for expression in video.expressions}
    unknown = [kind for kind in kinds if kind not in present]
    if unknown:
        raise ValueError(f"data.kinds: no sentence is tagged {', '.join(unknown)}; the data has {sorted(present)}")
    kept = (replace(v, expressions=tuple(e for e in v.expressions if e.kind in kinds)) for v in videos)
    return tuple(video for video in kept if video.expressions)


def build_eval_dataset(data: DataConfig) -> EvalDataset:
    """The videos of the evaluation split, sorted by name; the first `max_eval_videos` of them if that is set."""
    return EvalDataset(
        _open(data, data.eval_split, raw=data.eval_raw_sentences).videos, max_videos=data.max_eval_videos
    )


def _open(data: DataConfig, split: str, *, raw: bool = False) -> VideoSource:
    if data.root is None:
        raise ValueError("data.root is not set: give data.root=FOLDER on the command line or set SOC_DATA_ROOT")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root}: no such folder")
    return DATASETS[data.dataset](data, root, split, raw)


def _start_worker(worker: int) -> None:
    """Worker processes hand over many small tensors; by file descriptor they would exceed the usual limit of 1024."""
    torch.multiprocessing.set_sharing_strategy("file_system")
