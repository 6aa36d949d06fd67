"""Overlays: every object tinted in its colour, with a contour, its name and its score; the sentences below.

A sentence of which nothing was found is grey, and says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from media.colours import Colour, ObjectColours, object_colour, readable_on
from media.labels import Label, LabelWriter, largest_part, shorten
from media.lettering import Font, lettering

MIN_WIDTH = 480
"""Narrower frames are enlarged by an integer factor, so that the sentences are legible."""

MAX_ENLARGED_HEIGHT = 2160
"""Pixels that frames are not enlarged beyond: of a tall strip the picture would take gigabytes. It stands on a wider
ground instead."""

MAX_CAPTION_LETTERS = 300
"""Of a sentence below the picture."""

MAX_CAPTION_HEIGHT = 4096
"""Pixels of the sentences below the picture; how many more there are is said."""

STRENGTH = 0.45
"""Of the tint: 1 would hide the object."""

LINE_SHARE = 1 / 300
"""Thickness of a contour, in shorter sides of the picture."""

MIN_LINE = 2
"""Thinnest contour, in pixels."""

RIM_SHARE = 0.6
"""Thickness of the rim, in thicknesses of the line."""

EDGE_BLUR, ENLARGING_BLUR, FILTER = 0.5, 0.7, 5
"""Standard deviations, in pixels of the picture and of the mask, and width of the filters that smooth edges. With more
of it, enlarged lines of one pixel are lost."""

BACKGROUND: Colour = (24, 24, 24)
TEXT: Colour = (240, 240, 240)
GREY: Colour = (130, 130, 130)
NOT_FOUND = "not found: "
"""Before a sentence that was rejected."""


def blend_masks(
    frame: UInt8[np.ndarray, "height width 3"],
    masks: Sequence[Bool[np.ndarray, "mask_height mask_width"]],
    colours: Sequence[Colour] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with each object tinted and outlined; where objects overlap, the later one is on top.

    The contour is a line in the colour of the object along the inside of its edge, and a black or white rim outside:
    whatever the object and its surroundings look like, one of the two is seen. Edges are smooth, also where the masks
    are smaller than the frame.

    Args:
        frame: RGB.
        masks: of the objects; smaller than the frame by an integer factor, or of its size.
        colours: of the objects; None: `object_colour` of each.
    """
    picture = frame.copy()
    if colours is None:
        colours = [object_colour(index) for index in range(len(masks))]
    for mask, colour in zip(masks, colours, strict=True):
        _draw_object(picture, mask, colour)
    return picture


