"""What a small model costs on a CPU: `python -m benchmarks.bench_small --model FOLDER --export FOLDER ... [--tiny]`.

One saved model, and exports of it by `python -m tools.export`. Every one is measured in processes of its own, in rounds
that alternate, and medians are printed. A video of 480 x 854 pixels, made of the one that is named, is decoded,
resized, looked at in windows of 8 frames and segmented for one sentence, and masks of 480 x 854 pixels are made.

- Frames per second, and processor seconds per frame: from the file to masks, sentence included, after one such run.
- Load: from the start of Python until the model is in memory, imports included.
- First mask: from then on, to the mask of the first frame of the video, with the sentence; the first thing it does.
- One frame: of a window of one, decoded and with words that were read before.
- Peak: memory of the process. Disk: all files of the folder.
- Pixels that differ: of all masks, from those of the first line.

Eager PyTorch is measured once more with convolutions, norms and activations apart (see `models.fused_network`).
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from media.video import open_video, write_video
from structures.user_path import user_path

REPOSITORY = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 480, 854
WINDOW = 8

Segment = Callable[[np.ndarray], np.ndarray]
"""Frames (time, height, width, 3) to masks (time, height, width)."""

Model = Callable[[str], Segment]
"""Reads a sentence."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running the model.

    Attributes:
        folder: a saved model, or an export.
        fused: convolutions of a saved model, see `models.fused_network`.
    """

    folder: Path
    fused: bool = True

    @property
    def about(self) -> Mapping[str, Any] | None:
        """What an export says of itself."""
        path = self.folder / "export.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def disk_mb(self) -> float:
        """Of all files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 1e6

    def __str__(self) -> str:
        about = self.about
        if about is None:
            return "eager PyTorch" if self.fused else "eager PyTorch, nothing fused"
        name = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[about["format"]]
        return f"{name}, int8 of {' and '.join(about['int8'])}" if about["int8"] else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a page in Markdown, and writes it where a file is named; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if options.child:
        way = Way(options.model, fused=options.child == "fused")
        print(json.dumps(_measure(way, options)))
        return 0
    ways = [Way(options.model), Way(options.model, fused=False), *map(Way, options.export)]
    rounds, num_frames = (1, WINDOW) if options.tiny else (options.rounds, options.frames)
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        with write_video(video, fps=25.0) as writer:
            for pixels in _enlarged(options.video, num_frames):
                writer.add(pixels)
        for _ in range(rounds):
            for number, way in enumerate(ways):
                masks = Path(folder) / f"{number}.npy"
                found[way].append(_in_process(way, video, masks, options))
        masks_of = {way: np.load(Path(folder) / f"{number}.npy") for number, way in enumerate(ways)}
    lines = [*_heading(arguments, options, rounds, num_frames), *_table(found, masks_of), *_checks(ways)]
    page = "\n".join(lines) + "\n"
    print(page)
    if options.output is not None:
        options.output.write_text(page, encoding="utf-8")
    return 0


def _heading(arguments: Sequence[str], options: argparse.Namespace, rounds: int, num_frames: int) -> list[str]:
    paths = {str(each): each.name for each in (options.model, *options.export, options.output or Path())}
    named = [paths.get(argument, argument) for argument in arguments]
    packages = ("torch", "onnxruntime", "openvino")
    used = [
        name for name in packages if name == "torch" or any(name.startswith(_kind(each)) for each in options.export)
    ]
    machine = f"{options.threads} threads of {os.cpu_count()} processors ({platform.machine()})"
    versions = ", ".join(f"{name} {version(name)}" for name in used)
    return [
        f"# A small model on a CPU, {date.today()}",
        "",
        f"`python -m benchmarks.bench_small {shlex.join(named)}`, {machine}, {versions}; medians of {rounds} rounds.",
        "",
        f"{num_frames} frames of {HEIGHT} x {WIDTH} pixels from a file to masks in memory, 1 sentence, windows of "
        f"{WINDOW}; what the columns mean: `benchmarks/bench_small.py`. Frames are resized by PyTorch in eager mode "
        "and by Pillow, to the one size that they were made for, in exports, so that their masks differ a little.",
        "",
    ]


def _kind(export: Path) -> str:
    about = Way(export).about
    assert about is not None, f"{export} is no export"
    kind: str = about["format"]
    return kind


