"""Region similarity J and boundary accuracy F of mask sequences, and the DAVIS-2017 protocols built on them.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), for
the measures; Pont-Tuset et al. (arXiv:1704.00675) and Caelles et al. (arXiv:1905.00737) for the semi-supervised and the
unsupervised protocol.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8

from metrics.bit_masks import BitMasks, MaskRows, Packer, PairCounts, compare
from metrics.mask_pairs import count_pairs
from structures.object_maps import VOID_INDEX

Task = Literal["semi-supervised", "unsupervised"]
TASKS: tuple[Task, ...] = ("semi-supervised", "unsupervised")

MAX_PROPOSALS = 20
"""Number of objects that the unsupervised protocol lets a prediction propose per sequence."""

BOUNDARY_TOLERANCE = 0.008
"""Distance between matching outlines, as a share of the diagonal of the image."""

RECALL_THRESHOLD = 0.5

NUM_DECAY_BINS = 4

CHUNK_PIXELS = 3 * 2**21
"""Masks are compared in chunks of up to this many pixels; only speed and memory depend on it."""


class FrameStatistics(NamedTuple):
    """A measure over the frames of one object.

    Attributes:
        mean: over all frames.
        recall: share of frames above one half.
        decay: mean of the first quarter of the frames minus mean of the last.
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True, slots=True)
class SequenceMasks:
    """Annotation and prediction of one video as object ids.

    Attributes:
        name: of the video.
        annotation: 0 is background, 255 void.
        prediction: 0 is background.
    """

    name: str
    annotation: UInt8[np.ndarray, "time height width"]
    prediction: UInt8[np.ndarray, "time height width"]


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """Scores of one object.

    Attributes:
        name: of the video, an underscore, and a number from 1. In the unsupervised protocol the number counts the
            predicted objects that were assigned, in the order of their ids, as the official toolkit does.
        region: J over the frames.
        boundary: F over the frames.
    """

    name: str
    region: FrameStatistics
    boundary: FrameStatistics


