"""Video files through PyAV: shared by prediction, which reads from start to end, and training, which seeks."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import av
import av.container
import av.error
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from jaxtyping import UInt8

from media.files import may_pass, reading, regular_file
from media.limits import require_pixels

CHUNK_BYTES = 1 << 20

DISPLAY_MATRIX = "DISPLAYMATRIX"
"""Side data of a frame: nine numbers of 32 bits that say how its pixels are turned and mirrored."""

DisplayMatrix = tuple[tuple[int, int], tuple[int, int]]
"""What a display matrix says about directions, without the place."""


def ffmpeg_name(path: Path) -> str:
    """A file as FFmpeg takes it: `12:30.mp4` and `concat:a` would be protocols, what starts with `/` is a file."""
    return str(path.absolute())


@contextmanager
def open_video_stream(
    path: Path, *, num_threads: int = 0
) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """The file and its video stream, see `picture_stream`.

    Args:
        path: of the file.
        num_threads: that decode; 0 leaves the choice to FFmpeg.

    Raises:
        ValueError: the file is missing, is no video or holds no moving pictures, or pictures that are too large.
    """
    try:
        with reading(path):
            regular_file(path)
        # texts about a video may be in any encoding; nothing looks at them
        container = av.open(ffmpeg_name(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        require_available(path, error)
        raise ValueError(f"video {path}: not a readable video ({error.strerror or error})") from None
    with container:
        stream = picture_stream(container)
        if stream is None:
            cover = ", only a cover picture" if container.streams.video else ""
            raise ValueError(f"video {path}: holds no pictures{cover}")
        if stream.codec_context is None:
            raise ValueError(f"video {path}: its pictures are in a format that this FFmpeg cannot decode")
        require_pixels(stream.codec_context.height, stream.codec_context.width, what=f"video {path}")
        # Threads that decode parts of one frame: with whole frames of each, frames at the end are lost where one of
        # them is damaged, and memory grows with the number of threads.
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = num_threads
        yield container, stream


def require_available(path: Path, error: Exception) -> None:
    """Raises UnavailableError if FFmpeg failed because the file cannot be read now.

    FFmpeg has the same errors for damaged files, so the file is read without it.
    """
    if not may_pass(error):
        return
    with reading(path), path.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def picture_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The video stream that a player shows; None where there is no moving picture.

    The cover of a song is a stream of one picture to FFmpeg, and may come before the video. Of several videos FFmpeg
    chooses, which prefers those with more than one frame.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if len(streams) > 1:
        best = container.streams.best("video")
        return best if best in streams else streams[0]
    return streams[0] if streams else None


def reaches_beyond(stream: "av.VideoStream", size: int) -> bool:
    """Whether the index of a file has frames beyond its end, which is at `size` bytes: it was cut off."""
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


class VideoDecoder:
    """Decodes a video file from start to end, past what is damaged.

    Args:
        path: of the file.

    Attributes:
        origin: seconds on the clock of the file that a player shows as the start.
        num_damaged: packets so far that could not be decoded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.origin = 0.0
        self.num_damaged = 0
        self._breaks_off: str | None = None

    @property
    def problem(self) -> str | None:
        """What could not be decoded so far; None: nothing."""
        problems = [self._breaks_off] if self._breaks_off is not None else []
        if self.num_damaged:
            packets = "1 damaged packet is" if self.num_damaged == 1 else f"{self.num_damaged} damaged packets are"
            problems.insert(0, f"{packets} left out")
        return ", and ".join(problems) or None

    def frames(self) -> "Iterator[av.VideoFrame]":
        """The frames in the order in which they are shown.

        Raises:
            ValueError: the file is no video, or cannot be read now.
        """
        with open_video_stream(self._path) as (container, stream):
            self.origin = (container.start_time or 0) / av.time_base
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    if reaches_beyond(stream, self._path.stat().st_size):
                        self._breaks_off = "it breaks off before its end"
                    return
                except av.error.FFmpegError as error:
                    require_available(self._path, error)
                    self._breaks_off = f"it breaks off ({error.strerror})"
                    return
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    self.num_damaged += 1
                    continue
                yield from decoded


class ShownPixels:
    """The pixels of decoded frames as a player shows them: turned and mirrored as their file asks for.

    Args:
        width: in pixels, before frames are turned; a stream may change its size, all frames shall have one.
        height: in pixels, before frames are turned.
    """

    def __init__(self, *, width: int, height: int) -> None:
        self._width, self._height = width, height
        # PyAV makes a cycle of a frame and its side data, which keeps its pixels until they are collected as garbage:
        # of each angle only the first frame is asked.
        self._matrices: dict[int, DisplayMatrix | None] = {}

    def of(self, decoded: "av.VideoFrame") -> UInt8[np.ndarray, "_ _ 3"]:
        """The pixels of a frame, as RGB."""
        pixels = decoded.to_ndarray(format="rgb24", width=self._width, height=self._height)
        matrix = self._matrix(decoded)
        if matrix is None:
            return pixels
        (across_x, _), (_, down_y) = matrix
        if _is_on_its_side(matrix):
            # rows become columns, and what turned the one around turns the other
            (_, down_y), (across_x, _) = matrix
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if down_y < 0 else 1, :: -1 if across_x < 0 else 1])

    def _matrix(self, decoded: "av.VideoFrame") -> DisplayMatrix | None:
        if decoded.rotation not in self._matrices:
            self._matrices[decoded.rotation] = display_matrix(decoded)
        return self._matrices[decoded.rotation]

    def kept(self, decoded: "av.VideoFrame") -> "KeptPixels":
        """The frame as FFmpeg has decoded it, which mostly takes half of the memory of its RGB pixels."""
        return KeptPixels(self, decoded)

    def size_of(self, decoded: "av.VideoFrame") -> tuple[int, int]:
        """(height, width) of what `of` gives."""
        matrix = self._matrix(decoded)
        return (
            (self._width, self._height)
            if matrix is not None and _is_on_its_side(matrix)
            else (self._height, self._width)
        )


@dataclass(frozen=True, slots=True)
class KeptPixels:
    """Pixels of a frame that are made when they are asked for, in whatever thread.

    Attributes:
        shown: what makes them.
        decoded: what they are made from.
        lock: a frame has one converter, and changes while it works; two threads at once would end the process.
    """

    shown: ShownPixels
    decoded: "av.VideoFrame"
    lock: Lock = field(default_factory=Lock, compare=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.shown.size_of(self.decoded)

    def make(self) -> UInt8[np.ndarray, "height width 3"]:
        """RGB."""
        with self.lock:
            return self.shown.of(self.decoded)


def _is_on_its_side(matrix: DisplayMatrix) -> bool:
    (across_x, across_y), (down_x, down_y) = matrix
    return abs(across_y) + abs(down_x) > abs(across_x) + abs(down_y)


def display_matrix(decoded: "av.VideoFrame") -> DisplayMatrix | None:
    """Where a step to the right in the stored pixels goes, as (x, y), and where one down goes; None: as they are."""
    side_data = decoded.side_data.get(DISPLAY_MATRIX)
    if not isinstance(side_data, SideData):
        return None
    right_x, right_y, _, down_x, down_y, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    return (right_x, right_y), (down_x, down_y)
