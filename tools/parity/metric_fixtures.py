"""Recomputes the outputs of the metric fixtures with our metrics: kind of fixture -> function."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from evaluation.ranked_report import BoxScore, MaskScore, RankedReport, RankedScore, score_boxes, score_masks
from metrics.overlap import OverlapScores
from metrics.region_boundary import SequenceMasks, frame_statistics, region_and_boundary, score_sequences
from tools.parity import inputs

Fixture = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
Masks = Bool[np.ndarray, "time height width"]


def run_metrics_a2d(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """Overlap and COCO figures of masks."""
    report = _report([score_masks(*sample) for sample in zip(*_masks(fixture), strict=True)])
    return {**_overlap_outputs(report.mask_overlap), "coco_stats": np.array(report.mask_ap)}


def run_metrics_refcoco(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """Overlap and COCO figures of masks and boxes, and the precision of ranked boxes."""
    annotations, predictions, scores = _masks(fixture)
    report = _report(
        [score_masks(*sample) for sample in zip(annotations, predictions, scores, strict=True)],
        [
            score_boxes(box, float(np.count_nonzero(mask)), predicted, ranking)
            for box, mask, predicted, ranking in zip(
                fixture["input/gt_boxes_xywh"], annotations, fixture["input/pred_boxes_xyxy"], scores, strict=True
            )
        ],
    )
    return {
        **_overlap_outputs(report.mask_overlap, "segm_"),
        **_overlap_outputs(report.box_overlap, "bbox_"),
        "coco_eval_masks": np.array(report.mask_ap),
        "coco_eval_bbox": np.array(report.box_ap),
        "second_segm_stats": np.array(report.mask_ap_by_box_corner),
        "refexp_giou_precision_1_5_10_sorted": np.array(report.first_hits),
    }


def run_metrics_davis(entry: dict[str, Any], fixture: Fixture, load_spec: object = None) -> Outputs:
    """J and F of each frame and their statistics, with and without void pixels."""
    shape = fixture["input/shape"]
    annotation = _unpack(fixture["input/annotation"], shape)
    prediction = _unpack(fixture["input/segmentation"], shape)
    void = _unpack(fixture["input/void"], shape)
    outputs: Outputs = {}
    for case, ignored in (("novoid", None), ("void", void)):
        for letter, per_frame in zip("JF", region_and_boundary(annotation, prediction, ignored), strict=True):
            outputs[f"{case}/{letter}_per_frame"] = per_frame
            outputs[f"{case}/{letter}_mean_recall_decay"] = np.array(frame_statistics(per_frame))
    region, boundary = region_and_boundary(*_large_masks(entry, float(fixture["large/J"])))
    outputs["large/J"], outputs["large/F"] = region[0], boundary[0]
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


def _report(masks: Sequence[MaskScore], boxes: Sequence[BoxScore] = ()) -> RankedReport:
    """The report of evaluation on these samples."""
    compared: Sequence[BoxScore | None] = boxes or [None] * len(masks)
    entries = [
        RankedScore(f"sample {i}", f"video {i}", "0", "0", "", mask, box)
        for i, (mask, box) in enumerate(zip(masks, compared, strict=True))
    ]
    return RankedReport(len(entries), len(entries), entries)


def _overlap_outputs(scores: OverlapScores | None, prefix: str = "") -> Outputs:
    if scores is None:
        raise ValueError("nothing was compared")
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
    """The pair of masks that a fixture describes by a recipe instead of storing it.

    The recipe names several prefixes, one for each set of fixtures, and no fixture names its set: we
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
    return min(pairs, key=lambda pair: abs(region_and_boundary(*pair)[0][0] - recorded_j))
