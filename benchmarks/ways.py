"""Ways of running the model, each in processes of its own, in turns: shared by `bench_model` and `bench_train`."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from structures.user_path import user_path

REPOSITORY = Path(__file__).resolve().parent.parent

PLAIN, BEFORE, OURS = "plain", "before", "ours"
"""The plain model (`benchmarks.plain_model`), another checkout, and this one."""


@dataclass(frozen=True, slots=True)
class Task:
    """What `benchmarks.one_way` does.

    Attributes:
        kind: "eval" or "train".
        frames: of the clip.
        height: of its frames, in pixels.
        width: likewise.
        sentences: about the clip.
        amp: "off" or "bf16".
        tiny: a small model, which only shows that the program works.
    """

    kind: str
    frames: int
    height: int
    width: int
    sentences: int
    amp: str = "off"
    tiny: bool = False

    def __str__(self) -> str:
        plural = "" if self.sentences == 1 else "s"
        precision = "" if self.amp == "off" else f", {self.amp}"
        return f"{self.frames} x {self.height} x {self.width}, {self.sentences} sentence{plural}{precision}"


@dataclass(frozen=True, slots=True)
class Measured:
    """The runs of one way.

    Attributes:
        runs: what the process of each turn printed.
    """

    runs: tuple[Mapping[str, Any], ...]

    @property
    def seconds(self) -> float:
        """On the clock, the fastest of all."""
        return min(second for run in self.runs for second in run["seconds"])

    @property
    def cpu_seconds(self) -> float:
        """Of all processors, the fewest."""
        return min(second for run in self.runs for second in run["cpu_seconds"])

    @property
    def peak_mib(self) -> float:
        """Of the process, all of it, the median of the turns."""
        return median(run["peak_mib"] for run in self.runs)

    @property
    def product_gflops(self) -> float:
        """Of a large matrix product in the same processes, the fastest."""
        return max(run["product_gflops"] for run in self.runs)

    @property
    def flops(self) -> float | None:
        """Of one run, where they were counted."""
        return next((run["flops"] for run in self.runs if run["flops"]), None)

    def part_rows(self) -> list[str]:
        """A table of seconds by part of the model, means of the fastest process."""
        run = min(self.runs, key=lambda run: mean(run["seconds"]))
        total = mean(run["seconds"])
        named = [*run["parts"].items(), ("all else", total - sum(run["parts"].values()))]
        lines = [f"| {name} | {seconds:.3f} | {seconds / total:.0%} |" for name, seconds in named]
        return ["| part | s | share |", "| --- | ---: | ---: |", *lines]


def parse_options(
    arguments: Sequence[str] | None, *, name: str, description: str, clips: Sequence[int], repeats: int
) -> argparse.Namespace:
    """What both benchmarks are told on the command line.

    Args:
        arguments: None: those of this process.
        name: of the module.
        description: its first line.
        clips: numbers of the clips that are measured where none are named.
        repeats: in a process, where no number is given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("--before", type=user_path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--clips", type=int, nargs="*", default=clips, help="numbers of clips, from 0")
    parser.add_argument("--turns", type=int, default=2, help="processes of each way")
    parser.add_argument("--repeats", type=int, default=repeats, help="in a process, after one that does not count")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--tiny", action="store_true", help="a small model and clip")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="where the page is written, too")
    return parser.parse_args(arguments)


def measure(
    tasks: Mapping[str, Task], *, before: Path | None, repeats: int, turns: int, threads: int, saves: Path | None = None
) -> dict[str, Measured]:
    """Runs every way in turns.

    Args:
        tasks: way -> what it does.
        before: the checkout of that way.
        repeats: in a process, after one run that does not count.
        turns: processes of each way.
        threads: of PyTorch.
        saves: folder for masks, one file for each way; None: none are kept.

    Raises:
        ValueError: a process has failed.
    """
    runs: dict[str, list[Mapping[str, Any]]] = {way: [] for way in tasks}
    for turn in range(turns):
        for way, task in tasks.items():
            asked = asdict(task) | {
                "way": way,
                "as_commands": way not in (PLAIN, BEFORE),  # as every command of ours does
                "repeats": repeats,
                "threads": threads,
                "counts": turn == 0 and way == PLAIN,
                "parts": way == OURS,
                "saves": str(saves / f"{way}.npz") if saves and turn == 0 else None,
            }
            runs[way].append(_run(asked, before if way == BEFORE else REPOSITORY))
    return {way: Measured(tuple(of_way)) for way, of_way in runs.items()}


def _run(asked: dict[str, Any], checkout: Path | None) -> Mapping[str, Any]:
    script = str(REPOSITORY / "benchmarks" / "one_way.py")
    process = subprocess.run(
        [sys.executable, script, json.dumps(asked)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise ValueError(f"{asked} in {checkout} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def heading(title: str, command: str, *, turns: int, repeats: int, threads: int) -> list[str]:
    """The first lines of a page."""
    return [
        f"# {title}, {date.today()}",
        "",
        f"`{command}`, PyTorch {torch.__version__}, {threads} threads of {os.cpu_count()} processors "
        f"({platform.machine()}); random weights; every way in {turns} processes in turn, {repeats} runs in each, the "
        "fastest counts; peak memory is that of the whole process. `plain` is a variant of ours that does what the "
        "published code does (`benchmarks/plain_model.py`), not the published code.",
        "",
    ]


def rows(name: str, measured: Mapping[str, Measured]) -> Iterator[str]:
    """Lines of a table: way, seconds, ratios, GFLOP/s and its share of a large matrix product, MiB."""
    flops = measured[PLAIN].flops if PLAIN in measured else None
    for way, one in measured.items():
        ratio = f"{measured[PLAIN].seconds / one.seconds:.2f}" if PLAIN in measured else "-"
        speed = "-" if flops is None else f"{flops / one.seconds / 1e9:.0f}"
        share = "-" if flops is None else f"{flops / one.seconds / 1e9 / one.product_gflops:.0%}"
        yield (
            f"| {name} | {way} | {one.seconds:.2f} | {one.cpu_seconds:.2f} | {ratio} | {speed} | {share} "
            f"| {one.peak_mib:.0f} |"
        )


HEADER = (
    "| clip | way | s | CPU s | plain / this | GFLOP/s of the plain count | of a 2048^3 product | peak MiB |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def write_page(lines: Sequence[str], output: Path | None) -> None:
    """Prints a page, and writes it where a file is named."""
    text = "\n".join(lines) + "\n"
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")
