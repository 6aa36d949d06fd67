"""Frames in and masks out, against the published way: `python -m benchmarks.bench_files`.

Frames: JPEG files of 1280 x 720 to the normalised input of the model, 360 x 640. The published way opens, decodes,
resizes and normalises one after the other with Pillow and torchvision's functions for it. Pixels must be identical.
Masks: PNG files of 1280 x 720. The published way multiplies numbers by 255, makes an 8-bit picture and has Pillow save
it. Both are files of 0 and 255, and must be read back equal.

"Wall" is the time on a clock, of ours with as many threads as the process may use (`--threads`); "CPU" adds up what all
threads took. Both ways run in turns, and the median of the ratios of the turns counts: others use the machine, too.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import PIL
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from datasets.readers import ImageFrames
from loading.resized import start_reading
from media.files import write_text
from media.mask_png import read_index_png, write_binary_png
from structures.clips import IMAGENET, one_clip
from structures.user_path import user_path

FRAME_GOAL, MASK_GOAL = 2.2, 3.0
SHORT_SIDE, LONG_SIDE = 360, 640


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one turn of both ways, as (wall, CPU)."""

    plain: tuple[float, float]
    ours: tuple[float, float]


def write_frames(folder: Path, number: int, size: tuple[int, int]) -> ImageFrames:
    """A smooth picture under a moving camera, with the noise of a sensor, as JPEG files of usual quality."""
    rng = np.random.default_rng(0)
    height, width = size
    coarse = rng.integers(0, 255, (height // 8 + 30, width // 8 + 30, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    names = tuple(f"{index:05d}" for index in range(number))
    for index, name in enumerate(names):
        part = scene[index : index + height, 2 * index : 2 * index + width]
        pixels = (part + rng.integers(-6, 7, part.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=90)
    return ImageFrames(folder, names)


def make_masks(number: int, size: tuple[int, int]) -> list[Bool[np.ndarray, "height width"]]:
    """Objects with uneven edges, as a model draws them at a quarter of the resolution; the last frame shows none."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(number, 1, 6, 10, generator=generator)
    quarter = torch.nn.functional.interpolate(coarse, size=(height // 8, width // 8), mode="bicubic")
    quarter += 0.15 * torch.randn(quarter.shape, generator=generator)
    logits = torch.nn.functional.interpolate(quarter, size=size, mode="bilinear")[:, 0]
    masks = (logits > 0.8).numpy()
    masks[-1] = False
    return list(masks)


def plain_frames(reader: ImageFrames) -> Float[Tensor, "time 3 height width"]:
    """The published way, frame by frame."""
    frames = []
    for position in range(len(reader.names)):
        picture = Image.open(reader.path(position)).convert("RGB")
        numbers = functional.to_tensor(functional.resize(picture, [SHORT_SIDE, LONG_SIDE]))
        frames.append(functional.normalize(numbers, list(IMAGENET.mean), list(IMAGENET.std)))
    return torch.stack(frames)


def our_frames(reader: ImageFrames, pool: ThreadPoolExecutor) -> Float[Tensor, "time 3 height width"]:
    """As evaluation reads a window."""
    wait = start_reading(reader, range(len(reader.names)), short_side=SHORT_SIDE, long_side=LONG_SIDE, pool=pool)
    return one_clip(wait()).normalised().frames[0]


def plain_masks(folder: Path, masks: Sequence[Bool[np.ndarray, "height width"]]) -> None:
    """The published way, mask by mask."""
    for index, mask in enumerate(masks):
        numbers = mask.astype(np.float32)
        Image.fromarray(numbers * 255).convert("L").save(folder / f"{index:05d}.png")


def our_masks(folder: Path, masks: Sequence[Bool[np.ndarray, "height width"]], pool: ThreadPoolExecutor) -> None:
    """As evaluation writes them, in its pool."""
    paths = [folder / f"{index:05d}.png" for index in range(len(masks))]
    list(pool.map(write_binary_png, paths, masks))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, turns: Sequence[Turn], number: int) -> tuple[str, float]:
    """A line of the table, and the ratio of wall times."""
    cells, ratios = [], []
    for kind in (0, 1):
        ratios.append(median(turn.plain[kind] / turn.ours[kind] for turn in turns))
        plain = 1000 * min(turn.plain[kind] for turn in turns) / number
        ours = 1000 * min(turn.ours[kind] for turn in turns) / number
        cells.append(f"{plain:.2f} | {ours:.2f} | {ratios[-1]:.2f}")
    return f"| {name} | {' | '.join(cells)} |", ratios[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it with `--output`; 1 if files or pixels differ or a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="frames of the clip, and masks")
    parser.add_argument("--rounds", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of ours")
    parser.add_argument("--tiny", action="store_true", help="small pictures: only shows that this program works")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    size = (144, 256) if options.tiny else (720, 1280)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.threads) as pool:
        plain_folder, our_folder = Path(folder) / "plain", Path(folder) / "ours"
        plain_folder.mkdir()
        our_folder.mkdir()
        reader, masks = write_frames(Path(folder), options.frames, size), make_masks(options.frames, size)
        frames = [
            Turn(timed(lambda: plain_frames(reader)), timed(lambda: our_frames(reader, pool)))
            for _ in range(options.rounds)
        ]
        written = [
            Turn(timed(lambda: plain_masks(plain_folder, masks)), timed(lambda: our_masks(our_folder, masks, pool)))
            for _ in range(options.rounds)
        ]
        pairs = [(path, our_folder / path.name) for path in sorted(plain_folder.iterdir())]
        same_masks = all(np.array_equal(read_index_png(plain), read_index_png(ours)) for plain, ours in pairs)
        sizes = [sum(pair[way].stat().st_size for pair in pairs) / len(pairs) / 1024 for way in (0, 1)]
        same_frames = torch.equal(plain_frames(reader), our_frames(reader, pool))
    frame_row, frame_ratio = row("a frame in", frames, options.frames)
    mask_row, mask_ratio = row("a mask out", written, options.frames)
    reached = options.tiny or (frame_ratio >= FRAME_GOAL and mask_ratio >= MASK_GOAL)
    text = "\n".join(
        [
            f"# Frames in, masks out, {date.today()}\n",
            f"`python -m benchmarks.bench_files`, {platform.machine()}, {options.threads} threads (the published way "
            f"has one), Python {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}; "
            f"{options.frames} of each, {size[1]} x {size[0]}; milliseconds of the fastest of {options.rounds} turns, "
            "and the median of the ratios.\n",
            "| | wall: published | ours | times | CPU: published | ours | times |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            frame_row,
            mask_row,
            f"\nPixels of frames {'identical' if same_frames else 'DIFFER'}, of masks "
            f"{'identical' if same_masks else 'DIFFER'}; a mask file has {sizes[0]:.1f} (published way) and "
            f"{sizes[1]:.1f} KiB (ours). Goals, wall: {FRAME_GOAL:g} and {MASK_GOAL:g} times.\n",
        ]
    )
    sys.stdout.write(text)
    if options.output is not None:
        write_text(options.output / f"files_cpu{options.threads}_{date.today()}.md", text)
    return int(not (same_frames and same_masks and reached))


if __name__ == "__main__":
    sys.exit(main())
