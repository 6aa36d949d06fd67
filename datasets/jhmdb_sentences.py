"""JHMDB-Sentences: short clips of one person, the person's mask in every frame, one sentence; for evaluation only.

    ROOT/jhmdb_annotation.txt                                  csv: video_id,query
    ROOT/Rename_Images/<action>/<video>/<frame>.png            frames, numbered from 1
    ROOT/puppet_mask/<action>/<video>/puppet_mask.mat          part_mask: height x width x frame
    ROOT/jhmdb_sentences_samples_metadata_new.json             the frames on which SOC is evaluated
    ROOT/jhmdb_sentences_samples_metadata.json                 those on which MTTR is

Three frames of each video are evaluated, each in the middle of its clip: 2,784 samples. The two published lists share
only 295 of them. That of MTTR was drawn with `MTTR_SEED`, which gives its frames to the last one, so its file is not
needed; how that of SOC was drawn is not published. The last frames of a video may have no mask; published windows end
with the last mask.
"""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datasets.cache import fingerprint
from datasets.counts import Counts, count_videos
from datasets.definition import (
    AnnotatedFrames,
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    SplitContents,
    SplitRequest,
)
from datasets.jhmdb_files import (
    PERSON,
    MatMasks,
    frame_names,
    read_choice,
    read_sentences,
    video_folders,
)
from datasets.listing import FolderListing, has_windows_line_ends
from datasets.problems import Problem
from datasets.readers import ImageFrames, image_frames
from datasets.records import Expression, VideoRecord
from media.files import UnavailableError

logger = logging.getLogger(__name__)

PUBLISHED = {"jhmdb_sentences": {"test": Counts(videos=928, expressions=928, samples=2784)}}
FEWEST_FRAMES, MOST_FRAMES = 15, 40
"""Of a clip of JHMDB."""

SOC_FILE = "jhmdb_sentences_samples_metadata_new.json"
MTTR_FILE = "jhmdb_sentences_samples_metadata.json"
FRAMES_PER_VIDEO = 3
MTTR_SEED = 42


class JhmdbSentencesSettings(DatasetSettings):
    """JHMDB-Sentences; for evaluation only."""

    dataset: Literal["jhmdb_sentences"] = "jhmdb_sentences"
    """Format of the data."""

    eval_split: str = "test"
    """Split that is evaluated; there is only `test`."""

    samples: Literal["auto", "soc", "mttr"] = "auto"
    """Which of the two published choices of frames is evaluated; a score on one says nothing about the other. `soc`:
    that of `jhmdb_sentences_samples_metadata_new.json`, which must be there. `mttr`: that of
    `jhmdb_sentences_samples_metadata.json` or, without this file, of its seed, which gives the same frames. `auto`:
    that of SOC where its file is there, otherwise that of MTTR, with a warning."""


