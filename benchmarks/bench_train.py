"""A training step on a CPU: `python -m benchmarks.bench_train [--before CHECKOUT] [--output FILE]`.

SOC-T at full size, text encoder frozen, against its plain variant and, with `--before`, against another checkout:
forward, matching, losses, backward, clipping and AdamW on a batch that is in memory. `--tiny` only shows that this
program works.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.ways import BEFORE, HEADER, OURS, PLAIN, Task, heading, measure, parse_options, rows, write_page

CLIPS = (Task("train", 4, 224, 384, 1), Task("train", 8, 360, 640, 1))
TINY = (Task("train", 2, 64, 96, 2, tiny=True),)
BF16 = "ours, bf16"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page."""
    options = parse_options(
        arguments, name="benchmarks.bench_train", description=__doc__.split("\n")[0], clips=[0], repeats=3
    )
    counts = {"turns": options.turns, "repeats": options.repeats, "threads": options.threads}
    lines = heading("SOC-T, a training step", "python -m benchmarks.bench_train", **counts)
    table, parts = list(HEADER), []
    for task in TINY if options.tiny else [CLIPS[number] for number in options.clips]:
        tasks = {PLAIN: task, **({BEFORE: task} if options.before else {}), OURS: task, BF16: replace(task, amp="bf16")}
        measured = measure(tasks, before=options.before, **counts)
        table += rows(str(task), measured)
        title = f"\n## Where the time goes: {task}\n"
        parts += [title, *measured[OURS].part_rows(), "\n`all else` is the rest of the step."]
    write_page([*lines, *table, *parts], options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
