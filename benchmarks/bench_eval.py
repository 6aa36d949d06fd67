"""Evaluation end to end, from JPEG files to PNG files: `python -m benchmarks.bench_eval`.

SOC-T with random weights segments two videos of 10 frames with four sentences each, 1280 x 720, at 360 x 640: 80 masks.
Ours is `evaluation.runner`, as `python main.py eval` runs it. The plain way is a variant of ours that does what the
published inference code does, sentence by sentence: it opens, decodes, resizes and normalises every frame with Pillow
and torchvision, runs the visual encoder and the rest of the model (deformable attention in pure PyTorch, masks of all
queries of all decoder layers), resizes the mask as numbers, and saves each as a picture, in one thread.

Both run in turns, and the median of the ratios counts. Parts are seconds on the clock inside of each part; those of
ours overlap, because reading, writing and the model have threads of their own. `--tiny` (a small model and small
pictures) only shows that this program works.
"""

import argparse
import copy
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as pictures

import evaluation.runner
import evaluation.whole_videos
import loading.resized
import models.postprocess
from benchmarks.bench_files import write_frames
from benchmarks.bench_gpu import Bench
from benchmarks.one_way import WORDS
from benchmarks.plain_model import make_plain
from configs.loader import load_config
from configs.schema import Config
from datasets.readers import ImageFrames
from datasets.records import VideoRecord
from engine.allocator import LARGEST_OF_EVALUATION, keep_freed_memory
from engine.distributed import World
from engine.products import use_onednn
from evaluation.benchmarks import evaluated_sets
from evaluation.runner import run_benchmark
from loading.transforms import resized_size
from media.files import write_json, write_text
from media.mask_png import read_index_png
from models.inference import encode_sentences, segment_clip
from models.postprocess import best_queries
from models.soc import SOC
from structures.clips import IMAGENET, PaddedClips
from structures.user_path import user_path

GOAL = 5.0
MOST_FLIPPED = 1e-4
REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = ("reading", "model", "resizing", "writing")


class Clock:
    """Seconds in parts of the work, of all threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._lock = Lock()

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Adds the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[part] += time.perf_counter() - start

    def wrapped(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added."""

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.time(part):
                return work(*arguments, **named)

        return timed


def write_data(root: Path, *, videos: int, frames: int, sentences: int, size: tuple[int, int]) -> None:
    """The valid split of Ref-YouTube-VOS, masks secret, as on its server."""
    names = [f"{index:05d}" for index in range(frames)]
    index = {}
    for number in range(videos):
        folder = root / "valid" / "JPEGImages" / f"video{number}"
        folder.mkdir(parents=True)
        write_frames(folder, frames, size)
        said = [" ".join(WORDS[(number + i + j) % len(WORDS)] for j in range(8)) for i in range(sentences)]
        expressions = {str(i): {"exp": text} for i, text in enumerate(said)}
        index[f"video{number}"] = {"frames": names, "expressions": expressions}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": index})


# ---- the plain way ----


def plain_mask_logits(
    model: SOC, frames: Float[Tensor, "time 3 height width"], sentence: str
) -> Float[Tensor, "time height4 width4"]:
    """The logits of the best query, by a model that works the plain way."""
    time, _, height, width = frames.shape
    clip = PaddedClips(frames[None], torch.zeros(1, time, height, width, dtype=torch.bool), ((height, width),))
    video, text = model.encode_video(clip), model.encode_text(model.tokenize([sentence]))
    return best_queries(model.choose(model.detect(video, text), video, text))[0].mask_logits


def run_plainly(model: SOC, videos: Sequence[VideoRecord], config: Config, folder: Path, clock: Clock) -> None:
    """The published inference, sentence by sentence and frame by frame."""
    for video in videos:
        assert isinstance(video.frames, ImageFrames)
        for expression in video.expressions:
            frames, size = [], (0, 0)
            with clock.time("reading"):
                for position in range(len(video.frame_names)):
                    picture = Image.open(video.frames.path(position)).convert("RGB")
                    size = (picture.height, picture.width)
                    sides = resized_size(*size, short_side=config.data.short_side, long_side=config.data.long_side)
                    numbers = pictures.to_tensor(pictures.resize(picture, list(sides)))
                    frames.append(pictures.normalize(numbers, list(IMAGENET.mean), list(IMAGENET.std)))
            with clock.time("model"):
                logits = plain_mask_logits(model, torch.stack(frames), expression.sentence)
            with clock.time("resizing"):
                large = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
                masks = (large.sigmoid() > 0.5).numpy()
            with clock.time("writing"):
                target = folder / video.name / expression.name
                target.mkdir(parents=True)
                for name, mask in zip(video.frame_names, masks, strict=True):
                    Image.fromarray(mask.astype(np.float32) * 255).convert("L").save(target / f"{name}.png")


# ---- ours ----


