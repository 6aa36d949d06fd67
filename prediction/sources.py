"""Where frames come from: files, images, folders, globs, arrays, tensors, and iterators such as a camera."""

import glob
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from media.folders import is_clutter
from media.video import UNKNOWN_FPS, Frame, FrameFiles, FrameSource, is_image, natural_order, open_video
from structures.moments import Moment
from structures.user_path import user_path

VideoInput = str | Path | np.ndarray | Tensor | Iterable[Any]
"""A video: a path or glob; bytes (time, height, width, 3); a tensor of bytes (time, 3, height, width), or with the
channels last; or anything that gives frames (height, width, 3), one after the other."""

_PIXELS = "expected RGB bytes (uint8, 0 to 255)"


@dataclass(frozen=True, slots=True)
class FrameRange:
    """The part of a video that is looked at.

    Attributes:
        start: the first moment; None: the start of the video.
        end: the moment before which it ends; None: the end of the video.
        step: every so many frames.
    """

    start: Moment | None = None
    end: Moment | None = None
    step: int = 1

    def of(self, source: FrameSource, *, name: str) -> Generator[Frame, None, None]:
        """The frames of the range, read as they are asked for; the first one is read at once.

        Args:
            source: of the frames.
            name: of the video, for messages.

        Raises:
            ValueError: if the range is empty, or the video ends before it starts.
        """
        start = 0 if self.start is None else self.start.frame(source.fps)
        stop = None if self.end is None else self.end.frame(source.fps)
        if stop is not None and stop <= start:
            raise ValueError(f"video {name}: end (frame {stop}) must lie after start (frame {start})")
        frames = source.frames(self.step, start=start, stop=stop)
        first = next(frames, None)
        if first is None:
            raise ValueError(f"video {name}: it ends before its frame {start}, with which the prediction should start")
        return _with_first(first, frames)


def open_source(video: VideoInput, *, fps: float | None = None) -> FrameSource:
    """The frames of a video in any of the forms of `VideoInput`.

    Args:
        video: a glob may match one video, or the images that are its frames.
        fps: frames per second; None: those of the file, or what is usual.

    Raises:
        ValueError: if there is nothing at the path, or no frame in it, or the array is of another form.
    """
    source: FrameSource
    if isinstance(video, str | Path):
        source = _open_path(video)
    elif isinstance(video, Tensor):
        source = ArrayFrames(_as_array(video))
    elif isinstance(video, np.ndarray):
        source = ArrayFrames(video)
    elif isinstance(video, Iterable):
        source = StreamedFrames(video)
    else:
        raise ValueError(f"a video of type {type(video).__name__}: expected a path, an array, a tensor or an iterator")
    return source if fps is None else _AtRate(source, fps)


def is_glob(path: str | Path) -> bool:
    """Whether the path has wildcards and is no file of that very name."""
    return glob.has_magic(str(path)) and not Path(path).exists()


def expand_glob(pattern: str | Path) -> list[Path]:
    """What matches the pattern, hidden files aside; `**` matches any folders.

    Raises:
        ValueError: nothing does.
    """
    path = Path(pattern)
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    found = sorted((match for match in matches if not is_clutter(match.name)), key=natural_order)
    if not found:
        raise ValueError(f"video {pattern}: nothing matches")
    return found


class ArrayFrames:
    """The frames of an array.

    Args:
        frames: RGB bytes; (height, width, 3) is a video of one frame.

    Raises:
        ValueError: if it is of another form, or empty.
    """

    fps = UNKNOWN_FPS

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames[None] if frames.ndim == 3 else frames
        if self._frames.dtype != np.uint8 or self._frames.ndim != 4 or self._frames.shape[-1] != 3:
            raise ValueError(
                f"an array {frames.dtype} of shape {frames.shape}: {_PIXELS} of shape (time, height, width, 3)"
            )
        if not self._frames.size:
            raise ValueError(f"an array of shape {frames.shape}: it holds no frame")

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`."""
        for index in range(len(self._frames))[start:stop:step]:
            yield Frame(index, _name(index), self._frames[index])


class StreamedFrames:
    """Frames of an iterator, which may never end; each is asked for when it is needed, and none is kept.

    Args:
        frames: arrays (height, width, 3), or tensors that may have their channels first.
    """

    fps = UNKNOWN_FPS

    def __init__(self, frames: Iterable[Any]) -> None:
        self._frames = frames

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`; raises ValueError for a frame of another form, or another size than the first."""
        shape = None
        for index, given in enumerate(islice(self._frames, start, stop, step)):
            pixels = _frame_pixels(given)
            shape = shape or pixels.shape
            number = start + index * step
            if pixels.shape != shape:
                raise ValueError(
                    f"frame {number}: (height, width) {pixels.shape[:2]}, but the frames before have {shape[:2]}"
                )
            yield Frame(number, _name(number), pixels)


class _AtRate:
    """The frames of another source, at a given number of frames per second."""

    def __init__(self, source: FrameSource, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"fps={fps} must be above 0")
        self.fps = fps
        self._source = source

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`."""
        return self._source.frames(step, start=start, stop=stop)


def _open_path(path: str | Path) -> FrameSource:
    path = user_path(path)
    if not is_glob(path):
        return open_video(path)
    matches = expand_glob(path)
    if all(is_image(match) for match in matches):
        return FrameFiles(matches, name=str(path))
    if len(matches) > 1:
        raise ValueError(f"video {path}: {len(matches)} files match, and not all are images; name one video")
    return open_video(matches[0])


def _as_array(frames: Tensor) -> np.ndarray:
    """The tensor as an array with the channels last, if it can be one; `ArrayFrames` checks the rest."""
    if frames.ndim in (3, 4) and frames.shape[-3] == 3:
        frames = frames.movedim(-3, -1)
    return frames.detach().cpu().numpy()


def _frame_pixels(given: Any) -> UInt8[np.ndarray, "height width 3"]:
    array = _as_array(given) if isinstance(given, Tensor) else given
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        form = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(given).__name__
        raise ValueError(f"a frame that is {form}: {_PIXELS} of shape (height, width, 3)")
    return array


def _name(index: int) -> str:
    return f"{index:05d}"


def _with_first(first: Frame, rest: Iterator[Frame]) -> Generator[Frame, None, None]:
    yield first
    del first  # it is not kept while the others are read
    yield from rest
