"""Teaching from the page: `main.py teach` in a process of its own, watched by its files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.logging import METRICS_FILE

PROJECT = Path(__file__).resolve().parents[2]
"""The folder with all packages: that of the checkout, or `soc_rvos` of an installation."""

GRACE_SECONDS = 5.0
"""Between the polite and the other way of stopping."""

LOG_LINES = 12


class LossPoint(NamedTuple):
    """A point of the curve.

    Attributes:
        step: from the start of teaching.
        loss: mean of the steps since the last point.
        stage: that it belongs to.
    """

    step: int
    loss: float
    stage: str


@dataclass(eq=False)
class Lesson:
    """One teaching process.

    Attributes:
        folder: with everything of it.
        model: where the saved model appears.
        process: that teaches.
        deadline: when it is stopped, by `time.monotonic`.
    """

    folder: Path
    model: Path
    process: subprocess.Popen[bytes]
    deadline: float

    @classmethod
    def start(
        cls, *, video: Path, labels: Path, folder: Path, overrides: Sequence[str] = (), minutes: float = 30.0
    ) -> "Lesson":
        """Starts teaching.

        Args:
            video: a file.
            labels: a folder as `teach` reads it.
            folder: for the model, the metrics and the log; is made.
            overrides: further settings, such as `stages.0.max_steps=20`.
            minutes: after which it is stopped.
        """
        folder.mkdir(parents=True)
        model, run = folder / "model", folder / "run"
        prefix = __name__.removesuffix("tools.web.teaching")  # `soc_rvos.` in an installation
        command = [sys.executable, "-m", f"{prefix}main", "teach"]
        command += ["--video", str(video), "--labels", str(labels), "--output", str(model)]
        command += [f"teach.run_folder={json.dumps(str(run))}", *overrides]
        root = PROJECT.parent if prefix else PROJECT
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        return cls(folder, model, process, time.monotonic() + 60 * minutes)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    @property
    def is_overdue(self) -> bool:
        """Whether it has taken longer than it may."""
        return time.monotonic() > self.deadline

    def losses(self) -> list[LossPoint]:
        """The curve so far."""
        return read_losses(self.folder / "run" / METRICS_FILE)

    def outcome(self) -> list[str]:
        """The lines that the user reads in the end: scores on the held-out frames and the share that is refused.

        Raises:
            ValueError: teaching has failed; the message is that of the process.
        """
        text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        if self.process.returncode != 0:
            raise ValueError(error_of(text, self.process.returncode))
        return summary_of(text)

    def stop(self) -> None:
        """Ends the process and its children, if it still runs."""
        if not self.is_running:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def read_losses(metrics: Path) -> list[LossPoint]:
    """The losses of a `metrics.jsonl`. Teaching counts steps anew when it goes on with all frames; here they go on."""
    if not metrics.is_file():
        return []
    points: list[LossPoint] = []
    offset, before = 0, 0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line, half written
            break
        if entry.get("event") != "train":
            continue
        step = int(entry["step"])
        if step <= before:
            offset += before
        before = step
        points.append(LossPoint(offset + step, float(entry["total"]), str(entry["stage"])))
    return points


def error_of(log: str, code: int) -> str:
    """The message of a process that has failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    if code < 0:
        return "teaching was stopped"
    return "\n".join(["teaching has failed; the end of its log:", *lines[-LOG_LINES:]])


def summary_of(log: str) -> list[str]:
    """The lines of the summary that `teach` logs, without the folder and the command for a terminal."""
    lines = log.splitlines()
    start = max((index for index, line in enumerate(lines) if "held-out frames: " in line), default=None)
    if start is None:
        return ["the model is taught"]
    wanted = [lines[start][lines[start].index("held-out frames: ") :]]
    wanted += [line.strip() for line in lines[start + 1 :] if line.strip().startswith(("J&F on them", "of "))]
    return wanted
