"""In which frames each object can be seen: read from all masks once, then kept in a small file."""

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets.cache import user_cache_folder
from media.files import write_json
from media.mask_png import read_index_png

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raise when the meaning of the file changes; older files are then made anew."""

FILE_NAME = "visible_objects.json"

Visibility = Mapping[str, Mapping[int, frozenset[int]]]
"""Video -> object id -> positions of the frames in which it has at least one pixel."""


def visible_objects(
    mask_folder: Path,
    *,
    frames: Mapping[str, tuple[str, ...]],
    keep_in: Path,
    cache: Path | None = None,
    num_threads: int | None = None,
) -> Visibility:
    """In which frames each object of each video of a split is visible.

    Args:
        mask_folder: masks are `<video>/<frame>.png` in it.
        frames: frame names of each video; a kept result is used only for the same ones, and only as long as no mask
            file was added, removed or replaced.
        keep_in: the file to keep the result in; where it cannot be written, the user's cache folder takes it.
        cache: folder that the user chose, used instead of both.
        num_threads: that read masks; None chooses.

    Raises:
        ValueError: a mask is missing or unreadable.
    """
    key = _key(mask_folder, frames)
    name = f"visible_objects_{key[:16]}.json"
    places = (keep_in, user_cache_folder() / name) if cache is None else (cache / name,)
    for place in places:
        found = _read(place, key)
        if found is not None:
            return found
    total = sum(len(names) for names in frames.values())
    logger.info("reading %d masks under %s once, to learn where each object is visible", total, mask_folder)
    with ThreadPoolExecutor(num_threads) as threads:
        found = dict(
            zip(
                frames,
                threads.map(lambda item: _visible_in(mask_folder / item[0], item[1]), frames.items()),
                strict=True,
            )
        )
    _keep(places, {"key": key, "videos": {video: _as_lists(objects) for video, objects in found.items()}})
    return found


def _key(mask_folder: Path, frames: Mapping[str, tuple[str, ...]]) -> str:
    """Changes with the frames, and with the time at which a video's folder of masks last changed."""
    digest = hashlib.sha256(f"{FORMAT}\n".encode())
    for video, names in frames.items():
        try:
            changed = (mask_folder / video).stat().st_mtime_ns
        except OSError:
            changed = 0  # reading the masks will say what is missing
        digest.update(f"{video} {changed} {' '.join(names)}\n".encode())
    return digest.hexdigest()


def _visible_in(mask_folder: Path, frames: tuple[str, ...]) -> dict[int, frozenset[int]]:
    positions: dict[int, set[int]] = {}
    for position, frame in enumerate(frames):
        counts = np.bincount(read_index_png(mask_folder / f"{frame}.png").ravel())
        for object_id in np.flatnonzero(counts).tolist():
            if object_id:
                positions.setdefault(object_id, set()).add(position)
    return {object_id: frozenset(found) for object_id, found in positions.items()}


def _as_lists(objects: Mapping[int, frozenset[int]]) -> dict[str, list[int]]:
    return {str(object_id): sorted(positions) for object_id, positions in objects.items()}


def _read(place: Path, key: str) -> Visibility | None:
    try:
        content = json.loads(place.read_text())
        if content["key"] != key:
            return None
        return {
            video: {int(object_id): frozenset(positions) for object_id, positions in objects.items()}
            for video, objects in content["videos"].items()
        }
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is damaged and will be made anew", place)
        return None


def _keep(places: tuple[Path, ...], content: dict[str, object]) -> None:
    for place in places:
        try:
            write_json(place, content, indent=None)
        except OSError:
            continue
        return
    logger.warning("cannot write any of %s; masks will be read again next time", ", ".join(map(str, places)))
