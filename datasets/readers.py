"""Where the pixels of a video come from: what a reader has to do, and folders of images, the commonest case.

A data set with other files brings readers of its own; everything else stays the same. Readers are small and go to
worker processes by pickle: they hold paths, not pixels, and open files only when they are asked for pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from media.files import path_inside
from media.folders import IMAGE_SUFFIXES, listing
from media.images import Pixels, image_size, read_rgb, read_shown, shown_size
from media.mask_png import read_index_png


@runtime_checkable
class FrameReader(Protocol):
    """The frames of one video. A position counts frames of the record from 0, whatever the files are called."""

    def read(self, positions: Sequence[int]) -> UInt8[np.ndarray, "time height width 3"]:
        """RGB frames; a position may repeat and is then decoded once.

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
class SeparateFrames(FrameReader, Protocol):
    """Frames that do not need each other to be decoded: several threads may read them at the same time."""

    def read_one(self, position: int) -> Pixels:
        """One frame.

        Raises:
            ValueError: its file is missing or damaged.
        """


@runtime_checkable
class MaskReader(Protocol):
    """The masks of one video. Readers of a file per frame have `path(position)`, too."""

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """Where each of `objects` is; they may overlap. An object that a frame does not show has an empty mask.

        Args:
            positions: of the frames; only annotated ones, where a record names these.
            size: (height, width) of the masks, see `mask_size`; masks of another size are an error.
            objects: ids as in `Expression.object_ids`.

        Raises:
            ValueError: a file is missing or damaged, or has another size, by its path.
        """


@runtime_checkable
class SizedMaskReader(MaskReader, Protocol):
    """Masks with a size of their own, which may differ from that of their frame (A2D-Sentences)."""

    def size_of(self, position: int) -> tuple[int, int]:
        """(height, width) of the masks of this frame.

        Raises:
            ValueError: the file is missing or damaged.
        """


@runtime_checkable
class ObjectMapReader(MaskReader, Protocol):
    """Masks that do not overlap, and are kept as one id per pixel."""

    def read_map(self, positions: Sequence[int], *, size: tuple[int, int]) -> UInt8[np.ndarray, "time height width"]:
        """Object id of each pixel, 0 where there is none."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Frames as image files of any names, as a viewer shows them, as in prediction; see `media.images.read_shown`.

    Attributes:
        folder: of the files.
        files: name of each, in order of time.
    """

    folder: Path
    files: tuple[str, ...]

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return path_inside(self.folder, self.files[position], what=f"{self.folder}: frame")

    def read(self, positions: Sequence[int]) -> UInt8[np.ndarray, "time height width 3"]:
        """See `FrameReader`."""
        return _read_images(self, positions)

    def read_one(self, position: int) -> Pixels:
        """See `SeparateFrames`."""
        return read_shown(self.path(position))

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        return shown_size(self.path(0))


@dataclass(frozen=True, slots=True)
class ImageFrames:
    """Frames of a data set as image files: `<folder>/<name><suffix>`, as they are stored."""

    folder: Path
    names: tuple[str, ...]
    suffix: str = ".jpg"

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return path_inside(self.folder, f"{self.names[position]}{self.suffix}", what=f"{self.folder}: frame")

    def read(self, positions: Sequence[int]) -> UInt8[np.ndarray, "time height width 3"]:
        """See `FrameReader`."""
        return _read_images(self, positions)

    def read_one(self, position: int) -> Pixels:
        """See `SeparateFrames`."""
        return read_rgb(self.path(position))

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        return image_size(self.path(0))


def image_frames(folder: Path, names: tuple[str, ...]) -> ImageFrames:
    """The frames of a video, with whatever suffix they have: `.jpg` as published, or else that of the first one."""
    suffix = ".jpg"
    if not path_inside(folder, f"{names[0]}{suffix}", what=f"{folder}: frame").exists() and folder.is_dir():
        suffix = next((path.suffix for path in listing(folder, IMAGE_SUFFIXES) if path.stem == names[0]), suffix)
    return ImageFrames(folder, names, suffix)


