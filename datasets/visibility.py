"""In which frames each object can be seen: read from all masks once, then kept in a small file."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt

from datasets.cache import cached, fingerprint
from datasets.index_file import IndexContent
from datasets.index_text import shown
from datasets.problems import Problem, ProblemKind
from datasets.readers import PngMasks
from datasets.records import VideoRecord
from media.files import path_inside
from media.mask_png import read_index_png
from structures.user_cache import user_cache_folder

logger = logging.getLogger(__name__)

FORMAT = 4
"""Raise when the meaning of the file changes; older files are then made anew."""

FILE_NAME = "visible_objects.json"


@dataclass(frozen=True, slots=True)
class MaskFault:
    """A mask that cannot be read.

    Attributes:
        video: its name.
        problem: what is wrong with the file.
    """

    video: str
    problem: Problem


ObjectKey = Annotated[str, Field(pattern=r"^[0-9]{1,3}$")]


class _Kept(IndexContent[dict[str, dict[ObjectKey, list[NonNegativeInt]]]]):
    """The content of the file."""


Visibility = Mapping[str, Mapping[int, frozenset[int]]]
"""Video -> object id -> positions of the frames in which it has at least one pixel."""


def records_with_visibility(
    videos: Sequence[VideoRecord],
    *,
    mask_folder: Path,
    keep_in: Path,
    cache: Path | None,
    expressions_file: Path,
    problems: list[Problem],
) -> tuple[VideoRecord, ...]:
    """The videos of a split for training, with `visible` filled in from their masks.

    Args:
        videos: whose masks are images of object ids.
        mask_folder: see `visible_objects`, as `keep_in` and `cache`.
        keep_in: see there.
        cache: see there.
        expressions_file: for messages.
        problems: takes masks that are missing or damaged, and expressions about an object that is neither in a mask of
            the video nor among its `listed_objects`. Where masks are damaged, such an expression is left out.
    """
    frames = {video.name: video.frame_names for video in videos}
    faults: list[MaskFault] = []
    visibility = visible_objects(mask_folder, frames=frames, keep_in=keep_in, cache=cache, faults=faults)
    problems += [fault.problem for fault in faults]
    damaged = {fault.video for fault in faults}
    complete = []
    for video in videos:
        seen = replace(video, visible=visibility[video.name])
        unknown = dict(_unknown_objects(seen, seen.visible.keys()))
        if video.name in damaged:
            kept = tuple(e for e in video.expressions if e.name not in unknown)
            seen = replace(seen, expressions=kept)
            problems += [
                Problem("unreadable", str(expressions_file), f"{d}; others are damaged") for d in unknown.values()
            ]
        else:
            problems += absent_objects(seen, seen.visible.keys(), expressions_file)
        if seen.expressions:
            complete.append(seen)
    return tuple(complete)


def objects_in_no_mask(
    videos: Sequence[VideoRecord], expressions_file: Path, *, all_of_a_video: bool = False
) -> Iterator[Problem]:
    """What `absent_objects` says about videos to evaluate.

    The masks of a video are read until each object of its expressions was seen, which the first one mostly does. A mask
    that cannot be read ends the search in its video: reading it again for the evaluation says what is wrong.

    Args:
        videos: with masks.
        expressions_file: for messages.
        all_of_a_video: name only videos whose masks show something, but none of the objects.
    """
    with ThreadPoolExecutor() as threads:
        for video, seen in zip(videos, threads.map(_ids_in_masks, videos), strict=True):
            if seen is None:
                continue
            if not all_of_a_video:
                yield from absent_objects(video, seen, expressions_file)
            elif foreign := foreign_values(video, seen):
                yield Problem("objects", str(expressions_file), f"video {video.name}: {foreign}")


def _ids_in_masks(video: VideoRecord) -> set[int] | None:
    """Ids in the masks of a video up to the one with which all objects were seen; None where one cannot be read."""
    seen: set[int] = set()
    if not isinstance(video.masks, PngMasks):
        return None
    for position in range(len(video.frame_names)):
        if seen.issuperset(video.object_ids):
            break
        try:
            seen.update(_ids_of(video.masks.path(position)))
        except ValueError:
            return None
    return seen


def absent_objects(video: VideoRecord, seen: Collection[int], expressions_file: Path) -> Iterator[Problem]:
    """Objects of expressions that masks should show.

    Objects that are in no mask and that no index file lists; and all of a video whose masks show something else, such
    as 255 in the place of ids.

    Args:
        video: with what is known of its objects.
        seen: ids in its masks.
        expressions_file: for messages.
    """
    unknown = [detail for _, detail in _unknown_objects(video, seen)]
    foreign = foreign_values(video, seen)
    if foreign and not unknown:
        unknown = [f"video {video.name}: {foreign}"]
    yield from (Problem("objects", str(expressions_file), detail) for detail in unknown)


def _unknown_objects(video: VideoRecord, seen: Collection[int]) -> Iterator[tuple[str, str]]:
    """Names of expressions about objects that no mask shows, and what is wrong with each."""
    known = frozenset(seen) | (video.listed_objects or frozenset())
    for expression in video.expressions:
        for number in sorted(set(expression.known_ids) - known):
            yield (
                expression.name,
                f"video {video.name}, expression {expression.name}: object {number} is in no mask of the video "
                f"(ids there: {shown(sorted(known))})",
            )


def foreign_values(video: VideoRecord, seen: Collection[int]) -> str:
    """What is wrong with masks that show something, but none of the objects; empty where they show one or nothing.

    Args:
        video: with what is known of its objects.
        seen: ids in all its masks.
    """
    ids, listed = frozenset(seen), video.listed_objects or frozenset()
    if not video.object_ids or not ids.isdisjoint(video.object_ids) or ids <= listed:
        return ""
    expected = f"expected the ids {shown(list(video.object_ids))} as pixel values"
    return f"its masks show the values {shown(sorted(ids))}, but none of the objects; {expected}"


def visible_objects(
    mask_folder: Path,
    *,
    frames: Mapping[str, tuple[str, ...]],
    keep_in: Path,
    cache: Path | None = None,
    faults: list[MaskFault],
) -> Visibility:
    """In which frames each object of each video of a split is visible.

    Args:
        mask_folder: masks are `<video>/<frame>.png` in it.
        frames: frame names of each video; a kept result is used only for the same ones, and only as long as no mask
            file was added, removed or replaced.
        keep_in: the file to keep the result in; where it cannot be written, the user's cache folder takes it.
        cache: folder that the user chose, used instead of both.
        faults: takes masks that are missing or damaged; nothing is visible there. With one of them nothing is kept, so
            that the next start finds it again.
    """
    found: list[MaskFault] = []

    def make() -> dict[str, dict[str, list[int]]]:
        total = sum(len(names) for names in frames.values())
        logger.info("reading %d masks under %s once, to learn where each object is visible", total, mask_folder)
        with ThreadPoolExecutor() as threads:
            contents = threads.map(lambda *item: _visible_in(*item, faults=found), folders, frames.items())
            content = dict(zip(frames, contents, strict=True))
        if found:
            raise _Damaged(content)
        return content

    # the time of a folder changes when a file in it is added, removed or replaced
    folders = [path_inside(mask_folder, video, what=f"{mask_folder}: video") for video in frames]
    key = fingerprint(folders, root=mask_folder, version=FORMAT, settings=repr(list(frames.items())))
    name = f"visible_objects_{key[:16]}.json"
    candidates = [keep_in, user_cache_folder() / name] if cache is None else [cache / name]
    try:
        content = cached(candidates, key, make, _Kept).root
    except _Damaged as damaged:
        content = damaged.content
        faults += sorted(found, key=lambda fault: fault.problem.name)
    return {
        video: {int(object_id): frozenset(positions) for object_id, positions in objects.items()}
        for video, objects in content.items()
    }


class _Damaged(Exception):  # it ends the making of what is kept, and is no error
    """Some masks are missing or damaged; `content` is what the others show."""

    def __init__(self, content: dict[str, dict[str, list[int]]]) -> None:
        self.content = content


def _visible_in(
    mask_folder: Path, video: tuple[str, tuple[str, ...]], *, faults: list[MaskFault]
) -> dict[str, list[int]]:
    """Positions of the frames that show an object, by its id as a key of JSON.

    Args:
        mask_folder: of the video.
        video: its name, and those of its frames.
        faults: takes masks that cannot be read.
    """
    name, frames = video
    positions: dict[str, list[int]] = {}
    for position, frame in enumerate(frames):
        path = path_inside(mask_folder, f"{frame}.png", what=f"{mask_folder}: mask")
        try:
            ids = _ids_of(path)
        except ValueError as error:
            kind: ProblemKind = "unreadable" if path.exists() else "missing"
            faults.append(MaskFault(name, Problem(kind, str(path), str(error).removeprefix(f"{path}: "))))
            continue
        for object_id in ids:
            positions.setdefault(str(object_id), []).append(position)
    return positions


def _ids_of(path: Path) -> list[int]:
    """Ids that a mask shows."""
    counts = np.bincount(read_index_png(path).ravel())
    return [number for number in np.flatnonzero(counts).tolist() if number]
