"""Scores predicted masks by a protocol of DAVIS-2017: `python -m tools.score_davis --gt DAVIS --pred RESULTS --task T`.

The annotation is a folder in the layout of DAVIS: `ImageSets/<year>/<set>.txt`, and for the unsupervised task
`Annotations_unsupervised/480p/<sequence>/<frame>.png`, for the semi-supervised one `Annotations/480p/...`; the objects
of the two differ. The prediction is one folder per sequence with a palette PNG per frame, named as in the annotation.
Prints J, F and their mean, over all objects and for each.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from datasets.index_text import read_names
from engine.last_net import Command, run_command
from media.files import path_inside, write_text
from media.folders import MASK_SUFFIXES, listing
from media.mask_png import read_index_png
from metrics.region_boundary import TASKS, DavisScores, SequenceMasks, Task, score_sequences
from structures.object_maps import VOID_INDEX
from structures.user_path import expand_home, user_path

RESOLUTION = "480p"

ANNOTATIONS: Mapping[Task, str] = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
"""Folder of DAVIS with the masks of a task, as the official evaluator takes them (davis2017/davis.py:32)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.score_davis", arguments=arguments, prefix="score_davis")


def _run(command: Command) -> int:
    options = _parser().parse_args(command.arguments)
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise ValueError(f"{options.json}: its folder does not exist")
    names = options.sequences or read_sequence_names(options.gt, options.set, options.year)
    scores = score_sequences(load_sequences(options.gt, options.pred, names, options.task), options.task)
    _report(scores, options.json)
    return 0


def read_sequence_names(davis: Path, subset: str, year: str) -> list[str]:
    """Names of the sequences in `ImageSets/<year>/<subset>.txt`."""
    path = davis / "ImageSets" / year / f"{subset}.txt"
    if not path.is_file():
        raise ValueError(f"{path}: no such list of sequences (is {davis} a DAVIS folder?)")
    names = [name for line in read_names(path) for name in line.split()]
    if not names:
        raise ValueError(f"{path}: lists no sequence")
    return names


def load_sequences(davis: Path, prediction: Path, names: Sequence[str], task: Task) -> Iterator[SequenceMasks]:
    """Annotation of the task, and prediction, of each named sequence, read when asked for.

    The frames that the semi-supervised protocol drops (the first and the last) need not be predicted.

    Raises:
        ValueError: a folder or a frame is missing, unreadable, or of another size than the annotation.
    """
    if not prediction.is_dir():
        raise ValueError(f"{prediction}: no such folder of predictions")
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"sequences named more than once: {', '.join(duplicates)}")
    masks = _mask_folder(davis, task)
    # look at all folders first: a missing one shows before minutes of scoring
    folders = [
        (path_inside(masks, name, what="sequence"), path_inside(prediction, name, what="sequence")) for name in names
    ]
    for annotated, predicted in folders:
        if not annotated.is_dir():
            raise ValueError(f"{annotated}: no such folder of annotations")
        if not predicted.is_dir():
            raise ValueError(f"{predicted}: sequence {predicted.name} is not predicted, no such folder")
    for name, (annotated, predicted) in zip(names, folders, strict=True):
        yield _load_sequence(name, annotated, predicted, needs_ends=task == "unsupervised")


def _mask_folder(davis: Path, task: Task) -> Path:
    """The masks of a task.

    Raises:
        ValueError: there are none; the message names those of the other task if they are there.
    """
    folders = {name: davis / folder / RESOLUTION for name, folder in ANNOTATIONS.items()}
    if folders[task].is_dir():
        return folders[task]
    others = [
        f"; {folder} has those of the {name} task, which show other objects"
        for name, folder in folders.items()
        if folder.is_dir()
    ]
    raise ValueError(f"{folders[task]}: no such folder of annotations for the {task} task{''.join(others)}")


def format_table(scores: DavisScores) -> str:
    """The scores as text, all figures in percent."""
    width = max(len("all objects"), *(len(score.name) for score in scores.objects))
    columns = ("J&F", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    lines = [" ".join(["object".ljust(width), *(column.rjust(8) for column in columns)])]
    rows = [(score.name, score.region, score.boundary) for score in scores.objects]
    for name, region, boundary in [*rows, ("all objects", scores.region, scores.boundary)]:
        if name == "all objects":
            lines.append("-" * len(lines[0]))
        figures = ((region.mean + boundary.mean) / 2, *region, *boundary)
        lines.append(" ".join([name.ljust(width), *(f"{100 * figure:8.2f}" for figure in figures)]))
    return "\n".join(lines) + "\n"


def _load_sequence(name: str, annotated: Path, predicted: Path, *, needs_ends: bool) -> SequenceMasks:
    paths = listing(annotated, MASK_SUFFIXES)
    if not paths:
        raise ValueError(f"{annotated}: holds no PNG file")
    annotation = _read_stack(paths)
    if not np.isin(annotation, (0, VOID_INDEX), invert=True).any():
        values = np.unique(annotation).tolist()
        raise ValueError(f"{annotated}: no object in any mask (values there: {values}), expected ids from 1 to 254")
    if needs_ends:
        return SequenceMasks(name, annotation, _read_stack([predicted / path.name for path in paths], like=annotation))
    prediction = np.zeros_like(annotation)
    if len(paths) > 2:
        prediction[1:-1] = _read_stack([predicted / path.name for path in paths[1:-1]], like=annotation)
    return SequenceMasks(name, annotation, prediction)


def _read_stack(
    paths: Sequence[Path], like: UInt8[np.ndarray, "_ height width"] | None = None
) -> UInt8[np.ndarray, "time height width"]:
    stack = None
    for frame, path in enumerate(paths):
        ids = read_index_png(path)
        if stack is None:
            shape = ids.shape if like is None else like.shape[1:]
            stack = np.empty((len(paths), *shape), dtype=np.uint8)
        if ids.shape != stack.shape[1:]:
            expected = f"{stack.shape[2]}x{stack.shape[1]}"
            raise ValueError(f"{path}: mask of {ids.shape[1]}x{ids.shape[0]} pixels, expected {expected}")
        stack[frame] = ids
    assert stack is not None, "callers pass at least one path"
    return stack


def _report(scores: DavisScores, json_target: str | None) -> None:
    if json_target is None:
        sys.stdout.write(format_table(scores))
        return
    text = json.dumps(_without_nan(scores.as_dict()), indent=2, allow_nan=False) + "\n"
    if json_target == "-":
        sys.stdout.write(text)
        return
    write_text(Path(json_target), text)
    sys.stdout.write(format_table(scores))


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """The same with None for NaN, which JSON does not know."""
    cleaned: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            cleaned[key] = _without_nan(value)
        else:
            cleaned[key] = None if math.isnan(value) else value
    return cleaned


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.score_davis", description=__doc__)
    parser.add_argument("--gt", type=user_path, required=True, metavar="DAVIS_DIR", help="a folder like DAVIS")
    parser.add_argument("--pred", type=user_path, required=True, metavar="DIR", help="holds <sequence>/<frame>.png")
    parser.add_argument("--task", choices=TASKS, required=True, help="the protocol")
    parser.add_argument("--set", default="val", help="name of the list of sequences (default: val)")
    parser.add_argument("--year", default="2017", help="folder of that list (default: 2017)")
    parser.add_argument("--sequences", nargs="+", metavar="NAME", help="score these instead of a list")
    parser.add_argument(
        "--json",
        type=expand_home,
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of the table, or write it to FILE",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
