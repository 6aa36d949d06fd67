"""Masks as rows of bits: 64 pixels per word, so that counting and dilation are fast.

A mask becomes an array [height, num_words] of unsigned 64-bit integers. Bit i of word j is pixel 64 j + i of the row.
Rows are shifted sideways as one long string of bits; zero bits between them keep neighbours apart.
"""

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from jaxtyping import Bool, Int64, UInt64

WORD_BITS = 64
WORD = np.dtype("<u8")  # little-endian, so that bytes of `packbits` keep their order within a word


GROUP_WORDS = 8192
"""Masks are dilated in groups of up to this many words: fewer calls for small masks, fewer cache misses for large."""


@dataclass(frozen=True, slots=True)
class BitMasks:
    """Masks of equal size, with their outlines.

    Attributes:
        pixels: the masks.
        outlines: pixels that differ from their right, lower or lower right neighbour.
        near_outlines: pixels at most `radius` pixels away from the outline.
        areas: number of pixels in each mask.
        outline_lengths: number of pixels in each outline.
    """

    pixels: UInt64[np.ndarray, "*masks height words"]
    outlines: UInt64[np.ndarray, "*masks height words"]
    near_outlines: UInt64[np.ndarray, "*masks height words"]
    areas: Int64[np.ndarray, "*masks"]
    outline_lengths: Int64[np.ndarray, "*masks"]

    @classmethod
    def from_masks(cls, masks: Bool[np.ndarray, "*masks height width"], radius: int) -> "BitMasks":
        """Pack masks, find their outlines and dilate these by a disk.

        Args:
            masks: may overlap.
            radius: of the disk, in pixels; at least 1.
        """
        axes = masks.shape[:-2]
        pixels, outlines = _pack(masks.reshape(prod(axes), *masks.shape[-2:]))
        near_outlines = np.empty_like(outlines)
        group = max(1, GROUP_WORDS // max(1, outlines[:1].size))
        for first in range(0, len(outlines), group):
            near_outlines[first : first + group] = dilate(outlines[first : first + group], radius)
        shape = (*axes, *outlines.shape[-2:])
        pixels, outlines = pixels.reshape(shape), outlines.reshape(shape)
        return cls(pixels, outlines, near_outlines.reshape(shape), count(pixels), count(outlines))


def count(bits: UInt64[np.ndarray, "*masks height words"]) -> Int64[np.ndarray, "*masks"]:
    """Number of pixels in each mask."""
    return np.bitwise_count(bits).sum(axis=(-2, -1), dtype=np.int64)


def dilate(bits: UInt64[np.ndarray, "mask height words"], radius: int) -> UInt64[np.ndarray, "mask height words"]:
    """All pixels within a disk (x^2 + y^2 <= radius^2) round a pixel of the mask.

    The disk is a stack of horizontal bars, one for each vertical distance, and grows wider towards its centre: each bar
    is made from the one before. Only the part of the image where masks have pixels is processed. Padding bits at the
    end of a row may be set in the result.

    Args:
        bits: masks, each dilated for itself.
        radius: in pixels.
    """
    num_masks, height, num_words = bits.shape
    near = np.zeros_like(bits)
    together = np.bitwise_or.reduce(bits, axis=0)
    occupied = np.flatnonzero(together.any(axis=1))
    if not len(occupied):
        return near
    top, bottom = int(occupied[0]), int(occupied[-1]) + 1
    occupied = np.flatnonzero(together[top:bottom].any(axis=0))
    left, right = int(occupied[0]), int(occupied[-1]) + 1

    # work on a contiguous copy of that part: radius rows above and below, whole words on both sides
    margin = -(-radius // WORD_BITS)
    num_rows, row_words = bottom - top, right - left + 2 * margin
    bar = np.zeros((num_masks, num_rows, row_words), dtype=WORD)
    bar[:, :, margin : margin + right - left] = bits[:, top:bottom, left:right]
    part = np.zeros((num_masks, num_rows + 2 * radius, row_words), dtype=WORD)
    reach = 0
    for distance in range(radius, -1, -1):
        wanted = isqrt(radius**2 - distance**2)
        while reach < wanted:
            step = min(wanted - reach, 2 * reach + 1, WORD_BITS - 1)  # a longer step would leave holes in the bar
            bar, reach = _widen(bar, step), reach + step
        for first in {radius - distance, radius + distance}:
            part[:, first : first + num_rows] |= bar

    first_row, last_row = max(top - radius, 0), min(bottom + radius, height)
    first_word, last_word = max(left - margin, 0), min(right + margin, num_words)
    rows = slice(first_row - top + radius, last_row - top + radius)
    words = slice(first_word - left + margin, last_word - left + margin)
    near[:, first_row:last_row, first_word:last_word] = part[:, rows, words]
    return near


def _widen(bits: UInt64[np.ndarray, "mask height words"], step: int) -> UInt64[np.ndarray, "mask height words"]:
    """The mask united with itself shifted to the left and to the right by `step` < 64 pixels.

    What leaves a row at one side enters the next: the caller pads rows with as many zeros as it will shift them.
    """
    flat = bits.ravel()
    carry = np.uint64(WORD_BITS - step)
    wide = flat << np.uint64(step)
    wide |= flat
    wide |= flat >> np.uint64(step)
    wide[1:] |= flat[:-1] >> carry
    wide[:-1] |= flat[1:] << carry
    return wide.reshape(bits.shape)


def _pack(
    masks: Bool[np.ndarray, "mask height width"],
) -> tuple[UInt64[np.ndarray, "mask height words"], UInt64[np.ndarray, "mask height words"]]:
    """Masks and their outlines as bits."""
    num_masks, height, width = masks.shape
    num_words = width // WORD_BITS + 1  # room for at least one more column
    # one more row and column repeat the last ones: no outline arises at the lower and right edge of the image
    canvas = np.zeros((num_masks, height + 1, num_words * WORD_BITS), dtype=bool)
    canvas[:, :height, :width] = masks
    canvas[:, :height, width] = masks[:, :, -1]
    canvas[:, height] = canvas[:, height - 1]
    flat = np.packbits(canvas.reshape(-1), bitorder="little").view(WORD).reshape(num_masks, (height + 1) * num_words)

    one, carry = np.uint64(1), np.uint64(WORD_BITS - 1)
    right = flat >> one
    right[:, :-1] |= flat[:, 1:] << carry
    here, below = flat[:, :-num_words], flat[:, num_words:]
    outlines = here ^ right[:, :-num_words]
    outlines |= here ^ below
    outlines |= here ^ right[:, num_words:]

    pixels = here.reshape(num_masks, height, num_words).astype(np.uint64)
    outlines = outlines.reshape(num_masks, height, num_words).astype(np.uint64, copy=False)
    word_of_copy, bit_of_copy = divmod(width, WORD_BITS)
    inside = np.uint64((1 << bit_of_copy) - 1)
    pixels[:, :, word_of_copy] &= inside
    outlines[:, :, word_of_copy] &= inside
    return pixels, outlines
