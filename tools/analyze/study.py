"""One data set of one or two runs, with the draws that all of its intervals share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from tools.analyze.bootstrap import Estimate, VideoBootstrap
from tools.analyze.grouping import Breakdown, breakdowns
from tools.analyze.runs import Run, RunSet
from tools.analyze.samples import Sample


@dataclass(frozen=True)
class Study:
    """What is analysed.

    Attributes:
        name: of the data set and its split.
        number: of the data set on the page.
        runs: one or two, on the same samples in the same order.
    """

    name: str
    number: int
    runs: Sequence[Run]

    def anchor(self, part: str) -> str:
        """Identifier of a part of the page."""
        return f"set{self.number}-{part}"

    @property
    def labels(self) -> list[str]:
        """Of the runs."""
        return [run.label for run in self.runs]

    @property
    def sets(self) -> list[RunSet]:
        """The data set in each run."""
        return [run.sets[self.name] for run in self.runs]

    @property
    def samples(self) -> Sequence[Sample]:
        """Of the last run."""
        return self.sets[-1].samples

    @cached_property
    def bootstrap(self) -> VideoBootstrap:
        """Draws of videos."""
        return VideoBootstrap([sample.video for sample in self.samples])

    @cached_property
    def breakdowns(self) -> list[Breakdown]:
        """Groups of the samples; they depend on sentences and truth alone, which runs share."""
        return breakdowns(self.sets[0].samples)

    @cached_property
    def scores(self) -> list[Float[np.ndarray, " sample"]]:
        """J&F, or IoU, of the samples in each run."""
        return [np.array([sample.score for sample in one.samples]) for one in self.sets]

    @property
    def differences(self) -> Float[np.ndarray, " sample"] | None:
        """Second minus first run; None for a single run."""
        return self.scores[1] - self.scores[0] if len(self.runs) > 1 else None

    def estimates(self, members: Bool[np.ndarray, " sample"] | None = None) -> list[Estimate | None]:
        """The mean score of some samples in each run."""
        return [self.bootstrap.mean(scores, members) for scores in self.scores]
