"""The results of one run: a report for each data set that it evaluates."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from evaluation.report import Report


@dataclass(frozen=True)
class Results:
    """Reports of an evaluation.

    Attributes:
        reports: by name of the data set and its split, see `DatasetSettings.eval_name`.
    """

    reports: Mapping[str, Report]

    @property
    def only(self) -> Report:
        """The report, where there is a single one."""
        (report,) = self.reports.values()
        return report

    @property
    def main_score(self) -> float | None:
        """The number by which checkpoints are compared: the mean over the data sets that could be scored.

        The published pretraining selects by the mean of the mask mAP on three data sets. None where nothing could be
        scored.
        """
        scores = [report.main_score for report in self.reports.values() if report.main_score is not None]
        return fmean(scores) if scores else None

    def scores(self) -> dict[str, float]:
        """The main numbers under short names; with several data sets the name of the set stands before them."""
        if len(self.reports) == 1:
            return self.only.scores()
        return {
            f"{name} {measure}": value
            for name, report in self.reports.items()
            for measure, value in report.scores().items()
        }
