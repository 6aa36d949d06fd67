"""Writes small video files with every structure that a seeking reader can trip over."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_pictures(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A textured background that moves, with noise, so that no two frames are alike: uint8 (time, height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 4 + num_frames, width // 4 + num_frames, 3), dtype=np.uint8)
    texture = coarse.repeat(4, axis=0).repeat(4, axis=1)
    frames = [texture[i : i + height, 2 * i : 2 * i + width] // 2 + 60 for i in range(num_frames)]
    return (np.stack(frames) + rng.integers(0, 20, (num_frames, height, width, 3))).astype(np.uint8)


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    rate: Fraction = Fraction(25),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: list[int] | None = None,
) -> Path:
    """Encodes RGB frames; `pts` are time stamps in units of one frame."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pts is not None:
                frame.time_base, frame.pts = 1 / rate, pts[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_whole_video(path: Path) -> np.ndarray:
    """Every frame, decoded from start to end: uint8 (time, height, width, 3)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def cut_start(path: Path, target: Path, *, seconds: float) -> Path:
    """A copy of the packets from the key frame before `seconds` on, as lossless cutting does it."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = source.streams.video[0]
        assert stream.time_base is not None
        copy = container.add_stream_from_template(stream)
        source.seek(int(seconds / stream.time_base), stream=stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    return target
