"""Write Referring Shapes in the layout of Ref-YouTube-VOS."""

import json
import logging
import multiprocessing
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from datasets.shapes.predicates import measure
from datasets.shapes.render import render_scene
from datasets.shapes.scene import Stage, make_stage, sample_scene
from datasets.shapes.sentences import KINDS, write_sentences
from datasets.shapes.text import write_text_encoder

logger = logging.getLogger(__name__)

DATASET_NAME = "Referring Shapes"
STATISTICS_FILE = "statistics.json"
GUESSES = ("random object", "largest object", "random look-alike")
"""What the chance levels pick: any object, the largest one, any of the meant object's shape and colour."""

_SPLITS = ("train", "valid")
_JPEG_QUALITY = 95
_MIN_SENTENCES = 4


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What the index files say about one clip, and what guessing would reach on it.

    Attributes:
        video: name of its folder.
        objects: entry of `meta.json`.
        expressions: entry of `meta_expressions.json`.
        guesses: per expression, expected J of each of `GUESSES`.
    """

    video: str
    objects: dict[str, dict[str, object]]
    expressions: dict[str, dict[str, str]]
    guesses: tuple[tuple[float, ...], ...]


def make_shapes(
    out: Path,
    *,
    seed: int = 0,
    num_train: int = 1500,
    num_valid: int = 120,
    num_frames: int = 12,
    size: tuple[int, int] = (64, 96),
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, object]:
    """Generate the data set; `out` appears whole or not at all.

    Args:
        out: folder to create.
        seed: the same seed, count of frames and size give the same clips, whatever the number of clips or workers.
        num_train: clips of the train split.
        num_valid: clips of the valid split.
        num_frames: of each clip.
        size: (height, width) of the frames in pixels.
        num_workers: processes.
        overwrite: replace `out` if it holds Referring Shapes.

    Returns:
        What `statistics.json` holds: options, sentences per kind, and the J that guessing reaches.

    Raises:
        ValueError: an argument out of range, or `out` exists and may not be replaced.
    """
    stage = make_stage(size, num_frames)
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
    with _appearing_whole(out) as folder:
        records = {
            split: _write_split(folder, split, count, seed=seed, stage=stage, num_workers=num_workers)
            for split, count in zip(_SPLITS, (num_train, num_valid), strict=True)
        }
        sentences = [e["exp"] for record in records["train"] for e in record.expressions.values()]
        write_text_encoder(folder / "text_encoder", sentences)
        statistics = {"dataset": DATASET_NAME, "options": options, **_statistics(records)}
        _write_json(folder / STATISTICS_FILE, statistics)
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


def _write_split(
    folder: Path, split: str, count: int, *, seed: int, stage: Stage, num_workers: int
) -> list[ClipRecord]:
    job = partial(_write_clip, folder=folder, split=split, seed=seed, stage=stage)
    if num_workers == 1:
        records = [job(index) for index in range(count)]
    else:
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            records = pool.map(job, range(count), chunksize=max(1, min(25, count // num_workers)))
    frames = _frame_names(stage)
    _write_json(folder / split / "meta.json", {"videos": {r.video: {"objects": r.objects} for r in records}})
    _write_json(
        folder / "meta_expressions" / split / "meta_expressions.json",
        {"videos": {r.video: {"expressions": r.expressions, "frames": frames} for r in records}},
    )
    return records


def _frame_names(stage: Stage) -> list[str]:
    return [f"{t:05d}" for t in range(stage.num_frames)]


def _write_clip(index: int, *, folder: Path, split: str, seed: int, stage: Stage) -> ClipRecord:
    """Draw one clip and write its frames and masks."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    while True:
        scene = sample_scene(rng, stage)
        clip = render_scene(scene)
        facts = measure(scene, clip)
        sentences = write_sentences(rng, facts)
        if len(sentences) >= _MIN_SENTENCES:
            break
    video = f"{split}{index:05d}"
    names = _frame_names(stage)
    for kind in ("JPEGImages", "Annotations"):
        (folder / split / kind / video).mkdir(parents=True)
    for name, frame, ids in zip(names, clip.frames, clip.object_ids, strict=True):
        _write_frame(folder / split / "JPEGImages" / video / f"{name}.jpg", frame)
        _write_mask(folder / split / "Annotations" / video / f"{name}.png", ids)
    seen = [[bool((ids == i + 1).any()) for ids in clip.object_ids] for i in range(len(scene.actors))]
    objects: dict[str, dict[str, object]] = {
        str(i + 1): {"category": actor.shape, "frames": [n for n, s in zip(names, seen[i], strict=True) if s]}
        for i, actor in enumerate(scene.actors)
    }
    expressions = {str(k): {"exp": s.text, "obj_id": str(s.index + 1), "kind": s.kind} for k, s in enumerate(sentences)}
    looks = list(zip(facts.shapes, facts.colours, strict=True))
    guesses = tuple(_guess(clip.object_ids, looks, s.index) for s in sentences)
    return ClipRecord(video, objects, expressions, guesses)


def _guess(
    object_ids: UInt8[np.ndarray, "time height width"], looks: list[tuple[str, str]], meant: int
) -> tuple[float, ...]:
    """Expected J of each of `GUESSES` for the object `meant`."""
    masks = [object_ids == i + 1 for i in range(len(looks))]
    overlaps = np.array([_region_overlap(mask, masks[meant]) for mask in masks])
    largest = int(np.argmax([mask.sum() for mask in masks]))
    alike = [i for i, look in enumerate(looks) if look == looks[meant]]
    return float(overlaps.mean()), float(overlaps[largest]), float(overlaps[alike].mean())


def _region_overlap(a: Bool[np.ndarray, "time height width"], b: Bool[np.ndarray, "time height width"]) -> float:
    """Mean over the frames of intersection over union; 1 where both are empty."""
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())


def _write_frame(path: Path, frame: UInt8[np.ndarray, "height width 3"]) -> None:
    is_good, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert is_good
    path.write_bytes(data.tobytes())


def _write_mask(path: Path, object_ids: UInt8[np.ndarray, "height width"]) -> None:
    image = Image.fromarray(object_ids, mode="P")
    image.putpalette(_PALETTE)
    image.save(path, optimize=False)


def davis_palette() -> list[int]:
    """The palette of DAVIS and Pascal VOC masks: 256 RGB triples, the bits of an index spread over the channels."""
    palette = []
    for index in range(256):
        for channel in range(3):
            palette.append(sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)))
    return palette


_PALETTE = davis_palette()


def _statistics(records: dict[str, list[ClipRecord]]) -> dict[str, object]:
    """Sentences per split and kind, and the J that guessing reaches on the valid split."""
    counts = {
        split: Counter(e["kind"] for r in split_records for e in r.expressions.values())
        for split, split_records in records.items()
    }
    by_kind: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in (*KINDS, "all")}
    for record in records["valid"]:
        for expression, guess in zip(record.expressions.values(), record.guesses, strict=True):
            by_kind[expression["kind"]].append(guess)
            by_kind["all"].append(guess)
    chance = {
        kind: {name: round(float(np.mean([g[i] for g in guesses])), 4) for i, name in enumerate(GUESSES)}
        for kind, guesses in by_kind.items()
        if guesses
    }
    return {
        "sentences": {split: {kind: count[kind] for kind in KINDS} for split, count in counts.items()},
        "valid_j_of_guessing": chance,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
