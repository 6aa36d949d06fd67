"""Outputs of one image per frame, and one picture of all."""

import io
import math
from contextlib import ExitStack
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from media.files import atomic_path
from media.lettering import lettering
from media.mask_png import NUM_COLOURS, write_binary_png, write_index_png
from media.overlay import BACKGROUND, MAX_ENLARGED_HEIGHT, MIN_WIDTH, TEXT, Overlay, render_caption
from prediction.outputs import FrameResult, Output


class MaskFolders(Output):
    """`masks/OBJECT/FRAME.png`: 255 on the object, 0 elsewhere."""

    patterns = ("masks/*/*.png",)
    in_order = False

    def add(self, result: FrameResult) -> None:
        """Writes one file per object."""
        for index, (each, mask) in enumerate(zip(self.video.objects, result.masks, strict=True)):
            write_binary_png(self.video.path("masks", each.folder(index), f"{result.frame.name}.png"), mask)


class PaletteMasks(Output):
    """`palette/FRAME.png`: numbers of objects from 1 on, in the colours of DAVIS.

    A pixel of several objects belongs to the one with the highest score in the frame, of equal ones to the first.

    Raises:
        ValueError: there are more objects than a palette has numbers.
    """

    patterns = ("palette/*.png",)
    in_order = False

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        if len(self.video.objects) >= NUM_COLOURS:
            raise ValueError(
                f"{len(self.video.objects)} sentences, but a palette image has numbers for {NUM_COLOURS - 1} objects: "
                "leave out the format palette"
            )

    def add(self, result: FrameResult) -> None:
        """Writes one file."""
        index_map = np.zeros(self.video.size, dtype=np.uint8)
        scores = result.scores
        for index in sorted(range(len(scores)), key=lambda i: (scores[i], -i)):
            index_map[result.masks[index]] = index + 1
        write_index_png(self.video.path("palette", f"{result.frame.name}.png"), index_map)


class Cutouts(Output):
    """`cutouts/OBJECT/FRAME.png`: the frame, transparent (and black) where the object is not."""

    patterns = ("cutouts/*/*.png",)
    in_order = False

    def add(self, result: FrameResult) -> None:
        """Writes one file per object."""
        for index, (each, mask) in enumerate(zip(self.video.objects, result.masks, strict=True)):
            pixels = np.zeros((*self.video.size, 4), dtype=np.uint8)
            pixels[mask, :3] = result.pixels[mask]
            pixels[mask, 3] = 255
            path = self.video.path("cutouts", each.folder(index), f"{result.frame.name}.png")
            with atomic_path(path, durable=False) as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG")


@dataclass(frozen=True, slots=True)
class Tile:
    """One frame of a contact sheet.

    Attributes:
        name: of the frame.
        picture: with its objects.
    """

    name: str
    picture: UInt8[np.ndarray, "tile_height tile_width 3"]


class ContactSheet(Output):
    """`contact_sheet.jpg`: up to twelve frames from all over the video with their objects, and the sentences.

    How long the video is is known at its end, so frames are kept in equal steps, and every other one is dropped and
    the step doubled when they become too many.
    """

    patterns = ("contact_sheet.jpg",)
    NUM_TILES, COLUMNS, GAP = 12, 4, 6
    QUALITY = 90

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        height, width = self.video.size
        share = min(1.0, MIN_WIDTH / width, MAX_ENLARGED_HEIGHT / height)
        self._tile_size = (max(1, round(height * share)), max(1, round(width * share)))
        self._overlay = Overlay(
            self.video.captions,
            height=self._tile_size[0],
            width=self._tile_size[1],
            names=[each.label for each in self.video.objects],
            colours=self.video.colours,
        )
        self._tiles: list[Tile] = []
        self._step = 1
        self._num_frames = 0
        self._found = [False] * len(self.video.objects)

    def add(self, result: FrameResult) -> None:
        """Keeps the frame, if it is its turn."""
        self._found = [before or now for before, now in zip(self._found, result.found, strict=True)]
        if self._num_frames % self._step == 0:
            self._tiles.append(self._tile(result))
        self._num_frames += 1
        if len(self._tiles) > 2 * self.NUM_TILES:
            self._tiles = self._tiles[::2]
            self._step *= 2

    def finish(self) -> None:
        """Writes the picture."""
        number = min(self.NUM_TILES, len(self._tiles))
        places = np.linspace(0, len(self._tiles) - 1, number).round().astype(int)
        with atomic_path(self.video.path("contact_sheet.jpg")) as temporary:
            sheet = self._sheet([self._tiles[place] for place in places])
            content = io.BytesIO()  # Pillow writes JPEG to a file by itself, and does not say why it cannot
            sheet.save(content, format="JPEG", quality=self.QUALITY, subsampling=0)
            temporary.write_bytes(content.getvalue())

    def _tile(self, result: FrameResult) -> Tile:
        pixels = result.pixels
        if pixels.shape[:2] != self._tile_size:
            pixels = cv2.resize(pixels, self._tile_size[::-1], interpolation=cv2.INTER_AREA)
        size = self._overlay.size
        canvas = self._overlay.render(pixels, result.masks_at(size), result.found, result.scores)
        return Tile(result.frame.name, self._overlay.picture_in(canvas).copy())  # a view would keep the caption, too

    def _sheet(self, tiles: list[Tile]) -> Image.Image:
        columns = min(self.COLUMNS, len(tiles))
        height, width = self._overlay.size[0], self._overlay.canvas_width
        step_x, step_y = width + self.GAP, height + 20 + self.GAP
        size = (columns * step_x + self.GAP, math.ceil(len(tiles) / columns) * step_y + self.GAP)
        caption = render_caption(
            self.video.captions, width=size[0], found=self._found, colours=self.video.colours.chosen
        )
        sheet = Image.new("RGB", (size[0], size[1] + len(caption)), BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for number, tile in enumerate(tiles):
            x, y = self.GAP + number % columns * step_x, self.GAP + number // columns * step_y
            sheet.paste(Image.fromarray(tile.picture), (x, y))
            name, font = lettering(tile.name, 14)
            draw.text((x, y + height + 1), name, font=font, fill=TEXT)
        sheet.paste(Image.fromarray(caption), (0, size[1]))
        return sheet
