"""Labels at objects: the name and the score on the colour of the object, placed so that they hide little."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from media.colours import Colour, readable_on
from media.lettering import lettering

MAX_LETTERS = 24
"""Of a name in a label; the whole sentence stands below the picture."""

MOST_LABELS = 30
"""Labels of a frame at most: more would hide it, and each is kept off every other."""

SUBSAMPLING = 4
"""Parts of a mask are told apart on every so many-th pixel: the place of a label needs no more."""

# What a place costs, per share of the label that lies on something
ON_LABEL, ON_OTHER_OBJECT, ON_OWN_OBJECT = 10.0, 1.0, 0.5
LATER_PLACE = 0.02
KEPT_PLACE = 0.3
"""Taken off for the place that the label had in the frame before, so that it does not jump to and fro."""


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` are the first column and row outside of it."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: "Box") -> int:
        """Pixels that both have."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)


@dataclass(frozen=True, slots=True)
class Part:
    """The largest connected part of a mask: a few stray pixels shall not move the label.

    Attributes:
        mask: inside of the box of the part.
        left: first column of the box, in pixels of the mask.
        top: first row of the box, in pixels of the mask.
        scale: pixels of the picture per pixel of the mask.
    """

    mask: Bool[np.ndarray, "part_height part_width"]
    left: int
    top: int
    scale: int = 1

    @property
    def box(self) -> Box:
        """In pixels of the picture."""
        height, width = self.mask.shape
        sides = (self.left, self.top, self.left + width, self.top + height)
        return Box(*(side * self.scale for side in sides))

    def covered(self, place: Box) -> int:
        """Pixels of the picture that belong to the part and to `place`."""
        if not self.box.overlap(place):
            return 0
        rows = slice(max(0, place.top // self.scale - self.top), -(-place.bottom // self.scale) - self.top)
        columns = slice(max(0, place.left // self.scale - self.left), -(-place.right // self.scale) - self.left)
        return int(np.count_nonzero(self.mask[rows, columns])) * self.scale**2

    def rows_between(self, left: int, right: int) -> tuple[int, int]:
        """First row, and row after the last one, that the part has in some columns; those of the box if it has none."""
        columns = slice(max(0, left // self.scale - self.left), max(0, -(-right // self.scale) - self.left))
        rows = np.flatnonzero(self.mask[:, columns].any(axis=1))
        if not len(rows):
            return self.box.top, self.box.bottom
        return (self.top + int(rows[0])) * self.scale, (self.top + int(rows[-1]) + 1) * self.scale


@dataclass(frozen=True, slots=True)
class Label:
    """What is written at an object.

    Attributes:
        name: of the object.
        score: in [0, 1]; None: none is written.
        colour: of the object.
    """

    name: str
    score: float | None
    colour: Colour


class LabelWriter:
    """Draws the labels of one video.

    Args:
        size: of the letters, in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._padding = max(2, size // 4)
        self._pictures: dict[tuple[str, Colour, int], UInt8[np.ndarray, "_ _ 3"]] = {}
        self._places: dict[int, int] = {}

    def draw(
        self,
        picture: UInt8[np.ndarray, "height width 3"],
        labels: Sequence[Label],
        parts: Sequence[Part | None],
    ) -> list[Box | None]:
        """Draws labels into the picture, in place.

        Args:
            picture: RGB.
            labels: of each object.
            parts: of each object what is labelled; None: it is not to be seen, and gets no label. Of very many the
                first ones get one.

        Returns:
            Where the label of each object is.
        """
        placed: list[Box | None] = []
        labelled = [index for index, part in enumerate(parts) if part is not None][:MOST_LABELS]
        for index, (label, part) in enumerate(zip(labels, parts, strict=True)):
            if part is None or index not in labelled:
                self._places.pop(index, None)
                placed.append(None)
                continue
            image = self._picture(label, limit=picture.shape[1])[: picture.shape[0]]
            number, place = choose_place(
                image.shape[:2],
                part,
                frame=picture.shape[:2],
                labels=[other for other in placed if other is not None],
                others=[other for i in labelled if i != index and (other := parts[i]) is not None],
                gap=self._padding,
                before=self._places.get(index),
            )
            self._places[index] = number
            picture[place.top : place.bottom, place.left : place.right] = image
            placed.append(place)
        return placed

    def _picture(self, label: Label, *, limit: int) -> UInt8[np.ndarray, "label_height label_width 3"]:
        """The label as pixels, at most `limit` wide; there are only a hundred scores, so each is drawn once."""
        score = "" if label.score is None else f" {label.score:.2f}"
        name = shorten(label.name, MAX_LETTERS)
        text, font = lettering(name + score, self._size)
        while name and font.getlength(text) + 2 * self._padding > limit:
            name = name[:-1]
            text, font = lettering(name + score, self._size)
        key = (text, label.colour, limit)
        if key not in self._pictures:
            ink = readable_on(label.colour)
            ascent, descent = font.getmetrics()
            width = min(limit, round(font.getlength(text)) + 2 * self._padding)
            height = ascent + descent + self._padding
            image = Image.new("RGB", (width, height), label.colour)
            draw = ImageDraw.Draw(image)
            draw.rectangle((0, 0, width - 1, height - 1), outline=ink)
            draw.text((self._padding, self._padding // 2), text, font=font, fill=ink)
            self._pictures[key] = np.array(image)
        return self._pictures[key]


def shorten(name: str, letters: int) -> str:
    """At most so many letters, cut between words where that leaves half of them."""
    if len(name) <= letters:
        return name
    cut = name[: letters - 1]
    words = cut.rpartition(" ")[0]
    return (words if len(words) >= letters // 2 else cut).rstrip(" ,;") + "…"


def choose_place(
    size: tuple[int, int],
    part: Part,
    *,
    frame: tuple[int, int],
    labels: Sequence[Box],
    others: Sequence[Part],
    gap: int,
    before: int | None,
) -> tuple[int, Box]:
    """Where a label goes: above its object, or else below, beside or on it, or farther above or below.

    Args:
        size: (height, width) of the label, at most that of the frame.
        part: of its object.
        frame: (height, width) of the frame.
        labels: that are there already.
        others: what is labelled of the other objects.
        gap: between object and label.
        before: number of the place that it had in the frame before.

    Returns:
        The number of the place, and the place, which lies inside of the frame.
    """
    height, width = size
    box = part.box
    middle_x, middle_y = (box.left + box.right - width) // 2, (box.top + box.bottom - height) // 2
    first_row, last_row = part.rows_between(middle_x, middle_x + width)
    above, below = first_row - gap - height, last_row + gap
    corners = [
        (middle_x, above),
        (middle_x, below),
        (middle_x, first_row + gap),
        (box.right + gap, middle_y),
        (box.left - gap - width, middle_y),
        (middle_x, middle_y),
    ]
    for number in range(1, len(labels) + 1):
        corners += [(middle_x, above - number * height), (middle_x, below + number * height)]
    best, least = (0, box), float("inf")
    for number, (left, top) in enumerate(corners):
        left, top = min(max(0, left), frame[1] - width), min(max(0, top), frame[0] - height)
        place = Box(left, top, left + width, top + height)
        covered = ON_LABEL * sum(place.overlap(other) for other in labels)
        covered += ON_OTHER_OBJECT * sum(other.covered(place) for other in others)
        covered += ON_OWN_OBJECT * part.covered(place)
        cost = covered / (height * width) + LATER_PLACE * number - KEPT_PLACE * (number == before)
        if cost < least:
            best, least = (number, place), cost
    return best


def largest_part(mask: Bool[np.ndarray, "height width"], *, scale: int = 1) -> Part | None:
    """The largest connected part of a mask; None if the mask is empty.

    Args:
        mask: of an object.
        scale: pixels of the picture per pixel of the mask.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if not width:
        return None
    step = SUBSAMPLING if min(width, height) > 4 * SUBSAMPLING else 1
    few = np.ascontiguousarray(mask[top : top + height : step, left : left + width : step]).view(np.uint8)
    number, _, parts, _ = cv2.connectedComponentsWithStats(few)
    if number > 1:
        x, y, columns, rows = parts[1 + int(parts[1:, cv2.CC_STAT_AREA].argmax()), : cv2.CC_STAT_AREA].tolist()
        # as far as the next pixels that were looked at, which do not belong to it
        first_x, first_y = left + max(0, step * (x - 1)), top + max(0, step * (y - 1))
        last_x, last_y = min(left + width, left + step * (x + columns)), min(top + height, top + step * (y + rows))
        own = np.ascontiguousarray(mask[first_y:last_y, first_x:last_x])
        x, y, width, height = cv2.boundingRect(own.view(np.uint8))
        left, top = first_x + x, first_y + y
    return Part(mask[top : top + height, left : left + width], left, top, scale)
