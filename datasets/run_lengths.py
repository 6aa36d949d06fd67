"""Segmentations as COCO stores them: polygons, or run lengths; and a reader of masks that are kept as run lengths."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask as mask_utils
from pydantic import AfterValidator

from datasets.index_file import IndexContent, IndexEntry
from datasets.readers import SizeMismatchError
from media.limits import require_pixels

MIN_POLYGON_NUMBERS = 6
"""x and y of three corners. pycocotools would read a list of four numbers as a box."""

MIN_MARGIN = 1000
"""Pixels that a corner of a polygon may lie outside of its image, be it ever so small."""

_MAX_RUN = 2**32
"""Run lengths are below; pycocotools keeps them in 32 bits."""

_BITS_PER_BYTE = 5
_LONGEST_NUMBER = 7
"""Bytes of the longest run length: 32 bits and a sign take seven times five bits."""

_COMPRESSED = re.compile(r"[0-o]*", re.ASCII)

_LAST_BYTES = range(48, 48 + 32)
"""Bytes that end a number of compressed run lengths; greater ones say that more follows."""


def _height_and_width(size: list[int]) -> list[int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError("height and width in pixels")
    return size


def _compressed(counts: str) -> str:
    if not _COMPRESSED.fullmatch(counts):
        raise ValueError("compressed run lengths, which are of the characters 0 to o")
    return counts


class RunLength(IndexEntry):
    """A mask as index files have it.

    Attributes:
        size: (height, width) of its frame.
        counts: compressed run lengths.
    """

    size: Annotated[list[int], AfterValidator(_height_and_width)]
    counts: Annotated[str, AfterValidator(_compressed)]


class RunLengths(IndexContent[list[RunLength | None]]):
    """The masks of an object: one for each frame, null where it is not seen."""


@dataclass(frozen=True, slots=True)
class Track:
    """The masks of one object, as run lengths.

    Attributes:
        size: (height, width) that they were made for.
        counts: of every frame, separated by blanks, which they cannot contain; empty where the object is not seen.
            One object in memory instead of hundreds, because worker processes share pages, not objects.
    """

    size: tuple[int, int]
    counts: bytes

    def of_frames(self) -> list[bytes]:
        """The run lengths of each frame, empty where the object is not seen."""
        return self.counts.split(b" ")

    def visible(self) -> frozenset[int]:
        """Positions of the frames in which the object has a pixel."""
        return frozenset(i for i, counts in enumerate(self.of_frames()) if counts and mask_area(counts, size=self.size))


@dataclass(frozen=True, slots=True)
class RunLengthMasks:
    """The masks of the objects of one video or image; a `MaskReader`.

    Attributes:
        source: file that they come from, for messages.
        tracks: by object id.
    """

    source: Path
    tracks: Mapping[int, Track]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        masks = np.zeros((len(objects), len(positions), *size), dtype=bool)
        for index, number in enumerate(objects):
            track = self.tracks[number]
            counts = track.of_frames()
            for time, position in enumerate(positions):
                if not counts[position]:
                    continue
                where = f"{self.source}: object {number}, frame {position}"
                if track.size != size:
                    raise SizeMismatchError(f"{where}: mask of (height, width) {track.size}, but its frame has {size}")
                try:
                    masks[index, time] = decode_mask(counts[position], size=size)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
        return masks


def pack_track(masks: Sequence[RunLength | None]) -> Track:
    """Packs the masks of one object.

    Raises:
        ValueError: they were made for different sizes, or for one that is none or too large, or one is cut off.
    """
    sizes = {(mask.size[0], mask.size[1]) for mask in masks if mask is not None}
    if len(sizes) > 1:
        raise ValueError(f"masks of one object with different sizes {sorted(sizes)[:4]}")
    for size in sizes:
        require_pixels(*size, what="a run-length mask")
    counts = [b"" if mask is None else mask.counts.encode("ascii") for mask in masks]
    if any(code and code[-1] not in _LAST_BYTES for code in counts):
        raise ValueError("a run-length mask is cut off in the middle of a number")
    return Track(next(iter(sizes), (0, 0)), b" ".join(counts))


def encode_segmentation(segmentation: Any, *, size: tuple[int, int]) -> bytes:
    """Compressed run lengths of a segmentation; a few hundred bytes where polygons in memory take kilobytes.

    Args:
        segmentation: a list of polygons (x, y, x, y, ... in pixels; parts with fewer than three corners are nothing),
            or a dict of `size` and `counts`, compressed or not.
        size: (height, width) of the image.

    Returns:
        The `counts` of pycocotools; those of an empty mask if no polygon has three corners.

    Raises:
        ValueError: it is neither, or it was made for an image of another size; or a corner lies far outside of the
            image, which may have at most so many pixels as `media.limits` says.
    """
    height, width = size
    require_pixels(height, width, what="an image with a segmentation")
    if isinstance(segmentation, Mapping):
        return _encode_run_lengths(segmentation, size)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str | bytes):
        raise ValueError(f"segmentation of type {type(segmentation).__name__}: expected polygons or run lengths")
    polygons = []
    for polygon in segmentation:
        numbers = _numbers(polygon) if isinstance(polygon, Sequence) else np.array([np.nan])
        if numbers.ndim != 1 or len(numbers) % 2 or not np.isfinite(numbers).all():
            raise ValueError("a polygon of the segmentation is not a list of x, y, x, y, ...")
        _require_near(numbers.reshape(-1, 2), size)
        if len(numbers) >= MIN_POLYGON_NUMBERS:
            polygons.append(numbers.tolist())
    if not polygons:
        return mask_utils.encode(np.zeros((height, width), dtype=np.uint8, order="F"))["counts"]
    return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))["counts"]


def merge_run_lengths(parts: Sequence[bytes], *, size: tuple[int, int]) -> bytes:
    """Compressed run lengths of the union of several masks of one size."""
    if len(parts) == 1:
        return parts[0]
    return mask_utils.merge([{"size": list(size), "counts": counts} for counts in parts])["counts"]


def mask_area(counts: bytes, *, size: tuple[int, int]) -> int:
    """Pixels of a mask, without decoding it."""
    return int(mask_utils.area({"size": list(size), "counts": counts}))


def mask_box(counts: bytes, *, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a mask in pixels, as COCO has boxes; zeros for an empty mask."""
    left, top, width, height = mask_utils.toBbox({"size": list(size), "counts": counts}).tolist()
    return left, top, width, height


