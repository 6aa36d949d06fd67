"""Whether the scores that the model gives say how good its masks are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.analyze.samples import Sample

NUM_BINS = 10
HIT = 0.5
"""J above which masks count as right."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Samples whose score lies in [low, high); the last bin holds 1, too.

    Attributes:
        low: lower end.
        high: upper end.
        count: of samples.
        score: their mean score.
        region: their mean J.
        hits: share of them with J above one half.
    """

    low: float
    high: float
    count: int
    score: float
    region: float
    hits: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores against J.

    Attributes:
        bins: those that hold a sample, ascending.
        error: expected calibration error: mean distance of score and J of the bins, weighted by their counts.
        hit_error: the same with the share of J above one half.
    """

    bins: tuple[CalibrationBin, ...]
    error: float
    hit_error: float


def calibrate(samples: Sequence[Sample]) -> Calibration | None:
    """The calibration of the chosen queries; None where no scores are known."""
    pairs = np.array([(s.ranking[0].score, s.ranking[0].region) for s in samples if s.ranking], dtype=np.float64)
    if not len(pairs):
        return None
    scores, regions = pairs.T
    place = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        own = place == number
        bins.append(
            CalibrationBin(
                low=number / NUM_BINS,
                high=(number + 1) / NUM_BINS,
                count=int(own.sum()),
                score=float(scores[own].mean()),
                region=float(regions[own].mean()),
                hits=float((regions[own] > HIT).mean()),
            )
        )
    share = [each.count / len(pairs) for each in bins]
    return Calibration(
        tuple(bins),
        error=sum(w * abs(b.score - b.region) for w, b in zip(share, bins, strict=True)),
        hit_error=sum(w * abs(b.score - b.hits) for w, b in zip(share, bins, strict=True)),
    )
