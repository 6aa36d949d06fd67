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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io
import torch
from jaxtyping import Bool
from scipy.io.matlab import MatReadError
from torch import Tensor

from configs.schema import DataConfig
from datasets.cache import fingerprint
from datasets.readers import ImageFrames, require_size
from datasets.records import Expression, VideoRecord
from loading.text import clean_sentence

logger = logging.getLogger(__name__)

METADATA_FILES = ("jhmdb_sentences_samples_metadata.json", "jhmdb_sentences_samples_metadata_new.json")
FRAMES_PER_VIDEO = 3
CHOICE_SEED = 42
PERSON = 1
"""Object id of the only person."""

_MAT_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError, zlib.error)


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "JhmdbSentences":
    """The split as configured; see `loading.loaders`."""
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: JHMDB-Sentences has no categories")
    return JhmdbSentences(root, split, lower_case=data.lower_case, raw_sentences=raw_sentences)


class JhmdbSentences:
    """The only split on disk, "test".

    Args:
        root: folder of the data.
        split: "test".
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.

    Attributes:
        videos: in the order of jhmdb_annotation.txt, which the choice of frames depends on.
        places: folder of each video below Rename_Images and puppet_mask, "<action>/<video>".
        fingerprint: changes whenever a file does that sentences, masks or the choice of frames come from.

    Raises:
        ValueError: a file or folder is missing, damaged or contradicts another.
    """

    def __init__(self, root: Path, split: str, *, lower_case: bool = True, raw_sentences: bool = False) -> None:
        if split != "test":
            raise ValueError(f"split {split!r} of JHMDB-Sentences: there is only 'test'; set data.eval_split=test")
        sentences = read_sentences(root / "jhmdb_annotation.txt")
        self.places = places = _places(root, sentences)
        frames = {video: _frame_names(root / "Rename_Images" / place) for video, place in places.items()}
        masks = {video: MatMasks(root / "puppet_mask" / place / "puppet_mask.mat") for video, place in places.items()}
        chosen = _choice(root, sentences, frames, masks)
        self.fingerprint = fingerprint(
            [root / "jhmdb_annotation.txt", *(found.file for found in masks.values())],
            root=root,
            version=1,
            settings=repr(list(chosen.items())),
        )
        self.videos = tuple(
            VideoRecord(
                name=video,
                frame_names=frames[video],
                frames=ImageFrames(root / "Rename_Images" / places[video], frames[video], suffix=".png"),
                masks=masks[video],
                expressions=(
                    Expression(
                        name="0",
                        sentence=query if raw_sentences else clean_sentence(query, lower_case=lower_case),
                        object_ids=(PERSON,),
                    ),
                ),
                visible={PERSON: frozenset(chosen[video])},
                annotated=frozenset(chosen[video]),
            )
            for video, query in sentences.items()
        )

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """Raises ValueError: its videos are a test of what was learned from A2D-Sentences."""
        raise ValueError("JHMDB-Sentences is for evaluation only; train with data.dataset=a2d_sentences")


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
        """Frames with a mask, without reading these."""
        try:
            shapes = {name: shape for name, shape, _ in scipy.io.whosmat(self.file)}
            return shapes["part_mask"][2]
        except _MAT_ERRORS as error:
            raise self._unreadable(error) from None

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """See `MaskReader`."""
        try:
            masks = np.asarray(scipy.io.loadmat(self.file, variable_names=["part_mask"])["part_mask"])
        except _MAT_ERRORS as error:
            raise self._unreadable(error) from None
        if masks.ndim != 3 or max(positions) >= masks.shape[2]:
            raise ValueError(
                f"{self.file}: part_mask has shape {masks.shape}, but frame {max(positions) + 1} is needed"
            )
        require_size(masks.shape[:2], size, self.file)
        person = torch.from_numpy(masks.transpose(2, 0, 1)[list(positions)] != 0)
        return torch.stack([person if number == PERSON else torch.zeros_like(person) for number in objects])

    def _unreadable(self, error: Exception) -> ValueError:
        if not self.file.is_file():
            return ValueError(f"{self.file}: no such mask file")
        return ValueError(f"{self.file}: not a readable mask file ({type(error).__name__}: {error})")


