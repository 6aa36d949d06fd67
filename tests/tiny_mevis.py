"""A tiny folder of MeViS, and how the tests read and change it."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from datasets.definition import SplitRequest
from datasets.mevis import MEVIS, MevisSettings
from tests.data_settings import data_config

HEIGHT, WIDTH, NUM_FRAMES = 24, 40, 5


def square(left):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[4:12, left : left + 8] = 1
    return mask


def run_lengths(mask):
    encoded = mask_utils.encode(mask)
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def make_video(frames, expressions):
    return {"vid_id": 0, "frames": frames, "expressions": expressions}


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    write(path, content)


def config(root, **changes):
    fields = {"num_frames": 2, "short_side": HEIGHT, "long_side": WIDTH, "flip_probability": 0, "num_workers": 0}
    return data_config("mevis", root=root, **(fields | {"eval_split": "train"} | changes))


def read(root, split="train", **kinds):
    return MEVIS.read(SplitRequest(MevisSettings(), root, split, **kinds))


def problems_of(contents):
    return [(problem.kind, problem.name, problem.detail) for problem in contents.problems]


def expressions_of(contents):
    return {video.name: [e.name for e in video.expressions] for video in contents.videos}


def write_tiny_mevis(root):
    """Video "one": object 7 on the left in all frames, 9 overlaps it in frames 2 to 4."""
    frames = [f"{i:05d}" for i in range(NUM_FRAMES)]
    for split in ("train", "valid"):
        folder = root / split / "JPEGImages" / "one"
        folder.mkdir(parents=True)
        for i, name in enumerate(frames):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i, dtype=np.uint8)).save(folder / f"{name}.jpg")
    sentences = {"0": [7], "1": [9], "2": [7, 9]}
    expressions = {k: {"exp": f"Sentence {k}", "obj_id": [0], "anno_id": ids} for k, ids in sentences.items()}
    write(root / "train" / "meta_expressions.json", {"videos": {"one": make_video(frames, expressions)}})
    secret = {name: {"exp": entry["exp"]} for name, entry in expressions.items()}
    write(root / "valid" / "meta_expressions.json", {"videos": {"one": make_video(frames, secret)}})
    masks = {
        "7": [run_lengths(square(2))] * NUM_FRAMES,
        "9": [None, None] + [run_lengths(square(6))] * 3,
    }
    write(root / "train" / "mask_dict.json", masks)
    return root
