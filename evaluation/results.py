"""The results of one run: a report for each data set that it evaluates, and the files that hold them."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from evaluation.report import Report
from evaluation.runner import Speed
from media.files import atomic_path

RESULTS_JSON, RESULTS_MARKDOWN, EXPRESSIONS_CSV = "results.json", "results.md", "expressions.csv"
ANALYSIS_PAGE = "analysis.html"
"""What `tools.analyze` writes beside them, and another evaluation in the same folder removes."""


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

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "main_score": self.main_score,
            "scores": self.scores(),
            "sets": {name: report.as_dict() for name, report in self.reports.items()},
        }

    def as_markdown(self, notes: Mapping[str, Sequence[str]]) -> str:
        """A section with a table for each data set.

        Args:
            notes: sentences below the heading of a data set.
        """
        sections = []
        for name, report in self.reports.items():
            counts = f"{report.num_videos} videos, {report.num_sentences} sentences."
            text = " ".join([counts, *(f"{note}." for note in notes.get(name, ())), report.legend])
            sections.append(f"## {name}\n\n{text}\n\n{report.as_table()}")
        return "\n".join(sections)


def write_rows(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Writes a line per sentence as CSV, numbers at full precision; only a heading where nothing was scored."""
    columns = list(dict.fromkeys(column for row in rows for column in row)) or ["video", "expression"]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def describe_speed(speeds: Sequence[Speed], *, num_processes: int, seconds: float) -> dict[str, Any]:
    """Where the time went.

    Args:
        speeds: of every process and data set.
        num_processes: that shared the work.
        seconds: from the first video to the last, as a clock on the wall has it.
    """
    total = sum(sum(speed.seconds.values()) for speed in speeds)
    frames, masks = sum(speed.num_frames for speed in speeds), sum(speed.num_masks for speed in speeds)
    return {
        "seconds": seconds,
        "processes": num_processes,
        "frames": frames,
        "masks": masks,
        "frames_per_second": frames / seconds,
        "masks_per_second": masks / seconds,
        "share_of_time": {
            part: sum(speed.seconds[part] for speed in speeds) / total if total else None for part in speeds[0].seconds
        },
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process has held so far, in MiB: its own (not on Windows), and PyTorch's on a GPU."""
    memory = {}
    if sys.platform != "win32":
        import resource  # which Windows does not have

        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
        memory["process_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if device.type == "cuda":
        memory["gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return memory
