"""Training samples per second of CPU time for each data set, and where it goes: `python -m benchmarks.bench_loading`.

The sets are Referring Shapes in each real layout, frames of 1280 x 720 (Ref-YouTube-VOS) or as each layout has them,
made to 8 frames of 360 x 640. The plain way is that of benchmarks/plain_loading.py, the published one as its
description tells it; for Ref-YouTube-VOS it parses a meta.json of as many videos as the real one has, 3,471. Our way
ends, as in training, with bytes in a batch: normalising them, which a GPU does, is timed in a column of its own.

Frames, masks and boxes of Ref-YouTube-VOS must agree to the bit, and cost at most a third of the CPU time of the plain
way, normalising included. Of the others the largest difference of a pixel is shown.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from benchmarks.plain_loading import PlainSample, read_sample
from configs.schema import DataConfig
from datasets.readers import FrameReader, MaskReader
from datasets.records import VideoRecord
from loading.clips import ClipDataset
from loading.collate import collate
from loading.loaders import read_split
from loading.sampling import SampleKey
from media.files import write_text
from structures.samples import VideoSample
from structures.user_path import user_path
from tools.shapes.writer import make_shapes

GOAL = 3.0
NUM_VIDEOS_OF_REAL_METADATA = 3471
NUM_FRAMES, SHORT_SIDE, LONG_SIDE = 8, 360, 640


@dataclass(frozen=True)
class Case:
    """A data set to time.

    Attributes:
        layout: of the generated set.
        dataset: of the loader.
        settings: others.
        size: (height, width) of the frames; None: the layout's own.
        num_frames: of a generated clip.
        clip_frames: of a training clip.
        must_reach_goal: whether it is the set of the goal.
        has_plain_way: whether we know one.
        is_trained_on: False where the set is only evaluated; clips round its annotated frames are timed then.
    """

    layout: str
    dataset: str
    settings: dict[str, Any]
    size: tuple[int, int] | None = None
    num_frames: int = 16
    clip_frames: int = NUM_FRAMES
    must_reach_goal: bool = False
    has_plain_way: bool = True
    is_trained_on: bool = True


CASES = {
    "Ref-YouTube-VOS": Case("ref_youtube_vos", "ref_youtube_vos", {}, (720, 1280), 8, must_reach_goal=True),
    "Ref-DAVIS17": Case("davis", "ref_davis17", {}, (480, 854)),
    "MeViS": Case("mevis", "mevis", {}, (720, 1280)),
    "A2D-Sentences": Case("a2d", "a2d_sentences", {}, (320, 560), 150),
    "JHMDB-Sentences": Case("jhmdb", "jhmdb_sentences", {"train_split": "test"}, (240, 320), is_trained_on=False),
    "RefCOCO, images": Case("refcoco", "refcoco", {}, (480, 640), 8, clip_frames=1),
    "RefCOCO, pseudo-clips": Case("refcoco", "refcoco", {"pseudo_clips": True}, (480, 640), 8, has_plain_way=False),
}


class Stopwatch:
    """CPU time of parts of the work."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Does the work and adds its time."""
        start = time.process_time()
        result = work(*arguments, **named)
        self.seconds += time.process_time() - start
        return result


@dataclass(frozen=True)
class TimedFrames:
    """A `FrameReader` with a stopwatch."""

    reader: FrameReader
    watch: Stopwatch

    def read(self, positions: Sequence[int]) -> np.ndarray:
        """See `FrameReader`."""
        frames: np.ndarray = self.watch.time(self.reader.read, positions)
        return frames

    def size(self) -> tuple[int, int]:
        """See `FrameReader`."""
        return self.reader.size()

    def path(self, position: int) -> Path:
        """See `FrameReader`."""
        return self.reader.path(position)


@dataclass(frozen=True)
class TimedMasks:
    """A `MaskReader` with a stopwatch."""

    reader: MaskReader
    watch: Stopwatch

    def read(self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]) -> np.ndarray:
        """See `MaskReader`."""
        masks: np.ndarray = self.watch.time(self.reader.read, positions, size=size, objects=objects)
        return masks


def timed(video: VideoRecord, watch: Stopwatch) -> VideoRecord:
    """The video with a stopwatch at its files."""
    assert video.masks is not None  # it is a training video
    return replace(video, frames=TimedFrames(video.frames, watch), masks=TimedMasks(video.masks, watch))


@dataclass
class Result:
    """Seconds of CPU time for one sample.

    Attributes:
        decode: reading frames and masks.
        whole: until the sample is complete.
        collate: making a batch of it.
        normalise: what is left to the device.
        plain: the plain way; 0 where there is none.
        difference: largest between the two, in levels of 255; None where there is no plain way.
        targets_agree: whether masks and boxes do.
    """

    decode: float
    whole: float
    collate: float
    normalise: float
    plain: float
    difference: float | None
    targets_agree: bool

    @property
    def ours(self) -> float:
        """All of it."""
        return self.whole + self.collate + self.normalise

    def row(self, name: str) -> str:
        """A line of the table."""
        parts = (self.decode, self.whole - self.decode, self.collate, self.normalise)
        shares = " | ".join(f"{100 * part / self.ours:.0f} %" for part in parts)
        if self.difference is None:
            return f"| {name} | {1 / self.ours:.1f} | {shares} | | | |"
        ratio = f"{1 / self.plain:.1f} | {self.plain / self.ours:.1f}"
        agreement = f"{self.difference:.0f}" + ("" if self.targets_agree else ", targets differ")
        return f"| {name} | {1 / self.ours:.1f} | {shares} | {ratio} | {agreement} |"