def run_ours(model: SOC, config: Config, folder: Path, clock: Clock, *, workers: int) -> None:
    """As `python main.py eval`, with a clock at its parts."""
    (one,) = evaluated_sets(config.data)
    with (
        patch.object(loading.resized, "_read_one", clock.wrapped("reading", loading.resized._read_one)),
        patch.object(models.postprocess, "resize_logits", clock.wrapped("resizing", models.postprocess.resize_logits)),
        patch.object(
            evaluation.whole_videos,
            "write_binary_png",
            clock.wrapped("writing", evaluation.whole_videos.write_binary_png),
        ),
    ):
        result = run_benchmark(
            model,
            one.dataset,
            one.benchmark,
            folder=folder,
            journal=None,
            workers=workers,
            world=World(),
            device=torch.device("cpu"),
        )
    (speed,) = result.speed
    clock.seconds["model"] += speed.seconds[evaluation.runner.MODEL]


def warm_up(model: SOC) -> None:
    """Compiles what is compiled at first use."""
    frames = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    device = torch.device("cpu")
    list(segment_clip(model, frames, encode_sentences(model, [WORDS[0]], group=1, device=device), device=device))


def flipped_pixels(plain: Path, ours: Path) -> tuple[int, int, int]:
    """Masks, their pixels, and how many of these differ.

    Raises:
        ValueError: the folders hold other masks.
    """
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*.png")) for folder in (plain, ours)]
    if names[0] != names[1]:
        raise ValueError(f"{len(names[0])} masks by the plain way, {len(names[1])} by ours, not of the same names")
    pixels = different = 0
    for name in names[0]:
        masks = [read_index_png(folder / name) for folder in (plain, ours)]
        pixels += masks[0].size
        different += int(np.count_nonzero(masks[0] != masks[1]))
    return len(names[0]), pixels, different


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a page, and write it with `--output`; 1 if masks differ or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=10, help="of each video")
    parser.add_argument("--sentences", type=int, default=4, help="of each video")
    parser.add_argument("--rounds", type=int, default=1, help="turns")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of PyTorch, both ways")
    parser.add_argument("--workers", type=int, default=2, help="of ours, that read, and as many that write")
    parser.add_argument("--tiny", action="store_true", help="a small model and small pictures")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = Bench(torch.device("cpu"), size="tiny" if options.tiny else "full").model
    size = (72, 128) if options.tiny else (720, 1280)
    plain_clocks, our_clocks, plain_seconds, our_seconds = [], [], [], []
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        root = folder / "data"
        write_data(root, videos=options.videos, frames=options.frames, sentences=options.sentences, size=size)
        sides = ["data.short_side=36", "data.long_side=64"] if options.tiny else []
        settings = [f"data.root={root}", f"data.num_workers={options.workers}", f"data.cache={folder}/cache", *sides]
        config = load_config(REPOSITORY / "configs" / "base.yaml", settings)
        (one,) = evaluated_sets(config.data)
        plain_model = make_plain(copy.deepcopy(model))
        warm_up(model)
        for number in range(options.rounds):
            plain, ours = (folder / f"{way}_{number}" for way in ("plain", "ours"))
            plain_clocks.append(Clock())
            start = time.perf_counter()
            run_plainly(plain_model, one.dataset.videos, config, plain, plain_clocks[-1])
            plain_seconds.append(time.perf_counter() - start)
            # As every evaluation does; the plain way has both from the second turn on.
            keep_freed_memory(largest=LARGEST_OF_EVALUATION)
            use_onednn()
            our_clocks.append(Clock())
            start = time.perf_counter()
            run_ours(model, config, ours, our_clocks[-1], workers=options.workers)
            our_seconds.append(time.perf_counter() - start)
        masks, pixels, different = flipped_pixels(plain, ours / one.benchmark.outputs[0])
    ratio = median(a / b for a, b in zip(plain_seconds, our_seconds, strict=True))
    rows = [
        f"| {name} | {min(seconds):.2f} | "
        + " | ".join(f"{min(clock.seconds[part] for clock in clocks):.2f}" for part in PARTS)
        + " |"
        for name, seconds, clocks in (
            ("plain way", plain_seconds, plain_clocks),
            ("ours", our_seconds, our_clocks),
        )
    ]
    text = "\n".join(
        [
            f"# Evaluation from files to files, {date.today()}\n",
            f"`python -m benchmarks.bench_eval`, {platform.machine()}, {options.threads} threads, PyTorch "
            f"{torch.__version__}; {options.videos} videos of {options.frames} frames of {size[1]} x {size[0]}, "
            f"{options.sentences} sentences each; seconds on the clock, the fastest of {options.rounds} turns.\n",
            "| | all | " + " | ".join(PARTS) + " |",
            "| --- | ---: " + "| ---: " * len(PARTS) + "|",
            *rows,
            f"\nRatio {ratio:.2f}, goal {GOAL:g}. {masks} masks; {different} of {pixels} pixels differ (at most "
            f"{MOST_FLIPPED:g} of all allowed: frames are resized by PyTorch, not by Pillow).\n",
        ]
    )
    sys.stdout.write(text)
    if options.output is not None:
        write_text(options.output / f"eval_cpu{options.threads}_{date.today()}.md", text)
    same = different <= MOST_FLIPPED * pixels
    return int(not same or (ratio < GOAL and not options.tiny))


if __name__ == "__main__":
    sys.exit(main())
