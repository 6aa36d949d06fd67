"""In which frames each object can be seen: read from all masks once, then kept in a small file."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.cache import cached, fingerprint
from datasets.problems import Problem
from datasets.records import VideoRecord
from media.files import path_inside
from media.mask_png import read_index_png
from structures.user_cache import user_cache_folder

logger = logging.getLogger(__name__)

FORMAT = 4
"""Raise when the meaning of the file changes; older files are then made anew."""

FILE_NAME = "visible_objects.json"

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
        problems: takes expressions about an object that is neither in a mask of the video nor among its
            `listed_objects`.

    Raises:
        ValueError: a mask is missing or unreadable.
    """
    frames = {video.name: video.frame_names for video in videos}
    visibility = visible_objects(mask_folder, frames=frames, keep_in=keep_in, cache=cache)
    complete = tuple(replace(video, visible=visibility[video.name]) for video in videos)
    for video in complete:
        problems += [Problem("objects", str(expressions_file), detail) for detail in _unknown_objects(video)]
    return complete


def _unknown_objects(video: VideoRecord) -> Iterator[str]:
    known = video.visible.keys() | (video.listed_objects or frozenset())
    for expression in video.expressions:
        for number in sorted(set(expression.known_ids) - known):
            yield (
                f"video {video.name}, expression {expression.name}: object {number} is in no mask of the video "
                f"(ids there: {sorted(known)})"
            )


def visible_objects(
    mask_folder: Path, *, frames: Mapping[str, tuple[str, ...]], keep_in: Path, cache: Path | None = None
) -> Visibility:
    """In which frames each object of each video of a split is visible.

    Args:
        mask_folder: masks are `<video>/<frame>.png` in it.
        frames: frame names of each video; a kept result is used only for the same ones, and only as long as no mask
            file was added, removed or replaced.
        keep_in: the file to keep the result in; where it cannot be written, the user's cache folder takes it.
        cache: folder that the user chose, used instead of both.

    Raises:
        ValueError: a mask is missing or unreadable.
    """

    def make() -> dict[str, dict[str, list[int]]]:
        total = sum(len(names) for names in frames.values())
        logger.info("reading %d masks under %s once, to learn where each object is visible", total, mask_folder)
        with ThreadPoolExecutor() as threads:
            contents = threads.map(_visible_in, folders, frames.values())
            return dict(zip(frames, contents, strict=True))

    # the time of a folder changes when a file in it is added, removed or replaced
    folders = [path_inside(mask_folder, video, what=f"{mask_folder}: video") for video in frames]
    key = fingerprint(folders, root=mask_folder, version=FORMAT, settings=repr(list(frames.items())))
    name = f"visible_objects_{key[:16]}.json"
    candidates = [keep_in, user_cache_folder() / name] if cache is None else [cache / name]
    return {
        video: {int(object_id): frozenset(positions) for object_id, positions in objects.items()}
        for video, objects in cached(candidates, key, make).items()
    }


def _visible_in(mask_folder: Path, frames: tuple[str, ...]) -> dict[str, list[int]]:
    """Positions of the frames that show an object, by its id as a key of JSON."""
    positions: dict[str, list[int]] = {}
    for position, frame in enumerate(frames):
        counts = np.bincount(
            read_index_png(path_inside(mask_folder, f"{frame}.png", what=f"{mask_folder}: mask")).ravel()
        )
        for object_id in np.flatnonzero(counts).tolist():
            if object_id:
                positions.setdefault(str(object_id), []).append(position)
    return positions
