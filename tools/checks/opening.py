"""Opening files as training would, all of them or a sample, in several processes."""

import multiprocessing
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from datasets.problems import Problem, ProblemKind
from datasets.readers import ObjectMapReader, SizeMismatchError, mask_size
from datasets.records import VideoRecord
from engine.distributed import World
from engine.progress import progress_bar
from media.files import UnavailableError

MAX_FRAMES_AT_ONCE = 16
"""Frames of one file that are decoded together."""

SOURCE_LINE = re.compile(r"\w+, /\S+:\d+, ")
"""What torchvision writes in front of its messages: a place on the machine that built it."""


@dataclass(frozen=True, slots=True)
class FrameSelection:
    """Frames and masks of a video that are to be opened.

    Attributes:
        video: which one.
        frames: positions of the frames.
        masks: positions of the masks.
        has_all_masks: whether these are all masks of the video, so that an object without a pixel can be noticed.
    """

    video: VideoRecord
    frames: tuple[int, ...]
    masks: tuple[int, ...]
    has_all_masks: bool


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """What came of a selection.

    Attributes:
        problems: files that cannot be used.
        unseen: objects of expressions without a pixel in any frame; empty where not all masks could be read.
        visible: positions of the frames that show each id, also of ids that no expression names; None where not all
            masks could be read.
    """

    problems: tuple[Problem, ...]
    unseen: tuple[int, ...] = ()
    visible: Mapping[int, frozenset[int]] | None = None


def positions_with_masks(video: VideoRecord) -> tuple[int, ...]:
    """The frames that matter most."""
    return tuple(range(len(video.frame_names))) if video.annotated is None else tuple(sorted(video.annotated))


def mask_file(video: VideoRecord, position: int) -> Path | None:
    """The file that holds the mask of a frame; None where it has no mask, or where one file holds all masks."""
    path_of = getattr(video.masks, "path", None)
    has_mask = video.annotated is None or position in video.annotated
    return path_of(position) if path_of is not None and has_mask else None


def files_of(video: VideoRecord) -> Iterator[Path]:
    """The files of all frames and masks of a video; a file of several frames comes several times."""
    for position in range(len(video.frame_names)):
        yield video.frames.path(position)
        path = mask_file(video, position)
        if path is not None:
            yield path


