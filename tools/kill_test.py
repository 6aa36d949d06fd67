"""Kills training runs again and again, and compares what is left with a run that was not: `python -m tools.kill_test`.

A small recipe is trained on generated data once without interruption. Then runs of the same recipe are killed with -9,
at random moments and while files are being written, and started again with `train.resume=auto` until they finish. Their
weights, optimiser, schedule, random numbers and log must be those of the first run, bit by bit.

    python -m tools.kill_test --kills 50
    python -m tools.kill_test --kills 20 --processes 2     with torchrun: launcher or a rank is killed
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import CHECKPOINT_FOLDER, LAST
from engine.last_net import Command, run_command
from engine.logging import METRICS_FILE
from structures.user_path import user_path
from tools.shapes.writer import make_shapes

REPOSITORY = Path(__file__).resolve().parent.parent
SETTINGS = (
    "stages.0.max_steps=6",
    "stages.1.max_steps=4",
    "stages.2.max_steps=6",
    "data.num_workers=1",
    "data.sets=[{dataset: ref_youtube_vos}]",
    "train.validate_videos=1",
    "train.checkpoint_steps=2",
    "train.log_every=3",
    "train.resume=auto",
    "device=cpu",
    "num_threads=1",
)
EVENTS = (".step_*", "step_*", ".last.*", "last.pt", ".best.*", "best.pt", ".validation.*", "validation.json")
"""Names in the folder of checkpoints whose appearance or replacement is a moment to kill."""

KILLS_PER_RUN = 3
POLL_S = 0.002
COMPARED = ("model", "optimizer", "schedule", "progress")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run that was killed and went on.

    Attributes:
        moments: when it was killed.
        difference: what of it is not that of the run without kills; None if it is the same.
    """

    moments: tuple[str, ...]
    difference: str | None


class KillTest:
    """Runs of one recipe.

    Args:
        folder: for data and runs.
        processes: of each run; more than one are started by torchrun.
        seed: of the moments.
    """

    def __init__(self, folder: Path, *, processes: int, seed: int) -> None:
        self.folder, self.processes = folder, processes
        self._random = random.Random(seed)
        self._data = folder / "data"
        make_shapes(self._data, num_train=8, num_valid=2, num_frames=6, seed=0, num_workers=1)
        started = time.monotonic()
        self.whole = folder / "whole"
        finished = self._start(self.whole).wait()
        if finished:
            raise RuntimeError(f"the run without kills ended with {finished}; see {self.whole.with_suffix('.log')}")
        self.seconds = time.monotonic() - started

    def trial(self, name: str, *, kills: int) -> Trial:
        """Kills a run so many times, lets it finish and compares it."""
        output = self.folder / name
        moments: list[str] = []
        while True:
            process = self._start(output)
            moment = self._kill(process, output) if len(moments) < kills else None
            if moment is not None:
                moments.append(moment)
                continue
            code = process.wait()
            if code:
                return Trial(tuple(moments), f"it ended with {code}: {_last_line(output.with_suffix('.log'))}")
            difference = find_difference(output, self.whole)
            if difference is None:
                shutil.rmtree(output)
            return Trial(tuple(moments), difference)

    def _start(self, output: Path) -> subprocess.Popen[bytes]:
        launch = [sys.executable]
        if self.processes > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        recipe = ["main.py", "train", "--config", "configs/shapes_ci.yaml", f"data.root={self._data}"]
        with output.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [*launch, *recipe, f"output_dir={output}", *SETTINGS],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def _kill(self, process: subprocess.Popen[bytes], output: Path) -> str | None:
        """Waits for a moment and kills the run; None if it has finished before."""
        at_event = self._random.random() < 0.7
        after_s = self._random.uniform(0, self.seconds)
        after_events = self._random.randint(1, 25)
        started, seen, events = time.monotonic(), _files(output), 0
        while process.poll() is None:
            if at_event:
                now = _files(output)
                changed = sorted(name for name, state in now.items() if seen.get(name) != state)
                events, seen = events + len(changed), now
                if events >= after_events:
                    moment = f"event {events}, {changed[-1]}"
                    break
            elif time.monotonic() - started > after_s:
                moment = f"after {after_s:.1f} s"
                break
            time.sleep(POLL_S)
        else:
            return None
        victim = self._victim(process)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return None
        process.wait()
        return moment if victim == process.pid else f"{moment}, a rank"

    def _victim(self, process: subprocess.Popen[bytes]) -> int:
        """The run, or with several processes by chance one of the ranks."""
        listed = Path("/proc", str(process.pid), "task", str(process.pid), "children")
        ranks = listed.read_text().split() if self.processes > 1 and listed.exists() else []
        return int(self._random.choice([str(process.pid), *ranks]))


