"""Scores of single sentences or objects, gathered into a report.

Sentences with a target are scored by J and F, those without by whether they are rejected (docs/evaluation.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float

from metrics.region_boundary import FrameStatistics, frame_statistics, region_and_boundary
from metrics.rejection import auc


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
        region: mean J of the masks that it draws, whether the sentence is rejected or not.
    """

    score: float
    region: float


@dataclass(frozen=True, slots=True)
class EntryScore:
    """One scored mask sequence: the answer to a sentence, or an object of several merged ones.

    Attributes:
        video: its name.
        expression: identifier of the sentence, or number of the object, within the video.
        sentence: as the model read it; empty where several sentences were merged before scoring.
        group: kind of the sentence, or the annotator; empty where the data has none.
        frames: in order of time. A sentence without a target has empty annotations: J is 1 where its mask is empty,
            too, and 0 elsewhere.
        ranking: the chosen query and those next to it, best first (in each window of a video), for a sentence without a
            target the chosen one alone; empty where several sentences were merged.
        num_objects: different objects that the sentences about this video mean.
        is_absent: whether the sentence means nothing in its video.
        presence_score: the highest threshold at which the answer still has a pixel: the highest score of the windows
            in which the chosen query draws one, rejected or not. None where it draws none, and where sentences were
            merged.
    """

    video: str
    expression: str
    sentence: str
    group: str
    frames: tuple[FrameScore, ...]
    ranking: tuple[RankedQuery, ...] = ()
    num_objects: int = 1
    is_absent: bool = False
    presence_score: float | None = None

    @property
    def is_found(self) -> bool | None:
        """Whether the answer has a pixel in some frame; None where sentences were merged."""
        areas = [frame.predicted_px for frame in self.frames]
        return None if None in areas else any(areas)

    @property
    def region(self) -> FrameStatistics:
        """J over the frames."""
        return frame_statistics(np.array([frame.region for frame in self.frames]))

    @property
    def boundary(self) -> FrameStatistics:
        """F over the frames."""
        return frame_statistics(np.array([frame.boundary for frame in self.frames]))

    def as_row(self) -> dict[str, str | float]:
        """What stands in a table with a line per sentence; J and F are those of sentences with a target."""
        region, boundary = self.region.mean, self.boundary.mean
        measures: dict[str, str | float] = {"J&F": (region + boundary) / 2, "J": region, "F": boundary}
        return {
            "video": self.video,
            "expression": self.expression,
            "sentence": self.sentence,
            "group": self.group,
            "frames": len(self.frames),
            **(dict.fromkeys(measures, "") if self.is_absent else measures),
            "score": self.ranking[0].score if self.ranking else "",
            "best J of runners-up": max((query.region for query in self.ranking[1:]), default=""),
            "absent": self.is_absent,
            "found": "" if self.is_found is None else self.is_found,
            "presence score": "" if self.presence_score is None else self.presence_score,
        }


