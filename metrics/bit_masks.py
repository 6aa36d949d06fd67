"""Masks as rows of bits: 64 pixels per word, so that counting and dilation are fast.

Bit i of word j of a row is pixel 64 j + i. Rows and masks lie one behind the other as one long string of bits, which is
shifted by some pixels or by whole rows; zero bits between rows and between masks keep neighbours apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt64

WORD_BITS = 64
WORD = np.dtype("<u8")  # little-endian, so that bytes of `packbits` keep their order within a word


class MaskRows(NamedTuple):
    """The rows of a mask from the first that has a pixel to the last; none of an empty mask.

    Attributes:
        top: index of the first one.
        bits: one more pixel repeats the last one of the image, so that no outline arises at its right edge.
    """

    top: int
    bits: UInt64[np.ndarray, "rows words"]


class Packer:
    """Packs masks of one size.

    Args:
        height: of the images.
        width: of the images.
    """

    def __init__(self, height: int, width: int) -> None:
        self.width, self.num_words = width, width // WORD_BITS + 1  # room for at least one more column
        self._bytes = bytearray(height * width)  # finds its first and its last byte of a value faster than NumPy does
        self._mask = np.frombuffer(self._bytes, dtype=bool).reshape(height, width)
        self._canvas = np.zeros((height, self.num_words * WORD_BITS), dtype=bool)

    def pack(
        self,
        image: Shaped[np.ndarray, "height width"],
        value: int,
        ignored: Bool[np.ndarray, "height width"] | None = None,
    ) -> MaskRows:
        """The pixels that have a value and are not ignored."""
        mask, width = self._mask, self.width
        np.equal(image, value, out=mask)
        if ignored is not None:
            np.greater(mask, ignored, out=mask)
        first, last = self._bytes.find(True), self._bytes.rfind(True)
        if first < 0:
            return MaskRows(0, np.empty((0, self.num_words), dtype=np.uint64))
        top, bottom = first // width, last // width + 1
        canvas = self._canvas[: bottom - top]
        canvas[:, :width] = mask[top:bottom]
        canvas[:, width] = mask[top:bottom, -1]
        bits = np.packbits(canvas.reshape(-1), bitorder="little").view(WORD).astype(np.uint64, copy=False)
        return MaskRows(top, bits.reshape(-1, self.num_words))


@dataclass(frozen=True, slots=True)
class BitMasks:
    """Masks of equal size with their outlines, cropped to the part of the image where any of them has an outline.

    Attributes:
        pixels: the masks.
        outlines: pixels that differ from their right, lower or lower right neighbour.
        near_outlines: of the pixels in all outlines, those at most `radius` pixels away from the outline of the mask;
            what other bits say means nothing.
        areas: number of pixels in each mask.
        outline_lengths: number of pixels in each outline.
    """

    pixels: UInt64[np.ndarray, "*masks words"]
    outlines: UInt64[np.ndarray, "*masks words"]
    near_outlines: UInt64[np.ndarray, "*masks words"]
    areas: Int64[np.ndarray, "*masks"]
    outline_lengths: Int64[np.ndarray, "*masks"]

    @classmethod
    def from_rows(
        cls, masks: Sequence[MaskRows], shape: tuple[int, ...], *, height: int, width: int, radius: int
    ) -> "BitMasks":
        """Find the outlines of masks and dilate these by a disk.

        Args:
            masks: may overlap.
            shape: in which they are arranged, such as (objects, frames).
            height: of the images.
            width: of the images.
            radius: of the disk, in pixels; at least 1.
        """
        found = [mask for mask in masks if len(mask.bits)]
        # an outline begins one pixel above its mask and one to the left, which may be the last bit of another word
        top = max(min((mask.top for mask in found), default=0) - 1, 0)
        bottom = max((mask.top + len(mask.bits) for mask in found), default=0)
        rows = np.zeros((len(masks), bottom - top, width // WORD_BITS + 1), dtype=np.uint64)
        for own, mask in zip(rows, masks, strict=True):
            own[mask.top - top :][: len(mask.bits)] = mask.bits
        together = np.bitwise_or.reduce(np.bitwise_or.reduce(rows, axis=0), axis=0)
        occupied = np.flatnonzero(together)
        left, right = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
        if left and together[left] & np.uint64(1):
            left -= 1

        num_rows, num_words = bottom - top, right - left
        room = -(-radius // WORD_BITS)
        pixels = np.zeros((len(masks), num_rows + radius, num_words + room), dtype=np.uint64)  # see `dilate`
        pixels[:, :num_rows, :num_words] = rows[:, :, left:right]
        if 0 < bottom == height:
            pixels[:, num_rows] = pixels[:, num_rows - 1]  # so that no outline arises at the lower edge of the image
        inside = np.zeros(pixels.shape[1:], dtype=np.uint64)
        inside[:num_rows, :num_words] = _first_bits(width - WORD_BITS * left, num_words)
        outlines = _outlines(pixels)
        outlines &= inside
        pixels &= inside
        near_outlines = dilate(outlines, radius)
        flat = (*shape, prod(inside.shape))
        return cls(
            pixels.reshape(flat),
            outlines.reshape(flat),
            near_outlines.reshape(flat),
            areas=count(pixels.reshape(flat)),
            outline_lengths=count(outlines.reshape(flat)),
        )


class PairCounts(NamedTuple):
    """What an annotated and a predicted mask have in common; the order is that of `mask_pairs.cpp`.

    Attributes:
        true_area: pixels of the annotated mask.
        predicted_area: pixels of the predicted one.
        intersection: pixels of both.
        true_length: pixels of the outline of the annotated mask.
        predicted_length: of the predicted one.
        true_matched: those of the annotated outline that lie near the predicted one.
        predicted_matched: those of the predicted outline that lie near the annotated one.
    """

    true_area: Int64[np.ndarray, "*#masks"]
    predicted_area: Int64[np.ndarray, "*#masks"]
    intersection: Int64[np.ndarray, "*masks"]
    true_length: Int64[np.ndarray, "*#masks"]
    predicted_length: Int64[np.ndarray, "*#masks"]
    true_matched: Int64[np.ndarray, "*masks"]
    predicted_matched: Int64[np.ndarray, "*masks"]


def compare(masks: BitMasks, true: int | slice, predicted: int) -> PairCounts:
    """One or more annotated objects with a predicted one; indices count along the first axis of `masks`."""
    return PairCounts(
        masks.areas[true],
        masks.areas[predicted],
        count(masks.pixels[true] & masks.pixels[predicted]),
        masks.outline_lengths[true],
        masks.outline_lengths[predicted],
        count(masks.outlines[true] & masks.near_outlines[predicted]),
        count(masks.outlines[predicted] & masks.near_outlines[true]),
    )


def count(bits: UInt64[np.ndarray, "*masks words"]) -> Int64[np.ndarray, "*masks"]:
    """Number of pixels in each mask."""
    return np.bitwise_count(bits).sum(axis=-1, dtype=np.uint32).astype(np.int64)  # 64 bits would add more slowly


def dilate(bits: UInt64[np.ndarray, "mask rows words"], radius: int) -> UInt64[np.ndarray, "mask rows words"]:
    """All pixels within a disk (x^2 + y^2 <= radius^2) round a pixel of the mask.

    The disk is a stack of horizontal bars, one for each vertical distance, and grows wider towards its centre: each bar
    is made from the one before.

    Args:
        bits: masks, each dilated for itself. The last `radius` rows of a mask and the last `radius` pixels of a row
            must be empty, and mean nothing in the result: what is dilated beyond the neighbours gets there.
        radius: in pixels.
    """
    row, lead = bits.shape[2], -(-radius // WORD_BITS)  # bars may begin before the first pixel
    size, margin = lead + bits.size, radius * row  # zeros on both sides, for the shifts
    bars, wider = np.zeros((2, margin + size + margin), dtype=np.uint64)
    bars[margin + lead : margin + size] = bits.reshape(-1)
    near, shifted = np.zeros((2, size), dtype=np.uint64)
    reach = 0
    for distance in range(radius, -1, -1):
        wanted = isqrt(radius**2 - distance**2)
        while reach < wanted:
            step = min(wanted - reach, 2 * reach + 1, WORD_BITS - 1)  # a longer step would leave holes in the bar
            before, here, after = (bars[margin + offset :][:size] for offset in (-1, 0, 1))
            wide = wider[margin : margin + size]
            np.left_shift(here, np.uint64(step), out=wide)
            if step > reach:  # otherwise what is shifted to both sides covers it
                wide |= here
            wide |= np.right_shift(here, np.uint64(step), out=shifted)
            wide |= np.right_shift(before, np.uint64(WORD_BITS - step), out=shifted)
            wide |= np.left_shift(after, np.uint64(WORD_BITS - step), out=shifted)
            bars, wider, reach = wider, bars, reach + step
        for offset in {-distance * row, distance * row}:
            near |= bars[margin + offset :][:size]
    return near[lead:].reshape(bits.shape)


def _outlines(pixels: UInt64[np.ndarray, "mask rows words"]) -> UInt64[np.ndarray, "mask rows words"]:
    """Pixels that differ from their right, lower or lower right neighbour.

    Those of the last row and the last word may be wrong, as their neighbours are in other rows.
    """
    here, row = pixels.reshape(-1), pixels.shape[2]
    right = here >> np.uint64(1)
    right[:-1] |= here[1:] << np.uint64(WORD_BITS - 1)
    outlines = here ^ right
    beside = outlines[row:].copy()  # whether the lower neighbour differs from the lower right one
    outlines[:-row] |= here[:-row] ^ here[row:]
    outlines[:-row] |= beside
    return outlines.reshape(pixels.shape)


def _first_bits(num_bits: int, num_words: int) -> UInt64[np.ndarray, " word"]:
    """Words of which the first bits are set, or all."""
    words = [(1 << min(max(num_bits - WORD_BITS * word, 0), WORD_BITS)) - 1 for word in range(num_words)]
    return np.array(words, dtype=np.uint64)
