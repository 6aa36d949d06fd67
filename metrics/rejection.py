"""Whether sentences without a target are rejected and the others are not: N-acc, T-acc, and the threshold for both.

A sentence has a presence score: the highest threshold at which its prediction still has a pixel somewhere; minus
infinity where it has none at any threshold. At a threshold it is found if that score is at least as high.

Source: N-acc and T-acc of GRES (arXiv:2306.00968), which MeViS v2 takes over; see docs/evaluation.md.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a threshold gives.

    Attributes:
        threshold: sentences with a lower score are rejected.
        n_acc: share of the absent sentences that are rejected.
        t_acc: share of the present sentences that are found.
    """

    threshold: float
    n_acc: float
    t_acc: float

    @property
    def mean(self) -> float:
        """Of N-acc and T-acc."""
        return (self.n_acc + self.t_acc) / 2


def auc(present: Float[np.ndarray, " present"], absent: Float[np.ndarray, " absent"]) -> float:
    """Area under the curve of T-acc over 1 - N-acc: how often a present sentence scores higher than an absent one.

    Equal scores count as one half. It depends on no threshold.

    Args:
        present: presence scores of the sentences with a target; at least one.
        absent: those of the others; at least one.
    """
    ascending = np.sort(absent)
    lower = np.searchsorted(ascending, present, side="left")
    not_higher = np.searchsorted(ascending, present, side="right")
    return float((lower + not_higher).mean() / (2 * len(absent)))


def operating_points(
    present: Float[np.ndarray, " present"], absent: Float[np.ndarray, " absent"]
) -> list[OperatingPoint]:
    """All that a threshold can give, by ascending threshold.

    Thresholds are 0, the middles between neighbouring scores, and the middle between the highest score and 1.

    Args:
        present: presence scores of the sentences with a target; at least one.
        absent: those of the others; at least one.
    """
    scores = np.unique(np.concatenate([present, absent]))
    scores = scores[np.isfinite(scores)]
    bounds = np.append(scores, 1.0)
    thresholds = np.concatenate([[0.0], (bounds[:-1] + bounds[1:]) / 2])
    present, absent = np.sort(present), np.sort(absent)
    n_accs = np.searchsorted(absent, thresholds, side="left") / len(absent)
    t_accs = (len(present) - np.searchsorted(present, thresholds, side="left")) / len(present)
    return [OperatingPoint(*map(float, point)) for point in zip(thresholds, n_accs, t_accs, strict=True)]


def best_point(points: list[OperatingPoint], *, min_t_acc: float) -> OperatingPoint | None:
    """That with the largest mean of N-acc and T-acc among those whose T-acc is high enough; None without any.

    Of equals the one with the lowest threshold, which rejects least.

    Args:
        points: by ascending threshold.
        min_t_acc: the lowest T-acc that is accepted.
    """
    return max((point for point in points if point.t_acc >= min_t_acc), key=lambda point: point.mean, default=None)
