"""Write Referring Shapes in one of several layouts, whole or not at all."""

import json
import multiprocessing
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.shapes.clip import draw_clip
from tools.shapes.scene import Stage, make_stage
from tools.shapes.sentences import KINDS
from tools.shapes.text import write_text_encoder
from tools.shapes.writers import LAYOUTS
from tools.shapes.writers.base import GUESSES, ClipRecord, write_json, write_truth_index

__all__ = ["DEFAULT_LAYOUT", "GUESSES", "LAYOUTS", "STATISTICS_FILE", "make_shapes"]

DATASET_NAME = "Referring Shapes"
STATISTICS_FILE = "statistics.json"
DEFAULT_LAYOUT = "ref_youtube_vos"


def make_shapes(  # noqa: PLR0913  # each is an option of the command line
    out: Path,
    *,
    layout: str = DEFAULT_LAYOUT,
    seed: int = 0,
    num_train: int = 1500,
    num_valid: int = 120,
    num_frames: int = 12,
    size: tuple[int, int] | None = None,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Generate the data set; `out` appears whole or not at all.

    Args:
        out: folder to create.
        layout: one of `LAYOUTS`: of which real data set the files have the form.
        seed: the same seed, count of frames and size give the same clips, whatever the number of clips or workers.
        num_train: clips of the train split.
        num_valid: clips of the valid split.
        num_frames: of each clip.
        size: (height, width) of the frames in pixels; None for the layout's own.
        num_workers: processes.
        overwrite: replace `out` if it holds Referring Shapes.

    Returns:
        What `statistics.json` holds: options, sentences per kind, and the J that guessing reaches.

    Raises:
        ValueError: an argument out of range, or `out` exists and may not be replaced.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    form = LAYOUTS[layout]
    size = size or form.size
    stage = make_stage(size, num_frames)
    if any(extent % form.size_multiple for extent in size):
        raise ValueError(f"size={size[0]}x{size[1]} must be multiples of {form.size_multiple} for format {layout}")
    for name, value, least in (("seed", seed, 0), ("num_train", num_train, 1), ("num_valid", num_valid, 1)):
        if not least <= value <= 99_999:
            raise ValueError(f"{name}={value} must lie between {least} and 99999")
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers} must be at least 1")
    out = Path(out).absolute()
    _check_replaceable(out, overwrite=overwrite)
    options = {
        "seed": seed,
        "num_train": num_train,
        "num_valid": num_valid,
        "num_frames": num_frames,
        "size": list(size),
    }
    if layout != DEFAULT_LAYOUT:
        options["format"] = layout
    with _appearing_whole(out) as folder:
        records = {
            split: _write_clips(folder, split, count, layout=layout, seed=seed, stage=stage, num_workers=num_workers)
            for split, count in form.num_clips(num_train, num_valid).items()
        }
        form.write_index(folder, records)
        if form.has_truth:
            write_truth_index(folder, records)
        seen_in_training = records.get("train", records["valid"])
        sentences = [e["text"] for record in seen_in_training for e in record.truth["expressions"]]
        write_text_encoder(folder / "text_encoder", sentences)
        statistics = {"dataset": DATASET_NAME, "options": options, **_statistics(records, form.scored_split)}
        write_json(folder / STATISTICS_FILE, statistics)
    return statistics


def _check_replaceable(out: Path, *, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"out={str(out)!r} exists and is not empty; --overwrite replaces a Referring Shapes folder")
    try:
        is_ours = json.loads((out / STATISTICS_FILE).read_text(encoding="utf-8")).get("dataset") == DATASET_NAME
    except (OSError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"out={str(out)!r} is not a Referring Shapes folder (no {STATISTICS_FILE} says so): not replaced"
        )


@contextmanager
def _appearing_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and vanishes when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = work / "new"
        folder.mkdir()
        yield folder
        _exchange(folder, out, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(new: Path, out: Path, old: Path) -> None:
    """Put `new` in the place of `out`, which moves to `old` if it exists, and comes back if that fails."""
    if out.exists():
        out.replace(old)
    try:
        new.replace(out)
    except OSError:
        if old.exists():
            old.replace(out)
        raise


def _write_clips(
    folder: Path, split: str, count: int, *, layout: str, seed: int, stage: Stage, num_workers: int
) -> list[ClipRecord]:
    job = partial(_write_clip, folder=folder, split=split, layout=layout, seed=seed, stage=stage)
    if num_workers == 1:
        return [job(index) for index in range(count)]
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        return pool.map(job, range(count), chunksize=max(1, min(25, count // num_workers)))


def _write_clip(index: int, *, folder: Path, split: str, layout: str, seed: int, stage: Stage) -> ClipRecord:
    form = LAYOUTS[layout]
    return form.write_clip(draw_clip(split, index, seed=seed, stage=stage, is_usable=form.is_usable), folder)


def _statistics(records: Mapping[str, Sequence[ClipRecord]], scored_split: str) -> dict[str, Any]:
    """Sentences per split and kind, and the J that guessing reaches on the valid split."""
    counts = {
        split: Counter(kind for record in found for kind in record.kinds)
        for split, found in records.items()
        if split in ("train", "valid")
    }
    by_kind: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in (*KINDS, "all")}
    for record in records["valid"]:
        for kind, guess in zip(record.kinds, record.guesses, strict=True):
            by_kind[kind].append(guess)
            by_kind["all"].append(guess)
    chance = {
        kind: {name: round(float(np.mean([g[i] for g in guesses])), 4) for i, name in enumerate(GUESSES)}
        for kind, guesses in by_kind.items()
        if guesses
    }
    return {
        "sentences": {split: {kind: count[kind] for kind in KINDS} for split, count in counts.items()},
        f"{scored_split}_j_of_guessing": chance,
    }
