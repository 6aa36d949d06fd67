"""JHMDB-Sentences: short clips of one person, the person's mask in every frame, one sentence; for evaluation only.

    ROOT/jhmdb_annotation.txt                                  csv: video_id,query
    ROOT/Rename_Images/<action>/<video>/<frame>.png            frames, numbered from 1
    ROOT/puppet_mask/<action>/<video>/puppet_mask.mat          part_mask: height x width x frame
    ROOT/jhmdb_sentences_samples_metadata.json                 optional: the frames that are evaluated

Three frames of each video are evaluated, each in the middle of its clip. Without the metadata file they are drawn
with `CHOICE_SEED`, which gives the 2,784 frames of the published file to the last one.
"""

import csv
import json
import logging
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

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
from datasets.listing import FolderListing, has_windows_line_ends
from datasets.problems import Problem
from datasets.readers import ImageFrames, require_size
from datasets.records import Expression, VideoRecord

logger = logging.getLogger(__name__)

PUBLISHED = {"jhmdb_sentences": {"test": Counts(videos=928, expressions=928, samples=2784)}}
FEWEST_FRAMES, MOST_FRAMES = 15, 40
"""Of a clip of JHMDB."""

METADATA_FILES = ("jhmdb_sentences_samples_metadata.json", "jhmdb_sentences_samples_metadata_new.json")
FRAMES_PER_VIDEO = 3
CHOICE_SEED = 42
PERSON = 1
"""Object id of the only person."""


class JhmdbSentencesSettings(DatasetSettings):
    """JHMDB-Sentences; for evaluation only."""

    dataset: Literal["jhmdb_sentences"] = "jhmdb_sentences"
    """Format of the data."""

    eval_split: str = "test"
    """Split that is evaluated; there is only `test`."""


def read(request: SplitRequest[JhmdbSentencesSettings]) -> SplitContents:
    """The only split, "test"; videos are in the order of jhmdb_annotation.txt, which the choice of frames depends on.

    Raises:
        ValueError: another split is asked for; the sentences cannot be read, or the folder of all frames is missing.
    """
    if request.split != "test":
        raise ValueError(f"split {request.split!r} of JHMDB-Sentences: there is only 'test'; set eval_split: test")
    root, annotation, images = request.root, request.root / "jhmdb_annotation.txt", request.root / "Rename_Images"
    problems: list[Problem] = []
    sentences = read_sentences(annotation, problems)
    if not images.is_dir():
        raise ValueError(
            f"{images}: no such folder; the folder of the data set must hold Rename_Images/ and puppet_mask/"
        )
    folders = {folder.name: folder for folder in _video_folders(images)}
    frames: dict[str, ImageFrames] = {}
    for video in sentences:
        if video not in folders:
            problems.append(Problem("missing", f"{images}/*/{video}/", f"no such folder of video {video}"))
            continue
        names = _frame_names(folders[video], problems)
        if names:
            frames[video] = ImageFrames(folders[video], names, suffix=".png")
    masks = {
        video: MatMasks(root / "puppet_mask" / own.folder.relative_to(images) / "puppet_mask.mat")
        for video, own in frames.items()
    }
    metadata = _metadata_file(root)
    if metadata is None:
        chosen = _choose_like_published(root, sentences, frames, masks, problems)
    else:
        chosen = _read_published(metadata, sentences, frames, problems)
    key = fingerprint(
        [annotation, *(own.file for own in masks.values())], root=root, version=1, settings=repr(list(chosen.items()))
    )
    damaged = {problem.name for problem in problems}
    videos = tuple(
        _record(video, sentence, frames[video], masks[video], chosen.get(video))
        for video, sentence in sentences.items()
        if video in frames and str(masks[video].file) not in damaged
    )
    return SplitContents(videos, tuple(problems), key)


def _record(
    video: str, sentence: str, frames: ImageFrames, masks: "MatMasks", chosen: tuple[int, ...] | None
) -> VideoRecord:
    """A video of which the `chosen` frames are evaluated; None where a problem keeps the split from being evaluated."""
    return VideoRecord(
        name=video,
        frame_names=frames.names,
        frames=frames,
        masks=masks,
        expressions=(Expression("0", sentence, (PERSON,)),),
        visible={} if chosen is None else {PERSON: frozenset(chosen)},
        annotated=None if chosen is None else frozenset(chosen),
    )


