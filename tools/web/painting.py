"""Painted layers and masks: what a brush of one colour per object has drawn, and palette PNG files of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from datasets.sentence_file import FILE_NAME
from media.colours import FIRST_COLOURS
from media.files import write_json
from media.mask_png import write_index_png

Ids = UInt8[np.ndarray, "height width"]
"""0 is background, n the object n, in the colour n - 1 of the brush."""

COLOUR_NAMES = ("red", "blue", "yellow", "green", "violet", "turquoise", "orange", "pink")
"""Of `media.colours.FIRST_COLOURS`."""

OPAQUE = 128
"""Alpha from which a pixel counts as painted: brushes have soft edges."""

SAME_SHAPE = 0.01
"""By how much, as a share, the sides of a layer may be stretched unlike each other: editors round sizes."""


@dataclass(frozen=True, slots=True)
class TaughtObject:
    """A row of the table of objects.

    Attributes:
        number: pixel value of its masks, from 1.
        name: such as `dog`; may be empty where there are sentences.
        sentences: about it.
    """

    number: int
    name: str
    sentences: tuple[str, ...]


def ids_of_layers(layers: Sequence[UInt8[np.ndarray, "_ _ 4"]], size: tuple[int, int]) -> Ids:
    """The objects that were painted. Each pixel takes the nearest colour of the brush; later layers are on top.

    Args:
        layers: red, green, blue and alpha.
        size: (height, width) of the frame; layers that the editor has scaled are scaled back.

    Raises:
        ValueError: a layer has another shape than the frame.
    """
    palette = np.array(FIRST_COLOURS, dtype=np.int32)
    ids = np.zeros(size, dtype=np.uint8)
    for layer in layers:
        height, width = layer.shape[:2]
        if abs(width * size[0] / (height * size[1]) - 1) > SAME_SHAPE:
            raise ValueError(f"a painted layer has (height, width) {(height, width)}, but the frame has {size}")
        painted = layer[..., 3] >= OPAQUE
        own = np.zeros((height, width), dtype=np.uint8)
        distances = ((layer[painted][:, None, :3].astype(np.int32) - palette) ** 2).sum(axis=-1)
        own[painted] = distances.argmin(axis=1) + 1
        if own.shape != size:
            own = cv2.resize(own, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        ids[own > 0] = own[own > 0]
    return ids


def layer_of_ids(ids: Ids) -> UInt8[np.ndarray, "height width 4"]:
    """Masks as a layer to go on painting in.

    Raises:
        ValueError: there are more objects than colours.
    """
    if ids.max(initial=0) > len(FIRST_COLOURS):
        raise ValueError(f"object {ids.max()} has no colour: at most {len(FIRST_COLOURS)} objects can be painted")
    colours = np.array([(0, 0, 0, 0), *((*colour, 255) for colour in FIRST_COLOURS)], dtype=np.uint8)
    return colours[ids]


def read_objects(rows: Sequence[Sequence[str]], painted: set[int]) -> tuple[TaughtObject, ...]:
    """The table of objects: number and colour, name, sentences with a semicolon between them.

    Args:
        rows: of the table, in the order of the colours; empty ones are left out.
        painted: numbers of the objects that have a mask somewhere.

    Raises:
        ValueError: there is none, or an object was painted and has neither name nor sentence, or the other way round.
    """
    objects = []
    for number, row in enumerate(rows, start=1):
        name, text = (" ".join(str(cell or "").split()) for cell in row[1:3])
        sentences = tuple(part.strip() for part in text.split(";") if part.strip())
        if name or sentences:
            objects.append(TaughtObject(number, name, sentences))
    named = {each.number for each in objects}
    for number in sorted(painted - named):
        raise ValueError(f"object {describe(number)} was painted; give it a name, or a sentence, in the table")
    for number in sorted(named - painted):
        raise ValueError(f"object {describe(number)} stands in the table, but has no mask in any frame; paint one")
    return tuple(objects)


def describe(number: int) -> str:
    """An object by its number and colour."""
    return f"{number} ({COLOUR_NAMES[number - 1]})" if 0 < number <= len(COLOUR_NAMES) else str(number)


def write_labels(
    folder: Path, labels: Mapping[int, Ids], objects: Sequence[TaughtObject], absent: Sequence[str]
) -> None:
    """Palette PNG files and `sentences.json`, as `teach` reads them (docs/your_own_data.md).

    Args:
        folder: is made.
        labels: masks by the number of their frame.
        objects: with their sentences.
        absent: sentences about what is not in the video.
    """
    folder.mkdir(parents=True)
    for frame, ids in labels.items():
        write_index_png(folder / f"{frame:05d}.png", ids)
    entries = {
        str(each.number): {
            **({"name": each.name} if each.name else {}),
            **({"sentences": list(each.sentences)} if each.sentences else {}),
        }
        for each in objects
    }
    write_json(folder / FILE_NAME, {"objects": entries, **({"absent": list(absent)} if absent else {})})