_NOT_THOSE_OF_SOC = (
    "the frames are those of MTTR, which share 295 of 2,784 with those of SOC: scores are not those that SOC publishes"
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is evaluated of a video.

    Attributes:
        positions: of the frames, ascending.
        num_frames: of the video; its windows end there.
    """

    positions: tuple[int, ...]
    num_frames: int


def read(request: SplitRequest[JhmdbSentencesSettings]) -> SplitContents:
    """The only split, "test"; videos are in the order of jhmdb_annotation.txt, which the choice of frames depends on.

    Raises:
        ValueError: another split is asked for; the sentences cannot be read, or the folder of all frames, or the list
            of samples that is asked for, is missing.
    """
    if request.split != "test":
        raise ValueError(f"split {request.split!r} of JHMDB-Sentences: there is only 'test'; set eval_split: test")
    root, annotation, images = request.root, request.root / "jhmdb_annotation.txt", request.root / "Rename_Images"
    problems: list[Problem] = []
    uses_soc, sentences = _uses_soc(request), read_sentences(annotation, problems)
    if not images.is_dir():
        raise ValueError(
            f"{images}: no such folder; the folder of the data set must hold Rename_Images/ and puppet_mask/"
        )
    folders = {folder.name: folder for folder in video_folders(images)}
    frames: dict[str, ImageFrames] = {}
    for video in sentences:
        if video not in folders:
            problems.append(Problem("missing", f"{images}/*/{video}/", f"no such folder of video {video}"))
            continue
        names = frame_names(folders[video], problems)
        if names:
            frames[video] = image_frames(folders[video], names)
    masks = {
        video: MatMasks(root / "puppet_mask" / own.folder.relative_to(images) / "puppet_mask.mat")
        for video, own in frames.items()
    }
    if uses_soc:
        chosen, variant = _read_published(root / SOC_FILE, sentences, frames, problems), f"samples: {SOC_FILE} (SOC)"
    elif (root / MTTR_FILE).is_file():
        chosen, variant = _read_published(root / MTTR_FILE, sentences, frames, problems), f"samples: {MTTR_FILE} (MTTR)"
    else:
        chosen = _choose_like_mttr(root, sentences, frames, masks, problems)
        variant = f"samples: drawn with seed {MTTR_SEED} (MTTR)"
    if request.settings.samples == "auto" and not uses_soc:
        logger.warning("%s: no %s; %s", root, SOC_FILE, _NOT_THOSE_OF_SOC)
    positions = [(video, own.positions) for video, own in chosen.items()]
    key = fingerprint(
        [annotation, *(own.file for own in masks.values())], root=root, version=1, settings=repr(positions)
    )
    damaged = {problem.name for problem in problems}
    videos = tuple(
        _record(video, sentence, frames[video], masks[video], chosen.get(video))
        for video, sentence in sentences.items()
        if video in frames and str(masks[video].file) not in damaged
    )
    return SplitContents(videos, tuple(problems), key, variant)


def _record(video: str, sentence: str, frames: ImageFrames, masks: MatMasks, chosen: Chosen | None) -> VideoRecord:
    """A video with its chosen frames; None where a problem keeps the split from being evaluated."""
    if chosen is not None:
        frames = replace(frames, names=frames.names[: chosen.num_frames])
    return VideoRecord(
        name=video,
        frame_names=frames.names,
        frames=frames,
        masks=masks,
        expressions=(Expression("0", sentence, (PERSON,)),),
        visible={} if chosen is None else {PERSON: frozenset(chosen.positions)},
        annotated=None if chosen is None else frozenset(chosen.positions),
    )


def _uses_soc(request: SplitRequest[JhmdbSentencesSettings]) -> bool:
    """Whether the samples are those of SOC.

    Raises:
        ValueError: they are asked for and their list is not there.
    """
    samples, file = request.settings.samples, request.root / SOC_FILE
    if samples == "soc" and not file.is_file():
        raise ValueError(
            f"{file}: no such file, and samples: soc needs it; it is datasets/jhmdb_sentences/{SOC_FILE} of "
            "https://github.com/RobertLuo1/NeurIPS2023_SOC"
        )
    return samples != "mttr" and file.is_file()


def choose_frames(num_frames: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Positions of three frames of each video, ascending, chosen at random as those of MTTR were.

    One generator of Python's `random` serves all videos in their order; frames count from 1 there.

    Args:
        num_frames: of each video, at least three, in the order of jhmdb_annotation.txt.
    """
    generator = random.Random(MTTR_SEED)
    chosen = {}
    for video, count in num_frames.items():
        numbers = generator.sample(range(1, count + 1), FRAMES_PER_VIDEO)
        chosen[video] = tuple(sorted(number - 1 for number in numbers))
    return chosen


def _read_published(
    path: Path, sentences: Mapping[str, str], frames: Mapping[str, ImageFrames], problems: list[Problem]
) -> dict[str, Chosen]:
    """What a published list names, of the videos about which it is right."""
    try:
        samples = read_choice(path)
    except ValueError as error:
        problems.append(Problem("index", str(path), str(error).removeprefix(f"{path}: ")))
        return {}
    wrong = [f"video {video} is not in jhmdb_annotation.txt" for video in samples if video not in sentences]
    wrong += [f"video {video} of jhmdb_annotation.txt is missing" for video in sentences if video not in samples]
    chosen = {}
    for video in (video for video in samples if video in frames):
        # as published: not frames of the folder after those that the list counts, which have no masks
        num_frames = min(len(frames[video].names), *(sample.num_frames for sample in samples[video]))
        names = frames[video].names[:num_frames]
        named = [sample.frame for sample in samples[video]]
        faults = [f"video {video} has no frame {name}" for name in named if name not in names]
        faults += [
            f"video {video}: {sentence!r} is not the sentence of jhmdb_annotation.txt"
            for sentence in dict.fromkeys(sample.sentence for sample in samples[video])
            if sentence.lower().split() != sentences[video].lower().split()
        ]
        if not faults:
            chosen[video] = Chosen(tuple(sorted(names.index(name) for name in named)), num_frames)
        wrong += faults
    problems += [Problem("index", str(path), detail) for detail in wrong]
    return chosen


def _choose_like_mttr(
    root: Path,
    sentences: Mapping[str, str],
    frames: Mapping[str, ImageFrames],
    masks: Mapping[str, MatMasks],
    problems: list[Problem],
) -> dict[str, Chosen]:
    """The choice of MTTR, drawn anew; none at all where one video cannot be used.

    The choice in all later videos depends on it: without it, the frames would be those of another benchmark.
    """
    with ThreadPoolExecutor() as threads:
        counts = dict(zip(masks, threads.map(_count_masks, masks.values()), strict=True))
    lengths: dict[str, int] = {}
    for video, count in counts.items():
        if isinstance(count, Problem):
            problems.append(count)
            continue
        lengths[video] = min(len(frames[video].names), count)
        if lengths[video] < FRAMES_PER_VIDEO:
            detail = f"video {video} has {lengths[video]} frames with masks, at least {FRAMES_PER_VIDEO} are needed"
            problems.append(Problem("mismatched", str(masks[video].file), detail))
    if lengths.keys() != sentences.keys() or any(n < FRAMES_PER_VIDEO for n in lengths.values()):
        detail = "no such file; frames can be drawn like the published ones only if all videos can be used"
        problems.append(Problem("index", str(root / MTTR_FILE), detail))
        return {}
    return {video: Chosen(positions, lengths[video]) for video, positions in choose_frames(lengths).items()}


def _count_masks(masks: MatMasks) -> int | Problem:
    try:
        return masks.num_frames()
    except UnavailableError as error:
        return Problem("unavailable", str(masks.file), str(error).removeprefix(f"{masks.file}: "))
    except ValueError as error:
        kind: Literal["unreadable", "missing"] = "unreadable" if masks.file.is_file() else "missing"
        return Problem(kind, str(masks.file), str(error).removeprefix(f"{masks.file}: "))


def _count(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes of what was read; the one object of each video is not counted."""
    samples = [len(video.annotated) for video in videos if video.annotated is not None]
    return replace(count_videos(videos), objects=None, samples=sum(samples) if samples else None)


def _metadata(request: SplitRequest[JhmdbSentencesSettings], contents: SplitContents) -> Mapping[str, Any]:
    """The choice of MTTR as its file has it, see `read_choice`; nothing where that of SOC is used, which is a file."""
    if _uses_soc(request):
        return {}
    samples = []
    for video in contents.videos:
        folder = video.frames.path(0).parent.relative_to(request.root / "Rename_Images").as_posix()
        samples += [
            [
                video.name,
                f"./jhmdb_sentences/Rename_Images/{folder}/{video.frame_names[position]}.png",
                f"./jhmdb_sentences/puppet_mask/{folder}/puppet_mask.mat",
                len(video.frame_names),
                video.expressions[0].sentence,
            ]
            for position in sorted(video.annotated or ())
        ]
    return {MTTR_FILE: samples}


def _notes(
    request: SplitRequest[JhmdbSentencesSettings], contents: SplitContents, listing: FolderListing
) -> Iterator[Problem]:
    root, annotation = request.root, request.root / "jhmdb_annotation.txt"
    if has_windows_line_ends(annotation):
        yield Problem("line_ends", str(annotation))
    described = read_sentences(annotation, problems=[])  # what is wrong there is among the problems of `contents`
    for folder in (*video_folders(root / "Rename_Images"), *video_folders(root / "puppet_mask")):
        if folder.name not in described:
            yield Problem("surplus", str(folder), "no sentence is about it")
    if len(described) == PUBLISHED["jhmdb_sentences"]["test"].videos:  # otherwise these are other clips
        for video in contents.videos:
            if not FEWEST_FRAMES <= len(video.frame_names) <= MOST_FRAMES:
                detail = f"{len(video.frame_names)} frames; the videos of JHMDB have {FEWEST_FRAMES} to {MOST_FRAMES}"
                yield Problem("counts", f"video {video.name}", detail)
    if not _uses_soc(request):
        if request.settings.samples == "auto":
            yield Problem("counts", str(root / SOC_FILE), f"no such file; {_NOT_THOSE_OF_SOC}")
        if not (root / MTTR_FILE).is_file():
            detail = "no such file; frames are drawn with its seed, which needs all videos"
            yield Problem("counts", str(root / MTTR_FILE), detail)


def _find(root: Path) -> list[FoundDataset]:
    is_here = (root / "jhmdb_annotation.txt").is_file() and (root / "puppet_mask").is_dir()
    return [FoundDataset(JhmdbSentencesSettings(), ("test",))] if is_here else []


JHMDB_SENTENCES = DatasetDefinition(
    title="JHMDB-Sentences",
    settings=JhmdbSentencesSettings,
    read=read,
    find=_find,
    protocol=AnnotatedFrames(names_instances=False),
    published=PUBLISHED,
    count=_count,
    notes=_notes,
    derived_files=_metadata,
    can_train=False,
)
