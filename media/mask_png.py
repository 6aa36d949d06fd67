"""Mask images: palette PNGs whose pixel values are object ids, and black-and-white PNGs."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from media.files import atomic_path
from media.images import open_image

NUM_COLOURS = 256


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
    image = Image.fromarray(index_map)
    image.putpalette(list(DAVIS_PALETTE))
    _save_png(path, image)


def write_binary_png(path: str | Path, mask: Bool[np.ndarray, "height width"]) -> None:
    """Write a mask as a grey PNG of 0 and 255; the file appears complete or not at all."""
    _save_png(path, Image.fromarray(mask.astype(np.uint8) * np.uint8(255)))


def _save_png(path: str | Path, image: Image.Image) -> None:
    with atomic_path(Path(path), durable=False) as temporary:
        image.save(temporary, format="PNG")