def _table(found: Mapping[Way, list[dict[str, float]]], masks_of: Mapping[Way, np.ndarray]) -> Iterator[str]:
    yield (
        "| what | frames per second | processor s per frame | load, s | first mask, ms | one frame, ms | peak, MB "
        "| disk, MB | pixels that differ |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    wanted = next(iter(masks_of.values()))
    for way, results in found.items():
        median = {name: statistics.median(result[name] for result in results) for name in results[0]}
        yield (
            f"| {way} | {median['fps']:.1f} | {median['processor_s']:.3f} | {median['load_s']:.1f} "
            f"| {median['first_ms']:.0f} | {median['frame_ms']:.0f} | {median['peak_mb']:.0f} | {way.disk_mb:.0f} "
            f"| {(masks_of[way] != wanted).mean():.4%} |"
        )


def _checks(ways: Sequence[Way]) -> Iterator[str]:
    """What the exports were checked with when they were made."""
    exports = [(way, way.about) for way in ways if way.about is not None]
    if not exports:
        return
    yield from ("", "What `tools.export` has measured of the exports, against the model, on frames of a video:", "")
    yield "| what | video + text + segment, MB | frames | largest difference | pixels that changed sides | mean IoU |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for way, about in exports:
        assert about is not None
        check = about["check"]
        sizes = [sum(file.stat().st_size for file in way.folder.glob(f"{part}.*")) / 1e6 for part in about["files"]]
        difference = max(check["largest_difference_as_share_of_largest_value"].values())
        iou = "-" if check["mean_iou"] is None else f"{check['mean_iou']:.4f}"
        yield (
            f"| {way} | {' + '.join(f'{size:.1f}' for size in sizes)} | {check['frames']} | {difference:.1e} "
            f"| {check['flipped_pixels']:.4%} | {iou} |"
        )


def _in_process(way: Way, video: Path, masks: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measures one way in a process of its own."""
    named = {"model": way.folder, "video": video, "masks": masks, "sentence": options.sentence}
    settings = {"threads": options.threads, "child": "fused" if way.fused else "apart"}
    command = [sys.executable, "-m", "benchmarks.bench_small"]
    command += [word for name, value in {**named, **settings}.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "SOC_BENCH_STARTED": repr(time.time())}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"{way} ended with {run.returncode}:\n{run.stderr[-2000:]}")
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def _measure(way: Way, options: argparse.Namespace) -> dict[str, float]:
    model = _eager(way, options.threads) if way.about is None else _exported(way.folder, options.threads)
    load_s = time.time() - float(os.environ["SOC_BENCH_STARTED"])

    started = time.perf_counter()
    segment = model(options.sentence)
    segment(next(_windows(options.video, 1)))
    first_ms = 1000 * (time.perf_counter() - started)

    frame_ms = []
    for frame in next(_windows(options.video, 5)):
        started = time.perf_counter()
        segment(frame[None])
        frame_ms.append(1000 * (time.perf_counter() - started))

    def whole() -> list[np.ndarray]:
        segment = model(options.sentence)
        return [segment(window) for window in _windows(options.video, WINDOW)]

    whole()  # warms up
    started, used = time.perf_counter(), time.process_time()
    masks = np.concatenate(whole())
    seconds, processor_s = time.perf_counter() - started, time.process_time() - used
    np.save(options.masks, masks)
    return {
        "fps": len(masks) / seconds,
        "processor_s": processor_s / len(masks),
        "load_s": load_s,
        "first_ms": first_ms,
        "frame_ms": statistics.median(frame_ms),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _windows(video: Path, length: int) -> Iterator[np.ndarray]:
    frames = []
    for frame in open_video(video).frames():
        frames.append(frame.pixels)
        if len(frames) == length:
            yield np.stack(frames)
            frames = []
    if frames:
        yield np.stack(frames)


def _enlarged(video: Path, num: int) -> Iterator[np.ndarray]:
    for frame, _ in zip(open_video(video).frames(), range(num), strict=False):
        yield np.asarray(Image.fromarray(frame.pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def _exported(folder: Path, threads: int) -> Model:
    from tools.export.run import ExportedModel

    model = ExportedModel(folder, threads=threads)
    model.about["min_score"] = 0.0  # masks are always drawn

    def read(sentence: str) -> Segment:
        text = model.encode_text([sentence])
        return lambda frames: model(frames, [text])[0].masks((HEIGHT, WIDTH))

    return read


def _eager(way: Way, threads: int) -> Model:
    import torch

    from engine.allocator import LARGEST_OF_EVALUATION, keep_freed_memory
    from engine.products import use_onednn
    from loading.frames import as_clip, resize_frames
    from models import fused_network
    from models.inference import encode_sentences, segment_clip
    from models.postprocess import best_queries
    from models.saved_model import load_saved_model

    keep_freed_memory(largest=LARGEST_OF_EVALUATION)  # as every prediction does, and so the next
    use_onednn()
    torch.set_num_threads(threads)
    if not way.fused:
        fused_network.can_fuse = lambda: False
    cpu = torch.device("cpu")
    model, config = load_saved_model(way.folder)
    sides: dict[str, Any] = {"short_side": config.data.short_side, "long_side": config.data.long_side}

    @torch.inference_mode()
    def read(sentence: str) -> Segment:
        texts = encode_sentences(model, [sentence], group=1, device=cpu)

        @torch.inference_mode()
        def segment(frames: np.ndarray) -> np.ndarray:
            (layer,) = segment_clip(model, resize_frames(as_clip(frames), **sides), texts, device=cpu)
            return best_queries(layer)[0].masks_at((HEIGHT, WIDTH)).numpy()

        return segment

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_small", description=__doc__)
    parser.add_argument("--model", type=user_path, required=True, metavar="FOLDER", help="the saved model")
    parser.add_argument("--export", type=user_path, nargs="*", default=[], metavar="FOLDER", help="exports of it")
    example = REPOSITORY / "examples" / "bedroom" / "bedroom.mp4"
    parser.add_argument("--video", type=user_path, default=example, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--sentence", default="the girl", metavar="TEXT", help="about it (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=32, help="of the video")
    parser.add_argument("--tiny", action="store_true", help=f"one round of {WINDOW} frames, to see that it runs")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="for the page")
    parser.add_argument("--masks", type=user_path, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=("fused", "apart"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
