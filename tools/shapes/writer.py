"""Writes Referring Shapes in one of several layouts; the folder appears complete or not at all."""

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.generated import DATASET_NAME, STATISTICS_FILE
from media.files import atomic_folder
from tools.shapes.clip import generate_clip
from tools.shapes.layouts import LAYOUTS
from tools.shapes.scene import Canvas, make_canvas
from tools.shapes.sentences import KINDS
from tools.shapes.text import write_text_encoder
from tools.shapes.vocabulary import example_sentences
from tools.shapes.writers.base import GUESSES, ClipRecord, write_json, write_truth_index

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
    absent_share: float | None = None,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Generates the data set; `out` appears complete or not at all.

    Args:
        out: folder to create.
        layout: one of `LAYOUTS`: the data set whose files are imitated.
        seed: the same seed, count of frames and size give the same clips, whatever the number of clips or workers.
        num_train: clips of the train split.
        num_valid: clips of the valid split.
        num_frames: of each clip.
        size: (height, width) of the frames in pixels; None for the layout's own.
        absent_share: share of the sentences that mean nothing in their clip; None for the layout's own. Clips and other
            sentences are the same with any share.
        num_workers: processes.
        overwrite: replace `out` if it holds Referring Shapes.

    Returns:
        What `statistics.json` holds: options, counts per split, sentences per kind, and J of the baselines on
        sentences with a target.

    Raises:
        ValueError: an argument out of range, or `out` exists and may not be replaced.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    writer = LAYOUTS[layout]
    size = size or writer.size
    canvas = make_canvas(size, num_frames)
    if any(extent % writer.size_multiple for extent in size):
        raise ValueError(f"size={size[0]}x{size[1]} must be multiples of {writer.size_multiple} for format {layout}")
    for name, value, least in (("seed", seed, 0), ("num_train", num_train, 1), ("num_valid", num_valid, 1)):
        if not least <= value <= 99_999:
            raise ValueError(f"{name}={value} must lie between {least} and 99999")
    absent_share = _share_of_absent(absent_share, layout)
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
    if absent_share:
        options["absent_share"] = absent_share
    if layout != DEFAULT_LAYOUT:
        options["format"] = layout
    with atomic_folder(out) as folder:
        job = partial(_write_clip, folder=folder, layout=layout, seed=seed, canvas=canvas, absent_share=absent_share)
        records = {
            split: _write_clips(partial(job, split=split), count, num_workers=num_workers)
            for split, count in writer.num_clips(num_train, num_valid).items()
        }
        writer.write_index(folder, records)
        if writer.has_truth:
            write_truth_index(folder, records)
        write_text_encoder(folder / "text_encoder", list(example_sentences()))
        counts = {name: writer.counts(records[split]).as_dict() for split, name in writer.loader_splits.items()}
        own = _statistics(records, writer.scored_split)
        statistics = {"dataset": DATASET_NAME, "options": options, "counts": counts, **own}
        write_json(folder / STATISTICS_FILE, statistics)
    return statistics


def _share_of_absent(share: float | None, layout: str) -> float:
    """The share of sentences without a target in a layout.

    Raises:
        ValueError: the layout has no such sentences, or the share is out of range.
    """
    own = LAYOUTS[layout].default_absent_share
    if share is None:
        return own or 0.0
    if own is None and share:
        able = ", ".join(name for name, writer in LAYOUTS.items() if writer.default_absent_share is not None)
        raise ValueError(f"absent_share={share} must be 0 for format {layout}; sentences without a target: {able}")
    if not 0 <= share < 1:
        raise ValueError(f"absent_share={share} must be at least 0 and below 1")
    return share


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


def _write_clips(job: Callable[[int], ClipRecord], count: int, *, num_workers: int) -> list[ClipRecord]:
    if num_workers == 1:
        return [job(index) for index in range(count)]
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        return pool.map(job, range(count), chunksize=max(1, min(25, count // num_workers)))


def _write_clip(
    index: int, *, folder: Path, split: str, layout: str, seed: int, canvas: Canvas, absent_share: float
) -> ClipRecord:
    writer = LAYOUTS[layout]
    clip = generate_clip(split, index, seed=seed, canvas=canvas, absent_share=absent_share, is_usable=writer.is_usable)
    return writer.write_clip(clip, folder)


def _statistics(records: Mapping[str, Sequence[ClipRecord]], scored_split: str) -> dict[str, Any]:
    """Sentences with a target and, if there are any, without one per split and kind; J of the baselines on valid."""
    shown = {split: clip_records for split, clip_records in records.items() if split in ("train", "valid")}
    counts = {split: Counter(k for record in own for k in record.kinds) for split, own in shown.items()}
    absent = {split: Counter(k for record in own for k in record.absent_kinds) for split, own in shown.items()}
    by_kind: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in (*KINDS, "all")}
    for record in records["valid"]:
        for kind, guess in zip(record.kinds, record.guesses, strict=True):
            by_kind[kind].append(guess)
            by_kind["all"].append(guess)
    baselines = {
        kind: {name: round(float(np.mean([g[i] for g in guesses])), 4) for i, name in enumerate(GUESSES)}
        for kind, guesses in by_kind.items()
        if guesses
    }
    return {
        "sentences": _by_kind(counts),
        **({"absent_sentences": _by_kind(absent)} if any(absent.values()) else {}),
        f"{scored_split}_j_of_guessing": baselines,
    }


def _by_kind(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {split: {kind: count[kind] for kind in KINDS} for split, count in counts.items()}
