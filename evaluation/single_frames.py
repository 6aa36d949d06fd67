"""Protocols that rank all queries in single frames (A2D-, JHMDB-Sentences, RefCOCO/+/g)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from datasets.records import Expression
from evaluation.coco_ground_truth import annotated_samples, sample_id
from evaluation.protocol import Benchmark, EvalClip, Job, VideoRun
from evaluation.ranked_report import RankedReport, RankedScore, score_boxes, score_masks
from loading.sampling import centred_window
from loading.videos import EvalVideo
from media.files import write_json
from models.outputs import Predictions
from models.postprocess import all_queries, ranked_detections
from structures.predictions import Detections, FrameCandidates

PREDICTIONS_FILE = "predictions.json"


@dataclass(frozen=True)
class RankedFrames(Benchmark[RankedScore]):
    """Shared by protocols that rank all queries in single frames."""

    @property
    def score_type(self) -> type[RankedScore]:
        """See `Benchmark`."""
        return RankedScore

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[RankedScore]) -> RankedReport:
        """See `Benchmark`."""
        return RankedReport(num_videos, num_sentences, scores)

    def write_results(self, report: RankedReport, folder: Path) -> None:
        """The masks of all queries in the result format of COCO."""
        write_json(folder / PREDICTIONS_FILE, report.coco_results(), indent=None)

    def require_submission(self) -> None:
        """See `Benchmark`."""
        raise ValueError("eval.zip_submission: this data set has no submission; its annotations are public")


class RankedRun(VideoRun[RankedScore]):
    """Shared by protocols that rank all queries: every job gives one score."""

    def scores(self, parts: Sequence[RankedScore]) -> list[RankedScore]:
        """See `VideoRun`."""
        return list(parts)


@dataclass(frozen=True)
class FramesInClips(RankedFrames):
    """A2D- and JHMDB-Sentences: each annotated frame in the middle of its clip.

    Attributes:
        names_instances: whether identifiers of samples end in the instance.
    """

    names_instances: bool

    def open(self, video: EvalVideo, *, folder: Path | None) -> VideoRun[RankedScore]:
        """See `Benchmark`; nothing is written here: `write_results` writes the masks of all queries at the end."""
        return _FrameRun(video, self.data.num_frames, names_instances=self.names_instances)


class _FrameRun(RankedRun):
    """See `FramesInClips`."""

    def __init__(self, video: EvalVideo, num_frames: int, *, names_instances: bool) -> None:
        self.video, self.num_frames, self.names_instances = video, num_frames, names_instances

    def clips(self) -> Sequence[EvalClip]:
        """See `VideoRun`: one per annotated frame."""
        length = len(self.video.record.frame_names)
        return [
            EvalClip(centred_window(position, length, self.num_frames), tuple(expressions), self.num_frames // 2)
            for position, expressions in annotated_samples(self.video.record)
        ]

    def jobs(self, clip: EvalClip, layers: Iterable[Predictions], size: tuple[int, int]) -> Iterator[Job]:
        """See `VideoRun`: one per sentence."""
        assert clip.annotated_frame is not None
        position, expressions = clip.positions[clip.annotated_frame], iter(clip.expressions)
        for layer in layers:
            number, original = len(layer.class_logits), self.video.size_of(position)
            candidates = all_queries(layer, padded=size, unpadded=[size] * number, original=[original] * number)
            for candidate in candidates:
                yield partial(self._score, next(expressions), position, candidate)

    def _score(self, expression: Expression, position: int, candidate: FrameCandidates) -> RankedScore:
        record = self.video.record
        frame = record.frame_names[position]
        return RankedScore(
            sample_id(record.name, frame, expression.name if self.names_instances else None),
            record.name,
            frame,
            expression.name,
            expression.sentence,
            score_masks(
                _annotation(self.video, expression, position), candidate.masks.numpy(), candidate.scores.numpy()
            ),
        )


@dataclass(frozen=True)
class SingleImages(RankedFrames):
    """RefCOCO/+/g: every image is a clip of one frame; masks and boxes are compared."""

    def open(self, video: EvalVideo, *, folder: Path | None) -> VideoRun[RankedScore]:
        """See `Benchmark`; `write_results` writes the masks and boxes of all queries."""
        return _ImageRun(video)


class _ImageRun(RankedRun):
    """See `SingleImages`."""

    def __init__(self, video: EvalVideo) -> None:
        self.video = video

    def clips(self) -> Sequence[EvalClip]:
        """See `VideoRun`: the image."""
        return [EvalClip((0,), self.video.record.expressions)]

    def jobs(self, clip: EvalClip, layers: Iterable[Predictions], size: tuple[int, int]) -> Iterator[Job]:
        """See `VideoRun`: one per sentence."""
        expressions = iter(clip.expressions)
        for layer in layers:
            number, original = len(layer.class_logits), self.video.original_size
            for detections in ranked_detections(layer, unpadded=[size] * number, original=[original] * number):
                yield partial(self._score, next(expressions), detections)

    def _score(self, expression: Expression, detections: Detections) -> RankedScore:
        record = self.video.record
        annotation = _annotation(self.video, expression, 0)
        box = np.array(record.boxes_xywh_px[expression.known_ids[0]], dtype=np.float64)
        ranking = detections.scores.numpy()
        area = float(np.count_nonzero(annotation))
        return RankedScore(
            f"{record.name}_{expression.name}",
            record.name,
            record.frame_names[0],
            expression.name,
            expression.sentence,
            score_masks(annotation, detections.masks.numpy(), ranking),
            score_boxes(box, area, detections.boxes_xyxy_px.numpy(), ranking),
        )


def _annotation(video: EvalVideo, expression: Expression, position: int) -> Bool[np.ndarray, "height width"]:
    """The mask of an expression in one frame.

    Raises:
        ValueError: there is none.
    """
    masks = video.load_masks(expression, (position,))
    if masks is None:
        raise ValueError(f"video {video.record.name} has no masks to score against")
    return masks[0]