def find_difference(folder: Path, whole: Path) -> str | None:
    """What differs between two runs in weights, optimiser, schedule, progress, random numbers or log; None: nothing."""
    ours, right = (
        torch.load(run / CHECKPOINT_FOLDER / LAST, weights_only=True, map_location="cpu") for run in (folder, whole)
    )
    for name in COMPARED:
        if not are_same(ours[name], right[name]):
            return name
    if not are_same(ours["random_states"], right["random_states"]):
        return "random numbers"
    logs = [_without_speed(run / METRICS_FILE) for run in (folder, whole)]
    return None if logs[0] == logs[1] else METRICS_FILE


def are_same(ours: Any, right: Any) -> bool:
    """Whether two nested containers hold the same values and bits."""
    if isinstance(ours, torch.Tensor) and isinstance(right, torch.Tensor):
        return ours.dtype == right.dtype and torch.equal(ours, right)
    if isinstance(ours, dict) and isinstance(right, dict):
        return ours.keys() == right.keys() and all(are_same(ours[name], right[name]) for name in ours)
    if isinstance(ours, list | tuple) and isinstance(right, list | tuple):
        return len(ours) == len(right) and all(map(are_same, ours, right))
    return type(ours) is type(right) and bool(ours == right)


def _without_speed(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name != "sentences_per_second"} for line in lines]


def _files(output: Path) -> dict[str, int]:
    """What is watched: the files there are, by their numbers, and the length of the log."""
    found = {}
    for path in [output / METRICS_FILE, *(path for name in EVENTS for path in (output / CHECKPOINT_FOLDER).glob(name))]:
        try:
            state = path.stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        found[path.name] = state.st_size if path.name == METRICS_FILE else state.st_ino
    return found


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "no output"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if every run that was killed ended as the one that was not, 1 if one did not."""
    return run_command(_run, program="python -m tools.kill_test", arguments=arguments, prefix="kill_test")


def _run(command: Command) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kill_test", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="in all (default 50)")
    parser.add_argument("--processes", type=int, default=1, help="of each run (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--folder", type=user_path, help="keeps data, logs and runs that differ")
    options = parser.parse_args(command.arguments)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="soc_kill_test_") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        test = KillTest(folder, processes=options.processes, seed=options.seed)
        sys.stdout.write(f"without kills: {test.seconds:.0f} s\n")
        trials: list[Trial] = []
        done = 0
        while done < options.kills:
            trial = test.trial(f"run_{len(trials):03d}", kills=min(KILLS_PER_RUN, options.kills - done))
            trials.append(trial)
            done += max(len(trial.moments), 1)
            verdict = "the same" if trial.difference is None else f"OTHER: {trial.difference}"
            sys.stdout.write(f"{verdict}; killed at: {'; '.join(trial.moments) or 'never, it was faster'}\n")
            sys.stdout.flush()
    kills = sum(len(trial.moments) for trial in trials)
    same = sum(trial.difference is None for trial in trials)
    sys.stdout.write(f"{kills} kills with -9: {same} of {len(trials)} runs ended as the one without, bit by bit\n")
    return 0 if same == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
