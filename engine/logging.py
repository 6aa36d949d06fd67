"""Text to the console from the first process, numbers to `metrics.jsonl`."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.contrib import DummyTqdmFile

from engine.distributed import World, mean_over_processes
from media.files import write_text

METRICS_FILE = "metrics.jsonl"


def setup_logging(world: World) -> None:
    """One handler on the console; processes other than the first show warnings only.

    The handler writes through tqdm, above a bar where one is shown. tqdm's own way, a context round the bar, replaces
    the handler by one that has not its level: then each of several processes prints every line.
    """
    console = logging.StreamHandler(DummyTqdmFile(sys.stderr))
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", handlers=[console])
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
        validates_again: on resuming, the validation of that very step is dropped, too, because it will be repeated.
    """

    def __init__(
        self, folder: Path, world: World, *, keep_up_to_step: int | None = None, validates_again: bool = False
    ) -> None:
        self.path = folder / METRICS_FILE
        self.is_active = world.is_main
        if self.is_active:
            kept = [] if keep_up_to_step is None else _lines_up_to(self.path, keep_up_to_step)
            if validates_again:
                again = {"event": "validation", "step": keep_up_to_step}
                kept = [line for line in kept if not again.items() <= json.loads(line).items()]
            write_text(self.path, "".join(kept))

    def write(self, event: str, **values: Any) -> None:
        """Adds a line about an event (`train`, `validation`)."""
        if self.is_active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event} | values) + "\n")


class StepWindow:
    """Losses of the steps since the last line of the log; they leave the device together, when the line is written.

    Values are means over the processes, so all of them must flush and check at the same steps.

    Args:
        world: the processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._steps: list[tuple[int, dict[str, Tensor]]] = []
        self._num_sentences = 0
        self._seconds = 0.0
        self._start = time.perf_counter()

    def add(self, step: int, values: dict[str, Tensor], num_sentences: int) -> None:
        """Notes one step; the values, scalars without a graph, stay where they are."""
        self._steps.append((step, values))
        self._num_sentences += num_sentences

    def state(self) -> dict[str, Any]:
        """What is in the window, for a checkpoint; the clock is paused for it."""
        return {
            "steps": [(step, list(values), _row(values).cpu()) for step, values in self._steps],
            "num_sentences": self._num_sentences,
            "seconds": self._seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on with a window that `state` returned."""
        self._steps = [(step, dict(zip(names, row.unbind(), strict=True))) for step, names, row in state["steps"]]
        self._num_sentences = state["num_sentences"]
        self._seconds = state["seconds"]

    def restart_clock(self) -> None:
        """Time since the last step (validation, saving) does not count as training."""
        self._start = time.perf_counter()

    def pause_clock(self) -> None:
        """Counts the time until now; `restart_clock` goes on."""
        now = time.perf_counter()
        self._seconds += now - self._start
        self._start = now

    def check_finite(self) -> None:
        """Raises ValueError if a value since the last line is not finite, naming the first such step and its values."""
        self._table()

    def flush(self) -> dict[str, float]:
        """Means since the last line and `sentences_per_second` of all processes; the next line starts from nothing.

        Raises:
            ValueError: as `check_finite`.
        """
        names = list(self._steps[0][1])
        means = dict(zip(names, self._table().mean(dim=0).tolist(), strict=True))
        self.pause_clock()
        means["sentences_per_second"] = self._world.size * self._num_sentences / max(self._seconds, 1e-9)
        self._steps, self._num_sentences, self._seconds = [], 0, 0.0
        return means

    def _table(self) -> Tensor:
        """Steps in rows, values in columns, on the CPU."""
        if not self._steps:
            return torch.zeros(0, 0)
        rows = [_row(values) for _, values in self._steps]
        device = rows[-1].device  # rows from a checkpoint are on the CPU
        table = mean_over_processes(torch.stack([row.to(device) for row in rows]), self._world).cpu()
        for (step, values), row in zip(self._steps, table, strict=True):
            if not row.isfinite().all():
                shown = describe(dict(zip(values, row.tolist(), strict=True)))
                raise ValueError(
                    f"step {step}: the loss or its gradient is not finite ({shown}); lower optim.lr or "
                    "optim.max_grad_norm, or check the data; checkpoints from before this step are untouched"
                )
        return table


def _row(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([value.detach().float() for value in values.values()])


def describe(values: dict[str, float]) -> str:
    """Numbers as a short text: `total 1.234, dice 0.5`."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Lines of steps up to this one; a last line that an interruption cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
