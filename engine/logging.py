"""Text to the console from the first process, numbers to `metrics.jsonl`."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.distributed import World
from engine.files import write_text

METRICS_FILE = "metrics.jsonl"


def setup_logging(world: World) -> None:
    """One handler on the console; processes other than the first show warnings only."""
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in root.handlers:
        handler.setLevel(logging.INFO if world.is_main else logging.WARNING)


class MetricsLog:
    """Appends one JSON object per line to `metrics.jsonl`; does nothing in other processes than the first.

    Args:
        folder: where the file lies.
        world: who writes.
        keep_up_to_step: on resuming, later lines of the interrupted run are dropped; None starts a new file.
    """

    def __init__(self, folder: Path, world: World, *, keep_up_to_step: int | None = None) -> None:
        self.path = folder / METRICS_FILE
        self.is_active = world.is_main
        if self.is_active:
            kept = [] if keep_up_to_step is None else _lines_up_to(self.path, keep_up_to_step)
            write_text(self.path, "".join(kept))

    def write(self, **values: Any) -> None:
        """Adds a line."""
        if self.is_active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, default=str) + "\n")


class StepWindow:
    """Losses of the steps since the last line of the log; they leave the device together, when the line is written."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Empties the window and restarts its clock."""
        self._steps: list[int] = []
        self._values: list[dict[str, Tensor]] = []
        self._num_samples = 0
        self._start = time.perf_counter()

    def add(self, step: int, values: dict[str, Tensor], *, num_samples: int) -> None:
        """Notes one step; the values stay where they are.

        Args:
            step: its number.
            values: scalars without a graph.
            num_samples: sentences of this step in all processes.
        """
        self._steps.append(step)
        self._values.append(values)
        self._num_samples += num_samples

    def flush(self) -> dict[str, float]:
        """Means over the window and `samples_per_second`, and starts the next window; empty after no step.

        Raises:
            ValueError: if a value is not finite, naming the first such step and its values.
        """
        if not self._steps:
            return {}
        names = list(self._values[0])
        table = torch.stack([torch.stack([values[name].float() for name in names]) for values in self._values]).cpu()
        for step, row in zip(self._steps, table, strict=True):
            if not row.isfinite().all():
                losses = describe(dict(zip(names, row.tolist(), strict=True)))
                raise ValueError(
                    f"step {step}: the loss is not finite ({losses}); lower optim.lr or optim.max_grad_norm, "
                    "or check the data; checkpoints from before this step are untouched"
                )
        seconds = time.perf_counter() - self._start
        means = dict(zip(names, table.mean(dim=0).tolist(), strict=True))
        rate = self._num_samples / max(seconds, 1e-9)
        self.restart()
        return means | {"samples_per_second": rate}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that an interruption cut off is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def describe(values: dict[str, float]) -> str:
    """Numbers as a short text: `total 1.234, dice 0.5`."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _lines_up_to(path: Path, step: int) -> list[str]:
    return [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
