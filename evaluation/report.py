"""Scores of single sentences or objects, gathered into a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from metrics.region_boundary import FrameStatistics, frame_statistics, region_and_boundary


class FrameScore(NamedTuple):
    """A mask in one frame.

    Attributes:
        region: J.
        boundary: F.
        annotated_px: pixels of the annotation; None where objects were merged before scoring, as below.
        predicted_px: pixels of the prediction.
        centre_px: (x, y) of the annotation's centre of mass; None where it is empty, too.
    """

    region: float
    boundary: float
    annotated_px: int | None = None
    predicted_px: int | None = None
    centre_px: tuple[float, float] | None = None


class RankedQuery(NamedTuple):
    """A query that might have been chosen.

    Attributes:
        score: that the model gives it, between 0 and 1: the mean over the frames.
        region: mean J of its masks.
    """

    score: float
    region: float


@dataclass(frozen=True, slots=True)
class EntryScore:
    """One scored mask sequence.

    Attributes:
        video: its name.
        expression: identifier of the sentence, or number of the object, within the video.
        sentence: as the model read it; empty where several sentences were merged before scoring.
        group: kind of the sentence, or the annotator; empty where the data has none.
        frames: in order of time.
        ranking: the chosen query and those next to it, best first (in each window of a video); empty where several
            sentences were merged.
        num_objects: different objects that the sentences about this video mean.
    """

    video: str
    expression: str
    sentence: str
    group: str
    frames: tuple[FrameScore, ...]
    ranking: tuple[RankedQuery, ...] = ()
    num_objects: int = 1

    @property
    def region(self) -> FrameStatistics:
        """J over the frames."""
        return frame_statistics(np.array([frame.region for frame in self.frames]))

    @property
    def boundary(self) -> FrameStatistics:
        """F over the frames."""
        return frame_statistics(np.array([frame.boundary for frame in self.frames]))

    def as_row(self) -> dict[str, str | float]:
        """What stands in a table with a line per sentence."""
        region, boundary = self.region.mean, self.boundary.mean
        return {
            "video": self.video,
            "expression": self.expression,
            "sentence": self.sentence,
            "group": self.group,
            "frames": len(self.frames),
            "J&F": (region + boundary) / 2,
            "J": region,
            "F": boundary,
            "score": self.ranking[0].score if self.ranking else "",
            "best J of runners-up": max((query.region for query in self.ranking[1:]), default=""),
        }


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

    def rows(self) -> list[dict[str, str | float]]:
        """A line for each scored sentence, or object."""


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
            "entries": self.rows(),
        }

    def rows(self) -> list[dict[str, str | float]]:
        """See `Report`."""
        return [entry.as_row() for entry in self.entries]

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


def score_frames(
    annotation: Bool[np.ndarray, "time height width"], prediction: Bool[np.ndarray, "time height width"]
) -> list[FrameScore]:
    """J and F of each frame."""
    region, boundary = region_and_boundary(annotation, prediction)
    return [
        FrameScore(float(j), float(f), int(np.count_nonzero(true)), int(np.count_nonzero(predicted)), _centre(true))
        for j, f, true, predicted in zip(region, boundary, annotation, prediction, strict=True)
    ]


def _centre(mask: Bool[np.ndarray, "height width"]) -> tuple[float, float] | None:
    """(x, y) of the centre of mass in pixels."""
    rows, columns = np.count_nonzero(mask, axis=1), np.count_nonzero(mask, axis=0)
    total = rows.sum()
    if not total:
        return None
    return float(columns @ np.arange(len(columns)) / total), float(rows @ np.arange(len(rows)) / total)


def _average(entries: Sequence[EntryScore]) -> GroupScore:
    region = np.mean([entry.region for entry in entries], axis=0).tolist()
    boundary = np.mean([entry.boundary for entry in entries], axis=0).tolist()
    return GroupScore(len(entries), FrameStatistics(*region), FrameStatistics(*boundary))


def _named(score: GroupScore) -> dict[str, float | int | None]:
    """For JSON, which knows no NaN: the decay of some videos of more than 256 frames is none."""
    named = {
        "J&F": score.mean,
        **{f"J-{name}": value for name, value in score.region._asdict().items()},
        **{f"F-{name}": value for name, value in score.boundary._asdict().items()},
    }
    return {"entries": score.count} | {name: None if isnan(value) else value for name, value in named.items()}
