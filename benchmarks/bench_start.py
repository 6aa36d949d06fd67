"""How long commands take until they do something: `python -m benchmarks.bench_start [--before CHECKOUT]`.

Every command is started anew, in turns, in this checkout and in another one that is compared with it; an empty Python
(`python -c pass`) is the floor. Of `predict` the marks are: the model is built, without the seconds that reading and
loading of its weights take; the first window goes into the model (what is above, less the same seconds); its answer is
there; the command has ended. Two saved models with random weights are predicted with: the small one of
`configs/shapes.yaml`, and SOC with Video-Swin-T and an encoder of the size of RoBERTa-base.

Bytecode of both checkouts is written before the first measured start, as at every start after the first.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from benchmarks.start_models import write_models, write_video
from structures.user_path import user_path

REPOSITORY = Path(__file__).resolve().parent.parent

MARKS = ("built", "first window", "first answer", "end")
"""Of `predict`."""

RUN_WITH_MARKS = """
import json, os, sys, time

import main
import models.build
import models.soc
import prediction.stream

marks, weights = {}, [0.0, 0.0]


def mark(name):
    wall, processor = time.perf_counter() - float(os.environ["STARTED"]), time.process_time()
    marks.setdefault(name, (wall - weights[0], processor - weights[1]) if name != "end" else (wall, processor))


def around(owner, name, before=None, after=None):
    inner = getattr(owner, name)

    def outer(*arguments, **settings):
        if before is not None:
            mark(before)
        result = inner(*arguments, **settings)
        if after is not None:
            mark(after)
        return result

    setattr(owner, name, outer)


def timed(*arguments, load=models.build.load_weights, **settings):
    wall, processor = time.perf_counter(), time.process_time()
    load(*arguments, **settings)
    weights[:] = time.perf_counter() - wall, time.process_time() - processor


models.build.load_weights = timed
around(prediction.stream.VideoPredictor, "__init__", before="built")
around(models.soc.SOC, "encode_video", before="first window")
around(prediction.stream.VideoPredictor, "_predict", after="first answer")
code = main.main(sys.argv[1:])
mark("end")
print("MARKS", json.dumps({"weights": weights, **marks}))
sys.exit(code)
"""
"""Runs the command line, and prints wall and processor seconds of the marks."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a command.

    Attributes:
        wall: seconds until each mark.
        processor: seconds of processor time until each mark, of all threads.
    """

    wall: Mapping[str, float]
    processor: Mapping[str, float]


def start(command: Sequence[str], folder: Path) -> Start:
    """Runs a command to its end.

    Args:
        command: arguments of Python.
        folder: of the checkout.

    Raises:
        RuntimeError: it has failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment["STARTED"] = str(started)
    run = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {run.returncode}: {run.stderr[-2000:]}")
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    marks = [line for line in run.stdout.splitlines() if line.startswith("MARKS ")]
    if not marks:
        return Start({"end": wall}, {"end": processor})
    read = json.loads(marks[0].removeprefix("MARKS "))
    return Start({name: pair[0] for name, pair in read.items()}, {name: pair[1] for name, pair in read.items()})


def measure(
    commands: Mapping[str, Sequence[str]], checkouts: Mapping[str, Path], rounds: int
) -> dict[tuple[str, str], list[Start]]:
    """Starts every command so many times in every checkout, in turns; the first start is not counted."""
    starts: dict[tuple[str, str], list[Start]] = {}
    for number in range(rounds + 1):
        for command, arguments in commands.items():
            for checkout, folder in checkouts.items():
                one = start(arguments, folder)
                if number:
                    starts.setdefault((command, checkout), []).append(one)
    return starts


def table(starts: Mapping[tuple[str, str], Sequence[Start]]) -> list[str]:
    """Rows of Markdown: median and smallest wall seconds, and median of processor seconds, for each mark."""
    lines = ["| command | until | checkout | median, s | smallest, s | processor, s |", "|---|---|---|---:|---:|---:|"]
    for (command, checkout), runs in sorted(starts.items(), key=lambda item: list(starts).index(item[0])):
        for name in runs[0].wall:
            wall, processor = [run.wall[name] for run in runs], [run.processor[name] for run in runs]
            lines.append(
                f"| {command} | {name} | {checkout} | {statistics.median(wall):.3f} | {min(wall):.3f} | "
                f"{statistics.median(processor):.3f} |"
            )
    return lines


def main() -> int:
    """Measure, print a table, and write it with `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=user_path, metavar="CHECKOUT", help="of an earlier commit, to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="three rounds, and the small model alone")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    options = parser.parse_args()
    checkouts = {"before": options.before} if options.before else {}
    checkouts["now"] = REPOSITORY
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = write_video(folder / "video")
        commands = {
            "python -c pass": ["-c", "pass"],
            "main.py --help": ["main.py", "--help"],
            "main.py config": ["main.py", "config", "--config", "configs/shapes.yaml"],
        }
        for model in write_models(folder, only_small=options.short):
            output = ["--output", str(folder / "out"), "overwrite=true", "device=cpu", "num_threads=1"]
            asked = ["--model", str(model), "--video", str(video), "--sentence", "the red circle"]
            commands[f"main.py predict, {model.name}"] = ["-c", RUN_WITH_MARKS, "predict", *asked, *output]
        starts = measure(commands, checkouts, 3 if options.short else options.rounds)
    short = " --short" if options.short else ""
    lines = [
        f"# Start of commands, {date.today()}\n",
        f"Command: `python -m benchmarks.bench_start{' --before CHECKOUT' if options.before else ''}{short}`. "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, PyTorch "
        f"{torch.__version__}. All but `end` of `predict` are without the seconds of `weights`.\n",
        *table(starts),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"start_cpu{os.cpu_count()}_{date.today()}.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
