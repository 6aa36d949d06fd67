"""The files of A2D-Sentences: where they are, and what is in them.

Readers of lists leave out the lines that cannot be used, and add each of them to the `problems` that they are given.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from datasets.index_text import read_csv, read_names, shown
from datasets.problems import Problem
from datasets.readers import require_size
from media.files import path_inside, plain_name, reading, regular_file
from media.folders import listing
from media.limits import require_pixels

logger = logging.getLogger(__name__)

SUBSETS = {"train": "0", "test": "1"}
"""Splits, and how the last column of videoset.csv calls them."""

CLIP_FOLDERS = ("clips320H", "CLIPS320")
"""Names under which the folder of clips is passed around."""

_NUM_COLUMNS = 9
_FRAMES_COLUMN, _SUBSET_COLUMN = 6, 8
_MOST_DIGITS = 9
"""Of a number of frames or of an actor."""

_LAYOUT = "the folder of the data set must hold Release/ and text_annotations/"
_COPY = re.compile(r"\d+ \(copy\)")  # one such row is in the published file, and the published code drops it


class ListedVideo(NamedTuple):
    """A line of videoset.csv.

    Attributes:
        num_frames: of its clip.
        subset: "0" or "1", see `SUBSETS`; empty where the line cannot be used.
    """

    num_frames: int
    subset: str


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


class Annotation(NamedTuple):
    """An annotation file without the pixels of its masks.

    Attributes:
        instances: numbers of the actors as they stand there; one that occurs again has its first mask.
        num_masks: those after the last instance belong to nobody.
        size: (height, width) of the masks; not always that of the frame.
    """

    instances: tuple[int, ...]
    num_masks: int
    size: tuple[int, int]

    @property
    def index_of(self) -> dict[int, int]:
        """Which mask each actor has."""
        return {actor: self.instances.index(actor) for actor in self.instances}


@dataclass(frozen=True, slots=True)
class A2DFiles:
    """Where the files are.

    Attributes:
        videoset: list of all videos.
        clips: folder of the mp4 files.
        annotation: the sentences.
        missed: list of the videos without sentences.
        instances: folder of the h5 files.
    """

    videoset: Path
    clips: Path
    annotation: Path
    missed: Path
    instances: Path

    @classmethod
    def below(cls, root: Path) -> "A2DFiles":
        """The published layout.

        Raises:
            ValueError: a file or folder is not there; `missed` alone may be absent.
        """
        release, texts = root / "Release", root / "text_annotations"
        files = cls(
            videoset=release / "videoset.csv",
            clips=clips_folder(root),
            annotation=texts / "a2d_annotation.txt",
            missed=texts / "a2d_missed_videos.txt",
            instances=texts / "a2d_annotation_with_instances",
        )
        for path in (files.videoset, files.annotation):
            if not path.is_file():
                raise ValueError(f"{path}: no such file; {_LAYOUT}")
        for path in (files.clips, files.instances):
            if not path.is_dir():
                raise ValueError(f"{path}: no such folder; {_LAYOUT}")
        return files

    def clip(self, video: str) -> Path:
        """The video file."""
        return path_inside(self.clips, f"{video}.mp4", what=f"{self.videoset}: video")

    def annotations(self, video: str) -> Path:
        """The folder of its h5 files."""
        return path_inside(self.instances, video, what=f"{self.videoset}: video")

    def annotation_files(self, video: str) -> list[Path]:
        """Its h5 files; none without the folder."""
        folder = self.annotations(video)
        return listing(folder, (".h5",)) if folder.is_dir() else []


@dataclass(frozen=True, slots=True)
class H5Masks:
    """Masks of the annotated frames of a video; a `SizedMaskReader`.

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
        return path_inside(self.folder, f"{self.stems[position]}.h5", what=f"{self.folder}: frame")

    def size_of(self, position: int) -> tuple[int, int]:
        """See `SizedMaskReader`."""
        return read_annotation(self.path(position)).size

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        masks = np.zeros((len(objects), len(positions), *size), dtype=bool)
        for time, position in enumerate(positions):
            mask_of = read_masks(self.path(position))
            for index, actor in enumerate(objects):
                if actor in mask_of:
                    require_size(mask_of[actor].shape, size, self.path(position))
                    masks[index, time] = mask_of[actor]
        return masks


def clips_folder(root: Path) -> Path:
    """The folder of the mp4 files, whichever of its names it has."""
    folders = [root / "Release" / name for name in CLIP_FOLDERS]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_videoset(path: Path, problems: list[Problem]) -> dict[str, ListedVideo]:
    """All videos of both splits. One whose line cannot be used belongs to none of them.

    Raises:
        ValueError: the file cannot be read.
    """
    videos: dict[str, ListedVideo] = {}
    for number, row in read_csv(path):
        is_usable = (
            len(row) == _NUM_COLUMNS and row[_SUBSET_COLUMN] in SUBSETS.values() and is_count(row[_FRAMES_COLUMN])
        )
        if not is_usable:
            detail = (
                f"got {shown(','.join(row))}, expected {_NUM_COLUMNS} columns, the number of frames in the seventh and "
                "0 or 1 in the last"
            )
            problems.append(Problem("index", f"{path}:{number}", detail))
            videos.setdefault(row[0], ListedVideo(0, ""))
        elif row[0] in videos:
            problems.append(Problem("index", f"{path}:{number}", f"video {row[0]} is listed twice"))
        else:
            videos[row[0]] = ListedVideo(int(row[_FRAMES_COLUMN]), row[_SUBSET_COLUMN])
    return videos