@dataclass(frozen=True, slots=True)
class MatMasks:
    """The masks of a video in one MATLAB file; a `MaskReader` that knows one object, the person.

    Attributes:
        file: with `part_mask` of height x width x frame.
    """

    file: Path

    def path(self, position: int) -> Path:
        """The file that holds the mask of this frame."""
        return self.file

    def num_frames(self) -> int:
        """Frames with a mask, without reading these.

        Raises:
            ValueError: the file is missing or damaged.
        """
        import scipy.io  # here, because configurations are read without it

        with _named_in_errors(self.file):
            shapes = {name: shape for name, shape, _ in scipy.io.whosmat(self.file)}
            return shapes["part_mask"][2]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        import scipy.io  # here, because configurations are read without it

        with _named_in_errors(self.file):
            masks = np.asarray(scipy.io.loadmat(self.file, variable_names=["part_mask"])["part_mask"])
        if masks.ndim != 3 or max(positions) >= masks.shape[2]:
            raise ValueError(
                f"{self.file}: part_mask has shape {masks.shape}, but frame {max(positions) + 1} is needed"
            )
        require_size(masks.shape[:2], size, self.file)
        person = masks.transpose(2, 0, 1)[list(positions)] != 0
        return np.stack([person if number == PERSON else np.zeros_like(person) for number in objects])


@contextmanager
def _named_in_errors(file: Path) -> Iterator[None]:
    """Turns what SciPy raises about a missing or damaged file into a ValueError that names the file."""
    from scipy.io.matlab import MatReadError

    try:
        yield
    except (
        OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError, zlib.error
    ) as error:  # fmt: skip
        if not file.is_file():
            raise ValueError(f"{file}: no such mask file") from None
        raise ValueError(f"{file}: not a readable mask file ({type(error).__name__}: {error})") from None


def read_sentences(path: Path, problems: list[Problem]) -> dict[str, str]:
    """Sentence of each video, in the order of the file.

    Args:
        path: of the file.
        problems: takes lines that are not as expected or name a video again; they are left out.

    Raises:
        ValueError: the file cannot be read, has another header or no sentence.
    """
    try:
        lines = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text file ({error})") from None
    if next(lines, []) != ["video_id", "query"]:
        raise ValueError(f"{path}:1: expected the header video_id,query")
    sentences: dict[str, str] = {}
    is_empty = True
    for row in lines:
        if not row:
            continue
        is_empty = False
        line = f"{path}:{lines.line_num}"
        if len(row) != 2 or not row[1].strip():
            problems.append(Problem("expressions", line, f"expected video_id,query, got {','.join(row)!r}"))
        elif row[0] in sentences:
            problems.append(Problem("expressions", line, f"video {row[0]} is listed twice"))
        else:
            sentences[row[0]] = row[1]
    if is_empty:
        raise ValueError(f"{path}: no sentence")
    return sentences