@dataclass(frozen=True)
class KeptFrames:
    """Frames of another reader, of which those that were read stay in memory as long as there is room.

    For videos of which the same few frames are read again and again: a frame in the middle of a video file may cost the
    decoding of hundreds before it.

    Attributes:
        source: decodes the frames.
        most_bytes: room for pixels; what exceeds it is decoded anew each time.
    """

    source: FrameReader
    most_bytes: int = 512 * 1024 * 1024
    _kept: dict[int, UInt8[np.ndarray, "height width 3"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return self.source.path(position)

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        return self.source.size()

    def read(self, positions: Sequence[int]) -> UInt8[np.ndarray, "time height width 3"]:
        """See `FrameReader`."""
        missing = [position for position in dict.fromkeys(positions) if position not in self._kept]
        read = dict(zip(missing, self.source.read(missing), strict=True)) if missing else {}
        for position, pixels in read.items():
            if (len(self._kept) + 1) * pixels.nbytes <= self.most_bytes:
                self._kept[position] = pixels
        return np.stack([read[each] if each in read else self._kept[each] for each in positions])


class IndexPngs:
    """Masks as palette or grey images whose pixel values are object ids; what they are called is for a class to say."""

    __slots__ = ()

    def path(self, position: int) -> Path:
        """The file that holds the masks of this frame."""
        raise NotImplementedError

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        object_map = self.read_map(positions, size=size)
        return object_map[None] == np.array(objects, dtype=np.uint8)[:, None, None, None]

    def read_map(self, positions: Sequence[int], *, size: tuple[int, int]) -> UInt8[np.ndarray, "time height width"]:
        """See `ObjectMapReader`."""
        maps = {}
        for position in dict.fromkeys(positions):
            maps[position] = read_index_png(self.path(position))
            require_size(maps[position].shape, size, self.path(position))
        return np.stack([maps[position] for position in positions])


@dataclass(frozen=True, slots=True)
class PngMasks(IndexPngs):
    """Masks of a data set: `<folder>/<name>.png`."""

    folder: Path
    names: tuple[str, ...]

    def path(self, position: int) -> Path:
        """See `IndexPngs`."""
        return path_inside(self.folder, f"{self.names[position]}.png", what=f"{self.folder}: mask")


def _read_images(
    reader: ImageFiles | ImageFrames, positions: Sequence[int]
) -> UInt8[np.ndarray, "time height width 3"]:
    images = {position: reader.read_one(position) for position in dict.fromkeys(positions)}
    require_one_size([image.shape[:2] for image in images.values()], what=str(reader.folder))
    return np.stack([images[position] for position in positions])


def require_one_size(sizes: Iterable[tuple[int, ...]], *, what: str) -> None:
    """Raises ValueError if frames differ in (height, width); `what`: names them."""
    different = set(sizes)
    if len(different) > 1:
        raise ValueError(f"{what}: frames of different sizes {sorted(different)}")


def mask_size(masks: MaskReader, position: int, *, frame_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the masks of a frame, which are those of the frame unless the masks have their own.

    Raises:
        ValueError: as `SizedMaskReader.size_of`.
    """
    return masks.size_of(position) if isinstance(masks, SizedMaskReader) else frame_size


@dataclass(frozen=True, slots=True)
class PngMaskFolders:
    """A folder of images for each object, whose pixels are not 0 where it is: `<folders[object]>/<name>.png`."""

    folders: Mapping[int, Path]
    names: tuple[str, ...]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        readers = [PngMasks(self.folders[number], self.names) for number in objects]
        return np.stack([reader.read_map(positions, size=size) for reader in readers]) != 0


class SizeMismatchError(ValueError):
    """A mask that is not as large as its frame."""


def require_size(shape: Sequence[int], size: tuple[int, int], path: Path) -> None:
    """Raises SizeMismatchError if a mask (height, width) is not as large as its frame."""
    if tuple(shape) != size:
        raise SizeMismatchError(f"{path}: mask of (height, width) {tuple(shape)}, but its frame has {size}")


_MOST_DIGITS = 9
"""Of an object id that is a text; it may begin with zeros."""


def pixel_value(value: object, *, largest: int) -> int:
    """An object id that a mask image can hold: a whole number, or a text of its digits.

    Args:
        value: what stands in an index file.
        largest: of the ids.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    text = str(value) if type(value) is int and 0 < value <= largest else value
    if not (isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise ValueError(f"a pixel value from 1 to {largest}")
    number = int(text)
    if not 1 <= number <= largest:
        raise ValueError(f"a pixel value from 1 to {largest}")
    return number
