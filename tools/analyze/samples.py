"""What the analysis knows of a scored sentence, the same for all protocols of evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import dist, sqrt

import numpy as np
from pycocotools import mask as coco_mask

from evaluation.ranked_report import RankedScore
from evaluation.report import EntryScore, FrameScore, RankedQuery
from metrics.overlap import iou

NUM_RANKED = 3
"""Queries of a single frame that are looked at: the chosen one and two others, as `eval.runners_up` is for videos."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sentence about a video or frame, or an object where sentences were merged before scoring.

    Attributes:
        video: its name.
        expression: identifier of the sentence, or number of the object, within the video.
        frame: name of the only frame that is scored; empty where all are.
        sentence: as the model read it; empty where sentences were merged.
        group: kind of the sentence, or the annotator; empty where the data has none.
        score: J&F; IoU in single frames.
        region: mean J; IoU in single frames.
        boundary: mean F; None in single frames.
        frame_regions: J of each frame, in order of time.
        ranking: the chosen query and those next to it; empty where sentences were merged.
        num_objects: that the sentences about the video (or frame) mean.
        area_share: of the frame that the annotation covers, mean over the frames that show it; None: unknown.
        speed: path of the object's centre from frame to frame, in its own sizes (square root of its area); None:
            unknown, or never seen in two consecutive frames.
    """

    video: str
    expression: str
    frame: str
    sentence: str
    group: str
    score: float
    region: float
    boundary: float | None
    frame_regions: tuple[float, ...]
    ranking: tuple[RankedQuery, ...]
    num_objects: int
    area_share: float | None
    speed: float | None

    @property
    def num_words(self) -> int | None:
        """Length of the sentence; None without one."""
        return len(self.sentence.split()) or None


def sample_of_video(entry: EntryScore, frame_size: tuple[int, int] | None) -> Sample:
    """A sentence that is scored in a whole video.

    Args:
        entry: its score.
        frame_size: (height, width) in pixels; None: unknown.
    """
    region, boundary = entry.region.mean, entry.boundary.mean
    return Sample(
        video=entry.video,
        expression=entry.expression,
        frame="",
        sentence=entry.sentence,
        group=entry.group,
        score=(region + boundary) / 2,
        region=region,
        boundary=boundary,
        frame_regions=tuple(frame.region for frame in entry.frames),
        ranking=entry.ranking,
        num_objects=entry.num_objects,
        area_share=_area_share(entry.frames, frame_size),
        speed=_speed(entry.frames),
    )


def samples_of_frames(scores: Sequence[RankedScore]) -> list[Sample]:
    """The sentences about one video (or image) that are scored in single frames."""
    objects: dict[str, set[str]] = {}  # of each frame; run lengths are equal for equal masks
    for score in scores:
        objects.setdefault(score.frame, set()).add(score.masks.coco.annotations[0]["segmentation"]["counts"])
    return [_sample_of_frame(score, len(objects[score.frame])) for score in scores]


def _sample_of_frame(score: RankedScore, num_objects: int) -> Sample:
    annotation = score.masks.coco.annotations[0]
    height, width = annotation["segmentation"]["size"]
    overlap = iou(score.masks.overlap.intersections[0], score.masks.overlap.unions[0])
    return Sample(
        video=score.video,
        expression=score.expression,
        frame=score.frame,
        sentence=score.sentence,
        group="",
        score=overlap,
        region=overlap,
        boundary=None,
        frame_regions=(overlap,),
        ranking=_ranking(score),
        num_objects=num_objects,
        area_share=annotation["area"] / (height * width),
        speed=None,
    )


def best_first(score: RankedScore) -> list[int]:
    """Positions of the queries by descending score; of equal ones the last comes first, as in `best_query`."""
    scores = [prediction["score"] for prediction in score.masks.coco.predictions[0]]
    return sorted(range(len(scores)), key=lambda query: (scores[query], query), reverse=True)


def _ranking(score: RankedScore) -> tuple[RankedQuery, ...]:
    predictions = score.masks.coco.predictions[0]
    chosen = [predictions[query] for query in best_first(score)[:NUM_RANKED]]
    true = score.masks.coco.annotations[0]["segmentation"]
    ranking = []
    for prediction in chosen:
        both = float(coco_mask.area(coco_mask.merge([true, prediction["segmentation"]], intersect=True)))
        either = float(coco_mask.area(coco_mask.merge([true, prediction["segmentation"]])))
        ranking.append(RankedQuery(prediction["score"], iou(both, either)))
    return tuple(ranking)


def _area_share(frames: Sequence[FrameScore], frame_size: tuple[int, int] | None) -> float | None:
    shown = [frame.annotated_px for frame in frames if frame.annotated_px]
    if frame_size is None or not shown:
        return None
    return float(np.mean(shown)) / (frame_size[0] * frame_size[1])


def _speed(frames: Sequence[FrameScore]) -> float | None:
    steps = [
        dist(before.centre_px, after.centre_px)
        for before, after in pairwise(frames)
        if before.centre_px is not None and after.centre_px is not None
    ]
    if not steps:
        return None
    size = sqrt(np.mean([frame.annotated_px for frame in frames if frame.annotated_px]))
    return float(np.mean(steps)) / size
