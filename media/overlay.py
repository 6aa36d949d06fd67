"""Overlays: every object tinted in its colour, its sentence below beside a square of that colour.

A sentence of which nothing was found is grey, and says so.
"""

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

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
MIN_WIDTH = 480
"""Narrower frames are enlarged by an integer factor, so that the sentences are legible."""

STRENGTH = 0.5
BACKGROUND: Colour = (24, 24, 24)
TEXT: Colour = (240, 240, 240)
GREY: Colour = (130, 130, 130)
NOT_FOUND = "not found: "
"""Before a sentence that was rejected."""


def object_colour(index: int) -> Colour:
    """A bright colour for each object; the first eight are easy to distinguish."""
    if index < len(FIRST_COLOURS):
        return FIRST_COLOURS[index]
    hue = (index * (math.sqrt(5) - 1) / 2) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def blend_masks(
    frame: UInt8[np.ndarray, "height width 3"],
    masks: Sequence[Bool[np.ndarray, "height width"]],
    colours: Sequence[Colour] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with each object tinted and outlined; where objects overlap, the later one is on top.

    Args:
        frame: RGB.
        masks: of the objects.
        colours: of the objects; None: `object_colour` of each.
    """
    picture = frame.astype(np.float32)
    if colours is None:
        colours = [object_colour(index) for index in range(len(masks))]
    for mask, rgb in zip(masks, colours, strict=True):
        colour = np.array(rgb, dtype=np.float32)
        picture[mask] = (1 - STRENGTH) * picture[mask] + STRENGTH * colour
        picture[_outline(mask, thickness=max(1, frame.shape[0] // 270))] = colour
    return picture.round().astype(np.uint8)


class Overlay:
    """Renders frames of one size with the same sentences.

    Args:
        sentences: one per object.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
    """

    def __init__(self, sentences: Sequence[str], *, height: int, width: int) -> None:
        self.scale = max(1, math.ceil(MIN_WIDTH / width))
        self.height, self.width = height, width
        self._sentences = sentences
        self._captions: dict[tuple[bool, ...], UInt8[np.ndarray, "caption_height caption_width 3"]] = {}

    def render(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        masks: Sequence[Bool[np.ndarray, "height width"]],
        found: Sequence[bool],
    ) -> UInt8[np.ndarray, "overlay_height overlay_width 3"]:
        """The tinted frame above the sentences.

        Args:
            frame: RGB.
            masks: of the objects.
            found: whether there are any, as the model says; of the others the sentences are grey.
        """
        enlarged = [np.kron(mask, np.ones((self.scale, self.scale), dtype=bool)) for mask in masks]
        picture = frame
        if self.scale > 1:
            size = (self.width * self.scale, self.height * self.scale)
            picture = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        which = tuple(found)
        if which not in self._captions:
            self._captions[which] = render_caption(self._sentences, width=self.width * self.scale, found=which)
        return np.concatenate([blend_masks(picture, enlarged), self._captions[which]])


def render_caption(
    sentences: Sequence[str], *, width: int, found: Sequence[bool]
) -> UInt8[np.ndarray, "caption_height width 3"]:
    """A strip with one paragraph per sentence, each beside a square in the colour of its object.

    Its height does not depend on what was found: the frames of a video have one size.

    Args:
        sentences: one per object.
        width: of the strip, in pixels.
        found: of which sentences something was found; the others are grey, beside an empty square.
    """
    size = max(14, min(28, width // 32))
    font = ImageFont.load_default(size)
    margin, square, line_height = size // 2, size, round(1.4 * size)
    left = margin + square + margin

    def wrap(text: str) -> list[str]:
        return wrap_text(text, width=width - left - margin, length_of=font.getlength)

    paragraphs = [(wrap(sentence), wrap(NOT_FOUND + sentence)) for sentence in sentences]
    height = 2 * margin + line_height * sum(max(map(len, versions)) for versions in paragraphs)
    strip = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    y = margin
    for index, (versions, is_found) in enumerate(zip(paragraphs, found, strict=True)):
        box = (margin, y + 2, margin + square, y + 2 + square)
        draw.rectangle(box, fill=object_colour(index) if is_found else None, outline=None if is_found else GREY)
        for number, line in enumerate(versions[0] if is_found else versions[1]):
            draw.text((left, y + number * line_height), line, font=font, fill=TEXT if is_found else GREY)
        y += line_height * max(map(len, versions))
    return np.array(strip)


def wrap_text(text: str, *, width: int, length_of: Callable[[str], float]) -> list[str]:
    """Lines that fit into `width` pixels, broken between words, and inside a word that is too long for a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if length_of(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and length_of(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _outline(mask: Bool[np.ndarray, "height width"], *, thickness: int) -> Bool[np.ndarray, "height width"]:
    """Pixels of the mask within `thickness` of its edge."""
    inner = np.pad(mask, thickness, mode="edge")
    for axis in (0, 1):
        shifted = [np.roll(inner, step, axis=axis) for step in range(-thickness, thickness + 1)]
        inner = np.logical_and.reduce(shifted)
    return mask & ~inner[thickness : thickness + mask.shape[0], thickness : thickness + mask.shape[1]]
