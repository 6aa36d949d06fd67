"""Precision at overlap thresholds, overall IoU and mean IoU of the highest-scoring prediction of each sample.

Source: the measures of Gavrilyuk et al., "Actor and Action Video Segmentation from a Sentence" (CVPR 2018), in the
variant that SOC and its relatives compute.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

IOU_SMOOTHING = 1e-6
"""Added to intersection and union of a sample, so that two empty masks agree."""

REFEXP_THRESHOLD = 0.5

REFEXP_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class OverlapScores:
    """Overlap of the chosen predictions with the annotation.

    Attributes:
        precision_at: share of samples whose IoU is strictly greater than each of `PRECISION_THRESHOLDS`.
        overall_iou: sum of all intersections over sum of all unions; large objects count more.
        mean_iou: average over samples.
    """

    precision_at: tuple[float, ...]
    overall_iou: float
    mean_iou: float


@dataclass(slots=True)
class OverlapMeter:
    """Collects intersection and union of samples, one by one.

    Attributes:
        intersections: of each sample; pixels, or square pixels of boxes.
        unions: of each sample.
    """

    intersections: list[float] = field(default_factory=list)
    unions: list[float] = field(default_factory=list)

    def add_masks(
        self,
        annotation: Bool[np.ndarray, "height width"],
        predictions: Bool[np.ndarray, "query height width"],
        scores: Float[np.ndarray, " query"],
    ) -> None:
        """Add a sample; its prediction is the mask of the highest score."""
        chosen = predictions[best_query(scores)]
        if chosen.shape != annotation.shape:
            raise ValueError(f"predictions of shape {predictions.shape} do not fit annotation {annotation.shape}")
        self.add(float(np.count_nonzero(annotation & chosen)), float(np.count_nonzero(annotation | chosen)))

    def add_boxes(
        self,
        annotation_xyxy_px: Float[np.ndarray, "4"],
        predictions_xyxy_px: Float[np.ndarray, "query 4"],
        scores: Float[np.ndarray, " query"],
    ) -> None:
        """Add a sample; its prediction is the box of the highest score."""
        chosen = predictions_xyxy_px[best_query(scores)]
        intersection, union = box_overlap(annotation_xyxy_px[None], chosen[None])
        self.add(float(intersection[0]), float(union[0]))

    def add(self, intersection: float, union: float) -> None:
        """Add a sample of which the overlap is known."""
        self.intersections.append(float(intersection))
        self.unions.append(float(union))

    def merge(self, other: "OverlapMeter") -> None:
        """Add the samples of another meter, of another process for instance."""
        self.intersections.extend(other.intersections)
        self.unions.extend(other.unions)

    def compute(self) -> OverlapScores:
        """The scores of all samples so far.

        Raises:
            ValueError: there is no sample.
        """
        if not self.unions:
            raise ValueError("no sample was added: there is nothing to score")
        intersections, unions = np.array(self.intersections), np.array(self.unions)
        ious = np.array([iou(*sample) for sample in zip(self.intersections, self.unions, strict=True)])
        total = unions.sum()
        return OverlapScores(
            precision_at=tuple(float((ious > threshold).mean()) for threshold in PRECISION_THRESHOLDS),
            overall_iou=float(intersections.sum() / total) if total else 1.0,
            mean_iou=float(ious.mean()),
        )


def iou(intersection: float, union: float) -> float:
    """Intersection over union of a sample, 1 where both masks are empty."""
    return (intersection + IOU_SMOOTHING) / (union + IOU_SMOOTHING)


def best_query(scores: Float[np.ndarray, " query"]) -> int:
    """Index of the highest score; of equal ones the last, as in the reference."""
    if not len(scores):
        raise ValueError("scores must hold at least one query, got none")
    return len(scores) - 1 - int(np.argmax(scores[::-1]))


def box_overlap(
    boxes_xyxy_px: Shaped[np.ndarray, "box 4"], others_xyxy_px: Shaped[np.ndarray, "box 4"]
) -> tuple[Float64[np.ndarray, " box"], Float64[np.ndarray, " box"]]:
    """Area of intersection and of union of each pair of boxes."""
    boxes, others = boxes_xyxy_px.astype(np.float64), others_xyxy_px.astype(np.float64)
    top_left = np.maximum(boxes[:, :2], others[:, :2])
    bottom_right = np.minimum(boxes[:, 2:], others[:, 2:])
    intersection = (bottom_right - top_left).clip(min=0).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return intersection, area - intersection


def box_giou(
    boxes_xyxy_px: Shaped[np.ndarray, "box 4"], others_xyxy_px: Shaped[np.ndarray, "box 4"]
) -> Float64[np.ndarray, " box"]:
    """Generalised IoU of each pair of boxes: IoU minus the empty share of the smallest box round both."""
    intersection, union = box_overlap(boxes_xyxy_px, others_xyxy_px)
    top_left = np.minimum(boxes_xyxy_px[:, :2], others_xyxy_px[:, :2]).astype(np.float64)
    bottom_right = np.maximum(boxes_xyxy_px[:, 2:], others_xyxy_px[:, 2:]).astype(np.float64)
    hull = (bottom_right - top_left).prod(axis=1)
    return intersection / union - (hull - union) / hull


def first_hit_rank(
    annotation_xyxy_px: Float[np.ndarray, "4"],
    predictions_xyxy_px: Float[np.ndarray, "query 4"],
    scores: Float[np.ndarray, " query"],
) -> int | None:
    """Rank (from 0) of the best-scoring box whose GIoU with the annotation is at least one half; None without one."""
    order = np.argsort(-scores, kind="stable")
    ranked = predictions_xyxy_px[order]
    giou = box_giou(ranked, np.broadcast_to(annotation_xyxy_px, ranked.shape))
    hits: Int64[np.ndarray, " hit"] = np.flatnonzero(giou >= REFEXP_THRESHOLD)
    return int(hits[0]) if len(hits) else None


def refexp_precision(ranks: list[int | None]) -> tuple[float, ...]:
    """Share of samples with a hit among the first 1, 5 and 10 predictions.

    Args:
        ranks: of each sample, from `first_hit_rank`.
    """
    if not ranks:
        raise ValueError("ranks must hold at least one sample, got none")
    return tuple(sum(rank is not None and rank < limit for rank in ranks) / len(ranks) for limit in REFEXP_RANKS)
