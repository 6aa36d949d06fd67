"""Look at a data set before training: `python -m tools.check_data --config FILE [key=value ...]`; see docs/data.md.

Or, without a configuration, at every known data set below a folder: `python -m tools.check_data --all --root FOLDER`.
Names, index files and counts are always checked; of the images and videos a sample is opened, or with `--full` all.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from configs.loader import load_config
from configs.schema import Config, DataConfig
from datasets.definition import DatasetSettings, SplitRequest
from datasets.table import DATASETS, definition_of, find_datasets
from engine.last_net import Command, run_command
from loading.loaders import split_request
from media.folders import listing
from structures.user_path import user_path
from tools.checks.report import SplitReport
from tools.checks.split import check_split

MAX_DEPTH = 3
"""Folders below the given one that are searched for data sets."""

EXIT_WOULD_FAIL = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 if training would start, 1 if it would fail, 2 for a command that makes no sense.
    """
    return run_command(_run, program="python -m tools.check_data", arguments=arguments, prefix="check_data")


def _run(command: Command) -> int:
    parser = _parser()
    options = parser.parse_args(command.arguments)
    if (options.config is None) == (not options.all) or (options.root is not None) != options.all:
        parser.error("either --config FILE, or --all --root FOLDER")
    if options.all and options.overrides:
        parser.error(f"{options.overrides[0]}: overrides belong to --config")
    for name in ("sample", "show", "workers"):
        if getattr(options, name) < (name == "sample"):
            parser.error(f"--{name} {getattr(options, name)} must be at least {int(name == 'sample')}")
    wanted = _of_folder(options.root) if options.all else _of_config(load_config(options.config, options.overrides))
    reports = []
    for request in wanted:
        report = check_split(
            request,
            sample=0 if options.full else options.sample,
            num_workers=options.workers if options.full else 0,
        )
        reports.append(report)
        if not options.json:
            sys.stdout.write(report.as_text(show=options.show) + "\n")
    fails = any(report.fails for report in reports)
    if options.json:
        sys.stdout.write(json.dumps({"fails": fails, "splits": [report.as_json() for report in reports]}, indent=2))
        sys.stdout.write("\n")
    else:
        sys.stdout.write(_verdict(reports) + "\n")
    return EXIT_WOULD_FAIL if fails else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_data", description="Check data sets before training; exit code 1 if it would fail."
    )
    parser.add_argument("--config", type=user_path, metavar="FILE", help="check the data that this configuration names")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for main.py, such as data.root=FOLDER")
    parser.add_argument("--all", action="store_true", help="check every known data set below --root")
    parser.add_argument("--root", type=user_path, metavar="FOLDER", help="where to look with --all")
    parser.add_argument("--full", action="store_true", help="open all images and videos instead of a sample")
    parser.add_argument("--sample", type=int, default=200, help="frames to open of each split (default 200)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes for --full (default: as many as cores)"
    )
    parser.add_argument("--show", type=int, default=10, help="most names to print of a group (default 10; 0: all)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def _of_config(config: Config) -> list[SplitRequest]:
    """The different splits that training and evaluation with this configuration read."""
    wanted: dict[tuple[str, Path, str], SplitRequest] = {}
    for data, settings, split, for_training in _splits_of(config):
        request = split_request(data, settings, split, for_training=for_training)
        own_keys = settings.model_dump_json(exclude=DatasetSettings.model_fields.keys() - {"dataset"})
        wanted.setdefault((own_keys, request.root, split), replace(request, scan_masks=False))
    return list(wanted.values())


def _splits_of(config: Config) -> Iterator[tuple[DataConfig, DatasetSettings, str, bool]]:
    """Splits, and whether they are trained on; these first, because training asks for more than evaluation does."""
    trained_on = [stage.data for stage in config.training_stages()]
    for data in trained_on:
        for settings in data.sets:
            if definition_of(settings).can_train:
                yield data, settings, settings.train_split, True
    for settings in config.data.evaluated:
        yield config.data, settings, settings.evaluated_split, False


def _of_folder(root: Path) -> list[SplitRequest]:
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    found = list(_below(root))
    if not found:
        known = ", ".join(definition.title for definition in DATASETS.values())
        raise ValueError(f"--root {root}: none of the known data sets lies in it or below ({known})")
    return found


def _below(root: Path) -> Iterator[SplitRequest]:
    """Every split of every data set in a folder or below it."""
    level = [root]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            found = find_datasets(folder)
            for item in found:
                for split in item.splits:
                    for_training = definition_of(item.settings).can_train and split == item.settings.train_split
                    yield SplitRequest(item.settings, folder, split, for_training=for_training, scan_masks=False)
            if not found:  # folders of videos inside a data set are many
                deeper += [path for path in listing(folder) if path.is_dir()]
        level = deeper


def _verdict(reports: Sequence[SplitReport]) -> str:
    failing = [f"{report.title} {report.split}" for report in reports if report.fails]
    if failing:
        return f"would fail: {', '.join(failing)}"
    return f"{len(reports)} splits are ready" if len(reports) != 1 else "the split is ready"


if __name__ == "__main__":
    sys.exit(main())
