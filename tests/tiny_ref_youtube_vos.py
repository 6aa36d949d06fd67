"""Writes a tiny data set in the layout of Ref-YouTube-VOS, with frames and masks that are easy to predict."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from media.mask_png import write_index_png

HEIGHT, WIDTH = 24, 40
OBJECT_SIZE = 6


def object_corner(object_id: int, frame: int) -> tuple[int, int]:
    """(top, left) of an object's square: one row of squares per object, which move right by one pixel per frame."""
    return 1 + (object_id - 1) * (OBJECT_SIZE + 1), 2 + frame


def object_map(visible: Mapping[int, Iterable[int]], frame: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Object ids of one frame: each object is drawn in the frames given for it."""
    ids = np.zeros(size, dtype=np.uint8)
    for object_id, frames in visible.items():
        if frame in frames:
            top, left = object_corner(object_id, frame)
            ids[top : top + OBJECT_SIZE, left : left + OBJECT_SIZE] = object_id
    return ids


def write_video(
    root: Path,
    split: str,
    video: str,
    *,
    num_frames: int,
    visible: Mapping[int, Iterable[int]],
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> list[str]:
    """Frames and masks of one video; returns the frame names, five apart as in the real data."""
    frames = root / split / "JPEGImages" / video
    masks = root / split / "Annotations" / video
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    names = [f"{5 * i:05d}" for i in range(num_frames)]
    for i, name in enumerate(names):
        ids = object_map(visible, i, size)
        pixels = np.stack([ids * 60, np.full_like(ids, 10 * i), np.full_like(ids, 128)], axis=-1)
        Image.fromarray(pixels).save(frames / f"{name}.jpg", quality=95)
        write_index_png(masks / f"{name}.png", ids)
    return names


def write_expressions(root: Path, split: str, videos: Mapping[str, object]) -> Path:
    """The expressions file of a split."""
    path = root / "meta_expressions" / split / "meta_expressions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": videos}))
    return path


def write_tiny_data(root: Path) -> Path:
    """Two training videos (10 and 3 frames, 2 objects each) and two valid videos of 5 frames; returns `root`.

    Object 2 of video "long" shows only in frames 8 and 9, so two of its windows of four frames are without it.
    """
    described = {}
    for video, num_frames, visible in (
        ("long", 10, {1: range(10), 2: (8, 9)}),
        ("short", 3, {1: range(3), 2: range(3)}),
    ):
        names = write_video(root, "train", video, num_frames=num_frames, visible=visible)
        described[video] = {
            "frames": names,
            "expressions": {
                "0": {"exp": "The square  on the Left", "obj_id": "1", "kind": "appearance"},
                "1": {"exp": "a square moving right", "obj_id": "2", "kind": "motion"},
                "2": {"exp": "the upper square", "obj_id": "1"},
            },
        }
    write_expressions(root, "train", described)
    categories = {"1": {"category": "bear"}, "2": {"category": "zebra"}}
    meta = {"videos": {video: {"objects": categories} for video in described}}
    (root / "train" / "meta.json").write_text(json.dumps(meta))
    valid = {}
    for video in ("v_b", "v_a"):
        names = write_video(root, "valid", video, num_frames=5, visible={1: range(5), 2: range(2)})
        valid[video] = {
            "frames": names,
            "expressions": {
                "0": {"exp": "a square", "obj_id": "1", "kind": "appearance"},
                "1": {"exp": "a square that leaves", "obj_id": "2", "kind": "motion"},
            },
        }
    write_expressions(root, "valid", valid)
    return root