def select_frames(
    videos: Sequence[VideoRecord], *, sample: int, can_open: Callable[[Path], bool]
) -> list[FrameSelection]:
    """What to open: everything, or `sample` frames (0: all) at even distances over the whole split.

    Args:
        videos: of the split.
        sample: most frames.
        can_open: False for files whose absence or damage is known already.
    """
    total = sum(len(positions_with_masks(video)) for video in videos)
    takes_all = not sample or total <= sample
    chosen = set() if takes_all else {index * total // sample for index in range(sample)}
    selections, start = [], 0
    for video in videos:
        with_masks = positions_with_masks(video)
        own = [position for index, position in enumerate(with_masks, start) if takes_all or index in chosen]
        start += len(with_masks)
        masks = tuple(p for p in own if (path := mask_file(video, p)) is None or can_open(path))
        frames = tuple(
            position
            for position in (range(len(video.frame_names)) if takes_all else own)
            if can_open(video.frames.path(position))
        )
        if frames:
            selections.append(FrameSelection(video, frames, masks, has_all_masks=masks == with_masks))
    return selections


def open_all(
    selections: Sequence[FrameSelection], *, num_workers: int, title: str
) -> Iterator[tuple[FrameSelection, OpenedVideo]]:
    """Opens files in `num_workers` processes (0: in this one), with a bar that counts frames."""
    total = sum(len(selection.frames) for selection in selections)
    with progress_bar(total=total, title=title, world=World(), unit="frame") as bar:
        for selection, opened in zip(selections, _results(selections, num_workers), strict=True):
            bar.update(len(selection.frames))
            yield selection, opened


def _results(selections: Sequence[FrameSelection], num_workers: int) -> Iterator[OpenedVideo]:
    if not num_workers:
        yield from map(open_video, selections)
        return
    with ProcessPoolExecutor(num_workers, mp_context=_context()) as pool:
        yield from pool.map(open_video, selections, chunksize=max(1, min(32, len(selections) // (4 * num_workers))))


def _context() -> multiprocessing.context.BaseContext:
    """Processes that do not inherit threads (a fork may hang on them), but import the decoder only once if possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchvision.io"])
    return context


def open_video(selection: FrameSelection) -> OpenedVideo:
    """Reads frames and masks of one video as training does."""
    video, objects = selection.video, selection.video.object_ids
    problems: list[Problem] = []
    sizes: dict[int, tuple[int, int]] = {}
    for positions, frames in _read_by_file(selection.frames, video.frames.path, video.frames.read):
        if isinstance(frames, ValueError):
            problems.append(_problem(frames, video, positions))
        else:
            sizes.update(dict.fromkeys(positions, (frames.shape[1], frames.shape[2])))
    usual = next(iter(sizes.values()), None)
    for position, size in sizes.items():
        if size != usual:
            detail = f"(height, width) {size}, but other frames have (height, width) {usual}"
            problems.append(Problem("mismatched", str(video.frames.path(position)), detail))
    reader = video.masks
    if reader is None or usual is None or not objects:
        return OpenedVideo(tuple(problems))

    def read_masks(positions: Sequence[int]) -> np.ndarray:
        # a damaged frame does not keep its mask from being looked at
        size = mask_size(reader, positions[0], frame_size=sizes.get(positions[0], usual))
        if isinstance(reader, ObjectMapReader):
            return reader.read_map(positions, size=size)
        return reader.read(positions, size=size, objects=objects)

    visible: dict[int, set[int]] = {}
    for positions, masks in _read_by_file(selection.masks, lambda p: mask_file(video, p) or p, read_masks):
        if isinstance(masks, ValueError):
            problems.append(_problem(masks, video, positions))
        else:
            for number, position in _shown_in(masks, positions, objects):
                visible.setdefault(number, set()).add(position)
    if problems or not selection.has_all_masks:
        return OpenedVideo(tuple(problems))
    unseen = tuple(number for number in objects if number not in visible)
    return OpenedVideo((), unseen, {number: frozenset(positions) for number, positions in visible.items()})


def _shown_in(masks: np.ndarray, positions: Sequence[int], objects: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(Id, position) of everything that masks show.

    Args:
        masks: ids of (time, height, width), or masks of (object, time, height, width).
        positions: of the frames.
        objects: those of the masks.
    """
    if masks.ndim == len(("time", "height", "width")):
        for position, ids in zip(positions, masks, strict=True):
            yield from ((number, position) for number in np.flatnonzero(np.bincount(ids.ravel())).tolist() if number)
    else:
        for index, time in np.argwhere(masks.any(axis=(2, 3))).tolist():
            yield objects[index], positions[time]


def _read_by_file(
    positions: Sequence[int], file_of: Callable[[int], Hashable], read: Callable[[Sequence[int]], np.ndarray]
) -> Iterator[tuple[tuple[int, ...], np.ndarray | ValueError]]:
    """Positions of one file, as many as fit, and what was read; or the error, after which its rest is left alone."""
    for _, group in groupby(positions, key=file_of):
        of_file = tuple(group)
        for start in range(0, len(of_file), MAX_FRAMES_AT_ONCE):
            together = of_file[start : start + MAX_FRAMES_AT_ONCE]
            try:
                found = read(together)
            except ValueError as error:
                yield together, error
                break
            yield together, found


def _problem(error: ValueError, video: VideoRecord, positions: Sequence[int]) -> Problem:
    """The readers' message, as one about the file that it names."""
    kind: ProblemKind = "unreadable"
    if isinstance(error, SizeMismatchError | UnavailableError):
        kind = "mismatched" if isinstance(error, SizeMismatchError) else "unavailable"
    text = SOURCE_LINE.sub("", str(error))
    for position in positions:
        for path in (video.frames.path(position), mask_file(video, position)):
            if path is not None and str(path) in text:
                return Problem(kind, str(path), text.partition(str(path))[2].lstrip(": "))
    # a file for many videos, such as one of run lengths
    name, _, detail = text.partition(": ")
    return Problem(kind, name, f"video {video.name}: {detail}")
