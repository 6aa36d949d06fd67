"""What the layouts share: their interface, the ground truth beside the data, and files of one image."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from datasets.counts import Counts
from media.mask_png import DAVIS_PALETTE
from tools.shapes.clip import ShapesClip, boxes_of

TRUTH_FOLDER = "truth"
"""Folder with masks and referred objects, in the same format for all layouts. For tests; no loader reads it."""

GUESSES = ("random object", "largest object", "random look-alike")
"""Baselines that ignore the sentence: any object, the largest, any of the shape and colour of the referred one."""

_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class ExpressionTruth:
    """The ground truth of one sentence of a layout; its fields are the keys of `truth/<split>.json`.

    Attributes:
        name: identifier of the sentence within the video, as a loader must return it.
        text: as a loader must return it.
        kind: one of `KINDS`.
        objects: ids of the referred objects in the object maps; none where the sentence means nothing in the video.
        annotated: positions of the frames with a mask of the object; None for all frames.
        source: which of several sets in one folder it belongs to (RefCOCO); empty elsewhere.
    """

    name: str
    text: str
    kind: str
    objects: tuple[int, ...]
    annotated: tuple[int, ...] | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What the index files need about one clip, and the scores of the baselines on it.

    Attributes:
        split: of the generator.
        video: name of its folder or file.
        index_entry: what the writer of the index files needs.
        truth: entry of `truth/<split>.json`.
        kinds: of the sentences that mean something.
        guesses: J of each of `GUESSES`, for each of these.
        absent_kinds: of the sentences that mean nothing in the clip.
    """

    split: str
    video: str
    index_entry: Any
    truth: dict[str, Any]
    kinds: tuple[str, ...]
    guesses: tuple[tuple[float, ...], ...]
    absent_kinds: tuple[str, ...]


class LayoutWriter(ABC):
    """Writes the files of one real data set's layout. Has no state, so that worker processes may have copies."""

    name: ClassVar[str]
    size: ClassVar[tuple[int, int]] = (64, 96)
    """(height, width) of the frames unless the user says otherwise."""

    scored_split: ClassVar[str] = "valid"
    """The loader's name of the generated split `valid`; its evaluation reports the scores of the baselines."""

    size_multiple: ClassVar[int] = 1
    """Divisor of height and width."""

    has_truth: ClassVar[bool] = True
    """Whether `truth/` is written."""

    default_absent_share: ClassVar[float | None] = None
    """Share of the sentences that mean nothing in their clip unless the user says otherwise; None: always none."""

    loader_splits: ClassVar[Mapping[str, str]] = {"train": "train", "valid": "valid"}
    """Name that loaders give to each generated split; those that none of them reads are left out."""

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """Number of clips of each generated split."""
        return {"train": num_train, "valid": num_valid}

    def is_usable(self, clip: ShapesClip) -> bool:
        """Whether the clip can be written in this layout."""
        return True

    def counts(self, records: Sequence[ClipRecord]) -> Counts:
        """What a loader counts in the clips of a split."""
        return Counts(
            videos=len(records),
            expressions=sum(len(record.truth["expressions"]) for record in records),
            absent=sum(len(record.absent_kinds) for record in records) or None,
            frames=sum(len(record.truth["frames"]) for record in records),
        )

    @abstractmethod
    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes the files of one clip; runs in several processes at once."""

    @abstractmethod
    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the files about all clips, given by split."""


def make_record(  # noqa: PLR0913  # the parts of one record
    folder: Path,
    clip: ShapesClip,
    *,
    video: str,
    frame_names: Sequence[str],
    object_ids: UInt8[np.ndarray, "time height width"],
    appearances: Sequence[tuple[str, str]],
    expressions: Sequence[ExpressionTruth],
    index_entry: Any,
    positions: Sequence[int] | None = None,
    has_truth: bool = True,
) -> ClipRecord:
    """Writes the true masks of one video, and returns what the index files need.

    Args:
        folder: of the data set.
        clip: where the video comes from.
        video: its name in the layout.
        frame_names: as a loader must return them.
        object_ids: id of the object at each pixel, as numbered in the layout.
        appearances: shape and colour of objects 1, 2, ...
        expressions: the sentences.
        index_entry: what the writer of the index files needs.
        positions: of the frames in the clip; None for all of it.
        has_truth: write the masks.
    """
    masks = [object_ids == number + 1 for number in range(len(appearances))]
    truth: dict[str, Any] = {
        "index": clip.index,
        "positions": list(range(len(clip.frames)) if positions is None else positions),
        "frames": list(frame_names),
        "expressions": [asdict(expression) for expression in expressions],
    }
    if has_truth:
        path = folder / TRUTH_FOLDER / clip.split / f"{video}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            object_ids=object_ids,
            boxes_xyxy_px=boxes_of(object_ids, len(appearances)),
            is_visible=np.array([mask.any(axis=(1, 2)) for mask in masks]).reshape(len(appearances), len(object_ids)),
        )
    with_target = [expression for expression in expressions if expression.objects]
    guesses = tuple(
        _j_of_guesses(masks, appearances, [number - 1 for number in expression.objects]) for expression in with_target
    )
    absent_kinds = tuple(expression.kind for expression in expressions if not expression.objects)
    return ClipRecord(clip.split, video, index_entry, truth, tuple(e.kind for e in with_target), guesses, absent_kinds)


def appearances_of(clip: ShapesClip) -> list[tuple[str, str]]:
    """Shape and colour of each object."""
    return list(zip(clip.facts.shapes, clip.facts.colours, strict=True))


def _j_of_guesses(
    masks: Sequence[Bool[np.ndarray, "time height width"]],
    appearances: Sequence[tuple[str, str]],
    referred: Sequence[int],
) -> tuple[float, ...]:
    """Expected J of each of `GUESSES` against the union of the `referred` objects (indices)."""
    target = np.logical_or.reduce([masks[i] for i in referred])
    overlaps = np.array([_region_overlap(mask, target) for mask in masks])
    largest = int(np.argmax([mask.sum() for mask in masks]))
    alike = [i for i, appearance in enumerate(appearances) if appearance == appearances[referred[0]]]
    return float(overlaps.mean()), float(overlaps[largest]), float(overlaps[alike].mean())


def _region_overlap(a: Bool[np.ndarray, "time height width"], b: Bool[np.ndarray, "time height width"]) -> float:
    """Mean over the frames of intersection over union; 1 where both are empty."""
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())


def write_truth_index(folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
    """`truth/<split>.json`: frames and sentences of each video; its masks, boxes and visibility lie beside it."""
    for split, clip_records in records.items():
        write_json(folder / TRUTH_FOLDER / f"{split}.json", {"videos": {r.video: r.truth for r in clip_records}})


def write_frame(path: Path, frame: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes an RGB image as `.jpg` or `.png`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    is_good, data = cv2.imencode(path.suffix, frame[..., ::-1], options)
    assert is_good
    path.write_bytes(data.tobytes())


def write_mask(path: Path, object_ids: UInt8[np.ndarray, "height width"]) -> None:
    """Writes object ids as a PNG with the palette of DAVIS."""
    image = Image.fromarray(object_ids, mode="P")
    image.putpalette(list(DAVIS_PALETTE))
    image.save(path, optimize=False)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Writes a JSON file, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str], *, encoding: str = "utf-8") -> None:
    """Writes a text file, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