def read_rows(path: Path, problems: list[Problem]) -> list[Row]:
    """The sentences in the order of the file, without rows of a copied instance ("1 (copy)").

    Raises:
        ValueError: the file cannot be read, or has another header.
    """
    rows: dict[tuple[str, int], Row] = {}
    lines = read_csv(path)
    header = next(lines, (1, []))[1]
    if header != ["video_id", "instance_id", "query"]:
        raise ValueError(f"{path}:1: got {shown(','.join(header))}, expected the header video_id,instance_id,query")
    for number, columns in lines:
        try:
            row = _parse_row(columns)
            if row is None:
                logger.info(
                    "%s:%d: instance %r of video %s is a copy and left out", path, number, columns[1], columns[0]
                )
                continue
            if (row.video, row.instance) in rows:
                raise ValueError(f"video {row.video} has two sentences about instance {row.instance}")
            rows[row.video, row.instance] = row
        except ValueError as error:
            problems.append(Problem("expressions", f"{path}:{number}", str(error)))
    return list(rows.values())


def _parse_row(columns: Sequence[str]) -> Row | None:
    """A line of a2d_annotation.txt; None for a copied instance.

    Raises:
        ValueError: it is not as expected.
    """
    if len(columns) != len(Row._fields):
        raise ValueError(f"got {shown(','.join(columns))}, expected video_id,instance_id,query")
    video, instance, query = columns
    if _COPY.fullmatch(instance):
        return None
    if not is_count(instance):
        raise ValueError(f"got instance_id={shown(instance)}, expected a whole number")
    if not query.strip():
        raise ValueError(f"video {video}: the sentence is empty")
    return Row(plain_name(video, what="video_id"), int(instance), query)


def read_missed(path: Path, problems: list[Problem]) -> frozenset[str] | None:
    """Names of the videos without sentences, one a line; None where they cannot be read."""
    try:
        return frozenset(name for line in read_names(path) for name in line.split())
    except ValueError as error:
        problems.append(Problem("index", str(path), detail_of(error, path)))
        return None


def detail_of(error: ValueError, path: Path) -> str:
    """What a message says about a file, without the path that it begins with."""
    return str(error).removeprefix("video ").removeprefix(f"{path}: ")


def read_annotation(path: Path) -> Annotation:
    """What an annotation file holds.

    Raises:
        ValueError: the file is missing, unreadable, or lacks the mask of an actor.
    """
    with _open_h5(path) as file:
        return _annotation(path, file)


def read_masks(path: Path) -> dict[int, Bool[np.ndarray, "height width"]]:
    """Mask of each actor in an annotation file.

    Raises:
        ValueError: as `read_annotation`.
    """
    with _open_h5(path) as file:
        annotation, stored = _annotation(path, file), np.asarray(file["reMask"])
    masks = stored[None] if stored.ndim == 2 else stored
    return {actor: masks[index].T != 0 for actor, index in annotation.index_of.items()}


def _annotation(path: Path, file: Mapping[str, Any]) -> Annotation:
    for name in ("reMask", "instance"):
        _require_numbers(path, name, file[name])
    shape = tuple(file["reMask"].shape)
    numbers = np.asarray(file["instance"]).reshape(-1)
    if not (np.isfinite(numbers) & (numbers == numbers.round()) & (abs(numbers) < 10**_MOST_DIGITS)).all():
        raise ValueError(f"{path}: instance: got {shown(numbers.tolist())}, expected whole numbers")
    instances = tuple(numbers.astype(int).tolist())
    *masks, width, height = shape if len(shape) in (2, 3) else (0, 0, 0)
    annotation = Annotation(instances, masks[0] if masks else 1, (height, width))  # MATLAB drops the axis of one actor
    require_pixels(height, width, layers=annotation.num_masks, what=f"{path}: reMask")
    if any(index >= annotation.num_masks for index in annotation.index_of.values()):
        raise ValueError(f"{path}: reMask of shape {shape} for {len(instances)} instances")
    return annotation


def _require_numbers(path: Path, name: str, data: Any) -> None:
    """Raises ValueError unless an entry is an array of real numbers; it may be a group, or of texts or records."""
    kind = getattr(getattr(data, "dtype", None), "kind", "")
    if kind not in "biuf" or not kind:
        found = f"an array of {data.dtype}" if kind else f"a {type(data).__name__.lower()}"
        raise ValueError(f"{path}: {name}: got {shown(found)}, expected an array of numbers")


@contextmanager
def _open_h5(path: Path) -> Iterator[Mapping[str, Any]]:
    """The data sets of a file; what h5py raises becomes a ValueError that names the file."""
    import h5py  # here, because configurations are read without it

    try:
        # without a lock: the file is only read, and some file systems have none
        with reading(path), h5py.File(regular_file(path), "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path}: no such annotation file") from None
    except KeyError as error:
        raise ValueError(f"{path}: the annotation file is incomplete ({error})") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a readable annotation file ({error})") from None


def is_count(text: str) -> bool:
    """Whether a column, or the name of a frame, is a whole number of no more digits than make sense."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
