"""Videos in and out: a file or folder of frames, read frame by frame; overlay videos, written atomically."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import av
import av.container
import av.error
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from media.files import atomic_path
from media.video_stream import open_video_stream, rgb_pixels

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FOLDER_FPS = 10.0
UNKNOWN_FPS = 25.0
# The best encoder that this build of FFmpeg has; mpeg4 is part of every build.
ENCODERS = (("libx264", {"crf": "18", "preset": "medium"}), ("mpeg4", {"qscale": "3"}))


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the source, from 0, whatever the step.
        name: stem of its file; five digits of the index for a video file.
        pixels: RGB.
    """

    index: int
    name: str
    pixels: UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class FrameSource(Protocol):
    """Yields frames of one size, in order; may be iterated several times."""

    @property
    def fps(self) -> float:
        """Frames per second."""

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Every `step`-th frame from number `start` on, before number `stop`, one at a time; none where it is over."""


def open_video(path: Path) -> FrameSource:
    """A video file, a folder of frames, or a single image.

    Raises:
        ValueError: if there is nothing at `path`, it is no video, or holds no frame.
    """
    source: FrameSource
    if path.is_dir():
        images = [file for file in path.iterdir() if is_image(file)]
        if not images:
            raise ValueError(f"video {path}: the folder holds no image ({', '.join(IMAGE_SUFFIXES)})")
        source = FrameFiles(images, name=str(path))
    elif path.is_file() and is_image(path):
        source = FrameFiles([path], name=str(path))
    elif path.is_file():
        source = VideoFile(path)
    else:
        raise ValueError(f"video {path}: no such file or folder")
    return source


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


class FrameFiles:
    """Images as frames of a video, in the order of their names; numbers in names count as numbers.

    Args:
        paths: of the images, one or more.
        name: of the video, for messages.

    Raises:
        ValueError: if two of them have the same stem.
    """

    fps = FOLDER_FPS

    def __init__(self, paths: Sequence[Path], *, name: str) -> None:
        self._paths = sorted(paths, key=natural_order)
        stems = [path.stem for path in self._paths]
        double = sorted({stem for stem in stems if stems.count(stem) > 1})
        if double:
            raise ValueError(f"video {name}: several images are called {', '.join(double[:3])}")

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`; raises ValueError for an unreadable image or one of another size than the first.

        A photograph is turned as its camera was held, as viewers do.
        """
        shape = None
        for index in range(len(self._paths))[start:stop:step]:
            path = self._paths[index]
            try:
                with Image.open(path) as image:
                    pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
            except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"{path}: not a readable image ({error})") from None
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise ValueError(
                    f"{path}: (height, width) {pixels.shape[:2]}, but the frames before have {shape[:2]}; "
                    "images that do not belong to one video are given one by one"
                )
            yield Frame(index, path.stem, pixels)


class VideoFile:
    """A video file, decoded from start to end; the rotation that the container asks for is applied, as players do.

    Raises:
        ValueError: if the file is no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_video_stream(self.path) as (_, stream):
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else UNKNOWN_FPS

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`.

        Frames are counted as they are decoded, because time stamps of real files have gaps and repeats. A truncated
        file yields the frames before the damage, with a warning.
        """
        index, size = 0, None
        with open_video_stream(self.path) as (container, stream):
            try:
                for decoded in container.decode(stream):
                    size = size or (decoded.width, decoded.height)
                    if stop is not None and index >= stop:
                        return
                    if index >= start and (index - start) % step == 0:
                        # a stream may change its size; all frames get that of the first
                        pixels = rgb_pixels(decoded, width=size[0], height=size[1])
                        yield Frame(index, f"{index:05d}", pixels)
                    index += 1
            except av.error.FFmpegError as error:
                if index == 0:
                    raise ValueError(f"video {self.path}: cannot be decoded ({error})") from None
                logger.warning("video %s breaks off after %d frames (%s)", self.path, index, error)
        if index == 0:
            raise ValueError(f"video {self.path}: no frame can be decoded")


class VideoWriter:
    """Encodes frames of one size, H.264 where FFmpeg has it; odd sides get one more row or column."""

    def __init__(self, container: "av.container.OutputContainer", fps: float) -> None:
        self._container = container
        self._fps = fps
        self._stream: av.VideoStream | None = None

    def add(self, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        """Appends an RGB frame."""
        even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._start(height=even.shape[0], width=even.shape[1])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

    def finish(self) -> None:
        """Flushes the encoder."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _start(self, *, height: int, width: int) -> "av.VideoStream":
        name, options = next(encoder for encoder in ENCODERS if encoder[0] in av.codecs_available)
        rate = Fraction(self._fps).limit_denominator(1001)
        stream = cast(av.VideoStream, self._container.add_stream(name, rate=rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream


@contextmanager
def write_video(path: Path, *, fps: float) -> Iterator[VideoWriter]:
    """A writer for an .mp4 file, which appears when the block succeeds."""
    options = {"movflags": "+faststart"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=options) as container:
        writer = VideoWriter(container, fps)
        yield writer
        writer.finish()


def natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """`frame2` before `frame10`."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
