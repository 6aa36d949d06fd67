"""Writes a page that says why an evaluation came out as it did: `python -m tools.analyze RUN [RUN]`.

RUN is an output folder of `python main.py eval`. With two, the second is compared with the first. The page is one file
that needs nothing else: `analysis.html` in the last RUN, unless `--output PAGE.html` says otherwise; see
docs/analyze.md.
"""

import argparse
import sys
from collections.abc import Sequence

from engine.last_net import Command, run_command
from evaluation.results import ANALYSIS_PAGE
from media.files import write_text
from structures.user_path import user_path
from tools.analyze.page import render_page
from tools.analyze.runs import read_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.analyze", arguments=arguments, prefix="analyze")


def _run(command: Command) -> int:
    options = _parser().parse_args(command.arguments)
    command.output_folder = options.runs[-1]
    if len(options.runs) > 2:
        raise ValueError(f"{len(options.runs)} runs are named; one is analysed, or two are compared")
    if options.examples < 0:
        raise ValueError(f"--examples {options.examples}: expected 0 or more")
    runs = read_runs(options.runs, options.data_root)
    page = options.output or options.runs[-1] / ANALYSIS_PAGE
    write_text(page, render_page(runs, num_examples=options.examples))
    for name, reason in runs[0].without_pictures.items():
        sys.stderr.write(f"analyze: {name}: no pictures, the data cannot be read ({reason}); give --data-root\n")
    sys.stdout.write(f"{page}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.analyze", description=__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="output folder of `python main.py eval`")
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="PAGE.html",
        help="the page to write (default: analysis.html in the last RUN)",
    )
    parser.add_argument(
        "--data-root", type=user_path, metavar="DIR", help="where the data is, if no longer at data.root"
    )
    parser.add_argument("--examples", type=int, default=6, metavar="N", help="examples of each kind (default: 6)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
