"""What a small model costs on a CPU: `python -m benchmarks.bench_small --model FOLDER --export FOLDER ... [--tiny]`.

One saved model, and exports of it by `python -m tools.export`. Every one is measured in a process of its own, in rounds
that alternate, and medians are printed: frames of 480 x 854 in memory are resized, looked at and segmented for one
sentence, and masks are made of 480 x 854 pixels again.

- First mask: from the start of Python to the mask of one frame, with imports and loading.
- One frame: of a window of one frame, when everything is loaded.
- Frames per second, and processor seconds per frame: of windows of 8 frames.
- Peak: memory of the process, `ru_maxrss`. Disk: all files of the folder.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structures.user_path import user_path

REPOSITORY = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 480, 854
SENTENCE = "the girl"

See = Callable[[np.ndarray], np.ndarray]
"""Frames (time, height, width, 3) to masks (time, height, width)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table in Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_small", description=__doc__)
    parser.add_argument("--model", type=user_path, required=True, metavar="FOLDER", help="the saved model")
    parser.add_argument("--export", type=user_path, nargs="*", default=[], metavar="FOLDER", help="exports of it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=4, help="of 8 frames, in each round")
    parser.add_argument("--tiny", action="store_true", help="one round of one window, to see that it runs")
    parser.add_argument("--child", type=user_path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_measure(options.child, threads=options.threads, num_windows=options.windows)))
        return 0
    rounds, windows = (1, 1) if options.tiny else (options.rounds, options.windows)
    folders = [options.model, *options.export]
    found: dict[Path, list[dict[str, float]]] = {folder: [] for folder in folders}
    for _ in range(rounds):
        for folder in folders:
            found[folder].append(_in_process(folder, options.model, threads=options.threads, num_windows=windows))
    print(f"{HEIGHT} x {WIDTH} pixels, 1 sentence, {options.threads} threads, medians of {rounds} rounds\n")
    print(
        "| what | frames per second | processor s per frame | one frame, ms | first mask, ms | peak, MB | disk, MB |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for folder, results in found.items():
        median = {name: statistics.median(result[name] for result in results) for name in results[0]}
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        print(
            f"| {_title(folder)} | {median['fps']:.1f} | {median['processor_s']:.3f} | {median['frame_ms']:.0f} "
            f"| {median['first_ms']:.0f} | {median['peak_mb']:.0f} | {disk:.0f} |"
        )
    return 0


def _in_process(folder: Path, model: Path, *, threads: int, num_windows: int) -> dict[str, float]:
    """Measures one folder in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_small", "--model", str(model), "--child", str(folder)]
    settings = ["--threads", str(threads), "--windows", str(num_windows)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "SOC_BENCH_STARTED": repr(time.time())}
    run = subprocess.run(
        [*command, *settings], cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True
    )
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def _measure(folder: Path, *, threads: int, num_windows: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    see = _exported(folder, threads) if (folder / "export.json").is_file() else _eager(folder, threads)
    see(frames[:1])
    first_ms = 1000 * (time.time() - float(os.environ["SOC_BENCH_STARTED"]))
    one_frame = []
    for frame in frames[:5]:
        started = time.perf_counter()
        see(frame[None])
        one_frame.append(1000 * (time.perf_counter() - started))
    see(frames)  # warms up
    started, used = time.perf_counter(), time.process_time()
    for _ in range(num_windows):
        see(frames)
    num_frames = num_windows * len(frames)
    return {
        "fps": num_frames / (time.perf_counter() - started),
        "processor_s": (time.process_time() - used) / num_frames,
        "frame_ms": statistics.median(one_frame),
        "first_ms": first_ms,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _exported(folder: Path, threads: int) -> See:
    from tools.export.run import ExportedModel

    model = ExportedModel(folder, threads=threads)
    model.about["min_score"] = 0.0  # masks of noise are drawn, too
    text = model.encode_text([SENTENCE])
    return lambda frames: model(frames, [text])[0].masks((HEIGHT, WIDTH))


def _eager(folder: Path, threads: int) -> See:
    import torch

    from loading.frames import as_clip, resize_frames
    from models.inference import encode_sentences, segment_clip
    from models.postprocess import best_queries
    from models.saved_model import load_saved_model

    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    model, config = load_saved_model(folder)
    sides: dict[str, Any] = {"short_side": config.data.short_side, "long_side": config.data.long_side}
    with torch.inference_mode():
        texts = encode_sentences(model, [SENTENCE], group=1, device=cpu)

    def see(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            (layer,) = segment_clip(model, resize_frames(as_clip(frames), **sides), texts, device=cpu)
            return best_queries(layer)[0].masks_at((HEIGHT, WIDTH)).numpy()

    return see


def _title(folder: Path) -> str:
    if not (folder / "export.json").is_file():
        return "eager PyTorch"
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    name = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[about["format"]]
    return f"{name}, int8 of {' and '.join(about['int8'])}" if about["int8"] else name


if __name__ == "__main__":
    sys.exit(main())