def measure(case: Case, root: Path, *, num_samples: int, rounds: int) -> Result:
    """Times samples of a set, turn by turn, and compares them."""
    sets = ({"dataset": case.dataset, **case.settings},)
    settings = {"sets": sets, "root": root, "num_frames": case.clip_frames}
    data = DataConfig.model_validate(settings | {"cache": root.parent / "cache"})
    own = data.sets[0]
    videos = read_split(data, own, own.train_split, for_training=case.is_trained_on).videos
    watch = Stopwatch()
    clips = ClipDataset(
        [timed(video, watch) for video in videos],
        num_frames=data.num_frames,
        sentences_per_clip=1,
        short_side=SHORT_SIDE,
        long_side=LONG_SIDE,
        flip_probability=0.0,
        seed=0,
    )
    records = {video.name: video for video in videos}
    metadata = root / "train" / "meta.json" if case.dataset == "ref_youtube_vos" else None
    if metadata is not None:
        grow_metadata(metadata)
    step = max(1, len(clips) // num_samples)
    chosen = range(0, min(len(clips), num_samples * step), step)
    results = []
    for _ in range(rounds):
        watch.seconds, whole, collating, normalising, plain = 0.0, Stopwatch(), Stopwatch(), Stopwatch(), Stopwatch()
        difference, agree = 0.0, True
        for index in chosen:
            sample = whole.time(clips.__getitem__, SampleKey(index, 0))
            batch = collating.time(collate, [sample])
            clip = normalising.time(batch.clips.normalised)
            if case.has_plain_way:
                read = partial(plain_sample, records[sample.meta[0].video], sample, metadata)
                other: PlainSample = plain.time(read)
                # in levels of 255 of the channel with the smallest deviation
                difference = max(difference, 255 * 0.224 * float((clip.frames[0] - other.frames).abs().max()))
                target = batch.targets[0]
                boxes_agree = torch.allclose(target.boxes_cxcywh_norm[0], other.boxes, rtol=0, atol=1e-6)
                agree &= torch.equal(target.masks[0], other.masks) and boxes_agree
        result = Result(
            decode=watch.seconds / len(chosen),
            whole=whole.seconds / len(chosen),
            collate=collating.seconds / len(chosen),
            normalise=normalising.seconds / len(chosen),
            plain=plain.seconds / len(chosen),
            difference=difference if case.has_plain_way else None,
            targets_agree=agree,
        )
        results.append(result)
    best = min(results, key=lambda result: result.ours)  # others use the machine, too
    best.plain = min(result.plain for result in results)
    return best


def plain_sample(video: VideoRecord, sample: VideoSample, metadata: Path | None) -> PlainSample:
    """The same sample the plain way."""
    meta = sample.meta[0]
    expression = next(e for e in video.expressions if e.name == meta.expression)
    window = [video.frame_names.index(name) for name in meta.frame_names]
    annotated = window if sample.annotated_frame is None else [window[sample.annotated_frame]]
    return read_sample(
        video, expression, window, annotated, short_side=SHORT_SIDE, long_side=LONG_SIDE, metadata=metadata
    )


def grow_metadata(path: Path) -> None:
    """Fills the file up with copies of its videos, with 27 frames each as on average, to the size of the real one."""
    videos = json.loads(path.read_text())["videos"]
    originals = list(videos.values())
    for number in range(len(videos), NUM_VIDEOS_OF_REAL_METADATA):
        objects = {
            key: {**item, "frames": [f"{5 * i:05d}" for i in range(27)]}
            for key, item in originals[number % len(originals)]["objects"].items()
        }
        videos[f"copy{number:06d}"] = {"objects": objects}
    write_text(path, json.dumps({"videos": videos}))


def main() -> int:
    """Measure, print a table, and write it with `--output`; 1 if results differ or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6, help="of each set")
    parser.add_argument("--rounds", type=int, default=5, help="turns; the fastest of each way counts")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), help="sets to time")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        "| set | samples/s | decode | transform | collate | normalise | plain way, samples/s | times | difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(rows))
    fails = False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            case = CASES[name]
            root = Path(folder) / case.layout
            if not root.exists():
                make_shapes(
                    root,
                    layout=case.layout,
                    num_train=2,
                    num_valid=1,
                    num_frames=case.num_frames,
                    size=case.size,
                    num_workers=1,
                )
            result = measure(case, root, num_samples=options.samples, rounds=options.rounds)
            rows.append(result.row(name))
            print(rows[-1], flush=True)
            if case.must_reach_goal:
                same = result.difference == 0 and result.targets_agree
                reached = result.plain / result.ours >= GOAL
                fails = not (same and reached)
                verdict = "reached" if reached else "missed"
                pixels = "identical" if same else "not identical"
                goal = f"{name}: {result.plain / result.ours:.2f} times, goal {GOAL:.0f}: {verdict}; pixels {pixels}."
                rows.insert(0, f"{goal}\n")
    about = (
        f"Data loading, {date.today()}, {platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}, one thread, CPU time "
        f"of {options.samples} samples, best of {options.rounds} turns"
    )
    print(about)
    print(rows[0])
    if options.output is not None:
        path = options.output / f"loading_cpu1_{date.today()}.md"
        write_text(path, "\n".join([f"# {about}\n", *rows, ""]))
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())
