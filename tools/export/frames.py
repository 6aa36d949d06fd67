"""Frames to check an exported model with, and to calibrate it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from loading.transforms import resized_size
from prediction.sources import open_source

Windows = list[UInt8[np.ndarray, "time height width 3"]]


def generated_windows(num: int, *, num_frames: int, size_px: tuple[int, int]) -> Windows:
    """Windows of smooth colours, each frame another one."""
    rng = np.random.default_rng(0)
    height, width = size_px
    frames = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for _ in range(num * num_frames)
    ]
    return [np.stack(frames[start : start + num_frames]) for start in range(0, len(frames), num_frames)]


def windows_of_video(path: Path, num: int, *, num_frames: int, size_px: tuple[int, int]) -> Windows:
    """Windows of neighbouring frames, spread evenly over a video, as the model sees them.

    Args:
        path: of the video.
        num: of the windows; fewer where the video is too short for so many without a common frame.
        num_frames: of each.
        size_px: (height, width).

    Raises:
        ValueError: the video cannot be read, or is shorter than two windows.
    """
    source = open_source(path)
    count = sum(1 for _ in source.frames())
    num = min(num, count // num_frames)
    if num < 2:
        raise ValueError(
            f"{path}: {count} frames are too few; two windows of {num_frames} are needed, one to calibrate or look "
            "at, one to check"
        )
    starts = [round(number * (count - num_frames) / (num - 1)) for number in range(num)]
    wanted = {start + step for start in starts for step in range(num_frames)}
    numbered = enumerate(source.frames())
    kept = {number: _resized(frame.pixels, size_px) for number, frame in numbered if number in wanted}
    return [np.stack([kept[start + step] for step in range(num_frames)]) for start in starts]


def size_in_model(path: Path, *, short_side: int, long_side: int) -> tuple[int, int]:
    """(height, width) of what the model sees of a video."""
    first = next(iter(open_source(path).frames()))
    height, width = first.pixels.shape[:2]
    return resized_size(height, width, short_side=short_side, long_side=long_side)


def _resized(
    pixels: UInt8[np.ndarray, "height width 3"], size_px: tuple[int, int]
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """As the runner does, see `tools.export.run`."""
    height, width = size_px
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
