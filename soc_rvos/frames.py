"""The pixels behind a result, for who wants to see it drawn: kept where they are few, read again where they can be."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from media.video import FrameSource, VideoFile
from media.video_seek import VideoFileFrames
from prediction.sources import VideoInput, open_source

Pixels = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class ResultFrames(Protocol):
    """The frames of a result, by their position in it."""

    @property
    def source(self) -> FrameSource | None:
        """Where they come from, and their sound; None where they are kept."""

    def one(self, position: int) -> Pixels:
        """The pixels of one frame.

        Raises:
            ValueError: it cannot be read any more.
        """

    def all(self) -> Iterator[Pixels]:
        """The pixels of all frames, in order."""


class KeptFrames:
    """Frames in memory.

    Args:
        pixels: of each.
    """

    source = None

    def __init__(self, pixels: Sequence[Pixels]) -> None:
        self._pixels = tuple(pixels)

    def one(self, position: int) -> Pixels:
        """See `ResultFrames`."""
        return self._pixels[position]

    def all(self) -> Iterator[Pixels]:
        """See `ResultFrames`."""
        return iter(self._pixels)


class RereadFrames:
    """Frames that are read again from the video.

    Args:
        video: a path, an array or anything else that gives its frames as often as it is asked.
        indices: the numbers of the frames in the video, equally far from each other.
    """

    def __init__(self, video: VideoInput, indices: Sequence[int]) -> None:
        self._video, self._indices = video, tuple(indices)

    @property
    def source(self) -> FrameSource:
        """See `ResultFrames`."""
        return open_source(self._video)

    def one(self, position: int) -> Pixels:
        """See `ResultFrames`."""
        index, source = self._indices[position], self.source
        if isinstance(source, VideoFile):
            try:
                return VideoFileFrames(Path(source.path)).read((index,))[0]
            except ValueError:  # a file that breaks off, which can still be decoded from its start
                pass
        frame = next(source.frames(start=index, stop=index + 1), None)
        if frame is None:
            raise ValueError(f"frame {index} of the video cannot be read any more")
        return frame.pixels

    def all(self) -> Iterator[Pixels]:
        """See `ResultFrames`."""
        step = self._indices[1] - self._indices[0] if len(self._indices) > 1 else 1
        frames = self.source.frames(step, start=self._indices[0], stop=self._indices[-1] + 1)
        return (frame.pixels for frame in frames)
