"""Segmentations as COCO stores them: polygons, or run lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as mask_utils

MIN_POLYGON_NUMBERS = 6
"""x and y of three corners. pycocotools would read a list of four numbers as a box."""


def encode_segmentation(segmentation: Any, *, size: tuple[int, int]) -> bytes:
    """Compressed run lengths of a segmentation; a few hundred bytes where polygons in memory take kilobytes.

    Args:
        segmentation: a list of polygons (x, y, x, y, ... in pixels; parts with fewer than three corners are nothing),
            or a dict of `size` and `counts`, compressed or not.
        size: (height, width) of the image.

    Returns:
        The `counts` of pycocotools; those of an empty mask if no polygon has three corners.

    Raises:
        ValueError: it is neither, or it was made for an image of another size.
    """
    height, width = size
    if isinstance(segmentation, Mapping):
        return _encode_run_lengths(segmentation, size)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str | bytes):
        raise ValueError(f"segmentation of type {type(segmentation).__name__}: expected polygons or run lengths")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, Sequence) or len(polygon) % 2 or not np.isfinite(_numbers(polygon)).all():
            raise ValueError("a polygon of the segmentation is not a list of x, y, x, y, ...")
        if len(polygon) >= MIN_POLYGON_NUMBERS:
            polygons.append(list(polygon))
    if not polygons:
        return mask_utils.encode(np.zeros((height, width), dtype=np.uint8, order="F"))["counts"]
    return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))["counts"]


def mask_area(counts: bytes, *, size: tuple[int, int]) -> int:
    """Pixels of a mask, without decoding it."""
    return int(mask_utils.area({"size": list(size), "counts": counts}))


def decode_mask(counts: bytes, *, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """1 on the object, 0 elsewhere."""
    return np.ascontiguousarray(mask_utils.decode({"size": list(size), "counts": counts}))


def _encode_run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    height, width = size
    counts, stored = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(stored, Sequence) or tuple(stored) != size:
        raise ValueError(f"run lengths for an image of (height, width) {stored}, but the image has {size}")
    if isinstance(counts, str | bytes):
        encoded = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        runs = _read_compressed(encoded)
    elif isinstance(counts, Sequence) and all(isinstance(run, int) for run in counts):
        runs = list(counts)
        encoded = None
    else:
        raise ValueError("run lengths must be a compressed text or a list of numbers")
    # pycocotools trusts its input: with too few pixels, what it decodes contains whatever the memory held
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"run lengths of {sum(runs)} pixels for an image of {height * width}")
    if encoded is None:
        encoded = mask_utils.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return encoded


def _read_compressed(encoded: bytes) -> list[int]:
    """The run lengths in compressed `counts`: 5 bits a byte, differences to the run before last from the third on."""
    runs: list[int] = []
    value, shift = 0, 0
    for byte in encoded:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError(f"compressed run lengths with the byte {byte}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more of this number follows
            continue
        if bits & 0x10:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return runs


def _numbers(values: Sequence[Any]) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([np.nan])
