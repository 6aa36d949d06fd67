"""From the configuration to something to iterate over.

A data set is a module `datasets/<name>.py` with a function `open_split` (see `OpenSplit`), and `<name>` among the
choices of `data.dataset` in configs/schema.py. Nothing else knows about it. `open_split` returns a `VideoSource`: an
object with `videos`, a tuple of `VideoRecord`, and `training_videos()`, the same with `visible` filled in. Records
bring readers for their pixels, see `datasets/readers.py`; `ClipDataset` and `EvalDataset` do the rest: windows,
sentences, resizing, flips, targets. Names of videos and expressions together identify a sentence.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast, get_args, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import DataConfig
from datasets.records import VideoRecord
from loading.clips import ClipDataset
from loading.collate import collate
from loading.sampling import EpochSampler
from loading.videos import EvalDataset
from structures.samples import VideoBatch


@runtime_checkable
class VideoSource(Protocol):
    """One split of a data set on disk. Its index files are read when it is opened, once; pixels are not."""

    videos: tuple[VideoRecord, ...]

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with what training needs: the objects of each sentence and where they are visible."""


@runtime_checkable
class OpenSplit(Protocol):
    """What a format's module calls `open_split`."""

    def __call__(self, data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> VideoSource:
        """Opens a split.

        Args:
            data: settings; those that the format does not know raise a ValueError where they are set.
            root: an existing folder.
            split: name as in `data.train_split` and `data.eval_split`.
            raw_sentences: keep the sentences exactly as they stand in the file (evaluation).
        """


DATASETS = get_args(DataConfig.model_fields["dataset"].annotation)
"""Formats by their name in the configuration; `datasets/<name>.py` is imported when it is asked for."""


def open_split(data: DataConfig, split: str, *, raw_sentences: bool = False) -> VideoSource:
    """Opens a split of the configured data set.

    Raises:
        ValueError: a setting, file or folder is wrong; the message says which.
    """
    if data.root is None:
        raise ValueError("data.root is not set: give data.root=FOLDER on the command line or set SOC_DATA_ROOT")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root}: no such folder")
    opener: OpenSplit = importlib.import_module(f"datasets.{data.dataset}").open_split
    return opener(data, root, split, raw_sentences=raw_sentences)


def build_train_loader(data: DataConfig, *, seed: int, rank: int = 0, world_size: int = 1) -> DataLoader[VideoBatch]:
    """Batches of training clips for one of `world_size` processes.

    Call `loader.sampler.set_epoch(epoch)` before each pass. What a pass yields follows from seed and epoch alone: it
    does not depend on the number of workers, nor on the state of any global generator.
    """
    source = open_split(data, data.train_split)
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
        skips_errors=data.on_error == "skip",
    )
    # collate turns VideoSample into VideoBatch, which the type of DataLoader cannot say
    return DataLoader(
        cast("Dataset[VideoBatch]", clips),
        batch_size=data.batch_size,
        sampler=EpochSampler(len(clips), seed=seed, rank=rank, world_size=world_size),
        collate_fn=collate,
        num_workers=data.num_workers,
        prefetch_factor=data.prefetch if data.num_workers else None,
        pin_memory=data.pin_memory and torch.cuda.is_available(),
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
    data = data.for_evaluation()
    source = open_split(data, data.eval_split, raw_sentences=data.eval_raw_sentences)
    return EvalDataset(source.videos, max_videos=data.max_eval_videos)


def _start_worker(worker: int) -> None:
    """Worker processes hand over many small tensors; by file descriptor they would exceed the usual limit of 1024."""
    torch.multiprocessing.set_sharing_strategy("file_system")