@dataclass(frozen=True, slots=True)
class DavisScores:
    """Scores of all objects of a benchmark."""

    objects: tuple[ObjectScore, ...]

    @property
    def region(self) -> FrameStatistics:
        """J: mean, recall and decay averaged over objects."""
        return _average([score.region for score in self.objects])

    @property
    def boundary(self) -> FrameStatistics:
        """F: mean, recall and decay averaged over objects."""
        return _average([score.boundary for score in self.objects])

    @property
    def mean(self) -> float:
        """J&F: the average of the means of J and F."""
        return (self.region.mean + self.boundary.mean) / 2

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The scores under the names of the official toolkit, for JSON: `global` and `per_object`."""
        overall = {"J&F-Mean": self.mean}
        for letter, statistics in (("J", self.region), ("F", self.boundary)):
            overall[f"{letter}-Mean"] = statistics.mean
            overall[f"{letter}-Recall"] = statistics.recall
            overall[f"{letter}-Decay"] = statistics.decay
        per_object = {
            score.name: {"J-Mean": score.region.mean, "F-Mean": score.boundary.mean} for score in self.objects
        }
        return {"global": overall, "per_object": per_object}


def region_and_boundary(
    annotation: Bool[np.ndarray, "time height width"],
    prediction: Bool[np.ndarray, "time height width"],
    void: Bool[np.ndarray, "time height width"] | None = None,
) -> tuple[Float64[np.ndarray, " time"], Float64[np.ndarray, " time"]]:
    """J and F of each frame of one object.

    J is intersection over union, 1 where both masks are empty; F the harmonic mean of the shares of either outline
    that lie near the other.

    Args:
        annotation: of the object.
        prediction: of the same object.
        void: True where pixels are background in both masks.
    """
    _require_equal_shapes(annotation=annotation, prediction=prediction, void=void)
    region, boundary = np.empty((2, 1, len(annotation)))
    radius = boundary_radius(*annotation.shape[1:])
    for frames in _chunks(annotation, num_masks=2):
        images = (annotation[frames].view(np.uint8), prediction[frames].view(np.uint8))
        hidden = None if void is None else void[frames]
        region[:, frames], boundary[:, frames] = _scores(count_pairs(*images, hidden, num_objects=1, radius=radius))
    return region[0], boundary[0]


def boundary_radius(height: int, width: int) -> int:
    """Largest distance in pixels at which two outlines still match."""
    return ceil(BOUNDARY_TOLERANCE * hypot(height, width))


def frame_statistics(values: Float64[np.ndarray, " time"]) -> FrameStatistics:
    """Mean, recall and decay of a measure over frames.

    Raises:
        ValueError: there is no frame.
    """
    if not len(values):
        raise ValueError("values must hold at least one frame, got none")
    edges = np.round(np.linspace(1, len(values), NUM_DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    edges %= 256  # the toolkit keeps frame indices in 8 bits; published decays of longer videos depend on it
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    decay = first.mean() - last.mean() if len(first) and len(last) else np.nan
    return FrameStatistics(float(values.mean()), float((values > RECALL_THRESHOLD).mean()), float(decay))


def score_sequences(sequences: Iterable[SequenceMasks], task: Task) -> DavisScores:
    """Score predictions by a protocol of DAVIS-2017.

    Semi-supervised: object k of the prediction is object k of the annotation, the first and the last frame do not
    count, void pixels are background. Unsupervised: all frames count, void pixels do not, and the predicted objects of
    each sequence are assigned to the annotated ones so that the sum of J&F is greatest.

    The objects of a sequence are those up to the greatest id in its first annotated frame.

    Args:
        sequences: consumed one by one, so that a generator keeps one of them in memory.
        task: the protocol.

    Raises:
        ValueError: a prediction has more objects than the protocol admits, a shape does not fit,
            a sequence has too few frames, or nothing is annotated at all.
    """
    score = {"semi-supervised": score_semi_supervised, "unsupervised": score_unsupervised}[task]
    objects: list[ObjectScore] = []
    for sequence in sequences:
        region, boundary = score(sequence)
        for number, (j, f) in enumerate(zip(region, boundary, strict=True), start=1):
            objects.append(ObjectScore(f"{sequence.name}_{number}", frame_statistics(j), frame_statistics(f)))
    if not objects:
        raise ValueError("no sequence has an annotated object in its first frame: there is nothing to score")
    return DavisScores(tuple(objects))


def score_semi_supervised(
    sequence: SequenceMasks,
) -> tuple[Float64[np.ndarray, "object time"], Float64[np.ndarray, "object time"]]:
    """J and F of each annotated object in each frame but the first and the last."""
    num_objects = _num_objects(sequence)
    if len(sequence.annotation) < 3:
        raise ValueError(
            f"{sequence.name}: {len(sequence.annotation)} frames; the semi-supervised protocol drops the first and "
            "the last and needs at least 3"
        )
    annotation, prediction = sequence.annotation[1:-1], sequence.prediction[1:-1]
    region = np.empty((num_objects, len(annotation)))
    boundary = np.empty_like(region)
    radius = boundary_radius(*annotation.shape[1:])
    for frames in _chunks(annotation, num_masks=2):
        images = (annotation[frames], prediction[frames])
        num_predicted = int(images[1].max(initial=0))
        if num_predicted > num_objects:
            raise ValueError(
                f"{sequence.name}: the prediction holds object id {num_predicted}, but only {num_objects} objects "
                "are annotated"
            )
        counts = count_pairs(*images, None, num_objects=num_objects, radius=radius)
        region[:, frames], boundary[:, frames] = _scores(counts)
    return region, boundary


def score_unsupervised(
    sequence: SequenceMasks,
) -> tuple[Float64[np.ndarray, "object time"], Float64[np.ndarray, "object time"]]:
    """J and F of each annotated object in each frame, after the best assignment of predictions.

    Rows are in the order of the assigned predictions' ids, as in the official toolkit.
    """
    num_objects = _num_objects(sequence)
    num_predicted = int(sequence.prediction.max())
    # a missing prediction counts as an empty mask
    pairs = compare_all_pairs(sequence, num_objects=num_objects, num_proposals=max(num_predicted, num_objects))
    return assign_proposals(*pairs, num_predicted=num_predicted, name=sequence.name)


def compare_all_pairs(
    sequence: SequenceMasks, *, num_objects: int, num_proposals: int
) -> tuple[Float64[np.ndarray, "proposal object time"], Float64[np.ndarray, "proposal object time"]]:
    """J and F of every predicted object with every annotated one, in each frame; void pixels do not count.

    Long videos can be compared in parts; `assign_proposals` takes all of them together.

    Args:
        sequence: a video, or some of its frames.
        num_objects: annotated ones, see `count_objects`.
        num_proposals: predicted ones.
    """
    _require_equal_shapes(name=sequence.name, annotation=sequence.annotation, prediction=sequence.prediction, void=None)
    region = np.empty((num_proposals, num_objects, len(sequence.annotation)))
    boundary = np.empty_like(region)
    packer = Packer(*sequence.annotation.shape[1:])
    for frames in _chunks(sequence.annotation, num_masks=num_objects + num_proposals):
        annotation, prediction = sequence.annotation[frames], sequence.prediction[frames]
        void = annotation == VOID_INDEX
        true = [packer.pack(image, number) for number in range(1, num_objects + 1) for image in annotation]
        predicted = [
            packer.pack(image, number, ignored)
            for number in range(1, num_proposals + 1)
            for image, ignored in zip(prediction, void, strict=True)
        ]
        masks = _with_outlines(true + predicted, annotation)
        for proposal in range(num_proposals):
            pairs = _scores(compare(masks, slice(num_objects), num_objects + proposal))
            region[proposal, :, frames], boundary[proposal, :, frames] = pairs
    return region, boundary


def assign_proposals(
    region: Float64[np.ndarray, "proposal object time"],
    boundary: Float64[np.ndarray, "proposal object time"],
    *,
    num_predicted: int,
    name: str,
) -> tuple[Float64[np.ndarray, "object time"], Float64[np.ndarray, "object time"]]:
    """J and F of each annotated object after the assignment of predictions with the greatest sum of J&F.

    Args:
        region: J of all pairs, over all frames.
        boundary: F of all pairs.
        num_predicted: the greatest id in the whole prediction; proposals beyond it are considered only as far as there
            are more objects, as in the official toolkit.
        name: of the video, for the message.

    Raises:
        ValueError: more objects are predicted than the protocol admits.
    """
    if num_predicted > MAX_PROPOSALS:
        raise ValueError(
            f"{name}: the prediction holds object id {num_predicted}; the unsupervised protocol admits ids "
            f"up to {MAX_PROPOSALS}"
        )
    kept = max(num_predicted, region.shape[1])
    region, boundary = region[:kept], boundary[:kept]
    quality = (region.mean(axis=2) + boundary.mean(axis=2)) / 2
    from scipy.optimize import linear_sum_assignment  # here, because one protocol alone needs it

    proposals, objects = linear_sum_assignment(-quality)
    return region[proposals, objects], boundary[proposals, objects]


def count_objects(first_annotation: UInt8[np.ndarray, "height width"]) -> int:
    """Annotated objects of a video: the greatest id in its first frame."""
    return int(first_annotation.max(where=first_annotation != VOID_INDEX, initial=0))


def _num_objects(sequence: SequenceMasks) -> int:
    _require_equal_shapes(name=sequence.name, annotation=sequence.annotation, prediction=sequence.prediction, void=None)
    if not len(sequence.annotation):
        raise ValueError(f"{sequence.name}: no frames")
    return count_objects(sequence.annotation[0])


def _chunks(images: Shaped[np.ndarray, "time height width"], *, num_masks: int) -> Iterator[slice]:
    """Slices of consecutive frames to process together, each with some masks: many small frames, or one large one."""
    num_frames = max(1, CHUNK_PIXELS // max(1, images[:1].size * num_masks))
    return (slice(first, first + num_frames) for first in range(0, len(images), num_frames))


def _with_outlines(masks: Sequence[MaskRows], images: Shaped[np.ndarray, "time height width"]) -> BitMasks:
    """Masks of an object in all images, and then those of the next; axes object, time."""
    num_frames, height, width = images.shape
    shape = (len(masks) // num_frames, num_frames)
    return BitMasks.from_rows(masks, shape, height=height, width=width, radius=boundary_radius(height, width))


def _scores(counts: PairCounts) -> tuple[Float64[np.ndarray, "*masks"], Float64[np.ndarray, "*masks"]]:
    """J and F of pairs of masks."""
    region = _jaccard(counts.intersection, counts.true_area + counts.predicted_area - counts.intersection)
    lengths = (counts.true_length, counts.predicted_length)
    return region, _f_measure(counts.true_matched, counts.predicted_matched, *lengths)


def _jaccard(
    intersection: Shaped[np.ndarray, "*count"], union: Shaped[np.ndarray, "*count"]
) -> Float64[np.ndarray, "*count"]:
    """Intersection over union; 1 where the union is empty."""
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def _f_measure(
    true_matched: Shaped[np.ndarray, "*count"],
    predicted_matched: Shaped[np.ndarray, "*count"],
    true_length: Shaped[np.ndarray, "*#count"],
    predicted_length: Shaped[np.ndarray, "*#count"],
) -> Float64[np.ndarray, "*count"]:
    """Harmonic mean of precision and recall of outlines; 1 where both are empty, 0 where one is."""
    precision = predicted_matched / np.maximum(predicted_length, 1)
    recall = true_matched / np.maximum(true_length, 1)
    total = precision + recall
    score = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
    return np.where((true_length == 0) & (predicted_length == 0), 1.0, score)


def _average(statistics: list[FrameStatistics]) -> FrameStatistics:
    mean, recall, decay = np.mean(statistics, axis=0).tolist()
    return FrameStatistics(mean, recall, decay)


def _require_equal_shapes(
    *,
    annotation: Shaped[np.ndarray, "..."],
    prediction: Shaped[np.ndarray, "..."],
    void: Shaped[np.ndarray, "..."] | None,
    name: str = "",
) -> None:
    prefix = f"{name}: " if name else ""
    if annotation.shape != prediction.shape:
        raise ValueError(f"{prefix}prediction of shape {prediction.shape}, annotation of shape {annotation.shape}")
    if void is not None and void.shape != annotation.shape:
        raise ValueError(f"{prefix}void of shape {void.shape}, annotation of shape {annotation.shape}")
