"""Tries small wrong changes to the sources and tells which of them no test sees: `python -m tools.mutate`.

The working tree is never changed: tests run in copies. `docs/testing.md` tells how to read the result.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.last_net import run_command
from structures.user_path import user_path
from tools.mutate.coverage_map import up_to_date_map
from tools.mutate.finding import find_mutants
from tools.mutate.operators import Mutant
from tools.mutate.report import (
    Equivalents,
    progress_line,
    read_equivalents,
    summarise,
    survivors_in,
    table,
    to_json,
    to_markdown,
)
from tools.mutate.runner import Outcome, run_mutants
from tools.mutate.sampling import DEFAULT_ROOTS, draw, source_files

EQUIVALENTS = "docs/equivalent_mutants.toml"

COVERAGE_MAP = "runs/mutate/coverage.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if enough mutants are killed, 1 if not, 2 for a wrong call."""
    return run_command(
        lambda command: _run(_parser().parse_args(command.arguments), Path.cwd()),
        program="python -m tools.mutate",
        arguments=arguments,
        prefix="mutate",
    )


def _run(options: argparse.Namespace, root: Path) -> int:
    roots = [name for name in options.roots if (root / name).exists()]
    sources = {name: (root / name).read_text(encoding="utf-8") for name in source_files(root, roots)}
    mutants = _chosen(options, root, sources)
    if options.list:
        for mutant in mutants:
            _say(f"{mutant.file}:{mutant.line} {mutant.operator}\n  - {mutant.before}\n  + {mutant.after}")
        return 0
    equivalents = read_equivalents(root / options.equivalents)
    coverage = up_to_date_map(
        root, root / COVERAGE_MAP, roots=roots, marked=options.marked, refresh=options.refresh, say=_say
    )
    if coverage.failing:
        _say(f"left out, as they fail without any mutant: {', '.join(coverage.failing)}")
    progress = _Progress(equivalents, len(mutants))
    outcomes = run_mutants(root, mutants, sources=sources, coverage=coverage, workers=options.workers, report=progress)
    _say("\n" + table(outcomes, equivalents))
    if options.json is not None:
        options.json.write_text(to_json(outcomes, equivalents, seed=options.seed, roots=roots), encoding="utf-8")
    if options.markdown is not None:
        title = f"{len(outcomes)} mutants of {' '.join(options.files or roots)}, seed {options.seed}"
        options.markdown.write_text(to_markdown(outcomes, equivalents, title=title), encoding="utf-8")
    return 0 if summarise(outcomes, equivalents).passes else 1


def _chosen(options: argparse.Namespace, root: Path, sources: dict[str, str]) -> list[Mutant]:
    """Those that survived earlier, or a new draw."""
    if options.only_survivors is not None:
        report = json.loads(options.only_survivors.read_text(encoding="utf-8"))
        mutants, gone = survivors_in(report, {file: find_mutants(file, text) for file, text in sources.items()})
        for name in gone:
            _say(f"no longer there: {name}")
        return mutants
    files = source_files(root, options.files) if options.files else list(sources)
    missing = [name for name in files if name not in sources]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not below {' '.join(options.roots)}; give --roots as well")
    return draw({name: sources[name] for name in files}, seed=options.seed, count=options.count)


class _Progress:
    """Prints a line per mutant."""

    def __init__(self, equivalents: Equivalents, total: int) -> None:
        self.equivalents = equivalents
        self.total = total
        self.count = 0

    def __call__(self, outcome: Outcome) -> None:
        self.count += 1
        _say(progress_line(outcome, self.equivalents, self.count, self.total))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--count", type=int, default=150, help="number of mutants (default: 150)")
    parser.add_argument("--files", nargs="+", metavar="PATH", help="draw from these files or folders only")
    parser.add_argument(
        "--roots", nargs="+", metavar="PATH", default=DEFAULT_ROOTS, help="files and folders of sources"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--workers", type=int, default=2, help="mutants tried at the same time (default: 2)")
    parser.add_argument("--marked", default="", help="pytest's -m for the tests that count (default: all)")
    parser.add_argument("--refresh", action="store_true", help="record anew which test executes which line")
    parser.add_argument(
        "--only-survivors", type=user_path, metavar="JSON", help="try those again that survived in a report"
    )
    parser.add_argument("--equivalents", default=EQUIVALENTS, metavar="TOML", help=f"default: {EQUIVALENTS}")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the outcomes as JSON")
    parser.add_argument("--markdown", type=user_path, metavar="FILE", help="write the outcomes as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
