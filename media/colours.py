"""Colours of objects: a palette, and the choice from it that stays readable on what the video shows."""

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

Colour = tuple[int, int, int]

FIRST_COLOURS: tuple[Colour, ...] = (
    (230, 60, 60),
    (60, 130, 240),
    (250, 190, 40),
    (60, 190, 90),
    (190, 90, 230),
    (40, 200, 210),
    (250, 130, 40),
    (240, 120, 190),
)
BLACK: Colour = (16, 16, 16)
WHITE: Colour = (255, 255, 255)

ENOUGH = 40.0
"""Distance in CIELAB from which a colour is told from what is under and around it at a glance; chosen by eye."""

PERCENTILE = 25
"""A colour is as far from some pixels as from the nearest quarter of them: an object has more than one colour."""

MAX_SAMPLES = 1000
"""Pixels under or around an object that are looked at in one frame."""

RING_SHARE = 0.15
"""Of the longer side of an object: how far around it pixels are looked at."""

MOST_COMPARED = 50
"""Objects whose colours are compared with what is in the picture; no eye tells more colours apart."""


def object_colour(index: int) -> Colour:
    """A bright colour for each object; the first eight are easy to distinguish."""
    if index < len(FIRST_COLOURS):
        return FIRST_COLOURS[index]
    hue = (index * (math.sqrt(5) - 1) / 2) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def luminance(colour: Colour) -> float:
    """Relative luminance in [0, 1] of an sRGB colour.

    Source: WCAG 2, definition of relative luminance.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable_on(colour: Colour) -> Colour:
    """Black or white, whichever has the higher contrast ratio of WCAG 2 with `colour`."""
    own = luminance(colour) + 0.05
    with_black, with_white = own / (luminance(BLACK) + 0.05), (luminance(WHITE) + 0.05) / own
    return BLACK if with_black >= with_white else WHITE


class ObjectColours:
    """One colour per object, chosen when the object is first seen and kept from then on.

    The colour of an object's place in the palette is taken if it is told from the pixels under and around the object
    and from the colours of the other objects; else the first one that is, or the best there is.

    Args:
        num_objects: of the video.
    """

    def __init__(self, num_objects: int) -> None:
        self._chosen: list[Colour | None] = [None] * num_objects

    @property
    def chosen(self) -> tuple[Colour | None, ...]:
        """Colour of each object; None while it has not been seen."""
        return tuple(self._chosen)

    def look(
        self,
        frames: Sequence[UInt8[np.ndarray, "height width 3"]],
        masks: Sequence[Sequence[Bool[np.ndarray, "height width"]]],
    ) -> None:
        """Chooses colours of the objects that are first seen in these frames.

        Args:
            frames: some frames of the video.
            masks: for each object its masks in them.
        """
        for index, own in enumerate(masks):
            if self._chosen[index] is None and any(mask.any() for mask in own):
                self._chosen[index] = self._choose(index, frames, own)

    def of_all(self) -> tuple[Colour, ...]:
        """Colour of each object; of one that has not been seen that of its place in the palette."""
        return tuple(colour or object_colour(index) for index, colour in enumerate(self._chosen))

    def _choose(
        self,
        index: int,
        frames: Sequence[UInt8[np.ndarray, "height width 3"]],
        masks: Sequence[Bool[np.ndarray, "height width"]],
    ) -> Colour:
        number = max(len(FIRST_COLOURS), min(len(self._chosen), MOST_COMPARED))
        candidates = [object_colour(i) for i in dict.fromkeys((index, *range(number)))]
        taken = [colour for colour in self._chosen if colour is not None]
        candidates = [colour for colour in candidates if colour not in taken]
        samples = [
            pixels for frame, mask in zip(frames, masks, strict=True) if mask.any() for pixels in _samples(frame, mask)
        ]
        under, around = (np.concatenate(kind) for kind in (samples[::2], samples[1::2]))
        if index >= MOST_COMPARED:
            return candidates[0]
        best, most = candidates[0], -1.0
        for colour in candidates:
            distances = [np.percentile(_distances(colour, kind), PERCENTILE) for kind in (under, around) if len(kind)]
            distances += [_distances(colour, _lab(np.array([other], dtype=np.uint8))).min() for other in taken]
            distance = float(min(distances))
            if distance >= ENOUGH:
                return colour
            if distance > most:
                best, most = colour, distance
        return best


def _samples(
    frame: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> tuple[Float32[np.ndarray, "under 3"], Float32[np.ndarray, "around 3"]]:
    """Some pixels under a mask that has one, and some in the box around it, in CIELAB."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    ring = max(2, round(RING_SHARE * max(width, height)))
    window = np.s_[max(0, top - ring) : top + height + ring, max(0, left - ring) : left + width + ring]
    own, pixels = mask[window], frame[window]
    under, around = pixels[own], pixels[~own]
    return _lab(_some(under)), _lab(_some(around))


def _some(pixels: UInt8[np.ndarray, "pixel 3"]) -> UInt8[np.ndarray, "sample 3"]:
    return pixels[:: max(1, len(pixels) // MAX_SAMPLES)]


def _lab(pixels: UInt8[np.ndarray, "pixel 3"]) -> Float32[np.ndarray, "pixel 3"]:
    if not len(pixels):
        return np.zeros((0, 3), dtype=np.float32)
    return cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _distances(colour: Colour, lab: Float32[np.ndarray, "pixel 3"]) -> Float32[np.ndarray, " pixel"]:
    return np.linalg.norm(lab - _lab(np.array([colour], dtype=np.uint8)), axis=1)
