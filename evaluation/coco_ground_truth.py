"""Annotated frames as ground truth in the format of COCO: one image and one annotation per sentence and frame."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.readers import mask_size
from datasets.records import Expression, VideoRecord
from metrics.coco_map import CATEGORY


def sample_id(video: str, frame_name: str, instance: str | None) -> str:
    """Identifier of a sample in the published files: v_<video>_f_<frame>_i_<instance>, the last part only in A2D."""
    sample = f"v_{video}_f_{int(frame_name)}"
    return sample if instance is None else f"{sample}_i_{instance}"


def annotated_samples(video: VideoRecord) -> Iterator[tuple[int, list[Expression]]]:
    """Position of each annotated frame, and the sentences about objects that it shows."""
    for position in sorted(video.annotated or ()):
        shown = [e for e in video.expressions if any(position in video.visible.get(n, ()) for n in e.known_ids)]
        if shown:
            yield position, shown


def coco_ground_truth(videos: Sequence[VideoRecord], *, names_instances: bool) -> dict[str, Any]:
    """The content of a ground-truth file; images have the size of their masks, as published.

    Args:
        videos: with annotated frames.
        names_instances: whether names of samples end in the instance.

    Raises:
        ValueError: a mask is missing or damaged, or must be as large as its frame and is not.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video in videos:
        frame_size = video.frames.size()
        for position, expressions in annotated_samples(video):
            if video.masks is None:
                raise ValueError(f"video {video.name} has no masks")
            size = mask_size(video.masks, position, frame_size=frame_size)
            for expression in expressions:
                masks = video.masks.read((position,), size=size, objects=expression.known_ids)
                mask = coco_mask.encode(np.asfortranarray(masks[:, 0].any(axis=0), dtype=np.uint8))
                image = sample_id(video.name, video.frame_names[position], expression.name if names_instances else None)
                images.append({"id": image, "height": size[0], "width": size[1]})
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes 0 for "not matched"
                        "image_id": image,
                        "category_id": CATEGORY,
                        "iscrowd": 0,
                        "area": float(coco_mask.area(mask)),
                        "bbox": coco_mask.toBbox(mask).tolist(),
                        "segmentation": {"size": list(size), "counts": mask["counts"].decode("ascii")},
                    }
                )
    return {"images": images, "annotations": annotations, "categories": [{"id": CATEGORY, "name": "dummy_class"}]}
