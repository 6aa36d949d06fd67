"""Which samples are worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tools.analyze.samples import Sample


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of one kind.

    Attributes:
        title: what they have in common.
        indices: positions among the samples.
    """

    title: str
    indices: tuple[int, ...]


def choose_galleries(
    samples: Sequence[Sample], differences: Float[np.ndarray, " sample"] | None, number: int
) -> list[Gallery]:
    """The worst and the best samples and, for two runs, those that changed most; at most one per video each.

    Args:
        samples: of the run, the second of two.
        differences: of its scores and those of the first run; None for one run.
        number: of examples of each kind.
    """
    scores = np.array([sample.score for sample in samples])
    videos = [sample.video for sample in samples]
    galleries = []
    if differences is not None:
        better = [i for i in _first_of_videos(-differences, videos) if differences[i] > 0]
        worse = [i for i in _first_of_videos(differences, videos) if differences[i] < 0]
        galleries += [
            Gallery("Most improved", tuple(better[:number])),
            Gallery("Most worsened", tuple(worse[:number])),
        ]
    return [
        *galleries,
        Gallery("Worst", tuple(_first_of_videos(scores, videos)[:number])),
        Gallery("Best", tuple(_first_of_videos(-scores, videos)[:number])),
    ]


def _first_of_videos(values: Float[np.ndarray, " sample"], videos: Sequence[str]) -> list[int]:
    """The sample with the least value of every video, ascending; of equal ones the first."""
    chosen: dict[str, int] = {}
    for index in np.argsort(values, kind="stable").tolist():
        chosen.setdefault(videos[index], index)
    return list(chosen.values())
