"""Tiny RefCOCO folders in both layouts, with the same images, objects and sentences; how to read and damage them.

Objects are axis-parallel rectangles on whole pixels, so their masks are known without pycocotools.
"""

import itertools
import json
import pickle
import re
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.definition import SplitRequest
from datasets.refcoco import REFCOCO, RefcocoSettings

HEIGHT, WIDTH = 48, 64

RECTANGLES = {11: (4, 6, 20, 30), 12: (24, 8, 44, 28), 13: (10, 20, 40, 50), 14: (2, 40, 30, 60), 15: (8, 8, 40, 30)}
"""(top, left, bottom, right) of each annotation; the last row and column are outside."""

IMAGES = {901: (11, 12), 902: (13,), 903: (14,), 904: (15,)}
"""Annotations that sentences mean, by image id."""

SENTENCES = {
    11: ("the Red  square on the left", "upper one"),
    12: ("lower square",),
    13: ("the big one", "square in the middle"),
    14: ("right square",),
    15: ("a square",),
}
SPLIT_OF_IMAGE = {901: "train", 902: "train", 903: "val", 904: "testA"}


def file_name(image: int) -> str:
    return f"COCO_train2014_{image:012d}.jpg"


def polygon(annotation: int) -> list[list[float]]:
    top, left, bottom, right = RECTANGLES[annotation]
    return [[float(x) for x in (left, top, right, top, right, bottom, left, bottom)]]


def run_lengths(annotation: int) -> dict[str, list[int]]:
    """Uncompressed, column by column, as COCO stores crowds."""
    flat = mask(annotation).flatten(order="F")
    borders = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    edges = [0, *borders.tolist(), flat.size]
    return {"size": [HEIGHT, WIDTH], "counts": [b - a for a, b in itertools.pairwise(edges)]}


def mask(annotation: int) -> np.ndarray:
    top, left, bottom, right = RECTANGLES[annotation]
    result = np.zeros((HEIGHT, WIDTH), dtype=bool)
    result[top:bottom, left:right] = True
    return result


def box(annotation: int) -> list[float]:
    top, left, bottom, right = RECTANGLES[annotation]
    return [float(left), float(top), float(right - left), float(bottom - top)]


def write_images(root: Path) -> Path:
    folder = root / "train2014"
    folder.mkdir(parents=True, exist_ok=True)
    for image, annotations in IMAGES.items():
        pixels = np.full((HEIGHT, WIDTH, 3), 60, dtype=np.uint8)
        for annotation in annotations:
            pixels[mask(annotation)] = (200, 10 * annotation, 30)
        Image.fromarray(pixels).save(folder / file_name(image), quality=95)
    return folder


def annotation_entry(annotation: int, image: int, number: int) -> dict:
    # One crowd-like annotation, so that both kinds of segmentation are read.
    segmentation = run_lengths(annotation) if annotation == 13 else polygon(annotation)
    area = int(mask(annotation).sum())
    return {
        "id": number,
        "image_id": image,
        "segmentation": segmentation,
        "bbox": box(annotation),
        "area": area,
        "iscrowd": 0,
        "category_id": 1,
    }


def image_of(annotation: int) -> int:
    return next(image for image, annotations in IMAGES.items() if annotation in annotations)


def write_refs_layout(root: Path, name: str = "refcoco", split_by: str = "unc", *, protocol: int = 2) -> Path:
    """`refs(<split_by>).p` and `instances.json`, as the REFER toolkit has them; returns `root`."""
    write_images(root)
    folder = root / name
    folder.mkdir(parents=True)
    refs, next_sentence = [], 0
    for number, annotation in enumerate(RECTANGLES):
        image = image_of(annotation)
        sentences = []
        for text in SENTENCES[annotation]:
            sentences.append({"sent_id": next_sentence, "sent": text, "raw": text.upper(), "tokens": text.split()})
            next_sentence += 1
        refs.append(
            {
                "ref_id": number,
                "ann_id": annotation,
                "image_id": image,
                "split": SPLIT_OF_IMAGE[image],
                "category_id": 1,
                "file_name": file_name(image).replace(".jpg", f"_{number}.jpg"),
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    with (folder / f"refs({split_by}).p").open("wb") as file:
        pickle.dump(refs, file, protocol=protocol)
    images = [{"id": image, "file_name": file_name(image), "height": HEIGHT, "width": WIDTH} for image in IMAGES]
    annotations = [annotation_entry(annotation, image_of(annotation), annotation) for annotation in RECTANGLES]
    (folder / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]})
    )
    return root


def write_instances_layout(root: Path, name: str = "refcoco") -> Path:
    """`instances_<name>_<split>.json` with an image entry and an annotation per sentence; returns `root`."""
    write_images(root)
    folder = root / name
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        images: list[dict] = []
        annotations: list[dict] = []
        for annotation, sentences in SENTENCES.items():
            image = image_of(annotation)
            if SPLIT_OF_IMAGE[image] != split:
                continue
            for text in sentences:
                number = len(images)
                images.append(
                    {
                        "id": number,
                        "original_id": image,
                        "file_name": file_name(image),
                        "height": HEIGHT,
                        "width": WIDTH,
                        "caption": text,
                        "dataset_name": name,
                    }
                )
                annotations.append(annotation_entry(annotation, number, number))
        (folder / f"instances_{name}_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]})
        )
    return root


# --- reading ---


def request_of(root, split, *, for_training=False, **settings):
    return SplitRequest(RefcocoSettings(**settings), root, split, for_training=for_training)


def read(root, split, **settings):
    return REFCOCO.read(request_of(root, split, **settings))


def sound_videos(root, split, **settings):
    """The records of a split with which nothing is wrong."""
    contents = read(root, split, **settings)
    assert contents.problems == ()
    return contents.videos


def problems_of(contents):
    """The problems; what Python says about a wrong type differs between its versions."""
    return [(p.kind, p.name, re.sub(r"TypeError\(.*\)\)$", "TypeError)", p.detail)) for p in contents.problems]


def sentences_by_image(videos):
    return {video.name[-3:]: [e.sentence for e in video.expressions] for video in videos}


TRAIN_SENTENCES = {
    "901": ["the Red  square on the left", "upper one", "lower square"],
    "902": ["the big one", "square in the middle"],
}
"""Sentences of the training split, by image."""


# --- damage ---


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_pickle(path, change):
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content))


def annotation_file(root):
    path = root / "refcoco" / "instances.json"
    return path if path.exists() else root / "refcoco" / "instances_refcoco_train.json"


def annotations_of(content, annotation):
    """The entries for this object: one, or one per sentence."""
    return [entry for entry in content["annotations"] if entry["bbox"] == box(annotation)]
