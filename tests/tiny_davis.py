"""Writes two tiny videos in the layout of DAVIS-2017 with the sentences of Ref-DAVIS17."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from media.mask_png import write_index_png
from structures.object_maps import VOID_INDEX
from tests.tiny_ref_youtube_vos import object_map

NUM_FRAMES = 5
OBJECTS = {"one": 1, "two": 2}


def write_tiny_davis(root: Path, *, text_encoder: Path) -> Path:
    """Videos "one" and "two" with as many objects and a void band, and sentences about an "absent" one, too.

    The masks of the semi-supervised task join all objects to one.
    """
    shutil.copytree(text_encoder, root / "text_encoder")
    described: dict[str, object] = {}
    names = [f"{i:05d}" for i in range(NUM_FRAMES)]
    for video, num_objects in OBJECTS.items():
        frames, masks, semi_supervised = (
            root / kind / "480p" / video for kind in ("JPEGImages", "Annotations_unsupervised", "Annotations")
        )
        for folder in (frames, masks, semi_supervised):
            folder.mkdir(parents=True)
        for i, name in enumerate(names):
            ids = object_map({number: range(NUM_FRAMES) for number in range(1, num_objects + 1)}, i)
            Image.fromarray(np.stack([ids * 60, ids, ids], axis=-1)).save(frames / f"{name}.jpg")
            ids[-2:] = VOID_INDEX
            write_index_png(masks / f"{name}.png", ids)
            write_index_png(semi_supervised / f"{name}.png", np.where(ids == VOID_INDEX, ids, np.minimum(ids, 1)))
        expressions = {
            str(4 * o + k): {"exp": f"a square {k}", "obj_id": str(o + 1)} for o in range(num_objects) for k in range(4)
        }
        described[video] = {"frames": names, "expressions": expressions}
    described["absent"] = described["one"]
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": described}))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{video}\n" for video in OBJECTS))
    return root
