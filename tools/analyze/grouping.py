"""Groups of samples that have something in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median

import numpy as np
from jaxtyping import Bool, Float

from tools.analyze.samples import Sample

WORD_EDGES = (0, 4, 6, 8, 11, 16)
AREA_EDGES = (0, 0.01, 0.03, 0.1, 0.3)
OBJECT_EDGES = (1, 2, 3, 4, 5, 6)
SPEED_EDGES = (0, 0.02, 0.05, 0.1, 0.2, 0.5)

MAX_POSITIONS = 10


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that have something in common.

    Attributes:
        name: what that is.
        members: which ones they are.
    """

    name: str
    members: Bool[np.ndarray, " sample"]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One way to group the samples.

    Attributes:
        title: by what.
        note: what the names of the groups mean.
        groups: in order, none empty; none at all where nothing is known.
    """

    title: str
    note: str
    groups: tuple[Group, ...]


def by_kind(samples: Sequence[Sample]) -> Breakdown:
    """By the tag of the sentence, or the annotator."""
    names = sorted({sample.group for sample in samples} - {""})
    groups = [Group(name, np.array([sample.group == name for sample in samples])) for name in names]
    return Breakdown("Kind", "the tag of the sentence, or its annotator, as the data has it", tuple(groups))


def breakdowns(samples: Sequence[Sample]) -> list[Breakdown]:
    """Every way to group the samples."""
    return [
        by_kind(samples),
        _binned("Length of the sentence", "number of words", [s.num_words for s in samples], WORD_EDGES, unit="words"),
        _binned(
            "Size of the object",
            "share of the frame, mean over the frames that show it",
            [None if s.area_share is None else 100 * s.area_share for s in samples],
            [100 * edge for edge in AREA_EDGES],
            unit="%",
        ),
        _binned(
            "Number of objects",
            "objects that the sentences about the video mean",
            [s.num_objects for s in samples],
            OBJECT_EDGES,
        ),
        _binned(
            "Speed of the object",
            "movement of its centre from one frame to the next, in its own sizes (square root of its area)",
            [sample.speed for sample in samples],
            SPEED_EDGES,
        ),
    ]


def _binned(
    title: str, note: str, values: Sequence[float | None], edges: Sequence[float], *, unit: str = ""
) -> Breakdown:
    """Groups [edge, next edge) of a number, the last one without end; empty ones are left out."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    whole = all(value is None or isinstance(value, int) for value in values)
    groups = []
    for low, high in pairwise((*edges, inf)):
        members = (numbers >= low) & (numbers < high)
        if members.any():
            groups.append(Group(_name_of_bin(low, high, unit, whole=whole), members))
    return Breakdown(title, note, tuple(groups))


def _name_of_bin(low: float, high: float, unit: str, *, whole: bool) -> str:
    end = f" {unit}" if unit else ""
    if high == inf:
        return f"{low:g} or more{end}"
    last = high - 1 if whole else high
    if whole and low == last:
        return f"{low:g}{end}"
    if not low:
        return f"up to {last:g}{end}" if whole else f"below {high:g}{end}"
    return f"{low:g} to {last:g}{end}"


@dataclass(frozen=True, slots=True)
class Positions:
    """J over the course of the videos.

    Attributes:
        names: of the parts: frame numbers where all videos are equally long and short, else shares of the video.
        regions: mean J of each sample in each part; NaN where a video has no frame in it.
    """

    names: tuple[str, ...]
    regions: Float[np.ndarray, "sample part"]


def by_position(samples: Sequence[Sample]) -> Positions | None:
    """J over the course of the videos; None where single frames are scored.

    A video is cut into equal parts, and a frame belongs to the part that holds its middle.
    """
    lengths = [len(sample.frame_regions) for sample in samples]
    if max(lengths) == 1:
        return None
    number = max(1, min(MAX_POSITIONS, round(median(lengths))))
    regions = np.full((len(samples), number), np.nan)
    for row, sample in zip(regions, samples, strict=True):
        length = len(sample.frame_regions)
        part = ((np.arange(length) + 0.5) * number / length).astype(int)
        sums = np.bincount(part, weights=sample.frame_regions, minlength=number)
        counts = np.bincount(part, minlength=number)
        row[counts > 0] = sums[counts > 0] / counts[counts > 0]
    if set(lengths) == {number}:
        return Positions(tuple(f"{frame}" for frame in range(1, number + 1)), regions)
    ends = [round(100 * part / number) for part in range(number + 1)]
    return Positions(tuple(f"{start} to {stop} %" for start, stop in pairwise(ends)), regions)