def read_sentences(path: Path) -> dict[str, str]:
    """Sentence of each video, in the order of the file.

    Raises:
        ValueError: the file is missing, or a line is not as expected or names a video again.
    """
    try:
        lines = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text file ({error})") from None
    sentences: dict[str, str] = {}
    if next(lines, []) != ["video_id", "query"]:
        raise ValueError(f"{path}:1: expected the header video_id,query")
    for row in lines:
        if not row:
            continue
        if len(row) != 2 or not row[1].strip():
            raise ValueError(f"{path}:{lines.line_num}: expected video_id,query, got {','.join(row)!r}")
        if row[0] in sentences:
            raise ValueError(f"{path}:{lines.line_num}: video {row[0]} is listed twice")
        sentences[row[0]] = row[1]
    if not sentences:
        raise ValueError(f"{path}: no sentence")
    return sentences


def choose_frames(num_frames: Mapping[str, int], *, seed: int = CHOICE_SEED) -> dict[str, tuple[int, ...]]:
    """Positions of three frames of each video, ascending, drawn as the published choice was.

    One generator of Python's `random` serves all videos in their order; frames count from 1 while they are drawn.

    Args:
        num_frames: of each video, in the order of jhmdb_annotation.txt.
        seed: of the generator.
    """
    generator = random.Random(seed)
    chosen = {}
    for video, count in num_frames.items():
        if count < FRAMES_PER_VIDEO:
            raise ValueError(f"video {video} has {count} frames with masks, at least {FRAMES_PER_VIDEO} are needed")
        drawn = generator.sample(range(1, count + 1), FRAMES_PER_VIDEO)
        chosen[video] = tuple(sorted(number - 1 for number in drawn))
    return chosen


def read_choice(path: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """(Name of the frame, sentence) of each sample of the published metadata file, by video.

    An entry is (video, path of the frame, path of the masks, number of frames, sentence); only file names are looked
    at, because the paths are those of another machine.
    """
    chosen: dict[str, list[tuple[str, str]]] = {}
    try:
        for video, frame, _, _, sentence in json.loads(path.read_text(encoding="utf-8")):
            chosen.setdefault(video, []).append((PurePosixPath(frame).stem, sentence))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a readable list of samples ({error})") from None
    return {video: tuple(samples) for video, samples in chosen.items()}


def _choice(
    root: Path,
    sentences: Mapping[str, str],
    frames: Mapping[str, tuple[str, ...]],
    masks: Mapping[str, MatMasks],
) -> Mapping[str, tuple[int, ...]]:
    """Positions of the frames to evaluate: those of the metadata file, or drawn where there is none."""
    path = next((root / name for name in METADATA_FILES if (root / name).is_file()), None)
    if path is None:
        logger.info("%s: no %s, frames are drawn with seed %d", root, METADATA_FILES[0], CHOICE_SEED)
        with ThreadPoolExecutor() as threads:
            annotated = dict(zip(masks, threads.map(MatMasks.num_frames, masks.values()), strict=True))
        return choose_frames({video: min(len(frames[video]), annotated[video]) for video in sentences})
    samples = read_choice(path)
    different = sorted(set(samples) ^ set(sentences))
    if different:
        raise ValueError(f"{path}: its videos are not those of jhmdb_annotation.txt, for instance {different[0]}")
    chosen = {}
    for video, entries in samples.items():
        for name, sentence in entries:
            if name not in frames[video]:
                raise ValueError(f"{path}: video {video} has no frame {name}")
            if clean_sentence(sentence, lower_case=True) != clean_sentence(sentences[video], lower_case=True):
                raise ValueError(f"{path}: video {video}: {sentence!r} is not the sentence of jhmdb_annotation.txt")
        chosen[video] = tuple(sorted(frames[video].index(name) for name, _ in entries))
    return chosen


def _places(root: Path, sentences: Mapping[str, str]) -> dict[str, str]:
    """Folder of each video below Rename_Images and puppet_mask: "<action>/<video>"."""
    images = root / "Rename_Images"
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; data.root must hold Rename_Images/ and puppet_mask/")
    found = {
        video.name: f"{action.name}/{video.name}"
        for action in sorted(images.iterdir())
        if action.is_dir()
        for video in action.iterdir()
    }
    missing = [video for video in sentences if video not in found]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{images}: folders of {len(missing)} of {len(sentences)} videos are missing: {shown}")
    return {video: found[video] for video in sentences}


def _frame_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.stem for path in folder.glob("*.png")))
    if not names:
        raise ValueError(f"{folder}: no frames (*.png)")
    expected = tuple(f"{number:05d}" for number in range(1, len(names) + 1))
    if names != expected:
        gap = next(name for name, other in zip(expected, names, strict=True) if name != other)
        raise ValueError(f"{folder}: frame {gap}.png is missing, of {len(names)} frames")
    return names
