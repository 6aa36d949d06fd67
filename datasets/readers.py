"""Where the pixels of a video come from: what a reader has to do, and folders of images, the commonest case.

A format with other files (mp4, h5, mat, RLE, polygons) brings readers of its own; everything else stays the same.
Readers are small and go to worker processes by pickle: they hold paths, not pixels, and open files only in `read`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from media.mask_png import read_index_png


@runtime_checkable
class FrameReader(Protocol):
    """The frames of one video. A position counts frames of the record from 0, whatever the files are called."""

    def read(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames in [0, 255]; a position may repeat and is then decoded once.

        Raises:
            ValueError: a file is missing or damaged, by its path; or the frames differ in size.
        """

    def size(self) -> tuple[int, int]:
        """(height, width) of the frames in pixels, without decoding more than needed.

        Raises:
            ValueError: as `read`.
        """

    def path(self, position: int) -> Path:
        """The file that holds this frame."""


@runtime_checkable
class MaskReader(Protocol):
    """The masks of one video."""

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """Where each of `objects` is; they may overlap. An object that a frame does not show has an empty mask.

        Args:
            positions: of the frames; only annotated ones, where a record names these.
            size: (height, width) of the frames; masks of another size are an error.
            objects: ids as in `Expression.object_ids`.

        Raises:
            ValueError: a file is missing or damaged, or has another size, by its path.
        """


@runtime_checkable
class ObjectMapReader(MaskReader, Protocol):
    """Masks that do not overlap, and are kept as one id per pixel."""

    def read_map(self, positions: Sequence[int], *, size: tuple[int, int]) -> UInt8[Tensor, "time height width"]:
        """Object id of each pixel, 0 where there is none."""


@dataclass(frozen=True, slots=True)
class ImageFrames:
    """Frames as image files: `<folder>/<name><suffix>`."""

    folder: Path
    names: tuple[str, ...]
    suffix: str = ".jpg"

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return self.folder / f"{self.names[position]}{self.suffix}"

    def read(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `FrameReader`."""
        images = {position: read_frame(self.path(position)) for position in dict.fromkeys(positions)}
        sizes = {tuple(image.shape) for image in images.values()}
        if len(sizes) > 1:
            raise ValueError(f"{self.folder}: frames of different sizes {sorted(s[1:] for s in sizes)}")
        return stack_frames([images[position] for position in positions])

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        return image_size(self.path(0))


@dataclass(frozen=True, slots=True)
class PngMasks:
    """Masks as palette or grey images whose pixel values are object ids: `<folder>/<name>.png`."""

    folder: Path
    names: tuple[str, ...]

    def path(self, position: int) -> Path:
        """The file that holds the masks of this frame."""
        return self.folder / f"{self.names[position]}.png"

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """See `MaskReader`."""
        object_map = self.read_map(positions, size=size)
        ids = torch.tensor(objects, dtype=torch.uint8)
        return object_map[None] == ids[:, None, None, None]  # (object, time, height, width)

    def read_map(self, positions: Sequence[int], *, size: tuple[int, int]) -> UInt8[Tensor, "time height width"]:
        """See `ObjectMapReader`."""
        maps = {}
        for position in dict.fromkeys(positions):
            maps[position] = read_index_png(self.path(position))
            require_size(maps[position].shape, size, self.path(position))
        return torch.from_numpy(np.stack([maps[position] for position in positions]))


class SizeMismatchError(ValueError):
    """A mask that is not as large as its frame."""


def require_size(shape: Sequence[int], size: tuple[int, int], path: Path) -> None:
    """Raises SizeMismatchError if a mask (height, width) is not as large as its frame."""
    if tuple(shape) != size:
        raise SizeMismatchError(f"{path}: mask of (height, width) {tuple(shape)}, but its frame has {size}")


def stack_frames(
    images: Sequence[UInt8[Tensor, "3 height width"]],
) -> UInt8[Tensor, "time 3 height width"]:
    """Images of one size as a clip; the channels of a pixel lie side by side, as the decoder leaves them.

    torchvision resizes bytes in this order of memory four times as fast as in the usual one.
    """
    _, height, width = images[0].shape
    frames = torch.empty(len(images), height, width, 3, dtype=torch.uint8)
    for frame, image in zip(frames, images, strict=True):
        frame.copy_(image.permute(1, 2, 0))  # (h, w, 3)
    return frames.permute(0, 3, 1, 2)  # (t, 3, h, w)


def read_frame(path: Path) -> UInt8[Tensor, "3 height width"]:
    """An image file as RGB in [0, 255]: grey and CMYK are converted, transparency is dropped.

    Raises:
        ValueError: the file is missing, damaged or no image, or has 16 bits per channel.
    """
    try:
        data = path.read_bytes()
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such frame") from None
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    if image.dtype != torch.uint8:
        raise ValueError(f"{path}: an image with {image.dtype} values; convert it to 8 bits per channel")
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