class Overlay:
    """Renders frames of one size with the same sentences.

    Args:
        sentences: one per object.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        names: what is written at the objects; None: the sentences, shortened.
        colours: of the objects; None: chosen in the frame in which an object is first seen.

    Attributes:
        colours: of the objects.
        scale: by which the frames are enlarged.
        size: (height, width) of the enlarged frames.
        canvas_width: of frames on their ground, and of the sentences below.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        *,
        height: int,
        width: int,
        names: Sequence[str] | None = None,
        colours: ObjectColours | None = None,
    ) -> None:
        self.scale = max(1, min(math.ceil(MIN_WIDTH / width), MAX_ENLARGED_HEIGHT // height))
        self.size = (height * self.scale, width * self.scale)
        self.canvas_width = max(MIN_WIDTH, self.size[1])
        self.colours = colours or ObjectColours(len(sentences))
        self._sentences = sentences
        self._names = sentences if names is None else names
        self._labels = LabelWriter(max(13, min(30, width * self.scale // 48)))
        self._captions: dict[tuple[object, ...], UInt8[np.ndarray, "caption_height caption_width 3"]] = {}

    def render(
        self,
        frame: UInt8[np.ndarray, "height width 3"],
        masks: Sequence[Bool[np.ndarray, "mask_height mask_width"]],
        found: Sequence[bool],
        scores: Sequence[float] | None = None,
    ) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
        """The frame with its objects, above the sentences; `picture_in` is what finds it there.

        Args:
            frame: RGB.
            masks: of the objects, at the size of the frame or at that of the picture (`size`).
            found: whether there are any, as the model says; of the others the sentences are grey.
            scores: written at the objects; None: none are.
        """
        if None in self.colours.chosen:
            self.colours.look([frame], [[self._reduced(mask)] for mask in masks])
        captions = self._caption(tuple(found))
        height, width = self.size
        canvas = np.empty((height + len(captions), self.canvas_width, 3), dtype=np.uint8)
        if self.canvas_width > width:
            canvas[:height] = BACKGROUND
        picture = self.picture_in(canvas)
        if self.scale == 1:
            picture[:] = frame
        else:
            picture[:] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
        canvas[height:] = captions
        colours = self.colours.of_all()
        for mask, colour in zip(masks, colours, strict=True):
            _draw_object(picture, mask, colour)
        parts = [largest_part(mask, scale=height // len(mask)) for mask in masks]
        labels = [
            Label(name, None if scores is None else scores[index], colours[index])
            for index, name in enumerate(self._names)
        ]
        self._labels.draw(picture, labels, parts)
        return canvas

    def picture_in(
        self, canvas: UInt8[np.ndarray, "canvas_height canvas_width 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The part of what `render` gives that shows the frame."""
        height, width = self.size
        left = (self.canvas_width - width) // 2
        return canvas[:height, left : left + width]

    def _caption(self, found: tuple[bool, ...]) -> UInt8[np.ndarray, "caption_height width 3"]:
        """One strip per set of found sentences: drawing text takes longer than anything else."""
        key = (found, self.colours.chosen)
        if key not in self._captions:
            self._captions[key] = render_caption(
                self._sentences, width=self.canvas_width, found=found, colours=self.colours.chosen
            )
        return self._captions[key]

    def _reduced(self, mask: Bool[np.ndarray, "mask_height mask_width"]) -> Bool[np.ndarray, "height width"]:
        step = len(mask) * self.scale // self.size[0]
        return np.ascontiguousarray(mask[::step, ::step])


