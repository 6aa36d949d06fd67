"""Scores of single frames in which all queries are ranked (A2D-, JHMDB-Sentences, RefCOCO), gathered into a report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float

from metrics.coco_map import CATEGORY, CocoMeter, CocoStatistics
from metrics.overlap import (
    PRECISION_THRESHOLDS,
    REFEXP_RANKS,
    OverlapMeter,
    OverlapScores,
    first_hit_rank,
    iou,
    refexp_precision,
)


@dataclass(frozen=True, slots=True)
class MaskScore:
    """Masks of all queries against the annotation.

    Attributes:
        coco: this sample alone.
        overlap: of the mask with the highest score, in pixels.
    """

    coco: CocoMeter
    overlap: OverlapMeter


@dataclass(frozen=True, slots=True)
class BoxScore:
    """Boxes of all queries against the annotation.

    Attributes:
        coco: this sample alone.
        overlap: of the box with the highest score, in square pixels.
        first_hit: rank (from 0) of the first box whose GIoU with the annotation is at least one half; None without.
    """

    coco: CocoMeter
    overlap: OverlapMeter
    first_hit: int | None


@dataclass(frozen=True, slots=True)
class RankedScore:
    """One sentence about one frame.

    Attributes:
        sample: its identifier, that of an image in the ground truth in the format of COCO.
        video: name of the video or image.
        frame: its name.
        expression: identifier of the sentence within the video.
        sentence: as the model read it.
        masks: their score.
        boxes: their score; None where the benchmark does not score boxes.
    """

    sample: str
    video: str
    frame: str
    expression: str
    sentence: str
    masks: MaskScore
    boxes: BoxScore | None = None

    @property
    def image_id(self) -> int | str:
        """Of its image in published ground truth: the number of the sentence in RefCOCO/+/g, elsewhere the sample."""
        is_numbered = self.boxes is not None and self.expression.isdecimal()
        return int(self.expression) if is_numbered else self.sample

    def as_row(self) -> dict[str, str | float]:
        """What stands in a table with a line per sentence."""
        intersection, union = self.masks.overlap.intersections[0], self.masks.overlap.unions[0]
        row: dict[str, str | float] = {
            "sample": self.sample,
            "video": self.video,
            "frame": self.frame,
            "expression": self.expression,
            "sentence": self.sentence,
            "IoU": iou(intersection, union),
            "intersection": intersection,
            "union": union,
            "score": max(prediction["score"] for prediction in self.masks.coco.predictions[0]),
        }
        if self.boxes is not None:
            row["box IoU"] = iou(self.boxes.overlap.intersections[0], self.boxes.overlap.unions[0])
        return row


def published_order(entry: RankedScore) -> tuple[int, str]:
    """Sorts samples as published: predictions with equal scores count in this order, and so average precision has it.

    pycocotools sorts images by id, then all predictions by score, and leaves equal scores as they are (COCOeval). Ids
    of A2D- and JHMDB-Sentences are texts, in which frame 10 comes before frame 5; those of RefCOCO/+/g, the images with
    boxes, are the numbers of sentences.
    """
    image_id = entry.image_id
    return image_id if isinstance(image_id, int) else -1, entry.sample


def score_masks(
    annotation: Bool[np.ndarray, "height width"],
    predictions: Bool[np.ndarray, "query height width"],
    scores: Float[np.ndarray, " query"],
) -> MaskScore:
    """Compares the masks of all queries with the annotation."""
    coco, overlap = CocoMeter("segm"), OverlapMeter()
    coco.add_masks(annotation, predictions, scores)
    overlap.add_masks(annotation, predictions, scores)
    return MaskScore(coco, overlap)


def score_boxes(
    annotation_xywh_px: Float[np.ndarray, "4"],
    annotation_area_px: float,
    predictions_xyxy_px: Float[np.ndarray, "query 4"],
    scores: Float[np.ndarray, " query"],
) -> BoxScore:
    """Compares the boxes of all queries with the annotation.

    Args:
        annotation_xywh_px: left, top, width, height.
        annotation_area_px: of the object's mask.
        predictions_xyxy_px: left, top, right, bottom.
        scores: higher is better.
    """
    corners = np.concatenate([annotation_xywh_px[:2], annotation_xywh_px[:2] + annotation_xywh_px[2:]])
    coco, overlap = CocoMeter("bbox"), OverlapMeter()
    coco.add_boxes(annotation_xywh_px, annotation_area_px, predictions_xyxy_px, scores)
    overlap.add_boxes(corners, predictions_xyxy_px, scores)
    return BoxScore(coco, overlap, first_hit_rank(corners, predictions_xyxy_px, scores))


@dataclass(frozen=True)
class RankedReport:
    """Results of an evaluation of single frames.

    Attributes:
        num_videos: evaluated videos or images.
        num_sentences: sentences about them.
        entries: one per sentence and annotated frame that shows its object.
    """

    legend: ClassVar[str] = (
        "Average precision (COCO) over all queries; precision at overlap and IoU of the query with the highest score. "
        "Everything in percent."
    )

    num_videos: int
    num_sentences: int
    entries: Sequence[RankedScore]

    @cached_property
    def _in_published_order(self) -> Sequence[RankedScore]:
        return sorted(self.entries, key=published_order)

    @cached_property
    def mask_ap(self) -> CocoStatistics | None:
        """Average precision and recall of masks; None without samples."""
        return _average_precision("segm", [entry.masks.coco for entry in self._in_published_order])

    @cached_property
    def mask_overlap(self) -> OverlapScores | None:
        """Precision at overlap and IoU of masks; None without samples."""
        return _overlap([entry.masks.overlap for entry in self.entries])

    @cached_property
    def box_ap(self) -> CocoStatistics | None:
        """Average precision and recall of boxes; None where none were compared."""
        meters = [entry.boxes.coco for entry in self._in_published_order if entry.boxes is not None]
        return _average_precision("bbox", meters)

    @cached_property
    def box_overlap(self) -> OverlapScores | None:
        """Precision at overlap and IoU of boxes; None where none were compared."""
        return _overlap([boxes.overlap for boxes in self._boxes()])

    @cached_property
    def first_hits(self) -> tuple[float, ...]:
        """Share of samples with a box of GIoU at least one half among the first 1, 5 and 10; empty without boxes."""
        ranks = [boxes.first_hit for boxes in self._boxes()]
        return refexp_precision(ranks) if ranks else ()

    @cached_property
    def mask_ap_by_box_corner(self) -> CocoStatistics | None:
        """`mask_ap` as the second pass of the published RefCOCO evaluation has it; None where no boxes were compared.

        It takes the lower right corner of a box for its width and height and their product for the area of the mask,
        which changes the figures for small, medium and large objects alone.
        """
        meters = []
        for entry in self._in_published_order:
            if entry.boxes is None:
                continue
            masks, boxes = entry.masks.coco, entry.boxes.coco
            predictions = []
            for mask, box in zip(masks.predictions[0], boxes.predictions[0], strict=True):
                left, top, width, height = box["bbox"]
                predictions.append({**mask, "area": (left + width) * (top + height)})
            meters.append(CocoMeter("segm", list(masks.annotations), [predictions]))
        return _average_precision("segm", meters)

    @property
    def main_score(self) -> float | None:
        """Mean average precision of masks, by which the published training selects its best checkpoint."""
        return None if self.mask_ap is None else self.mask_ap.mean_ap

    def scores(self) -> dict[str, float]:
        """The published numbers under short names; those of boxes begin with "box "."""
        if self.mask_ap is None or self.mask_overlap is None:
            return {}
        named = _named(self.mask_ap, self.mask_overlap)
        if self.box_ap is not None and self.box_overlap is not None:
            named |= {f"box {name}": value for name, value in _named(self.box_ap, self.box_overlap).items()}
            hits = zip(REFEXP_RANKS, self.first_hits, strict=True)
            named |= {f"box GIoU@{rank}": share for rank, share in hits}
        return named

    def as_dict(self) -> dict[str, Any]:
        """Everything but the masks, for JSON."""
        statistics = {
            "coco": self.mask_ap,
            "coco_boxes": self.box_ap,
            "coco_areas_by_box_corner": self.mask_ap_by_box_corner,
        }
        return {
            "num_videos": self.num_videos,
            "num_sentences": self.num_sentences,
            "num_samples": len(self.entries),
            "overall": self.scores(),
            **{name: None if figures is None else figures._asdict() for name, figures in statistics.items()},
            "entries": self.rows(),
        }

    def rows(self) -> list[dict[str, str | float]]:
        """See `Report`."""
        return [entry.as_row() for entry in self.entries]

    def as_table(self) -> str:
        """The scores in percent as a Markdown table."""
        if not self.entries:
            return f"{self.num_videos} videos, {self.num_sentences} sentences; no annotated frame to score against.\n"
        scores = {"samples": str(len(self.entries))} | {k: f"{100 * v:.1f}" for k, v in self.scores().items()}
        rows = [list(scores), ["---:"] * len(scores), list(scores.values())]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def coco_results(self) -> list[dict[str, Any]]:
        """All predictions in the result format of COCO."""
        results = []
        for entry in self.entries:
            boxes: list[dict[str, Any]] = [{}] * len(entry.masks.coco.predictions[0])
            if entry.boxes is not None:
                boxes = [{"bbox": box["bbox"]} for box in entry.boxes.coco.predictions[0]]
            for mask, box in zip(entry.masks.coco.predictions[0], boxes, strict=True):
                results.append(
                    {
                        "image_id": entry.image_id,
                        "category_id": CATEGORY,
                        "segmentation": mask["segmentation"],
                        **box,
                        "score": mask["score"],
                    }
                )
        return results

    def _boxes(self) -> Iterator[BoxScore]:
        return (entry.boxes for entry in self.entries if entry.boxes is not None)


def _average_precision(kind: Literal["segm", "bbox"], meters: Sequence[CocoMeter]) -> CocoStatistics | None:
    if not meters:
        return None
    together = CocoMeter(kind)
    for meter in meters:
        together.merge(meter)
    return together.compute()


def _overlap(meters: Sequence[OverlapMeter]) -> OverlapScores | None:
    if not meters:
        return None
    together = OverlapMeter()
    for meter in meters:
        together.merge(meter)
    return together.compute()


def _named(ap: CocoStatistics, overlap: OverlapScores) -> dict[str, float]:
    precision = zip(PRECISION_THRESHOLDS, overlap.precision_at, strict=True)
    return {
        "mAP": ap.mean_ap,
        "AP@0.5": ap.ap_50,
        "AP@0.75": ap.ap_75,
        **{f"P@{threshold}": share for threshold, share in precision},
        "oIoU": overlap.overall_iou,
        "mIoU": overlap.mean_iou,
    }
