"""The forward pass of evaluation on a CPU: `python -m benchmarks.bench_model [--before CHECKOUT] [--output FILE]`.

SOC-T at full size against its plain variant and, with `--before`, against another checkout; how far masks differ, and
which part of the model takes how long. `--tiny` only shows that this program works.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.ways import BEFORE, HEADER, OURS, PLAIN, Task, heading, measure, parse_options, rows, write_page

CLIPS = (
    Task("eval", 8, 360, 640, 1),
    Task("eval", 8, 360, 640, 4),
    Task("eval", 8, 360, 640, 8),
    Task("eval", 36, 360, 640, 1),
)
TINY = (Task("eval", 2, 64, 96, 2, tiny=True),)
MOST_RELATIVE, MOST_FLIPPED = 1e-5, 1e-4


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; 1 where masks differ by more than they may."""
    options = parse_options(
        arguments, name="benchmarks.bench_model", description=__doc__.split("\n")[0], clips=range(len(CLIPS)), repeats=2
    )
    counts = {"turns": options.turns, "repeats": options.repeats, "threads": options.threads}
    lines = heading("SOC-T, evaluation of a clip", "python -m benchmarks.bench_model", **counts)
    table, agreement, parts = list(HEADER), [], []
    is_close = True
    for task in TINY if options.tiny else [CLIPS[number] for number in options.clips]:
        tasks = {PLAIN: task, **({BEFORE: task} if options.before else {}), OURS: task}
        if task.sentences == 1:
            tasks["ours, bf16"] = replace(task, amp="bf16")
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(tasks, before=options.before, saves=Path(folder), **counts)
            found = {way: np.load(Path(folder) / f"{way}.npz") for way in tasks}
        table += rows(str(task), measured)
        right = found[PLAIN]
        for way in list(tasks)[1:]:
            of_way = found[way]
            relative = np.linalg.norm(of_way["masks"] - right["masks"]) / np.linalg.norm(right["masks"])
            flipped = np.mean((of_way["masks"] > 0) != (right["masks"] > 0))
            moved = int((of_way["queries"] != right["queries"]).sum())
            agreement.append(f"| {task} | {way} | {relative:.1e} | {moved} | {flipped:.1e} |")
            if way == OURS:
                is_close &= bool(relative <= MOST_RELATIVE and flipped <= MOST_FLIPPED and not moved)
        parts += [f"\n## Where the time goes: {task}\n", *measured[OURS].part_rows()]
    lines += [*table, "\n## Masks against those of the plain way\n"]
    lines += [
        "| clip | way | relative difference | other queries | pixels flipped |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    write_page([*lines, *agreement, *parts], options.output)
    return 0 if is_close else 1


if __name__ == "__main__":
    sys.exit(main())
