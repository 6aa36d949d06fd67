"""Scores of single annotated frames (A2D-Sentences, JHMDB-Sentences), gathered into a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from metrics.coco_map import CATEGORY, CocoMeter, CocoStatistics
from metrics.overlap import PRECISION_THRESHOLDS, OverlapMeter, OverlapScores


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One sentence about one annotated frame.

    Attributes:
        sample: its identifier, that of an image in the ground truth in the format of COCO.
        video: its name.
        frame: its name.
        expression: identifier of the sentence within the video.
        sentence: what was asked.
        coco: this sample alone.
        intersection: of the annotation and the mask of the highest score, in pixels.
        union: of both, in pixels.
    """

    sample: str
    video: str
    frame: str
    expression: str
    sentence: str
    coco: CocoMeter
    intersection: float
    union: float


def score_frame(
    annotation: Bool[np.ndarray, "height width"],
    predictions: Bool[np.ndarray, "query height width"],
    scores: Float[np.ndarray, " query"],
) -> tuple[CocoMeter, float, float]:
    """The last three fields of a `FrameScore`."""
    coco, overlap = CocoMeter("segm"), OverlapMeter()
    coco.add_masks(annotation, predictions, scores)
    overlap.add_masks(annotation, predictions, scores)
    return coco, overlap.intersections[0], overlap.unions[0]


@dataclass(frozen=True)
class FrameReport:
    """What an evaluation of annotated frames found.

    Attributes:
        num_videos: evaluated videos.
        num_sentences: sentences about them.
        entries: one per sentence and annotated frame that shows what it means.
    """

    legend: ClassVar[str] = (
        "Average precision (COCO) over all queries; precision at overlap and IoU of the query with the highest score. "
        "Everything in percent."
    )

    num_videos: int
    num_sentences: int
    entries: Sequence[FrameScore]

    @cached_property
    def coco(self) -> CocoStatistics | None:
        """Average precision and recall; None without samples."""
        meter = CocoMeter("segm")
        for entry in self.entries:
            meter.merge(entry.coco)
        return meter.compute() if self.entries else None

    @cached_property
    def overlap(self) -> OverlapScores | None:
        """Precision at overlap and IoU; None without samples."""
        meter = OverlapMeter()
        for entry in self.entries:
            meter.add(entry.intersection, entry.union)
        return meter.compute() if self.entries else None

    @property
    def main_score(self) -> float | None:
        """Mean average precision, by which the published training chooses its best checkpoint."""
        return None if self.coco is None else self.coco.mean_ap

    def scores(self) -> dict[str, float]:
        """The published numbers under short names."""
        if self.coco is None or self.overlap is None:
            return {}
        precision = zip(PRECISION_THRESHOLDS, self.overlap.precision_at, strict=True)
        return {
            "mAP": self.coco.mean_ap,
            "AP@0.5": self.coco.ap_50,
            "AP@0.75": self.coco.ap_75,
            **{f"P@{threshold}": share for threshold, share in precision},
            "oIoU": self.overlap.overall_iou,
            "mIoU": self.overlap.mean_iou,
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything but the masks, for JSON."""
        return {
            "num_videos": self.num_videos,
            "num_sentences": self.num_sentences,
            "num_samples": len(self.entries),
            "overall": self.scores(),
            "coco": None if self.coco is None else self.coco._asdict(),
            "entries": [
                {
                    "sample": entry.sample,
                    "video": entry.video,
                    "frame": entry.frame,
                    "expression": entry.expression,
                    "sentence": entry.sentence,
                    "intersection": entry.intersection,
                    "union": entry.union,
                }
                for entry in self.entries
            ],
        }

    def as_table(self) -> str:
        """The scores in percent as a Markdown table."""
        if not self.entries:
            return f"{self.num_videos} videos, {self.num_sentences} sentences; no annotated frame to score against.\n"
        scores = {"samples": str(len(self.entries))} | {k: f"{100 * v:.1f}" for k, v in self.scores().items()}
        rows = [list(scores), ["---:"] * len(scores), list(scores.values())]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def coco_results(self) -> list[dict[str, Any]]:
        """All predictions in the result format of COCO; `image_id` is the sample."""
        return [
            {
                "image_id": entry.sample,
                "category_id": CATEGORY,
                "segmentation": {**found["segmentation"], "counts": found["segmentation"]["counts"].decode("ascii")},
                "score": found["score"],
            }
            for entry in self.entries
            for predictions in entry.coco.predictions
            for found in predictions
        ]
