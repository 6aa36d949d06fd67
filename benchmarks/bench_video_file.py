"""Clips per second from an mp4, seeking against decoding all of it: `python -m benchmarks.bench_video_file`.

The files are generated, 150 frames of 320 lines like a clip of A2D-Sentences: x264 with a key frame every 12 frames,
x264 as it comes (one key frame in the whole file), and MPEG-4 as FFmpeg makes it. Clips lie round random frames. The
plain way decodes every frame to RGB and takes the window, as the published code does. Both must agree to the pixel,
and ours must make at least 5 times as many clips per second of CPU time for the ordinary files. A file that no
process has seen before ("first") has its time stamps read, too.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import torch

from loading.sampling import centred_window
from media.video_seek import VideoFileFrames, forget_indices
from structures.user_path import user_path

GOAL = 5.0
NUM_FRAMES, HEIGHT, WIDTH = 150, 320, 568
CLIP = 8
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "x264, key frame every 12": ("libx264", {"g": "12"}),
    "x264, one key frame": ("libx264", {}),
    "MPEG-4": ("mpeg4", {"qscale": "3"}),
}


def write_clip(path: Path, codec: str, options: dict[str, str]) -> None:
    """A smooth picture under a moving camera, with sensor noise and a thing that moves by itself."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (HEIGHT // 8 + 30, WIDTH // 8 + 30, 3), dtype=np.uint8)
    background = cv2.resize(coarse, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=30, options=options))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for i in range(NUM_FRAMES):
            noise = rng.integers(-6, 7, (HEIGHT, WIDTH, 3))
            picture = (background[i // 2 : i // 2 + HEIGHT, i : i + WIDTH] + noise).clip(0, 255).astype(np.uint8)
            cv2.circle(picture, (60 + 2 * i, 160), 40, (250, i, 0), -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def read_plainly(path: Path, positions: Sequence[int]) -> np.ndarray:
    """Decodes the whole file and takes the window."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    return frames[list(positions)]


def read_ours(path: Path, positions: Sequence[int]) -> np.ndarray:
    """Seeks."""
    return VideoFileFrames(path).read(positions)


def read_first(path: Path, positions: Sequence[int]) -> np.ndarray:
    """Seeks in a file that was never seen before."""
    forget_indices()
    return VideoFileFrames(path).read(positions)


def cpu_seconds(
    read: Callable[[Path, Sequence[int]], np.ndarray], path: Path, windows: Sequence[Sequence[int]]
) -> float:
    """CPU time of one clip."""
    start = time.process_time()
    for window in windows:
        read(path, window)
    return (time.process_time() - start) / len(windows)


def main() -> int:
    """Measure, print a table, and write it with `--output`; 1 if results differ or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="clips of each file")
    parser.add_argument("--rounds", type=int, default=3, help="turns; the fastest of each way counts")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    windows = [centred_window(int(f), NUM_FRAMES, CLIP) for f in rng.integers(0, NUM_FRAMES, options.clips)]
    rows = [
        "| file | whole file | seeking, first | seeking | times (first) | times |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    fails = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, settings) in CODECS.items():
            path = Path(folder) / "clip.mp4"
            write_clip(path, codec, settings)
            same = all(np.array_equal(read_ours(path, w), read_plainly(path, w)) for w in windows[:4])
            few = windows[:3]  # the plain way costs the same wherever the window is
            rounds = [
                (
                    cpu_seconds(read_plainly, path, few),
                    cpu_seconds(read_first, path, windows),
                    cpu_seconds(read_ours, path, windows),
                )
                for _ in range(options.rounds)
            ]
            plain, first, ours = (min(times) for times in zip(*rounds, strict=True))
            speed = " | ".join(f"{1 / seconds:.1f}" for seconds in (plain, first, ours))
            rows.append(f"| {name} | {speed} | {plain / first:.1f} | {plain / ours:.1f} |")
            fails |= not same or plain / ours < GOAL
            if not same:
                rows.append(f"| {name}: the frames differ | | | | | |")
    about = (
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, PyAV {av.__version__}, "
        f"{NUM_FRAMES} frames of {WIDTH} x {HEIGHT}, clips of {CLIP}, {options.clips} clips, "
        f"best of {options.rounds} rounds, one thread"
    )
    text = (
        f"# Clips per second of CPU time from an mp4\n\n{about}\n\n" + "\n".join(rows) + f"\n\nGoal: {GOAL:g} times.\n"
    )
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"video_file_cpu1_{date.today()}.md").write_text(text, encoding="utf-8")
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())
