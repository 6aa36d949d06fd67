"""Mask images: palette PNGs whose pixel values are object ids, and black-and-white PNGs."""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from media.files import atomic_path
from media.images import open_image

NUM_COLOURS = 256

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE_COLOUR = 0, 3
"""Colour types of the header."""


def davis_palette() -> tuple[int, ...]:
    """The 256 colours of DAVIS masks as r, g, b, r, g, b, ...

    The rule is that of the PASCAL VOC masks: bit j of every third bit of the index becomes bit 7 - j of a channel.
    The PNG files of DAVIS carry exactly this palette; the list that the davis2017 toolkit ships differs (grey after
    entry 21).
    """
    palette: list[int] = []
    for index in range(NUM_COLOURS):
        for channel in range(3):
            bits = ((index >> (channel + 3 * j) & 1) << (7 - j) for j in range(3))
            palette.append(sum(bits))
    return tuple(palette)


DAVIS_PALETTE = davis_palette()


def read_index_png(path: str | Path) -> UInt8[np.ndarray, "height width"]:
    """Object ids of a mask image, as stored: palette colours are ignored.

    Args:
        path: a PNG of mode "P" (palette), "L" (grey) or "1" (black and white, read as 0 and 1).

    Raises:
        ValueError: the file is missing, is no readable image, is too large, or has no single channel of 8 bits.
    """
    with open_image(Path(path), kind="mask") as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(f"{path}: expected a palette or grey mask of 8 bits, got mode {image.mode}")
        return np.array(image, dtype=np.uint8)


def write_index_png(path: str | Path, index_map: UInt8[np.ndarray, "height width"]) -> None:
    """Write object ids as a PNG with the palette of DAVIS; the file appears complete or not at all.

    Args:
        path: its folder is made if it is missing.
        index_map: 0 is background.
    """
    _write_png(path, index_map, palette=bytes(DAVIS_PALETTE))


def write_binary_png(path: str | Path, mask: Bool[np.ndarray, "height width"]) -> None:
    """Write a mask as a grey PNG of 0 and 255; the file appears complete or not at all."""
    _write_png(path, mask.view(np.uint8) * np.uint8(255))


def _write_png(path: str | Path, pixels: UInt8[np.ndarray, "height width"], *, palette: bytes = b"") -> None:
    """Writes a PNG of 8 bits per pixel, grey or with a palette.

    Masks are long runs of equal bytes, in which zlib needs to look for nothing but runs, and which no filter of rows
    makes shorter. Pillow and OpenCV choose a filter for every row: with the same compression they take four times as
    long. Little memory for zlib is fastest, because it is cleared for every mask.

    Source: Portable Network Graphics, third edition (W3C), sections 5.3 (chunks), 9 (filtering) and 11.2.
    """
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width), dtype=np.uint8)  # every row begins with its filter: 0 is none
    rows[:, 1:] = pixels
    compressor = zlib.compressobj(level=1, memLevel=5, strategy=zlib.Z_RLE)
    data = compressor.compress(rows.data) + compressor.flush()
    colour_type = PALETTE_COLOUR if palette else GREY
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"PLTE", palette)] if palette else []), (b"IDAT", data), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with atomic_path(Path(path), durable=False) as temporary:
        temporary.write_bytes(SIGNATURE + content)
