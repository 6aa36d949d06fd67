"""Peak memory of an evaluation against the length of its video: `python -m benchmarks.bench_long_video`.

A generated clip of 360 x 640 pixels is played again and again, 40, 400 and 4,000 frames of it; a small model with
random weights evaluates it in a process of its own, as `python main.py eval` does, which writes and scores masks. The
peak must not grow with the length: the masks of its two sentences alone would be 1.8 GB for 4,000 frames. (40 frames
are two windows, too few to keep every thread at work, so the second length is compared with the longest.)

The C library keeps freed memory of threads in pieces, which makes peaks of equal runs differ by up to 400 MiB. It is
told to give large arrays back at once (MALLOC_MMAP_THRESHOLD_), so that the peak is what the program holds.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from structures.user_path import user_path
from tools.make_shapes import main as make_shapes

REPOSITORY = Path(__file__).resolve().parent.parent
LENGTHS = (40, 400, 4000)
CLIP_FRAMES = 12
GOAL = 100
"""MiB that the peak may grow."""


def write_long_video(root: Path, length: int) -> None:
    """Keeps the first valid clip of generated data, with its frames and masks repeated up to a length."""
    file = root / "meta_expressions" / "valid" / "meta_expressions.json"
    videos = json.loads(file.read_text(encoding="utf-8"))["videos"]
    name, video = next(iter(sorted(videos.items())))
    names = [f"{number:05d}" for number in range(length)]
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = root / "valid" / kind / name
        for number in range(len(video["frames"]), length):
            (folder / f"{names[number]}.{suffix}").hardlink_to(folder / f"{names[number % CLIP_FRAMES]}.{suffix}")
    expressions = dict(list(video["expressions"].items())[:2])
    file.write_text(json.dumps({"videos": {name: {"frames": names, "expressions": expressions}}}), encoding="utf-8")


def measure(folder: Path, length: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluates a video of this length; returns the content of `results.json`."""
    root, output = folder / f"data_{length}", folder / f"eval_{length}"
    options = ["--train", "1", "--valid", "1", "--frames", str(CLIP_FRAMES), "--size", "360x640", "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        if make_shapes([str(root), *options]):
            raise RuntimeError("the data could not be generated")
    write_long_video(root, length)
    command = [sys.executable, "main.py", "eval", "--config", "configs/shapes.yaml", f"data.root={root}"]
    settings = [f"output_dir={output}", "device=cpu", "num_threads=1", "data.num_workers=1", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    subprocess.run([*command, *settings], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def main() -> int:
    """Measure, print a table, and write it with `--output`; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="frames")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings of the evaluation")
    options = parser.parse_args()
    rows, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for length in options.lengths:
            results = measure(Path(folder), length, options.overrides)
            peaks.append(results["peak_memory"][0]["process_mib"])
            speed = results["speed"]
            rows.append(f"| {length} | {peaks[-1]:.0f} | {speed['seconds']:.1f} | {speed['frames_per_second']:.1f} |")
    growth = peaks[-1] - peaks[min(1, len(peaks) - 1)]
    lines = [
        f"# Memory and the length of a video, {date.today()}\n",
        f"Command: `python -m benchmarks.bench_long_video {' '.join(options.overrides)}`. {platform.machine()}, "
        f"1 thread, PyTorch {torch.__version__}. Peak memory of the process, 360 x 640 pixels, 2 sentences.\n",
        "| frames | peak, MiB | seconds | frames per second |",
        "| ---: | ---: | ---: | ---: |",
        *rows,
        f"\nFrom the second length to the last: {growth:.0f} MiB (goal: below {GOAL}).",
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"long_video_cpu1_{date.today()}.md").write_text(text, encoding="utf-8")
    return int(growth >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
