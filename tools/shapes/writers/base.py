"""What the layouts share: their interface, the truth beside the data, and files of one image."""

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

from media.mask_png import DAVIS_PALETTE
from tools.shapes.clip import ShapesClip, boxes_of

TRUTH_FOLDER = "truth"
"""Beside the data: what every video shows and every sentence means, in one form for all layouts. No loader reads it."""

GUESSES = ("random object", "largest object", "random look-alike")
"""What the chance levels pick: any object, the largest one, any of the meant object's shape and colour."""

_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence in a layout.

    Attributes:
        name: its identifier within the video, as a loader should report it.
        text: as the loader should return it.
        kind: tag of the sentence.
        objects: numbers of the objects that it means, in the truth's object maps.
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
    """What the index files say about one clip, and what guessing would reach on it.

    Attributes:
        split: of the generator.
        video: name of its folder or file.
        entry: what the layout's index needs to know.
        truth: entry of `truth/<split>.json`.
        kinds: of the sentences.
        guesses: per sentence, expected J of each of `GUESSES`.
    """

    split: str
    video: str
    entry: Any
    truth: dict[str, Any]
    kinds: tuple[str, ...]
    guesses: tuple[tuple[float, ...], ...]


class Layout(ABC):
    """How one real data set lies on disk. Without state, so that worker processes may have copies."""

    name: ClassVar[str]
    size: ClassVar[tuple[int, int]] = (64, 96)
    """(height, width) of the frames unless the user says otherwise."""

    scored_split: ClassVar[str] = "valid"
    """What the loader calls the generator's split `valid`; an evaluation of it shows what guessing would reach."""

    size_multiple: ClassVar[int] = 1
    """Height and width must be multiples of this."""

    has_truth: ClassVar[bool] = True
    """Whether `truth/` is written."""

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """Clips of each of the generator's splits."""
        return {"train": num_train, "valid": num_valid}

    def is_usable(self, clip: ShapesClip) -> bool:
        """Whether the layout can show this clip."""
        return True

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
    looks: Sequence[tuple[str, str]],
    said: Sequence[Said],
    entry: Any,
    positions: Sequence[int] | None = None,
    has_truth: bool = True,
) -> ClipRecord:
    """Writes the masks of the truth of one video, and sums up what the index files must say.

    Args:
        folder: of the data set.
        clip: where the video comes from.
        video: its name in the layout.
        frame_names: as a loader should report them.
        object_ids: number of the object at each pixel, as the layout shows it.
        looks: shape and colour of objects 1, 2, ...
        said: the sentences.
        entry: what the layout's index needs to know.
        positions: of the frames in the clip; None for all of it.
        has_truth: write the masks.
    """
    masks = [object_ids == number + 1 for number in range(len(looks))]
    truth: dict[str, Any] = {
        "index": clip.index,
        "positions": list(range(len(clip.frames)) if positions is None else positions),
        "frames": list(frame_names),
        "expressions": [asdict(sentence) for sentence in said],
    }
    if has_truth:
        path = folder / TRUTH_FOLDER / clip.split / f"{video}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            object_ids=object_ids,
            boxes_xyxy_px=boxes_of(object_ids, len(looks)),
            is_visible=np.array([mask.any(axis=(1, 2)) for mask in masks]).reshape(len(looks), len(object_ids)),
        )
    guesses = tuple(_guess(masks, looks, [number - 1 for number in sentence.objects]) for sentence in said)
    return ClipRecord(clip.split, video, entry, truth, tuple(sentence.kind for sentence in said), guesses)


def looks_of(clip: ShapesClip) -> list[tuple[str, str]]:
    """Shape and colour of each object."""
    return list(zip(clip.facts.shapes, clip.facts.colours, strict=True))


def _guess(
    masks: Sequence[Bool[np.ndarray, "time height width"]], looks: Sequence[tuple[str, str]], meant: Sequence[int]
) -> tuple[float, ...]:
    """Expected J of each of `GUESSES` for the objects `meant`."""
    target = np.logical_or.reduce([masks[i] for i in meant])
    overlaps = np.array([_region_overlap(mask, target) for mask in masks])
    largest = int(np.argmax([mask.sum() for mask in masks]))
    alike = [i for i, look in enumerate(looks) if look == looks[meant[0]]]
    return float(overlaps.mean()), float(overlaps[largest]), float(overlaps[alike].mean())


def _region_overlap(a: Bool[np.ndarray, "time height width"], b: Bool[np.ndarray, "time height width"]) -> float:
    """Mean over the frames of intersection over union; 1 where both are empty."""
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())


def write_truth_index(folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
    """`truth/<split>.json`: frames and sentences of each video; its masks, boxes and visibility lie beside it."""
    for split, found in records.items():
        write_json(folder / TRUTH_FOLDER / f"{split}.json", {"videos": {r.video: r.truth for r in found}})


def write_frame(path: Path, frame: UInt8[np.ndarray, "height width 3"]) -> None:
    """An RGB image as `.jpg` or `.png`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    is_good, data = cv2.imencode(path.suffix, frame[..., ::-1], options)
    assert is_good
    path.write_bytes(data.tobytes())


def write_mask(path: Path, object_ids: UInt8[np.ndarray, "height width"]) -> None:
    """Object numbers as a PNG with the palette of DAVIS."""
    image = Image.fromarray(object_ids, mode="P")
    image.putpalette(list(DAVIS_PALETTE))
    image.save(path, optimize=False)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """A JSON file, with its folder; indented unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str], *, encoding: str = "utf-8") -> None:
    """A text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
