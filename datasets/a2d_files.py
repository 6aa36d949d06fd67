"""The files of A2D-Sentences: where they are, and what is in them."""

import csv
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from datasets.readers import require_size

logger = logging.getLogger(__name__)

SUBSETS = {"train": "0", "test": "1"}
"""Splits, and how the last column of videoset.csv calls them."""

_NUM_COLUMNS = 9
_FRAMES_COLUMN, _SUBSET_COLUMN = 6, 8
_COPY = re.compile(r"\d+ \(copy\)")  # one such row is in the published file, and the published code drops it


class Row(NamedTuple):
    """A line of a2d_annotation.txt.

    Attributes:
        video: its name.
        instance: number of the actor within the video.
        query: the sentence as it stands there.
    """

    video: str
    instance: int
    query: str


@dataclass(frozen=True, slots=True)
class A2DFiles:
    """Where the files are.

    Attributes:
        root: folder of the data.
        videoset: list of all videos.
        clips: folder of the mp4 files.
        annotation: the sentences.
        missed: list of the videos without sentences.
        instances: folder of the h5 files.
    """

    root: Path
    videoset: Path
    clips: Path
    annotation: Path
    missed: Path
    instances: Path

    @classmethod
    def below(cls, root: Path) -> "A2DFiles":
        """The published layout; clips may be in `clips320H` or `CLIPS320`."""
        release, texts = root / "Release", root / "text_annotations"
        files = cls(
            root=root,
            videoset=release / "videoset.csv",
            clips=next(
                (release / n for n in ("clips320H", "CLIPS320") if (release / n).is_dir()), release / "clips320H"
            ),
            annotation=texts / "a2d_annotation.txt",
            missed=texts / "a2d_missed_videos.txt",
            instances=texts / "a2d_annotation_with_instances",
        )
        for path in (files.videoset, files.annotation, files.missed):
            if not path.is_file():
                raise ValueError(f"{path}: no such file; data.root must hold Release/ and text_annotations/")
        for path in (files.clips, files.instances):
            if not path.is_dir():
                raise ValueError(f"{path}: no such folder; data.root must hold Release/ and text_annotations/")
        return files

    def clip(self, video: str) -> Path:
        """The video file."""
        return self.clips / f"{video}.mp4"


@dataclass(frozen=True, slots=True)
class H5Masks:
    """Masks of the annotated frames of a video; a `MaskReader`.

    Attributes:
        folder: of the h5 files.
        stems: name of the file of each annotated position.
    """

    folder: Path
    stems: Mapping[int, str]

    def path(self, position: int) -> Path:
        """The file that holds the masks of this frame.

        Raises:
            ValueError: the frame is not annotated.
        """
        if position not in self.stems:
            raise ValueError(f"{self.folder}: frame {position + 1} is not annotated")
        return self.folder / f"{self.stems[position]}.h5"

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """See `MaskReader`."""
        masks = torch.zeros(len(objects), len(positions), *size, dtype=torch.bool)
        for place, position in enumerate(positions):
            found = read_masks(self.path(position))
            for number, actor in enumerate(objects):
                if actor in found:
                    require_size(found[actor].shape, size, self.path(position))
                    masks[number, place] = torch.from_numpy(found[actor])
        return masks


def read_videoset(path: Path) -> dict[str, tuple[int, str]]:
    """Number of frames and subset ("0" or "1") of each video.

    Raises:
        ValueError: a line is not as expected, or names a video again.
    """
    videos: dict[str, tuple[int, str]] = {}
    for number, row in _csv_rows(path):
        if (
            len(row) != _NUM_COLUMNS
            or row[_SUBSET_COLUMN] not in SUBSETS.values()
            or not row[_FRAMES_COLUMN].isdecimal()
        ):
            raise ValueError(
                f"{path}:{number}: expected {_NUM_COLUMNS} columns, the number of frames in the seventh and 0 or 1 "
                f"in the last, got {','.join(row)!r}"
            )
        if row[0] in videos:
            raise ValueError(f"{path}:{number}: video {row[0]} is listed twice")
        videos[row[0]] = (int(row[_FRAMES_COLUMN]), row[_SUBSET_COLUMN])
    return videos


def read_rows(path: Path) -> list[Row]:
    """The sentences in the order of the file, without rows of a copied instance ("1 (copy)").

    Raises:
        ValueError: a line is not as expected, or repeats an actor.
    """
    rows: dict[tuple[str, int], Row] = {}
    lines = _csv_rows(path)
    header = next(lines, (1, []))[1]
    if header != ["video_id", "instance_id", "query"]:
        raise ValueError(f"{path}:1: expected the header video_id,instance_id,query, got {','.join(header)!r}")
    for number, cells in lines:
        if len(cells) != len(Row._fields):
            raise ValueError(f"{path}:{number}: expected video_id,instance_id,query, got {','.join(cells)!r}")
        video, instance, query = cells
        if _COPY.fullmatch(instance):
            logger.info("%s:%d: instance %r of video %s is a copy and left out", path, number, instance, video)
            continue
        if not instance.isdecimal():
            raise ValueError(f"{path}:{number}: instance_id={instance!r} must be a number")
        if not query.strip():
            raise ValueError(f"{path}:{number}: video {video}: the sentence is empty")
        if (video, int(instance)) in rows:
            raise ValueError(f"{path}:{number}: video {video} has two sentences about instance {instance}")
        rows[video, int(instance)] = Row(video, int(instance), query)
    return list(rows.values())


def read_missed(path: Path) -> frozenset[str]:
    """Names of the videos without sentences, one a line."""
    return frozenset(_read_text(path).split())


def read_instances(path: Path) -> tuple[int, ...]:
    """Numbers of the actors in an annotation file."""
    return tuple(_read_h5(path, "instance")["instance"].reshape(-1).astype(int).tolist())


def read_masks(path: Path) -> dict[int, Bool[np.ndarray, "height width"]]:
    """Mask of each actor in an annotation file.

    Raises:
        ValueError: the file is missing, unreadable, or has not one mask for each actor.
    """
    content = _read_h5(path, "instance", "reMask")
    actors, masks = content["instance"].reshape(-1).astype(int).tolist(), content["reMask"]
    if masks.ndim == 2:
        masks = masks[None]  # MATLAB drops the axis of a single actor
    if masks.ndim != 3 or len(masks) != len(actors):
        raise ValueError(f"{path}: reMask of shape {content['reMask'].shape} for {len(actors)} instances")
    return {actor: mask.T != 0 for actor, mask in zip(actors, masks, strict=True)}


def _read_h5(path: Path, *names: str) -> dict[str, np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            return {name: np.asarray(file[name]) for name in names}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such annotation file") from None
    except KeyError as error:
        raise ValueError(f"{path}: the annotation file is incomplete ({error})") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable annotation file ({error})") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not empty."""
    lines = csv.reader(_read_text(path).splitlines())
    yield from ((lines.line_num, row) for row in lines if row)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text file ({error})") from None
