"""Frames of a video file by their number, decoded from the nearest key frame; equal to decoding from the start.

Frames are counted in the order in which they are shown. Their time stamps are read from the packets, which costs no
decoding; then a window needs the packets from its key frame to its last frame, and of those before the window only
the ones that other frames refer to. Where time stamps cannot be trusted (AVI, raw streams, hidden frames of VP8),
frames are counted as they are decoded, and reading stops after the last one that is needed.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import av.error
import numpy as np
from jaxtyping import UInt8

from media.files import reading
from media.video_stream import ShownPixels, open_video_stream, reaches_beyond, require_available

if TYPE_CHECKING:
    import av
    import av.container

STAMPED_FORMATS = ("mp4", "matroska")
"""Containers that store the time at which a frame is shown; others leave it to be guessed."""

ONE_FRAME_PER_PACKET = ("h264", "hevc", "mpeg4", "mjpeg")
"""Codecs without hidden frames and without packets of several frames, in the containers above."""

Pixels = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """Time stamps of the frames of a file.

    Attributes:
        num_frames: that a player would show.
        shown: time stamp of each of them, ascending, in units of the stream; empty where they cannot be trusted.
        keys: (time stamp, decoding time stamp) of the frames from which decoding can start, ascending.
    """

    num_frames: int
    shown: tuple[int, ...] = ()
    keys: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VideoFileFrames:
    """The frames of a video file, in any order; a `FrameReader`.

    Attributes:
        file: the video.
    """

    file: Path

    @property
    def num_frames(self) -> int:
        """Frames that a player would show.

        Raises:
            ValueError: the file is missing, is no video, breaks off early, or holds no frame.
        """
        return self._index().num_frames

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return self.file

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        _, height, width, _ = self.read((0,)).shape
        return height, width

    def read(self, positions: Sequence[int]) -> UInt8[np.ndarray, "time height width 3"]:
        """See `FrameReader`; a position outside the video is an error, too."""
        index = self._index()
        wanted = sorted(set(positions))
        if not wanted or wanted[0] < 0 or wanted[-1] >= index.num_frames:
            raise ValueError(f"video {self.file}: positions {list(positions)} must lie in [0, {index.num_frames})")
        frames = self._decode_stamped(index, wanted) if index.shown else self._decode_counted(wanted)
        missing = [position for position in wanted if position not in frames]
        if missing:
            raise ValueError(f"video {self.file}: frames {missing} of {index.num_frames} cannot be decoded")
        return np.stack([frames[position] for position in positions])

    def _index(self) -> FrameIndex:
        try:
            with reading(self.file):
                state = self.file.stat()
        except OSError:
            raise ValueError(f"video {self.file}: no such file") from None
        return _read_index(self.file, state.st_size, state.st_mtime_ns)

    def _decode_stamped(self, index: FrameIndex, wanted: Sequence[int]) -> dict[int, Pixels]:
        """From the last key frame before the window; from the start where that does not give every frame."""
        position_at = {index.shown[position]: position for position in wanted}
        first = min(position_at)
        key = bisect.bisect_right(index.keys, first, key=lambda stamps: stamps[0]) - 1
        frames: dict[int, Pixels] = {}
        try:
            frames = self._decode_from(index.keys[key] if key > 0 else None, position_at, skip=True)
        except av.error.FFmpegError:
            frames = {}
        if len(frames) == len(wanted):
            return frames
        # Later frames may refer to frames before the key frame, or to frames that were skipped.
        try:
            return self._decode_from(None, position_at, skip=False)
        except av.error.FFmpegError as error:
            raise ValueError(f"video {self.file}: cannot be decoded ({error})") from None

    def _decode_from(
        self, key: tuple[int, int] | None, position_at: dict[int, int], *, skip: bool
    ) -> dict[int, Pixels]:
        """Decodes the frames with the given time stamps.

        Args:
            key: time stamp and decoding time stamp of the key frame to start from; None: from the start.
            position_at: position of the frame at each wanted time stamp.
            skip: leave out frames before the window that no other frame refers to.
        """
        frames: dict[int, Pixels] = {}
        with open_video_stream(self.file, num_threads=1) as (container, stream):
            shown = _shown_of(stream)
            if key is not None:
                container.seek(key[1], stream=stream, backward=True)
            for number, packet in enumerate(container.demux(stream)):
                if number == 0 and key is not None and (packet.pts is None or packet.pts > key[0]):
                    return {}  # the container's own index led past the key frame
                if skip:
                    needed = packet.pts is None or packet.pts in position_at
                    stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
                for decoded in packet.decode():
                    if decoded.pts in position_at and not decoded.is_corrupt:
                        frames[position_at[decoded.pts]] = shown.of(decoded)
                if len(frames) == len(position_at):
                    break
        return frames

    def _decode_counted(self, wanted: Sequence[int]) -> dict[int, Pixels]:
        """Counts frames from the start."""
        needed, frames = set(wanted), {}
        with open_video_stream(self.file, num_threads=1) as (container, stream):
            shown = _shown_of(stream)
            for position, decoded in enumerate(_decoded(self.file, container, stream)):
                if position in needed:
                    frames[position] = shown.of(decoded)
                if position == wanted[-1]:
                    break
        return frames


@lru_cache(maxsize=16384)
def _read_index(path: Path, size: int, modified: int) -> FrameIndex:
    """The index of a file; `size` and `modified` are part of the key of the cache."""
    with open_video_stream(path, num_threads=1) as (container, stream):
        if reaches_beyond(stream, size):
            raise ValueError(f"video {path}: the file breaks off at {size} bytes, its own index goes on beyond")
        stamped = any(name in container.format.name for name in STAMPED_FORMATS)
        if stamped and stream.codec_context.name in ONE_FRAME_PER_PACKET:
            try:
                packets = [packet for packet in container.demux(stream) if packet.size]
            except av.error.FFmpegError as error:
                require_available(path, error)
                raise ValueError(f"video {path}: cannot be read to its end ({error})") from None
            index = _index_of_packets(packets)
            if index is not None:
                return index
    # opened anew, because damaged files cannot be wound back
    with open_video_stream(path, num_threads=1) as (container, stream):
        count = sum(1 for _ in _decoded(path, container, stream))
    if not count:
        raise ValueError(f"video {path}: no frame can be decoded")
    return FrameIndex(count)


def forget_indices() -> None:
    """Empties the cache of indices."""
    _read_index.cache_clear()


def _index_of_packets(packets: "Sequence[av.Packet]") -> FrameIndex | None:
    """None where a time stamp is missing or repeats, or the first packet is no key frame."""
    stamps = [packet.pts for packet in packets]
    if not packets or not packets[0].is_keyframe or None in stamps or len(set(stamps)) < len(stamps):
        return None
    shown = tuple(sorted(packet.pts for packet in packets if not packet.is_discard and packet.pts is not None))
    keys = tuple(
        sorted(
            (packet.pts, packet.pts if packet.dts is None else packet.dts)
            for packet in packets
            if packet.is_keyframe and packet.pts is not None
        )
    )
    return FrameIndex(len(shown), shown, keys) if shown else None


def _decoded(
    path: Path, container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[av.VideoFrame]":
    try:
        yield from container.decode(stream)
    except av.error.FFmpegError as error:
        require_available(path, error)
        raise ValueError(f"video {path}: cannot be decoded to its end ({error})") from None


def _shown_of(stream: "av.VideoStream") -> ShownPixels:
    return ShownPixels(width=stream.codec_context.width, height=stream.codec_context.height)
