"""Builds the training loader and the evaluation data set of a configuration.

`datasets.table` says what data sets there are; here their records become training clips and videos to evaluate. Names
of videos and expressions together identify a sentence.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import DataConfig
from datasets.definition import DatasetSettings, SplitContents, SplitRequest
from datasets.held_out import HELD_OUT, read_held_out, require_known
from datasets.problems import require_usable
from datasets.records import VideoRecord
from datasets.table import definition_of
from loading.collate import collate
from loading.sampling import EpochSampler
from loading.text import clean_sentence
from loading.videos import EvalDataset
from structures.parent_watch import end_with_parent
from structures.samples import FailedBatch, SkippedSample, VideoBatch, VideoSample
from structures.user_path import user_path

if TYPE_CHECKING:
    from loading.clips import ClipDataset

logger = logging.getLogger(__name__)


def split_request(data: DataConfig, settings: DatasetSettings, split: str, *, for_training: bool) -> SplitRequest:
    """What to read of one of the configured data sets.

    Raises:
        ValueError: `data.root` is not set, or a folder is not there; the message names the key.
    """
    if data.root is None:
        raise ValueError("data.root is not set: give data.root=FOLDER on the command line or set SOC_DATA_ROOT")
    common, own = user_path(data.root), settings.root
    if not (own.is_absolute() or common.is_dir()):
        raise ValueError(f"data.root={data.root}: no such folder")
    root = common / own
    if not root.is_dir():
        key = f"{_key_of(data, settings)}.root"
        raise ValueError(f"{key}={settings.root}: no such folder as {root} (data.root={data.root})")
    return SplitRequest(settings, root, split, for_training=for_training, cache=data.cache)


def read_split(data: DataConfig, settings: DatasetSettings, split: str, *, for_training: bool) -> SplitContents:
    """One split of one of the configured data sets, if it has no problem that forbids its use.

    Raises:
        ValueError: a setting, file or folder is wrong; the message names it, and in a mixture the data set.
    """
    request = split_request(data, settings, split, for_training=for_training)
    try:
        return _read_usable(request, skip_damaged=for_training and data.on_error == "skip")
    except ValueError as error:
        where = f"{_key_of(data, settings)}: " if len(data.sets) + len(data.eval_sets) > 1 else ""
        raise ValueError(f"{where}{error}") from None


def _key_of(data: DataConfig, settings: DatasetSettings) -> str:
    """The key of an entry of the configuration."""
    if settings.held_out is not None:  # `validation_data` changes the split of such entries
        splits = [entry.model_copy(update={"eval_split": settings.eval_split}) for entry in data.sets]
        if settings in splits:
            return f"data.sets.{splits.index(settings)}"
    name, entries = ("eval_sets", data.eval_sets) if settings in data.eval_sets else ("sets", data.sets)
    return f"data.{name}.{entries.index(settings)}"


def _read_usable(request: SplitRequest, *, skip_damaged: bool) -> SplitContents:
    contents = definition_of(request.settings).read(request)
    # A score is over all samples or it is none: only training may leave damaged files out.
    require_usable(contents.problems, for_training=request.for_training, skip_damaged=skip_damaged)
    if not contents.videos:
        raise ValueError(f"{request.root}: split {request.split!r} of {request.settings.label} is empty")
    return contents


def clean_sentences(
    videos: Sequence[VideoRecord], settings: DatasetSettings, *, for_training: bool
) -> tuple[VideoRecord, ...]:
    """The videos with cleaned sentences, as the model reads them; no other code changes sentences, but a flip."""
    if settings.eval_as_written and not for_training:
        return tuple(videos)
    return tuple(
        replace(
            video,
            expressions=tuple(
                replace(e, sentence=clean_sentence(e.sentence, lower_case=settings.lower_case))
                for e in video.expressions
            ),
            synonyms={
                clean_sentence(word, lower_case=settings.lower_case): tuple(
                    clean_sentence(other, lower_case=settings.lower_case) for other in others
                )
                for word, others in video.synonyms.items()
            },
        )
        for video in videos
    )


def training_videos(data: DataConfig) -> tuple[VideoRecord, ...]:
    """The training splits of all data sets, one after the other, as published.

    In a mixture the name of its data set stands before that of a video, because sets share images and so names.

    Raises:
        ValueError: a data set cannot be used, or has no training split.
    """
    for index, settings in enumerate(data.sets):
        definition = definition_of(settings)
        if not definition.can_train:
            raise ValueError(f"data.sets.{index}: {definition.title} is for evaluation only")
    read = (read_split(data, settings, settings.train_split, for_training=True) for settings in data.sets)
    return mixed(data, (contents.videos for contents in read))


def mixed(data: DataConfig, splits: Iterable[Sequence[VideoRecord]]) -> tuple[VideoRecord, ...]:
    """What is trained on of the training splits of all data sets, see `training_videos`.

    Args:
        data: the section `data`.
        splits: as read, one for each of `data.sets`.

    Raises:
        ValueError: a file of held-out videos cannot be used.
    """
    videos: list[VideoRecord] = []
    for settings, split in zip(data.sets, splits, strict=True):
        kept = _without_held_out(split, settings, skips_damaged=data.on_error == "skip")
        own = clean_sentences(kept, settings, for_training=True)
        if len(data.sets) > 1:
            own = tuple(replace(video, name=f"{settings.label}/{video.name}") for video in own)
        videos += own * settings.repeat
    return tuple(videos)


def training_clips(data: DataConfig, videos: Sequence[VideoRecord], *, seed: int) -> "ClipDataset":
    """The samples of training.

    Args:
        data: the section `data`.
        videos: see `training_videos`.
        seed: of everything random in them.

    Raises:
        ValueError: no sentence is of the kinds that are asked for, or no object of one is ever visible.
    """
    from loading.clips import ClipDataset  # here, because torchvision comes with them, and evaluation does without
    from loading.variation import Variation

    return ClipDataset(
        _of_kinds(tuple(videos), data.kinds),
        num_frames=data.num_frames,
        frame_sampling=data.frame_sampling,
        supervised_frames=data.supervised_frames,
        absent=data.absent,
        sentences_per_clip=data.sentences_per_clip,
        short_side=data.short_side,
        long_side=data.long_side,
        flip_probability=data.flip_probability,
        seed=seed,
        skips_errors=data.on_error == "skip",
        absent_share=data.absent_share,
        variation=Variation(data.word_dropout, data.scale_jitter, data.colour_jitter),
    )


class ClipLoader(DataLoader[VideoBatch]):
    """A data loader whose errors are one message, whether workers read the samples or the main process does."""

    def __iter__(self) -> Iterator[VideoBatch]:  # type: ignore[override]  # nothing asks for PyTorch's own iterator
        """The batches of a pass.

        Raises:
            ValueError: a sample cannot be read, or no batch comes in time.
        """
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                raise ValueError(
                    f"{self.num_workers} loader processes have not finished a batch in {self.timeout:.0f} s: a disk "
                    "that does not answer, a file whose decoder hangs, or too large a batch; data.num_workers=0 shows "
                    "where, data.worker_timeout=SECONDS waits longer"
                ) from None
            if batch is None:
                return
            if isinstance(batch, FailedBatch):
                raise ValueError(batch.message)
            yield batch


def build_train_loader(data: DataConfig, *, seed: int, rank: int = 0, world_size: int = 1) -> DataLoader[VideoBatch]:
    """Batches of training clips for one of `world_size` processes.

    Call `loader.sampler.set_epoch(epoch)` before each pass. Its samples depend on seed and epoch alone, not
    on the number of workers, nor on the state of any global generator.
    """
    clips = training_clips(data, training_videos(data), seed=seed)
    # collate turns VideoSample into VideoBatch, which the type of DataLoader cannot express
    return ClipLoader(
        cast("Dataset[VideoBatch]", clips),
        batch_size=data.batch_size,
        sampler=EpochSampler(len(clips), seed=seed, rank=rank, world_size=world_size),
        collate_fn=_collate_or_fail,
        num_workers=data.num_workers,
        prefetch_factor=data.prefetch if data.num_workers else None,
        pin_memory=data.pin_memory and torch.cuda.is_available(),
        timeout=data.worker_timeout if data.num_workers else 0,
        persistent_workers=data.num_workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),
    )


def build_eval_dataset(data: DataConfig, settings: DatasetSettings | None = None) -> EvalDataset:
    """The videos of the evaluation split of one of `data.evaluated`; only `max_eval_videos` of them if that is set.

    Args:
        data: the section `data`.
        settings: one of `data.evaluated`; None for the first.
    """
    settings = settings or data.evaluated[0]
    return evaluated_videos(data, settings, read_split(data, settings, settings.evaluated_split, for_training=False))


def evaluated_videos(data: DataConfig, settings: DatasetSettings, contents: SplitContents) -> EvalDataset:
    """What is evaluated of a split, see `build_eval_dataset`.

    Raises:
        ValueError: a file of held-out videos cannot be used, or only some videos can be scored.
    """
    videos = contents.videos
    if settings.eval_split == HELD_OUT:
        assert settings.held_out is not None  # `DatasetSettings` makes sure
        names = read_held_out(settings.held_out)
        require_known(names, (video.name for video in videos), path=settings.held_out, split=settings.train_split)
        videos = tuple(video for video in videos if video.name in set(names))
    dataset = EvalDataset(
        clean_sentences(videos, settings, for_training=False),
        max_videos=data.max_eval_videos,
        label=contents.label or settings.label,
        note=contents.variant or contents.label,
    )
    if dataset.note:
        logger.info("%s: %s", settings.eval_name, dataset.note)
    return dataset


def validation_data(data: DataConfig) -> DataConfig:
    """The section `data` for validation during training: where videos are held out, they are what is evaluated.

    Without `eval_sets` these are the held-out videos of all data sets that have some.

    Raises:
        ValueError: two of them would have the same name in the results.
    """
    entries = data.eval_sets or tuple(s for s in data.sets if s.held_out is not None)
    if all(settings.held_out is None for settings in entries):
        return data
    entries = tuple(s if s.held_out is None else s.model_copy(update={"eval_split": HELD_OUT}) for s in entries)
    names = [settings.eval_name for settings in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"held_out: validation would have several results of one name ({', '.join(sorted(names))})")
    return data.model_copy(update={"eval_sets": entries})


def require_held_out(validation: DataConfig, trained_on: Iterable[DataConfig]) -> None:
    """Makes sure that no stage trains on videos that are held out for validation.

    Args:
        validation: see `validation_data`.
        trained_on: the section `data` of each stage.

    Raises:
        ValueError: a stage has the same data set with another `held_out`, or without one.
    """
    held_out = {_source(settings): settings.held_out for settings in validation.evaluated if settings.held_out}
    for data in trained_on:
        for settings in data.sets:
            expected = held_out.get(_source(settings), settings.held_out)
            if settings.held_out != expected:
                raise ValueError(
                    f"held_out={expected} of {settings.label} is validated on, but a stage or entry trains on split "
                    f"{settings.train_split!r} with held_out={settings.held_out}; give it the same file"
                )


def _source(settings: DatasetSettings) -> tuple[str, Path, str]:
    return settings.label, settings.root, settings.train_split


def _without_held_out(
    videos: Sequence[VideoRecord], settings: DatasetSettings, *, skips_damaged: bool
) -> tuple[VideoRecord, ...]:
    """The videos that are trained on.

    Raises:
        ValueError: the file of held-out videos cannot be used, or names all of them.
    """
    if settings.held_out is None:
        return tuple(videos)
    names = read_held_out(settings.held_out)
    if not skips_damaged:  # otherwise one of them may be damaged, and so not be among the videos
        require_known(names, (video.name for video in videos), path=settings.held_out, split=settings.train_split)
    kept = tuple(video for video in videos if video.name not in set(names))
    if not kept:
        raise ValueError(f"held_out={settings.held_out}: names all videos of split {settings.train_split!r}")
    logger.info("%s: %d of %d videos are held out", settings.label, len(videos) - len(kept), len(videos))
    return kept


def _of_kinds(videos: tuple[VideoRecord, ...], kinds: tuple[str, ...]) -> tuple[VideoRecord, ...]:
    """The videos with only the sentences of these kinds, without those that have none left; all if none is named."""
    if not kinds:
        return videos
    present = {expression.kind for video in videos for expression in video.expressions}
    unknown = [kind for kind in kinds if kind not in present]
    if unknown:
        raise ValueError(f"data.kinds: no sentence is tagged {', '.join(unknown)}; the data has {sorted(present)}")
    kept = (replace(v, expressions=tuple(e for e in v.expressions if e.kind in kinds)) for v in videos)
    return tuple(video for video in kept if video.expressions)


def _collate_or_fail(items: Sequence[VideoSample | SkippedSample] | FailedBatch) -> VideoBatch | FailedBatch:
    return items if isinstance(items, FailedBatch) else collate(items)


def _start_worker(worker: int) -> None:
    """Ends with its process, whatever it waits for.

    Worker processes hand over many small tensors; by file descriptor they would exceed the usual limit of 1024.
    """
    torch.multiprocessing.set_sharing_strategy("file_system")
    end_with_parent()
