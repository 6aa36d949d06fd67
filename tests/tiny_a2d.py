"""Writes tiny data in the layouts of A2D-Sentences and JHMDB-Sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

from tests.video_files import moving_pictures, write_video

HEIGHT, WIDTH = 48, 64


def actor_mask(actor: int, frame: int) -> np.ndarray:
    """Actors are boxes, one below the other, that move right by a pixel per frame: bool (height, width)."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2 + 10 * actor : 10 + 10 * actor, 3 + frame : 20 + frame] = True
    return mask


def write_h5(path: Path, actors: Sequence[int], masks: Sequence[np.ndarray]) -> None:
    """As the real files: width before height, and no first axis for a single actor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.stack([mask.T for mask in masks]).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["instance"] = np.array(actors, dtype=np.int64)
        file["reMask"] = stored[0] if len(actors) == 1 else stored
        file["reBBox"] = np.zeros((4, len(actors)))


def replace_masks(path: Path, masks: np.ndarray, *, instances: Sequence[int] | None = None) -> None:
    """Puts other masks, (instance, height, width) or (height, width), into an annotation file, and other instances."""
    with h5py.File(path, "r+") as file:
        del file["reMask"]
        file["reMask"] = masks.swapaxes(-1, -2).astype(np.uint8)
        if instances is not None:
            del file["instance"]
            file["instance"] = np.array(instances, dtype=np.int64)


def write_tiny_a2d(root: Path, clips: str = "clips320H") -> Path:
    """Videos "b" (20 frames, actors 0 and 1) and "a" (3 frames, actor 0) to train, "t" (12 frames) to test.

    Actor 1 of "b" is annotated in frame 15 only; "m" is a missed video.
    """
    release, texts = root / "Release", root / "text_annotations"
    (release / clips).mkdir(parents=True)
    texts.mkdir(parents=True)
    videos: Mapping[str, tuple[int, int, Mapping[int, tuple[int, ...]]]] = {
        "b": (20, 0, {1: (0,), 15: (0, 1)}),
        "a": (3, 0, {2: (0,)}),
        "t": (12, 1, {1: (0, 2), 6: (2,), 12: (0,)}),
        "m": (5, 1, {}),
    }
    rows = []
    for seed, (video, (num_frames, subset, annotated)) in enumerate(videos.items()):
        write_video(release / clips / f"{video}.mp4", moving_pictures(num_frames, seed=seed), options={"g": "6"})
        rows.append(f"{video},13,0:00:00,0:00:01,{HEIGHT},{WIDTH},{num_frames},{len(annotated)},{subset}")
        for frame, actors in annotated.items():
            masks = [actor_mask(actor, frame) for actor in actors]
            write_h5(texts / "a2d_annotation_with_instances" / video / f"{frame:05d}.h5", actors, masks)
    (release / "videoset.csv").write_text("\n".join(rows) + "\n")
    (texts / "a2d_missed_videos.txt").write_text("m\n")
    (texts / "a2d_annotation.txt").write_text(
        "video_id,instance_id,query\n"
        "b,0,A man  on the Left \n"
        "b,1,another man\n"
        "b,1 (copy),another man\n"
        'a,0,"a dog, running"\n'
        "t,0,a cat\n"
        "t,2,the café's bird\n",
        encoding="utf-8",
    )
    return root


def write_tiny_jhmdb(root: Path, num_frames: Mapping[str, int] | None = None) -> Path:
    """Videos of two actions, one sentence each."""
    num_frames = num_frames or {"walk_2": 9, "catch_1": 5}
    for video, count in num_frames.items():
        action = video.split("_", maxsplit=1)[0]
        frames = root / "Rename_Images" / action / video
        masks = root / "puppet_mask" / action / video
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for i, pixels in enumerate(moving_pictures(count)):
            Image.fromarray(pixels).save(frames / f"{i + 1:05d}.png")
        part_mask = np.stack([actor_mask(0, i) for i in range(count)], axis=-1).astype(np.uint8)
        scipy.io.savemat(masks / "puppet_mask.mat", {"part_mask": part_mask}, do_compression=True)
    lines = [f"{video},A man  does {video}" for video in num_frames]
    (root / "jhmdb_annotation.txt").write_text("\n".join(["video_id,query", *lines]) + "\n")
    return root