def render_caption(
    sentences: Sequence[str],
    *,
    width: int,
    found: Sequence[bool],
    colours: Sequence[Colour | None] | None = None,
) -> UInt8[np.ndarray, "caption_height width 3"]:
    """A strip with one paragraph per sentence, each beside a square in the colour of its object.

    Its height does not depend on what was found: the frames of a video have one size.

    Args:
        sentences: one per object.
        width: of the strip, in pixels.
        found: of which sentences something was found; the others are grey, beside an empty square.
        colours: of the objects, None of one that has not been seen, whose square is empty; None: `object_colour`
            of each.
    """
    if colours is None:
        colours = [object_colour(index) for index in range(len(sentences))]
    size = max(14, min(28, width // 32))
    margin, square, line_height = size // 2, size, round(1.4 * size)
    left = margin + square + margin
    paragraphs: list[_Paragraph] = []
    lines_left = (MAX_CAPTION_HEIGHT - 2 * margin) // line_height - 1
    for sentence in sentences:
        paragraph = _paragraph(sentence, size=size, width=width - left - margin)
        lines_left -= paragraph.num_lines
        if lines_left < 0:
            break
        paragraphs.append(paragraph)
    rest = len(sentences) - len(paragraphs)
    height = 2 * margin + line_height * (sum(each.num_lines for each in paragraphs) + (rest > 0))
    strip = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    y = margin
    for paragraph, is_found, colour in zip(paragraphs, found, colours, strict=False):
        box = (margin, y + 2, margin + square, y + 2 + square)
        fill = colour if is_found else None
        draw.rectangle(box, fill=fill, outline=GREY if fill is None else None)
        for number, line in enumerate(paragraph.lines if is_found else paragraph.lines_not_found):
            position = (left, y + number * line_height)
            draw.text(position, line, font=paragraph.font, fill=TEXT if is_found else GREY)
        y += line_height * paragraph.num_lines
    if rest:
        text, font = lettering(f"and {rest} more", size)
        draw.text((left, y), text, font=font, fill=GREY)
    return np.array(strip)


@dataclass(frozen=True, slots=True)
class _Paragraph:
    """A sentence below the picture.

    Attributes:
        lines: where it is found.
        lines_not_found: where it is not.
        font: of both.
    """

    lines: list[str]
    lines_not_found: list[str]
    font: Font

    @property
    def num_lines(self) -> int:
        """Lines that are kept free for it, whether it is found or not."""
        return max(len(self.lines), len(self.lines_not_found))


def _paragraph(sentence: str, *, size: int, width: int) -> _Paragraph:
    text, font = lettering(NOT_FOUND + shorten(sentence, MAX_CAPTION_LETTERS), size)
    versions = (text.removeprefix(NOT_FOUND), text)
    lines, lines_not_found = (wrap_text(each, width=width, length_of=font.getlength) for each in versions)
    return _Paragraph(lines, lines_not_found, font)


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


def resized_mask(mask: Bool[np.ndarray, "_ _"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The mask at another (height, width), without blocks: the distance to its edge changes smoothly across it."""
    own = mask.astype(np.uint8)
    inside, outside = (cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (own, 1 - own))
    depth = cv2.GaussianBlur(inside - outside, (FILTER, FILTER), ENLARGING_BLUR)
    interpolation = cv2.INTER_CUBIC if size[0] > mask.shape[0] else cv2.INTER_AREA
    return cv2.resize(depth, size[::-1], interpolation=interpolation) > 0


def _draw_object(
    picture: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "mask_height mask_width"], colour: Colour
) -> None:
    """Tints and outlines an object in place, looking at nothing outside of its box."""
    height, width = mask.shape
    scale = picture.shape[0] // height
    if picture.shape[:2] != (scale * height, scale * width):
        raise ValueError(f"mask of (height, width) {mask.shape} for a picture of {picture.shape[:2]}")
    left, top, box_width, box_height = cv2.boundingRect(mask.view(np.uint8))
    if not box_width:
        return
    line = max(MIN_LINE, round(LINE_SHARE * min(picture.shape[:2])))
    rim = max(1, round(RIM_SHARE * line))
    margin = rim // scale + FILTER // 2 + 1
    rows = slice(max(0, top - margin), min(height, top + box_height + margin))
    columns = slice(max(0, left - margin), min(width, left + box_width + margin))
    own = mask[rows, columns]
    if scale > 1:
        own = resized_mask(own, (scale * own.shape[0], scale * own.shape[1]))
    part = picture[scale * rows.start : scale * rows.stop, scale * columns.start : scale * columns.stop]

    full = own.astype(np.uint8) * np.uint8(255)
    # 255 inside of the line, inside of the edge, inside of the rim; in between along each of them
    inner, middle, outer = (_smooth(m) for m in (cv2.erode(full, _disc(line)), full, cv2.dilate(full, _disc(rim))))
    tinted = cv2.add(cv2.convertScaleAbs(part, alpha=1 - STRENGTH), np.array([*colour, 0], dtype=np.float64) * STRENGTH)
    cv2.copyTo(tinted, (inner == 255).view(np.uint8), part)

    # the pixels of the contour are few, and are mixed by how much of each is rim, line and inside
    y, x = np.divmod(np.flatnonzero((outer > 0) & (inner < 255)), part.shape[1])
    shares = np.stack([level[y, x] for level in (outer, middle, inner)]).astype(np.float32)[..., None] / 255
    before = part[y, x].astype(np.float32)
    edge = before + shares[0] * (np.array(readable_on(colour), dtype=np.float32) - before)
    edge += shares[1] * (np.array(colour, dtype=np.float32) - edge)
    edge += shares[2] * (tinted[y, x] - edge)
    part[y, x] = edge.round().astype(np.uint8)


def _smooth(mask: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    return cv2.GaussianBlur(mask, (FILTER, FILTER), EDGE_BLUR)


@cache
def _disc(radius: int) -> UInt8[np.ndarray, "diameter diameter"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