def decode_mask(counts: bytes, *, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The mask of compressed run lengths.

    pycocotools trusts its input: with too few pixels, what it decodes contains whatever the memory held.

    Raises:
        ValueError: they cannot be read, or are for another number of pixels.
    """
    runs = read_runs(counts)
    _require_pixels(runs, size)
    values = np.arange(len(runs)) % 2 == 1  # background first
    return np.ascontiguousarray(np.repeat(values, runs).reshape(size[1], size[0]).T)


def read_runs(counts: bytes) -> Int64[np.ndarray, " run"]:
    """The run lengths in compressed `counts`.

    A number takes one or more bytes of 48 and more, five bits each, lowest first: bit 5 says that more bytes follow,
    bit 4 of the last one is the sign. From the fourth number on they are differences to the run before the last.

    Raises:
        ValueError: a byte is not possible, or a number is cut off or too long.
    """
    values = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ord("0")
    if not len(values):
        return values
    impossible = (values < 0) | (values >= 64)
    if impossible.any():
        raise ValueError(f"compressed run lengths with the byte {counts[int(impossible.argmax())]}")
    is_last = values & 0x20 == 0
    if not is_last[-1]:
        raise ValueError("compressed run lengths are cut off in the middle of a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise ValueError(f"compressed run lengths with a number of {lengths.max()} bytes")
    within = np.arange(len(values)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((values & 0x1F) << (_BITS_PER_BYTE * within), starts)
    is_negative = values[ends] & 0x10 != 0
    numbers = numbers - np.where(is_negative, np.int64(1) << (_BITS_PER_BYTE * lengths), 0)
    runs = numbers.copy()
    runs[1::2] = numbers[1::2].cumsum()
    runs[2::2] = numbers[2::2].cumsum()  # the first number stands alone
    return runs


def _encode_run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    height, width = size
    counts, stored = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(stored, Sequence) or tuple(stored) != size:
        raise ValueError(f"run lengths for an image of (height, width) {stored}, but the image has {size}")
    if isinstance(counts, str | bytes):
        encoded = counts.encode() if isinstance(counts, str) else counts
        _require_pixels(read_runs(encoded), size)
        return encoded
    if not isinstance(counts, Sequence) or not all(isinstance(run, int) and abs(run) < _MAX_RUN for run in counts):
        raise ValueError("run lengths must be a compressed text or a list of numbers")
    _require_pixels(np.array(counts, dtype=np.int64), size)
    return mask_utils.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)["counts"]


def _require_near(corners: Float64[np.ndarray, "corner 2"], size: tuple[int, int]) -> None:
    """Refuses corners that are no drawing: pycocotools walks along every edge, and far ones write beyond its memory."""
    height, width = size
    margin = max(height, width, MIN_MARGIN)
    is_far = ((corners < -margin) | (corners > np.array([width, height]) + margin)).any(axis=1)
    if is_far.any():
        x, y = corners[int(is_far.argmax())]
        raise ValueError(
            f"a polygon of the segmentation has the corner x={x:g}, y={y:g}, far outside of its image of {width} x "
            f"{height} pixels (width x height); expected pixels, at most {margin} outside"
        )


def _require_pixels(runs: Int64[np.ndarray, " run"], size: tuple[int, int]) -> None:
    if runs.min(initial=0) < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths of {runs.sum()} pixels for an image of {size[0] * size[1]}")


def _numbers(values: Sequence[Any]) -> np.ndarray:
    try:
        numbers = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        return np.array([np.nan])
    return numbers.astype(np.float64) if numbers.dtype.kind in "iuf" else np.array([np.nan])
