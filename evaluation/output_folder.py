"""The folder of an evaluation: who may write there, what goes on there, and what an earlier run has left."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import Config
from evaluation.benchmarks import EvaluatedSet, all_outputs
from evaluation.journal import UNFINISHED, VIDEOS, Journal, changes, is_unfinished, remove_journal
from evaluation.results import ANALYSIS_PAGE, EXPRESSIONS_CSV, RESULTS_JSON, RESULTS_MARKDOWN
from media.files import claim_output, output_path

logger = logging.getLogger(__name__)

SUBMISSION = "submission.zip"


def folder_of(config: Config, one: EvaluatedSet) -> Path:
    """Where a data set has its results: `output_dir`, or with several data sets a folder of its own there."""
    several = len(config.data.evaluated) > 1
    return folder_of_set(config.output_dir, one.settings.eval_name) if several else config.output_dir


def folder_of_set(output_dir: Path, name: str) -> Path:
    """Where one of several data sets has its results.

    Args:
        output_dir: of the evaluation.
        name: of the data set and its split, as `results.json` has it.

    Raises:
        ValueError: the name leads out of the folder.
    """
    return output_path(output_dir, *name.split("/"), what="data set")


def claim(config: Config, sets: Sequence[EvaluatedSet]) -> None:
    """Makes the output folders; takes over those of an interrupted evaluation, and with `overwrite` any.

    What an earlier run has written goes first, so that nothing of it ever lies beside something new. An interrupted
    evaluation goes on with `overwrite`, too: whoever starts the same command again wants the rest of it.
    """
    folders = {folder_of(config, one): one.benchmark.outputs for one in sets}
    if any(map(is_unfinished, folders)) and not (config.output_dir / RESULTS_JSON).exists():
        logger.info("going on with the evaluation in %s", config.output_dir)
        return
    claim_output(config.output_dir, markers=(RESULTS_JSON, RESULTS_MARKDOWN), overwrite=config.overwrite)
    for folder, outputs in folders.items():
        claim_output(folder, markers=(*outputs, SUBMISSION, UNFINISHED), overwrite=config.overwrite)
    earlier = dict.fromkeys([*_folders_of_earlier(config.output_dir), *folders])
    for folder in earlier:
        _require_no_data(folder)
    for folder in earlier:
        _remove_outputs(folder)
    for name in (ANALYSIS_PAGE, RESULTS_MARKDOWN, RESULTS_JSON):  # the last one says where the rest lies
        (config.output_dir / name).unlink(missing_ok=True)


def _folders_of_earlier(output_dir: Path) -> list[Path]:
    """The folders of the data sets of the evaluation that lies in an output folder, finished or not, if one does."""
    unfinished = [path.parent for path in output_dir.glob(f"*/*/{UNFINISHED}")]  # of several sets; one is seen anyway
    try:
        names = json.loads((output_dir / RESULTS_JSON).read_text(encoding="utf-8"))["sets"]
    except (OSError, ValueError, KeyError, TypeError):
        return unfinished  # no results, or the file of something else
    return [*unfinished, *([folder_of_set(output_dir, name) for name in names] if len(names) > 1 else [output_dir])]


def _require_no_data(folder: Path) -> None:
    """Raises ValueError if what is about to be removed belongs to a data set: masks are called alike there.

    A folder of data is told by the folders beside the masks, unless an evaluation has left its traces there.
    """
    masks = [name for name in all_outputs() if (folder / name).is_dir()]
    if not masks or any((folder / name).exists() for name in (RESULTS_JSON, VIDEOS, UNFINISHED)):
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in masks)
    if foreign:
        raise ValueError(
            f"output_dir: {folder} holds {', '.join(foreign[:3])} beside {masks[0]}, and no results: it looks like a "
            "folder of data, in which nothing is overwritten; name another output_dir"
        )


def drop_if_changed(one: EvaluatedSet, folder: Path, origin: dict[str, Any]) -> None:
    """Removes an interrupted evaluation whose results would be others now."""
    if is_unfinished(folder) and (changed := changes(folder, origin)):
        logger.warning(
            "%s: the interrupted evaluation in %s is begun anew, because something changed: %s",
            one.settings.eval_name,
            folder,
            "; ".join(changed),
        )
        _remove_outputs(folder)


def forget_without_masks(one: EvaluatedSet, folder: Path, journal: Journal) -> None:
    """Finished videos whose masks are no longer there are evaluated again: a power cut may lose or empty files."""
    finished = [video for video in one.dataset if video.record.name in journal.finished]
    for video in finished:
        paths = (mask.below(folder) for mask in one.benchmark.submission(video))
        if not all(path.is_file() and path.stat().st_size for path in paths):
            logger.warning("%s: masks of the finished video %s are missing", one.settings.eval_name, video.record.name)
            del journal.finished[video.record.name]


def _remove_outputs(folder: Path) -> None:
    """Everything that an evaluation writes for one data set, whichever; its traces last, so that the rest shows."""
    for name in (SUBMISSION, EXPRESSIONS_CSV, *all_outputs(), VIDEOS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    remove_journal(folder)
