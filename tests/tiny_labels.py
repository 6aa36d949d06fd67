"""A tiny labelled video of two squares, as a folder of frames or a video file, with labels of each kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from datasets.definition import SplitContents, SplitRequest
from datasets.labelled_videos import LABELLED_VIDEOS, LabelledVideosSettings
from media.mask_png import write_index_png
from tests.video_files import write_video

HEIGHT, WIDTH, NUM_FRAMES = 32, 48, 12
LABELLED = (1, 4, 7, 10)
SENTENCES = {
    "objects": {"1": {"name": "dog", "sentences": ["The brown dog", "a dog on the left"]}, "2": ["the grey cat"]},
    "absent": ["the white dog"],
    "synonyms": {"dog": ["hound"]},
}


def ids_at(frame: int) -> np.ndarray:
    """Object 1 moves right along the top, object 2 lies at the bottom from frame 2 on."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    ids[2:14, 1 + frame : 13 + frame] = 1
    if frame >= 2:
        ids[18:30, 30:44] = 2
    return ids


def mask_of(number: int, frame: int) -> np.ndarray:
    """Of one object."""
    return ids_at(frame) == number


def pixels_at(frame: int) -> np.ndarray:
    """What the frame shows."""
    colours = np.array([[20, 20, 20], [150, 90, 30], [128, 128, 128]], dtype=np.uint8)
    return colours[ids_at(frame)]


def write_frames(folder: Path, pattern: str = "{:05d}.png") -> Path:
    """The video as a folder of images."""
    folder.mkdir(parents=True)
    for frame in range(NUM_FRAMES):
        Image.fromarray(pixels_at(frame)).save(folder / pattern.format(frame))
    return folder


def write_file(path: Path) -> Path:
    """The video as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, np.stack([pixels_at(frame) for frame in range(NUM_FRAMES)]))


def write_pngs(folder: Path, frames: tuple[int, ...] = LABELLED, sentences: Any = SENTENCES) -> Path:
    """Labels as palette PNGs with a file of sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        write_index_png(folder / f"{frame:05d}.png", ids_at(frame))
    write(folder / "sentences.json", sentences)
    return folder


def write_root(root: Path, *names: str) -> Path:
    """A folder of labelled videos, each a folder of frames with PNG labels."""
    for name in names or ("pets",):
        write_frames(root / name / "frames")
        write_pngs(root / name / "labels")
    return root


def write(path: Path, content: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read(root: Path, split: str = "all", *, for_training: bool = True, **settings: Any) -> SplitContents:
    """A split of the videos in a folder."""
    validated = LabelledVideosSettings.model_validate(settings)
    return LABELLED_VIDEOS.read(SplitRequest(validated, root, split, for_training=for_training))


def problems_of(contents: SplitContents) -> list[str]:
    """What was found wrong."""
    return [f"{problem.kind}: {problem}" for problem in contents.problems]


def present(contents: SplitContents) -> dict[str, tuple[int, ...]]:
    """Sentences about objects of the only video."""
    (video,) = contents.videos
    return {e.sentence: e.known_ids for e in video.expressions if not e.is_absent}


# ---- JSON of labelling tools ----


def box_polygon(mask: np.ndarray) -> list[float]:
    """The corners of a rectangle, so that pycocotools draws exactly its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return [float(value) for value in (left, top, right, top, right, bottom, left, bottom)]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as pycocotools writes them."""
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as a list of numbers, column by column, background first."""
    flat = mask.astype(np.int8).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def coco(names: dict[int, str], *, style: str = "polygons", first_image_id: int = 1, **extra: Any) -> dict[str, Any]:
    """A COCO file about the dog and the cat in some frames.

    Args:
        names: `file_name` of each frame.
        style: "polygons", "compressed" or "uncompressed".
        first_image_id: tools count images from 0 or 1.
        extra: keys of every annotation; a value that can be called is given the number of the object.
    """
    encode = {"polygons": lambda mask: [box_polygon(mask)], "compressed": compressed, "uncompressed": uncompressed}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (frame, name) in enumerate(names.items(), start=first_image_id):
        images.append({"id": index, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 0})
        for number in (1, 2):
            mask = mask_of(number, frame)
            if frame not in LABELLED or not mask.any():
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": number,
                    "segmentation": encode[style](mask),
                    "area": float(mask.sum()),
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                    "iscrowd": int(style == "uncompressed"),
                    **{key: value(number) if callable(value) else value for key, value in extra.items()},
                }
            )
    categories = [{"id": 1, "name": "dog", "supercategory": ""}, {"id": 2, "name": "cat", "supercategory": ""}]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def youtube_vis(folder: str = "pets", frames: tuple[int, ...] = tuple(range(NUM_FRAMES))) -> dict[str, Any]:
    """A YouTube-VIS file with null where an object is not seen or not labelled."""
    annotations = []
    for number in (1, 2):
        masks = [mask_of(number, frame) if frame in LABELLED else np.zeros((HEIGHT, WIDTH), bool) for frame in frames]
        annotations.append(
            {
                "id": 10 + number,
                "video_id": 5,
                "category_id": number,
                "iscrowd": 0,
                "segmentations": [uncompressed(mask) if mask.any() else None for mask in masks],
                "bboxes": [None] * len(masks),
                "areas": [None] * len(masks),
            }
        )
    names = [f"{folder}/{frame:05d}.jpg" for frame in frames]
    videos = [{"id": 5, "file_names": names, "height": HEIGHT, "width": WIDTH, "length": len(names)}]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    return {"info": {}, "videos": videos, "annotations": annotations, "categories": categories}
