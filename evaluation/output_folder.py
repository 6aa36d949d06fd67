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
from media.files import claim_output, output_path, remove_temporary, write_json
from media.folders import listing

logger = logging.getLogger(__name__)

SUBMISSION = "submission.zip"

REPLACED = ".replaced.json"
"""Folders of data sets whose outputs are being removed, relative to the output folder."""


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

    What an earlier run has written goes before anything new comes, the report first, so that nothing old ever lies
    beside something new, and no report beside masks that are half gone. A fresh folder that takes the place of the old
    one in the end would be as safe, but an interrupted evaluation could not go on in it, and both would need space.
    A list of what is to go is written first: whoever comes after a kill in the middle of this finishes it.

    An interrupted evaluation goes on with `overwrite`, too: whoever starts the same command again wants the rest of it.
    """
    output_dir = config.output_dir
    folders = {folder_of(config, one): one.benchmark.outputs for one in sets}
    _finish_replacing(output_dir)
    unfinished = _unfinished_folders(output_dir)
    if not unfinished.isdisjoint(folders) and not (output_dir / RESULTS_JSON).exists():
        others = sorted(unfinished.difference(folders))
        if others and not config.overwrite:
            raise ValueError(
                f"output_dir={output_dir} holds the interrupted evaluation of another data set, {others[0]}; name "
                "another output_dir, or set overwrite=true to remove it"
            )
        logger.info("going on with the evaluation in %s", output_dir)
        _replace(output_dir, others)
        remove_temporary(output_dir)
        return
    claim_output(output_dir, markers=(RESULTS_JSON, RESULTS_MARKDOWN), overwrite=config.overwrite)
    for folder, outputs in folders.items():
        claim_output(folder, markers=(*outputs, SUBMISSION), overwrite=config.overwrite)
    if unfinished and not config.overwrite:
        raise ValueError(
            f"output_dir={output_dir} holds the interrupted evaluation of another data set, {min(unfinished)}; name "
            "another output_dir, or set overwrite=true to remove it"
        )
    earlier = list(dict.fromkeys([*_folders_of_earlier(output_dir), *sorted(unfinished), *folders]))
    for folder in earlier:
        _require_no_data(folder)
    _replace(output_dir, earlier)
    remove_temporary(output_dir)


def _unfinished_folders(output_dir: Path) -> set[Path]:
    """The folders of data sets, one or several, that hold an interrupted evaluation."""
    traces = [output_dir / UNFINISHED, *output_dir.glob(f"*/*/{UNFINISHED}")]
    return {path.parent for path in traces if is_unfinished(path.parent)}


def _replace(output_dir: Path, folders: Sequence[Path]) -> None:
    """Removes the reports of an output folder and all outputs in the folders of these data sets."""
    names = [folder.relative_to(output_dir).as_posix() for folder in folders]
    write_json(output_dir / REPLACED, names)
    _finish_replacing(output_dir)


def _finish_replacing(output_dir: Path) -> None:
    """Removes what is on the list of what is to go, if there is one: this run has written it, or one that was killed.

    Raises:
        ValueError: the list leads out of the folder.
    """
    path = output_dir / REPLACED
    if not path.exists():
        return
    for name in (RESULTS_JSON, RESULTS_MARKDOWN, ANALYSIS_PAGE):
        (output_dir / name).unlink(missing_ok=True)
    for name in json.loads(path.read_text(encoding="utf-8")):
        _remove_outputs(output_dir if name == "." else folder_of_set(output_dir, name))
    path.unlink()


def _folders_of_earlier(output_dir: Path) -> list[Path]:
    """The folders of the data sets of the finished evaluation that lies in an output folder, if one does."""
    try:
        names = json.loads((output_dir / RESULTS_JSON).read_text(encoding="utf-8"))["sets"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no results, or the file of something else
    return [folder_of_set(output_dir, name) for name in names] if len(names) > 1 else [output_dir]


def _require_no_data(folder: Path) -> None:
    """Raises ValueError if what is about to be removed belongs to a data set: masks are called alike there.

    A folder of data is told by the folders beside the masks, unless an evaluation has left its traces there.
    """
    masks = [name for name in all_outputs() if (folder / name).is_dir()]
    if not masks or any((folder / name).exists() for name in (RESULTS_JSON, VIDEOS, UNFINISHED)):
        return
    foreign = [path.name for path in listing(folder) if path.is_dir() and path.name not in masks]
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
