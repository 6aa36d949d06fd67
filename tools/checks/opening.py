"""Opening files as training would, all of them or a sample, in several processes."""

import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from datasets.readers import SizeMismatchError
from datasets.records import VideoRecord
from engine.distributed import World
from engine.progress import progress_bar
from tools.checks.report import Problem

MAX_FRAMES_AT_ONCE = 16
"""Frames of a video file that are decoded together."""

SOURCE_LINE = re.compile(r"\w+, /\S+:\d+, ")
"""What torchvision writes in front of its messages: a place on the machine that built it."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A video and the frames of it to open.

    Attributes:
        video: what the loader knows about it.
        positions: of the frames; those with masks are checked against these.
        is_whole: whether these are all that have masks, so that an object without a pixel can be noticed.
        root: names in problems are relative to it.
    """

    video: VideoRecord
    positions: tuple[int, ...]
    is_whole: bool
    root: Path


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of it.

    Attributes:
        num_frames: that were opened.
        problems: files that cannot be used.
        unseen: objects of sentences without a pixel in any frame; empty where not all could be read.
    """

    num_frames: int
    problems: tuple[Problem, ...]
    unseen: tuple[int, ...] = ()


def candidates(video: VideoRecord) -> tuple[int, ...]:
    """Positions of the frames that matter most: those with masks."""
    return tuple(range(len(video.frame_names))) if video.annotated is None else tuple(sorted(video.annotated))


def plan(videos: Sequence[VideoRecord], *, root: Path, sample: int, is_there: Callable[[Path], bool]) -> list[Opening]:
    """What to open: everything, or `sample` frames (0: all) at even distances over the whole split.

    Args:
        videos: of the split.
        root: names in problems are relative to it.
        sample: most frames.
        is_there: whether a file exists; what is missing is reported already and not opened.
    """
    total = sum(len(candidates(video)) for video in videos)
    takes_all = not sample or total <= sample
    chosen = set() if takes_all else {index * total // sample for index in range(sample)}
    openings, start = [], 0
    for video in videos:
        own = candidates(video)
        wanted = range(len(video.frame_names)) if takes_all else [p for i, p in enumerate(own, start) if i in chosen]
        start += len(own)
        positions = tuple(position for position in wanted if all(map(is_there, files_of(video, position))))
        if positions:
            openings.append(Opening(video, positions, set(own).issubset(positions), root))
    return openings


def files_of(video: VideoRecord, position: int) -> tuple[Path, ...]:
    """The files that hold a frame and, where it has one, its mask."""
    has_mask = video.annotated is None or position in video.annotated
    mask_path = getattr(video.masks, "path", None)  # readers of one file for everything have none
    return (video.frames.path(position), *((mask_path(position),) if has_mask and mask_path else ()))


def open_all(openings: Sequence[Opening], *, num_workers: int, title: str) -> Iterator[tuple[Opening, Opened]]:
    """Opens files in `num_workers` processes (0: in this one), with a bar that counts frames."""
    total = sum(len(opening.positions) for opening in openings)
    with progress_bar(total=total, title=title, world=World(), unit="frame") as bar:
        for opening, opened in zip(openings, _results(openings, num_workers), strict=True):
            bar.update(opened.num_frames)
            yield opening, opened


def _results(openings: Sequence[Opening], num_workers: int) -> Iterator[Opened]:
    if not num_workers:
        yield from map(open_video, openings)
        return
    with ProcessPoolExecutor(
        num_workers, mp_context=_context(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(open_video, openings, chunksize=max(1, min(32, len(openings) // (4 * num_workers))))


def _context() -> multiprocessing.context.BaseContext:
    """Processes that do not inherit threads (a fork may hang on them), but import torch only once, where possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def open_video(opening: Opening) -> Opened:
    """Reads frames and masks of one video as training does."""
    video = opening.video
    objects = tuple(sorted({number for expression in video.expressions for number in expression.object_ids}))
    problems: list[Problem] = []
    seen: set[int] = set()
    size: tuple[int, int] | None = None
    for positions in _together(video, opening.positions):
        found, error = _try_frames(video, positions)
        if error is not None:
            problems.append(_problem(error, opening, positions))
        elif size is None:
            size = found
        elif found != size:
            name = _relative(video.frames.path(positions[0]), opening.root)
            problems.append(Problem("mismatched", name, f"{_pixels(found)}, but other frames have {_pixels(size)}"))
        masked = [p for p in positions if video.annotated is None or p in video.annotated]
        expected_size = found or size  # a damaged frame does not keep its mask from being looked at
        if video.masks is None or not objects or expected_size is None or not masked:
            continue
        try:
            masks = video.masks.read(masked, size=expected_size, objects=objects)
        except ValueError as mask_error:
            problems.append(_problem(mask_error, opening, masked))
            continue
        seen |= {objects[place] for place in masks.flatten(1).any(dim=1).nonzero().flatten().tolist()}
    is_known = opening.is_whole and not problems and video.masks is not None
    unseen = tuple(number for number in objects if number not in seen) if is_known else ()
    return Opened(len(opening.positions), tuple(problems), unseen)


def _together(video: VideoRecord, positions: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Frames that are read with one call: of one file, as many as fit."""
    for _, group in groupby(positions, key=video.frames.path):
        same_file = tuple(group)
        for start in range(0, len(same_file), MAX_FRAMES_AT_ONCE):
            yield same_file[start : start + MAX_FRAMES_AT_ONCE]


def _try_frames(video: VideoRecord, positions: Sequence[int]) -> tuple[tuple[int, int], None] | tuple[None, ValueError]:
    """(height, width) of these frames, or what is wrong with them."""
    try:
        frames = video.frames.read(positions)
    except ValueError as error:
        return None, error
    return (frames.shape[-2], frames.shape[-1]), None


def _problem(error: ValueError, opening: Opening, positions: Sequence[int]) -> Problem:
    """The readers' message, as one about the file that it names."""
    kind = "mismatched" if isinstance(error, SizeMismatchError) else "unreadable"
    text = SOURCE_LINE.sub("", str(error))
    for path in (path for position in positions for path in files_of(opening.video, position)):
        if str(path) in text:
            return Problem(kind, _relative(path, opening.root), text.partition(f"{path}")[2].lstrip(": "))
    # a file for many videos, such as one of run lengths
    name, _, detail = text.removeprefix(f"{opening.root}/").partition(": ")
    return Problem(kind, name, f"video {opening.video.name}: {detail}")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _pixels(size: tuple[int, int] | None) -> str:
    return "nothing" if size is None else f"(height, width) {size}"
