"""What a frame and a sentence more cost, however many there are: `python -m benchmarks.bench_long_video`.

A generated clip is played again and again, 40, 400 and 4,000 frames of it, with one sentence; and 200 frames of it are
asked about in 1, 4, 16 and 64 sentences. A small model with random weights answers in a process of its own: with
`python main.py eval` from a folder of JPEG files, masks written and scored, and with `python main.py predict` from a
video file, masks written. For each there are the seconds of processor time and the peak memory, and what a frame or
sentence more has cost since the row before; starting and building the model are in the first row of each table.

Goals: a frame more costs from the second length to the last at most a quarter more than from the first to the second,
a sentence more likewise, and the peak grows by less than 100 MiB from the second length to the last. (40 frames are two
windows, too few to keep every thread at work. The masks of a sentence alone would be 0.9 GB for 4,000 frames.)

`--large` measures, in place of all that, the peak of `python main.py predict` with SOC-T and RoBERTa-base (random
weights, 360 x 640): 36 frames of 480 x 854 with one sentence, and 24 of 3840 x 2160 with four. Goals: below 2 and
3 GiB.

The C library keeps freed memory of threads in pieces, which makes peaks of equal runs differ by up to 400 MiB. It is
told to give large arrays back at once (MALLOC_MMAP_THRESHOLD_), so that the peak is what the program holds.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import av
import torch

from benchmarks.bench_files import write_frames
from benchmarks.start_models import SENTENCES as SENTENCES_ASKED
from benchmarks.start_models import write_base_text_encoder, write_model
from structures.user_path import user_path
from tools.make_shapes import main as make_shapes

REPOSITORY = Path(__file__).resolve().parent.parent
LENGTHS = (40, 400, 4000)
SENTENCES = (1, 4, 16, 64)
CLIP_FRAMES = 12
FRAMES_PER_SECOND = 25
FRAMES_OF_SENTENCES = 200
"""Of the video that more and more sentences are asked about: a few sentences cost more than the start varies."""

LARGE = {
    "36 frames of 480 x 854, 1 sentence": (36, (480, 854), 1, 2048),
    "24 frames of 2160 x 3840, 4 sentences": (24, (2160, 3840), 4, 3072),
}
"""With SOC-T: frames, their height and width, sentences, and the goal of the peak in MiB."""

MOST_GROWTH_MIB = 100
MOST_GROWTH = 1.25
"""Of what a frame or sentence more costs."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command.

    Attributes:
        seconds: of processor time, of all threads and processes.
        peak_mib: memory of its largest process at its peak.
    """

    seconds: float
    peak_mib: float


def write_data(root: Path, size: str) -> tuple[str, list[str]]:
    """Writes a clip of generated data; returns its name, and the sentences about it."""
    options = ["--train", "1", "--valid", "1", "--frames", str(CLIP_FRAMES), "--size", size, "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        if make_shapes([str(root), *options]):
            raise RuntimeError("the data could not be generated")
    name, video = next(iter(sorted(_read_index(root).items())))
    return name, [expression["exp"] for expression in video["expressions"].values()]


def write_long_folder(root: Path, name: str, *, length: int, sentences: int) -> None:
    """Keeps one clip of the data, with its frames, masks and sentences repeated up to these numbers."""
    video = _read_index(root)[name]
    frames = [f"{number:05d}" for number in range(length)]
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = root / "valid" / kind / name
        for number in range(CLIP_FRAMES, length):
            if not (folder / f"{frames[number]}.{suffix}").exists():
                (folder / f"{frames[number]}.{suffix}").hardlink_to(folder / f"{frames[number % CLIP_FRAMES]}.{suffix}")
    known = video["expressions"].values()
    expressions = {str(index): entry for index, entry in enumerate(islice(cycle(known), sentences))}
    content = {"videos": {name: {"frames": frames, "expressions": expressions}}}
    _index(root).write_text(json.dumps(content), encoding="utf-8")


def write_video(path: Path, folder: Path, length: int) -> None:
    """Encodes the first images of a folder, again and again up to a length."""
    images = sorted(folder.iterdir())[:CLIP_FRAMES]
    pictures = []
    for image in images:
        with av.open(str(image)) as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in islice(cycle(pictures), length):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def evaluate(folder: Path, *, length: int, sentences: int, size: str, overrides: Sequence[str]) -> Run:
    """Evaluates a video of this length with so many sentences."""
    root = folder / f"data_{length}_{sentences}"
    name, _ = write_data(root, size)
    write_long_folder(root, name, length=length, sentences=sentences)
    command = ["eval", "--config", "configs/shapes.yaml", f"data.root={root}", "data.num_workers=1"]
    return run([*command, f"output_dir={root}_results", *overrides])


def predict(folder: Path, *, length: int, sentences: int, size: str, overrides: Sequence[str]) -> Run:
    """Predicts with a video file of this length and so many sentences."""
    root = folder / f"video_{length}_{sentences}"
    name, known = write_data(root, size)
    video, asked = root / "clip.mp4", root / "asked.json"
    write_video(video, root / "valid" / "JPEGImages" / name, length)
    asked.write_text(json.dumps(list(islice(cycle(known), sentences))), encoding="utf-8")
    command = ["predict", "--config", "configs/shapes.yaml", f"data.root={root}", "--formats", "masks"]
    output = ["--output", f"{root}_results", "--video", str(video), "--sentences", str(asked)]
    return run([*command, *output, *overrides])


def run(command: Sequence[str], *, keeps_memory: bool = False) -> Run:
    """Runs `main.py` to its end.

    Args:
        command: its arguments.
        keeps_memory: freed memory is kept, as by default.

    Raises:
        RuntimeError: it has failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not keeps_memory:
        environment["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "main.py", *command, "device=cpu", "num_threads=1"],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(output.read().decode()[-2000:])
    return Run(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def write_large_model(folder: Path) -> Path:
    """Saves SOC-T with RoBERTa-base of random weights; returns its folder."""
    text_encoder = write_base_text_encoder(folder / "text_encoder")
    return write_model(folder / "model", "base.yaml", text_encoder, ["data.short_side=360", "data.long_side=640"])


def run_large(folder: Path) -> dict[str, Run]:
    """Predicts with SOC-T, as `LARGE` says, by the command as a user gives it."""
    # In another process: the system counts the peak of this one as that of each command that it starts.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        model = other.submit(write_large_model, folder).result()
    runs = {}
    for number, (name, (length, size, sentences, _)) in enumerate(LARGE.items()):
        images, video = folder / f"images{number}", folder / f"{number}.mp4"
        images.mkdir()
        write_frames(images, CLIP_FRAMES, size)
        write_video(video, images, length)
        asked = [word for sentence in islice(cycle(SENTENCES_ASKED), sentences) for word in ("--sentence", sentence)]
        command = ["predict", "--model", str(model), "--video", str(video), "--output", str(folder / f"found{number}")]
        runs[name] = run([*command, *asked], keeps_memory=True)
    return runs


def main_large(output: Path | None) -> int:
    """Measures the peaks of `LARGE`; 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as name:
        runs = run_large(Path(name))
    goals = {name: goal for name, (_, _, _, goal) in LARGE.items()}
    missed = [name for name, one in runs.items() if one.peak_mib >= goals[name]]
    rows = [f"| {name} | {one.seconds:.1f} | {one.peak_mib:.0f} | {goals[name]} |" for name, one in runs.items()]
    text = "\n".join(
        [
            f"# Peak memory of prediction with SOC-T, {date.today()}\n",
            f"Command: `python -m benchmarks.bench_long_video --large`. {platform.machine()}, 1 thread, PyTorch "
            f"{torch.__version__}, random weights, what the model sees is 360 x 640. Of the whole process: PyTorch, "
            "weights, decoding, masks and overlay.\n",
            "| video | processor, s | peak, MiB | goal, below |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            f"\nGoals: {'met' if not missed else 'missed for ' + '; '.join(missed)}.",
        ]
    )
    sys.stdout.write(f"{text}\n")
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"peak_cpu{os.cpu_count()}_{date.today()}.md").write_text(f"{text}\n", encoding="utf-8")
    return int(bool(missed))


def more(runs: Mapping[int, Run]) -> list[float]:
    """Processor seconds of a frame or sentence more, from each run to the next."""
    return [(runs[b].seconds - runs[a].seconds) / (b - a) for a, b in pairwise(runs)]


def table(title: str, unit: str, runs: Mapping[int, Run]) -> list[str]:
    """Markdown of runs with so many frames or sentences."""
    steps = ["", *(f"{1000 * seconds:.2f}" for seconds in more(runs))]
    rows = [
        f"| {number} | {one.seconds:.2f} | {step} | {one.peak_mib:.0f} |"
        for (number, one), step in zip(runs.items(), steps, strict=True)
    ]
    head = f"| {unit}s | processor, s | a {unit} more, ms | peak, MiB |"
    return [f"## {title}\n", head, "| ---: | ---: | ---: | ---: |", *rows, ""]


def main() -> int:
    """Measure, print tables, and write them with `--output`; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="frames")
    parser.add_argument("--sentences", type=int, nargs="+", default=SENTENCES)
    parser.add_argument("--size", default="360x640", help="height and width of the frames")
    parser.add_argument("--short", action="store_true", help="40, 160 and 640 frames of 96x160; 1, 4 and 16 sentences")
    parser.add_argument("--output", type=user_path, help="folder for the result file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings of the commands")
    parser.add_argument("--large", action="store_true", help="only the peak with SOC-T, also of a 4K video")
    options = parser.parse_intermixed_args()
    if options.large:
        return main_large(options.output)
    if options.short:
        options.lengths, options.sentences, options.size = (40, 160, 640), (1, 4, 16), "96x160"
    settings = {"size": options.size, "overrides": options.overrides}
    lines, missed = [], []
    for title, command in (("Evaluation of a folder", evaluate), ("Prediction of a video file", predict)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            by_length = {
                length: command(folder / "frames", length=length, sentences=1, **settings) for length in options.lengths
            }
            by_number = {
                number: command(folder / "sentences", length=FRAMES_OF_SENTENCES, sentences=number, **settings)
                for number in options.sentences
            }
        lines += table(f"{title}, one sentence", "frame", by_length)
        lines += table(f"{title}, {FRAMES_OF_SENTENCES} frames", "sentence", by_number)
        peaks = [one.peak_mib for one in by_length.values()]
        growth = peaks[-1] - peaks[min(1, len(peaks) - 1)]
        if growth >= MOST_GROWTH_MIB:
            missed.append(f"{title}: the peak grows by {growth:.0f} MiB")
        for unit, runs in (("frame", by_length), ("sentence", by_number)):
            first, last = more(runs)[0], more(runs)[-1]
            if last > MOST_GROWTH * first:
                missed.append(
                    f"{title}: a {unit} more costs {1000 * first:.2f} ms at first and {1000 * last:.2f} ms last"
                )
    given = ["--short"] if options.short else ["--size", options.size]
    text = "\n".join(
        [
            f"# Cost of a frame and of a sentence, {date.today()}\n",
            f"Command: `{' '.join(['python -m benchmarks.bench_long_video', *given, *options.overrides])}`. "
            f"{platform.machine()}, 1 thread, PyTorch {torch.__version__}, {options.size} pixels, the model of "
            "`configs/shapes.yaml` with random weights.\n",
            *lines,
            f"Goals: {'met' if not missed else '; '.join(missed)}.",
        ]
    )
    sys.stdout.write(f"{text}\n")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"growth_cpu{os.cpu_count()}_{date.today()}.md").write_text(f"{text}\n", encoding="utf-8")
    return int(bool(missed))


def _index(root: Path) -> Path:
    return root / "meta_expressions" / "valid" / "meta_expressions.json"


def _read_index(root: Path) -> dict[str, Any]:
    return json.loads(_index(root).read_text(encoding="utf-8"))["videos"]


if __name__ == "__main__":
    sys.exit(main())
