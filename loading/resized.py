"""Frames as the model sees them: decoded and resized, by several threads where the files allow it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import torch
from jaxtyping import UInt8
from torch import Tensor

from datasets.readers import FrameReader, SeparateFrames, require_one_size
from loading.frames import as_clip, resize_frames

Frames = UInt8[Tensor, "time 3 height width"]


def start_reading(
    reader: FrameReader, positions: Sequence[int], *, short_side: int, long_side: int, pool: Executor
) -> Callable[[], Frames]:
    """Starts to read frames of a video and to resize them, see `read_resized`.

    Files of single frames are read by all threads of the pool, in the order of the frames; a video file by one.

    Args:
        reader: of the video.
        positions: of the frames; one may repeat.
        short_side: see `resize_frames`.
        long_side: see `resize_frames`.
        pool: of threads.

    Returns:
        What waits for the frames and gives them; raises ValueError as `FrameReader.read`.
    """
    if not isinstance(reader, SeparateFrames):
        whole = pool.submit(read_resized, reader, positions, short_side=short_side, long_side=long_side)
        return whole.result
    frames = {
        position: pool.submit(_read_one, reader, position, short_side=short_side, long_side=long_side)
        for position in dict.fromkeys(positions)
    }
    return lambda: _joined(reader, {position: frame.result() for position, frame in frames.items()}, positions)


def read_resized(reader: FrameReader, positions: Sequence[int], *, short_side: int, long_side: int) -> Frames:
    """Frames of a video, RGB in [0, 255], resized as for training.

    Of files of single frames only one is held at its size on disk.

    Raises:
        ValueError: as `FrameReader.read`.
    """
    if not isinstance(reader, SeparateFrames):
        return resize_frames(as_clip(reader.read(positions)), short_side=short_side, long_side=long_side)
    frames = {
        position: _read_one(reader, position, short_side=short_side, long_side=long_side)
        for position in dict.fromkeys(positions)
    }
    return _joined(reader, frames, positions)


def _read_one(
    reader: SeparateFrames, position: int, *, short_side: int, long_side: int
) -> tuple[UInt8[Tensor, "1 3 height width"], tuple[int, int]]:
    """A frame, resized, and its size on disk."""
    pixels = reader.read_one(position)
    height, width = pixels.shape[:2]
    return resize_frames(as_clip(pixels[None]), short_side=short_side, long_side=long_side), (height, width)


def _joined(
    reader: FrameReader,
    frames: dict[int, tuple[UInt8[Tensor, "1 3 height width"], tuple[int, int]]],
    positions: Sequence[int],
) -> Frames:
    require_one_size([size for _, size in frames.values()], what=str(reader.path(positions[0]).parent))
    return torch.cat([frames[position][0] for position in positions])
