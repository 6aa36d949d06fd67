"""Errors of choice (another query had the better masks) apart from errors of the masks (none had good ones)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from evaluation.report import RankedQuery
from tools.analyze.samples import Sample

MARGIN = 0.2
"""A runner-up whose J is higher by more than this should have been chosen."""

GOOD = 0.5
"""Masks of at least this J are of the right object."""

Verdict = Literal["choice", "masks", "good", ""]


def verdict_of(ranking: Sequence[RankedQuery]) -> Verdict:
    """What went wrong with a sentence: the choice, all masks, or nothing; empty where there were no runners-up."""
    if len(ranking) < 2:
        return ""
    chosen, best = ranking[0].region, max(query.region for query in ranking)
    if best - chosen > MARGIN:
        return "choice"
    return "good" if best >= GOOD else "masks"


def chosen_and_best(
    samples: Sequence[Sample],
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """J of the chosen query and that of the best one among those ranked; NaN where there were no runners-up.

    The first is lost to 1 in two parts: best minus chosen by the choice, 1 minus best by the masks.
    """
    rankings = [sample.ranking if len(sample.ranking) > 1 else () for sample in samples]
    chosen = [ranking[0].region if ranking else np.nan for ranking in rankings]
    best = [max((query.region for query in ranking), default=np.nan) for ranking in rankings]
    return np.array(chosen, dtype=np.float64), np.array(best, dtype=np.float64)
