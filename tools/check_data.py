"""Look at a data set before training: `python -m tools.check_data --config FILE [key=value ...]`; see docs/data.md.

Or, without a configuration, at every known data set below a folder: `python -m tools.check_data --all --root FOLDER`.
Names, index files and counts are always checked; of the images and videos a sample is opened, or with `--full` all.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.loader import load_config
from configs.schema import Config, DataConfig
from datasets.definition import DatasetSettings, SplitRequest
from datasets.records import VideoRecord
from datasets.table import DATASETS, definition_of, find_datasets
from engine.last_net import Command, run_command
from loading.loaders import require_held_out, split_request, validation_data
from media.folders import listing
from structures.user_path import user_path
from tools.checks.report import SplitReport
from tools.checks.run import Pace, RunReport, check_evaluation, check_training
from tools.checks.split import check_split

Key = tuple[str, Path, str]
"""What tells a split from another: the keys of its data set, its folder and its name."""

FRAMES_OF_A_SAMPLE = 8
"""About as many frames has a clip: with `--sample N`, clips of N frames altogether are read besides."""

Wanted = dict[Key, SplitRequest]

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
    config = None if options.all else load_config(options.config, options.overrides)
    wanted = _of_folder(options.root) if config is None else _of_config(config)
    reports: list[SplitReport] = []
    for request in wanted.values():
        report = check_split(
            request,
            sample=0 if options.full else options.sample,
            num_workers=options.workers if options.full else 0,
        )
        reports.append(report)
        if not options.json:
            sys.stdout.write(report.as_text(show=options.show) + "\n")
    checked = dict(zip(wanted, reports, strict=True))
    pace = Pace(0, options.workers) if options.full else Pace(max(1, options.sample // FRAMES_OF_A_SAMPLE), 0)
    found = _runs_of_folder(wanted, checked, pace) if config is None else _runs_of_config(config, checked, pace)
    runs = list(found)
    fails = any(report.fails for report in reports) or any(run.fails for run in runs)
    if options.json:
        content = {
            "fails": fails,
            "splits": [report.as_json() for report in reports],
            "runs": [run.as_json() for run in runs],
        }
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        sys.stdout.write("".join(run.as_text() + "\n" for run in runs) + _verdict(reports, runs) + "\n")
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


def _of_config(config: Config) -> Wanted:
    """The different splits that training and evaluation with this configuration read."""
    wanted: Wanted = {}
    for data, settings, split, for_training in _splits_of(config):
        request = split_request(data, settings, split, for_training=for_training)
        wanted.setdefault(_key_of(request), replace(request, scan_masks=False))
    return wanted


def _key_of(request: SplitRequest) -> Key:
    own_keys = request.settings.model_dump_json(exclude=DatasetSettings.model_fields.keys() - {"dataset"})
    return own_keys, request.root, request.split


def _runs_of_config(config: Config, checked: Mapping[Key, SplitReport], pace: Pace) -> Iterator[RunReport]:
    """What training and evaluation would build of the splits, where these can be used."""

    def videos_of(data: DataConfig, settings: DatasetSettings, split: str) -> tuple[VideoRecord, ...] | None:
        return checked[_key_of(split_request(data, settings, split, for_training=False))].videos

    for number, stage in enumerate(config.training_stages()):
        data = stage.data
        splits = [
            videos_of(data, settings, settings.train_split) if definition_of(settings).can_train else None
            for settings in data.sets
        ]
        known = [videos for videos in splits if videos is not None]
        if len(known) == len(splits):
            yield check_training(data, known, what=f"training, stage {number}", pace=pace)
    validation = validation_data(config.data)
    require_held_out(validation, (stage.data for stage in config.training_stages()))
    for data in (config.data, validation) if validation != config.data else (config.data,):
        for settings in data.evaluated:
            videos = videos_of(data, settings, settings.evaluated_split)
            if videos is not None:
                yield check_evaluation(data, settings, videos, pace=pace)


def _runs_of_folder(wanted: Wanted, checked: Mapping[Key, SplitReport], pace: Pace) -> Iterator[RunReport]:
    """The same with the default settings, for each split by itself."""
    for key, request in wanted.items():
        videos = checked[key].videos
        if videos is None:
            continue
        if request.for_training:
            data = DataConfig.model_validate({"root": request.root, "sets": (request.settings,)})
            yield check_training(data, [videos], what=f"training on {request.settings.label}", pace=pace)
        else:
            settings = request.settings.model_copy(update={"eval_split": request.split})
            data = DataConfig.model_validate({"root": request.root, "sets": (settings,)})
            yield check_evaluation(data, settings, videos, pace=pace)


def _splits_of(config: Config) -> Iterator[tuple[DataConfig, DatasetSettings, str, bool]]:
    """Splits, and whether they are trained on; these first, because training asks for more than evaluation does."""
    trained_on = [stage.data for stage in config.training_stages()]
    for data in trained_on:
        for settings in data.sets:
            if definition_of(settings).can_train:
                yield data, settings, settings.train_split, True
    for settings in config.data.evaluated:
        yield config.data, settings, settings.evaluated_split, False


def _of_folder(root: Path) -> Wanted:
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    found = list(_below(root))
    if not found:
        known = ", ".join(definition.title for definition in DATASETS.values())
        raise ValueError(f"--root {root}: none of the known data sets lies in it or below ({known})")
    return {_key_of(request): request for request in found}


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


def _verdict(reports: Sequence[SplitReport], runs: Sequence[RunReport]) -> str:
    failing = [f"{report.title} {report.split}" for report in reports if report.fails]
    failing += [run.what for run in runs if run.fails]
    if failing:
        return f"would fail: {', '.join(failing)}"
    return f"{len(reports)} splits are ready" if len(reports) != 1 else "the split is ready"


if __name__ == "__main__":
    sys.exit(main())
