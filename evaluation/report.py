"""Scores of single sentences or objects, gathered into a report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from metrics.region_boundary import FrameStatistics, frame_statistics, region_and_boundary


@dataclass(frozen=True, slots=True)
class EntryScore:
    """One scored mask sequence.

    Attributes:
        video: its name.
        expression: identifier of the sentence, or number of the object, within the video.
        sentence: as the model read it; empty where several sentences were merged before scoring.
        group: kind of the sentence, or the annotator; empty where the data has none.
        region: J over the frames.
        boundary: F over the frames.
    """

    video: str
    expression: str
    sentence: str
    group: str
    region: FrameStatistics
    boundary: FrameStatistics


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Mean over entries.

    Attributes:
        count: of entries.
        region: J.
        boundary: F.
    """

    count: int
    region: FrameStatistics
    boundary: FrameStatistics

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region.mean + self.boundary.mean) / 2


@runtime_checkable
class Report(Protocol):
    """Results of an evaluation, for any measure."""

    @property
    def num_videos(self) -> int:
        """Evaluated videos."""

    @property
    def num_sentences(self) -> int:
        """Sentences about them."""

    @property
    def legend(self) -> str:
        """Explanation of the numbers of the table."""

    @property
    def main_score(self) -> float | None:
        """The number by which checkpoints are compared, higher is better; None where nothing could be scored."""

    def scores(self) -> dict[str, float]:
        """The main numbers under short names; none where nothing could be scored."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""

    def as_table(self) -> str:
        """The scores in percent as a Markdown table."""


@dataclass(frozen=True, slots=True)
class EvalReport:
    """Results of an evaluation of whole videos.

    Attributes:
        num_videos: evaluated videos.
        num_sentences: sentences about them.
        entries: one per scored sentence or object; empty where the masks are secret.
        baselines: J of guessing, by group ("all" for all entries) and name of the guess.
    """

    legend: ClassVar[str] = "J, F and J&F in percent."

    num_videos: int
    num_sentences: int
    entries: tuple[EntryScore, ...]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def overall(self) -> GroupScore | None:
        """Over all entries; None where there are none."""
        return _average(self.entries) if self.entries else None

    @property
    def main_score(self) -> float | None:
        """J&F over all entries."""
        return None if self.overall is None else self.overall.mean

    @property
    def groups(self) -> dict[str, GroupScore]:
        """By group, in the order of their names."""
        names = sorted({entry.group for entry in self.entries} - {""})
        return {name: _average([entry for entry in self.entries if entry.group == name]) for name in names}

    def scores(self) -> dict[str, float]:
        """The main numbers under short names: "J&F", "J", "F", "J&F/<group>"."""
        if self.overall is None:
            return {}
        means = {"J&F": self.overall.mean, "J": self.overall.region.mean, "F": self.overall.boundary.mean}
        groups = {f"J&F/{name}": score.mean for name, score in self.groups.items()}
        return means | groups

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "num_videos": self.num_videos,
            "num_sentences": self.num_sentences,
            "overall": None if self.overall is None else _named(self.overall),
            "groups": {name: _named(score) for name, score in self.groups.items()},
            "baselines_J": {group: dict(guesses) for group, guesses in self.baselines.items()},
            "entries": [
                {
                    **{name: value for name, value in asdict(entry).items() if isinstance(value, str)},
                    "J": entry.region.mean,
                    "F": entry.boundary.mean,
                }
                for entry in self.entries
            ],
        }

    def as_table(self) -> str:
        """The scores in percent as a Markdown table, guesses beside them where they are known."""
        if self.overall is None:
            return f"{self.num_videos} videos, {self.num_sentences} sentences; no masks to score against.\n"
        guesses = list(dict.fromkeys(name for names in self.baselines.values() for name in names))
        header = ["", "entries", "J&F", "J", "F", *(f"J of guessing: {name}" for name in guesses)]
        rows = [header, ["---", *["---:"] * (len(header) - 1)]]
        for name, score in {"all": self.overall, **self.groups}.items():
            known = self.baselines.get(name, {})
            numbers = [score.mean, score.region.mean, score.boundary.mean, *(known.get(guess) for guess in guesses)]
            rows.append([name, str(score.count), *("" if x is None else f"{100 * x:.1f}" for x in numbers)])
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def score_sentence(
    annotation: Bool[np.ndarray, "time height width"], prediction: Bool[np.ndarray, "time height width"]
) -> tuple[FrameStatistics, FrameStatistics]:
    """J and F over all frames of one sentence."""
    region, boundary = region_and_boundary(annotation, prediction)
    return frame_statistics(region), frame_statistics(boundary)


def _average(entries: Sequence[EntryScore]) -> GroupScore:
    region = np.mean([entry.region for entry in entries], axis=0).tolist()
    boundary = np.mean([entry.boundary for entry in entries], axis=0).tolist()
    return GroupScore(len(entries), FrameStatistics(*region), FrameStatistics(*boundary))


def _named(score: GroupScore) -> dict[str, float | int]:
    return {
        "entries": score.count,
        "J&F": score.mean,
        **{f"J-{name}": value for name, value in score.region._asdict().items()},
        **{f"F-{name}": value for name, value in score.boundary._asdict().items()},
    }