def choose_frames(num_frames: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Positions of three frames of each video, ascending, chosen at random as the published ones were.

    One generator of Python's `random` serves all videos in their order; frames count from 1 there.

    Args:
        num_frames: of each video, at least three, in the order of jhmdb_annotation.txt.
    """
    generator = random.Random(CHOICE_SEED)
    chosen = {}
    for video, count in num_frames.items():
        numbers = generator.sample(range(1, count + 1), FRAMES_PER_VIDEO)
        chosen[video] = tuple(sorted(number - 1 for number in numbers))
    return chosen


def read_choice(path: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """(Name of the frame, sentence) of each sample of the published metadata file, by video.

    An entry is (video, path of the frame, path of the masks, number of frames, sentence); only file names are looked
    at, because the paths are those of another machine.
    """
    chosen: dict[str, list[tuple[str, str]]] = {}
    try:
        for video, frame, _, _, sentence in json.loads(path.read_text(encoding="utf-8")):
            chosen.setdefault(video, []).append((PurePosixPath(frame).stem, str(sentence)))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a readable list of samples ({error})") from None
    return {video: tuple(samples) for video, samples in chosen.items()}


def _metadata_file(root: Path) -> Path | None:
    return next((root / name for name in METADATA_FILES if (root / name).is_file()), None)


def _read_published(
    path: Path, sentences: Mapping[str, str], frames: Mapping[str, ImageFrames], problems: list[Problem]
) -> dict[str, tuple[int, ...]]:
    """Positions of the frames that the metadata file names, of the videos about which it is right."""
    try:
        samples = read_choice(path)
    except ValueError as error:
        problems.append(Problem("index", str(path), str(error).removeprefix(f"{path}: ")))
        return {}
    wrong = [f"video {video} is not in jhmdb_annotation.txt" for video in samples if video not in sentences]
    wrong += [f"video {video} of jhmdb_annotation.txt is missing" for video in sentences if video not in samples]
    chosen = {}
    for video in (video for video in samples if video in frames):
        names = frames[video].names
        faults = [f"video {video} has no frame {name}" for name, _ in samples[video] if name not in names]
        faults += [
            f"video {video}: {sentence!r} is not the sentence of jhmdb_annotation.txt"
            for sentence in dict.fromkeys(sentence for _, sentence in samples[video])
            if sentence.lower().split() != sentences[video].lower().split()
        ]
        if not faults:
            chosen[video] = tuple(sorted(names.index(name) for name, _ in samples[video]))
        wrong += faults
    problems += [Problem("index", str(path), detail) for detail in wrong]
    return chosen


def _choose_like_published(
    root: Path,
    sentences: Mapping[str, str],
    frames: Mapping[str, ImageFrames],
    masks: Mapping[str, MatMasks],
    problems: list[Problem],
) -> dict[str, tuple[int, ...]]:
    """Positions of frames chosen like the published ones; none at all where one video cannot be used.

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
        problems.append(Problem("index", str(root / METADATA_FILES[0]), detail))
        return {}
    logger.info("%s: no %s, frames are drawn with seed %d", root, METADATA_FILES[0], CHOICE_SEED)
    return choose_frames(lengths)


def _count_masks(masks: MatMasks) -> int | Problem:
    try:
        return masks.num_frames()
    except ValueError as error:
        kind: Literal["unreadable", "missing"] = "unreadable" if masks.file.is_file() else "missing"
        return Problem(kind, str(masks.file), str(error).removeprefix(f"{masks.file}: "))


def _video_folders(folder: Path) -> list[Path]:
    """<action>/<video>."""
    return sorted(path for path in folder.glob("*/*") if path.is_dir())


def _frame_names(folder: Path, problems: list[Problem]) -> tuple[str, ...]:
    """Names of the frames of a video, which are numbered without a gap; none where one is missing."""
    names = {path.stem for path in folder.glob("*.png")}
    if not names:
        problems.append(Problem("missing", f"{folder}/", "no frames (*.png)"))
        return ()
    highest = max(int(name) if name.isdecimal() and len(name) == 5 else 0 for name in names)
    expected = tuple(f"{number:05d}" for number in range(1, max(highest, len(names)) + 1))
    missing = [name for name in expected if name not in names]
    problems += [
        Problem("missing", str(folder / f"{name}.png"), f"no such frame; the folder has {len(names)}")
        for name in missing
    ]
    return () if missing else expected


def _count(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes of what was read; the one object of each video is not counted."""
    samples = [len(video.annotated) for video in videos if video.annotated is not None]
    return replace(count_videos(videos), objects=None, samples=sum(samples) if samples else None)


def _metadata(request: SplitRequest[JhmdbSentencesSettings], contents: SplitContents) -> Mapping[str, Any]:
    """The choice of frames as the published file has it: see `read_choice`."""
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
    return {METADATA_FILES[0]: samples}


def _notes(
    request: SplitRequest[JhmdbSentencesSettings], contents: SplitContents, listing: FolderListing
) -> Iterator[Problem]:
    root, annotation = request.root, request.root / "jhmdb_annotation.txt"
    if has_windows_line_ends(annotation):
        yield Problem("line_ends", str(annotation))
    described = read_sentences(annotation, problems=[])  # what is wrong there is among the problems of `contents`
    for folder in (*_video_folders(root / "Rename_Images"), *_video_folders(root / "puppet_mask")):
        if folder.name not in described:
            yield Problem("surplus", str(folder), "no sentence is about it")
    if len(described) == PUBLISHED["jhmdb_sentences"]["test"].videos:  # otherwise these are other clips
        for video in contents.videos:
            if not FEWEST_FRAMES <= len(video.frame_names) <= MOST_FRAMES:
                detail = f"{len(video.frame_names)} frames; the videos of JHMDB have {FEWEST_FRAMES} to {MOST_FRAMES}"
                yield Problem("counts", f"video {video.name}", detail)
    if _metadata_file(root) is None:
        detail = "no such file; frames are drawn with the seed of the published choice, which needs all videos"
        yield Problem("counts", str(root / METADATA_FILES[0]), detail)


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
