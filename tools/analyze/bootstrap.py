"""Confidence intervals of means, by a bootstrap over videos.

Sentences about one video share its frames and objects, so that they are not independent: whole videos are drawn, with
repetition, as many as there are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

DRAWS = 2000
SEED = 0
PERCENTILES = (2.5, 97.5)


class Estimate(NamedTuple):
    """A mean with its interval of 95 %.

    Attributes:
        mean: over the samples.
        low: lower end; None where fewer than two videos say something about it.
        high: upper end.
        num_samples: that were averaged.
        num_videos: that they belong to.
    """

    mean: float
    low: float | None
    high: float | None
    num_samples: int
    num_videos: int


class VideoBootstrap:
    """Draws of videos, the same for all estimates, so that estimates of two runs are paired.

    Args:
        videos: that of each sample.
        draws: how many.
        seed: of the random numbers.
    """

    def __init__(self, videos: Sequence[str], *, draws: int = DRAWS, seed: int = SEED) -> None:
        names, index = np.unique(np.array(videos), return_inverse=True)
        self._video_of_sample: Int[np.ndarray, " sample"] = index
        self._num_videos = len(names)
        # how often each video is in each draw: (draw, video)
        times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        self._times = times.astype(np.float64)

    def mean(
        self, values: Float[np.ndarray, " sample"], members: Bool[np.ndarray, " sample"] | None = None
    ) -> Estimate | None:
        """Mean of the values over some samples.

        Args:
            values: of all samples; for two runs that are compared, the differences. NaN: unknown, left out.
            members: samples that count; None: all.

        Returns:
            None where no sample counts.
        """
        known = ~np.isnan(values) if members is None else members & ~np.isnan(values)
        own, videos = values[known], self._video_of_sample[known]
        if not len(own):
            return None
        sums = np.bincount(videos, weights=own, minlength=self._num_videos)
        counts = np.bincount(videos, minlength=self._num_videos).astype(np.float64)
        num_videos = int(np.count_nonzero(counts))
        mean = float(own.mean())
        if num_videos < 2:
            return Estimate(mean, None, None, len(own), num_videos)
        drawn = self._times @ counts
        means = (self._times @ sums)[drawn > 0] / drawn[drawn > 0]  # a draw may miss all videos of a small group
        low, high = np.percentile(means, PERCENTILES).tolist()
        return Estimate(mean, low, high, len(own), num_videos)
