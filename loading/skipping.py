"""Counting the training samples that could not be read."""

import logging
from collections.abc import Sequence

from structures.samples import SkippedSample

logger = logging.getLogger(__name__)


class SkipCount:
    """The skipped samples of one epoch, of this process.

    Args:
        num_samples: of this process in the epoch.
        max_share: of them may be skipped.
    """

    def __init__(self, *, num_samples: int, max_share: float) -> None:
        self.num_samples = num_samples
        self.max_share = max_share
        self.skipped: list[SkippedSample] = []

    def add(self, skipped: Sequence[SkippedSample]) -> None:
        """Lists the skipped samples of a batch in the log.

        Raises:
            ValueError: the share of skipped samples is now above `max_share`.
        """
        for sample in skipped:
            logger.warning(
                "skipped video %s, expression %s: %s", sample.video, ", ".join(sample.expressions), sample.reason
            )
        self.skipped += skipped
        if len(self.skipped) > self.max_share * self.num_samples:
            raise ValueError(
                f"{len(self.skipped)} of {self.num_samples} samples of this epoch cannot be read, more than "
                f"data.max_skipped_share={self.max_share}; the last one: {self.skipped[-1].reason}"
            )

    def report(self) -> None:
        """One line for the epoch, if anything was skipped."""
        if self.skipped:
            logger.warning("skipped %d of %d samples of this epoch", len(self.skipped), self.num_samples)