@dataclass(frozen=True, slots=True)
class RejectionScore:
    """How often sentences are found or rejected.

    Attributes:
        present: sentences with a target.
        found: how many of them are found.
        absent: sentences without a target.
        rejected: how many of these are rejected.
        auc: how often a present sentence has a higher presence score than an absent one, whatever the threshold; None
            where one of the two kinds is missing.
        region_without: mean J of the present sentences if none were rejected; what rejection costs is the difference to
            their J. None without a present sentence.
    """

    present: int
    found: int
    absent: int
    rejected: int
    auc: float | None
    region_without: float | None

    @property
    def n_acc(self) -> float | None:
        """Share of the absent sentences that are rejected."""
        return self.rejected / self.absent if self.absent else None

    @property
    def t_acc(self) -> float | None:
        """Share of the present sentences that are found."""
        return self.found / self.present if self.present else None

    def named(self) -> dict[str, float]:
        """Those measures that are known, under short names."""
        measures = {"N-acc": self.n_acc, "T-acc": self.t_acc, "AUC": self.auc}
        return {name: value for name, value in measures.items() if value is not None}

    def as_dict(self) -> dict[str, float | int]:
        """Everything, for JSON."""
        counts = {"present": self.present, "found": self.found, "absent": self.absent, "rejected": self.rejected}
        without = {} if self.region_without is None else {"J without rejection": self.region_without}
        return counts | self.named() | without


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
        min_score: below which sentences were rejected.
    """

    num_videos: int
    num_sentences: int
    entries: tuple[EntryScore, ...]
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    min_score: float = 0.0

    @property
    def legend(self) -> str:
        """See `Report`."""
        text = "J, F and J&F in percent."
        if self.rejection is not None:
            text += " N-acc: sentences without a target that are rejected, in percent; T-acc: others that are found."
        if self.rejection is not None and self.min_score:
            text += f" Rejected are those with a score below {self.min_score:.4f}."
        return text

    @property
    def present(self) -> tuple[EntryScore, ...]:
        """The entries with a target."""
        return tuple(entry for entry in self.entries if not entry.is_absent)

    @property
    def overall(self) -> GroupScore | None:
        """Over all entries with a target; None where there are none."""
        return _average(self.present) if self.present else None

    @property
    def main_score(self) -> float | None:
        """J&F over all entries with a target."""
        return None if self.overall is None else self.overall.mean

    @property
    def groups(self) -> dict[str, GroupScore]:
        """Entries with a target by group, in the order of their names."""
        names = sorted({entry.group for entry in self.present} - {""})
        return {name: _average([entry for entry in self.present if entry.group == name]) for name in names}

    @property
    def rejection(self) -> RejectionScore | None:
        """Over all entries; None where none is absent and none can be rejected, and where sentences were merged."""
        can_reject = self.min_score > 0 or any(entry.is_absent for entry in self.entries)
        if not self.entries or not can_reject or any(entry.is_found is None for entry in self.entries):
            return None
        return _count_rejections(self.entries)

    @property
    def rejection_by_group(self) -> dict[str, RejectionScore]:
        """The same by group, in the order of their names."""
        if self.rejection is None:
            return {}
        names = sorted({entry.group for entry in self.entries} - {""})
        return {name: _count_rejections([entry for entry in self.entries if entry.group == name]) for name in names}

    def scores(self) -> dict[str, float]:
        """The main numbers under short names: "J&F", "J", "F", "N-acc", "T-acc", "AUC", and each with "/<group>"."""
        scores: dict[str, float] = {}
        if self.overall is not None:
            scores |= {"J&F": self.overall.mean, "J": self.overall.region.mean, "F": self.overall.boundary.mean}
        if self.rejection is not None:
            scores |= self.rejection.named()
        scores |= {f"J&F/{name}": score.mean for name, score in self.groups.items()}
        for group, rejection in self.rejection_by_group.items():
            scores |= {f"{name}/{group}": value for name, value in rejection.named().items()}
        return scores

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "num_videos": self.num_videos,
            "num_sentences": self.num_sentences,
            "overall": None if self.overall is None else _named(self.overall),
            "groups": {name: _named(score) for name, score in self.groups.items()},
            "min_score": self.min_score,
            "rejection": None if self.rejection is None else self.rejection.as_dict(),
            "rejection_by_group": {name: score.as_dict() for name, score in self.rejection_by_group.items()},
            "baselines_J": {group: dict(guesses) for group, guesses in self.baselines.items()},
            "entries": self.rows(),
        }

    def rows(self) -> list[dict[str, str | float]]:
        """See `Report`."""
        return [entry.as_row() for entry in self.entries]

    def as_table(self) -> str:
        """The scores in percent as a Markdown table, guesses beside them where they are known."""
        if not self.entries:
            return f"{self.num_videos} videos, {self.num_sentences} sentences; no masks to score against.\n"
        guesses = list(dict.fromkeys(name for names in self.baselines.values() for name in names))
        header = ["", "entries", "J&F", "J", "F", *(f"J of guessing: {name}" for name in guesses)]
        if self.rejection is not None:
            header += ["absent", "N-acc", "T-acc", "AUC", "J without rejection"]
        rows = [header, ["---", *["---:"] * (len(header) - 1)]]
        scores, rejections = {"all": self.overall, **self.groups}, {"all": self.rejection, **self.rejection_by_group}
        for name in ["all", *sorted((scores.keys() | rejections.keys()) - {"all"})]:
            row = [name, *_cells(scores.get(name)), *map(_percent, map(self.baselines.get(name, {}).get, guesses))]
            rejection = rejections.get(name)
            if rejection is not None:
                measures = rejection.n_acc, rejection.t_acc, rejection.auc, rejection.region_without
                row += [str(rejection.absent), *map(_percent, measures)]
            rows.append(row)
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
    # OpenCV adds small integers along an axis many times as fast as NumPy
    rows = cv2.reduce(mask.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0].astype(np.int64)
    columns = cv2.reduce(mask.view(np.uint8), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0].astype(np.int64)
    total = rows.sum()
    if not total:
        return None
    return float(columns @ np.arange(len(columns)) / total), float(rows @ np.arange(len(rows)) / total)


def presence_scores(entries: Sequence[EntryScore], *, absent: bool) -> Float[np.ndarray, " entry"]:
    """Of the absent or the other ones; minus infinity where nothing is drawn at any threshold."""
    scores = [entry.presence_score for entry in entries if entry.is_absent == absent]
    return np.array([-np.inf if score is None else score for score in scores], dtype=np.float64)


def _count_rejections(entries: Sequence[EntryScore]) -> RejectionScore:
    present, absent = (presence_scores(entries, absent=is_absent) for is_absent in (False, True))
    regions = [entry.ranking[0].region for entry in entries if not entry.is_absent]
    return RejectionScore(
        present=len(present),
        found=sum(bool(entry.is_found) for entry in entries if not entry.is_absent),
        absent=len(absent),
        rejected=sum(not entry.is_found for entry in entries if entry.is_absent),
        auc=auc(present, absent) if len(present) and len(absent) else None,
        region_without=float(np.mean(regions)) if regions else None,
    )


def _cells(score: GroupScore | None) -> list[str]:
    """Number of entries, J&F, J and F for the table."""
    if score is None:
        return ["0", "", "", ""]
    return [str(score.count), *map(_percent, (score.mean, score.region.mean, score.boundary.mean))]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


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
