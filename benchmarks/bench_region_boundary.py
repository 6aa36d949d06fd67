"""Frames per second of J and F against a plain loop: `python -m benchmarks.bench_region_boundary`.

The plain loop does for every object (and, unsupervised, for every pair of objects) what the definition says: boundary
maps of the whole image, each dilated by a disk with OpenCV. Masks are generated (ellipses that move through frames of
854 x 480) and, with `--davis DIR --pred DIR`, also read. Reading is not timed. Both must agree. By the unsupervised
protocol, which Ref-DAVIS17 is scored by, the published evaluation compares 20 proposals with every object, most of them
empty; so does the plain loop. By either protocol ours must be at least 20 times as fast.

The semi-supervised protocol is computed by compiled code where there is a C++ compiler; `SOC_COMPILED_METRICS=0` has
NumPy do it, which is known to miss the goal with large objects.

Both run in turns, in one thread, and the median of the ratios of their processor times counts. `--frames 12 --rounds 2`
takes half a minute.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.optimize import linear_sum_assignment

from engine.allocator import keep_freed_memory
from metrics.pair_library import count_mask_pairs
from metrics.region_boundary import (
    MAX_PROPOSALS,
    TASKS,
    VOID_INDEX,
    SequenceMasks,
    boundary_radius,
    score_semi_supervised,
    score_unsupervised,
)
from structures.user_path import user_path
from tools.score_davis import load_sequences, read_sequence_names

GOAL = 20.0
NUM_FRAMES = 40
Scores = tuple[Float64[np.ndarray, "object time"], Float64[np.ndarray, "object time"]]


def plain_outline(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels that differ from their right, lower or lower right neighbour, by shifted copies of the image."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    outline = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    outline[-1] = mask[-1] ^ right[-1]
    outline[:, -1] = mask[:, -1] ^ below[:, -1]
    outline[-1, -1] = False
    return outline


def plain_region_boundary(
    annotation: Bool[np.ndarray, "height width"], prediction: Bool[np.ndarray, "height width"]
) -> tuple[float, float]:
    """J and F of one object in one frame, as the definition reads."""
    union = np.sum(annotation | prediction)
    region = np.sum(annotation & prediction) / union if union else 1.0
    radius = boundary_radius(*annotation.shape)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    true, predicted = plain_outline(annotation), plain_outline(prediction)
    near_true = cv2.dilate(true.astype(np.uint8), disk).astype(bool)
    near_predicted = cv2.dilate(predicted.astype(np.uint8), disk).astype(bool)
    true_length, predicted_length = np.sum(true), np.sum(predicted)
    if not true_length or not predicted_length:
        return float(region), float(true_length == predicted_length)
    precision = np.sum(predicted & near_true) / predicted_length
    recall = np.sum(true & near_predicted) / true_length
    total = precision + recall
    return float(region), float(2 * precision * recall / total) if total else 0.0


def plain_semi_supervised(sequence: SequenceMasks) -> Scores:
    """The semi-supervised protocol, object by object and frame by frame."""
    annotation, prediction = sequence.annotation[1:-1], sequence.prediction[1:-1]
    num_objects = _num_objects(sequence)
    scores = np.empty((2, num_objects, len(annotation)))
    for number in range(num_objects):
        for frame, (true, predicted) in enumerate(zip(annotation, prediction, strict=True)):
            scores[:, number, frame] = plain_region_boundary(true == number + 1, predicted == number + 1)
    return scores[0], scores[1]


def plain_unsupervised(sequence: SequenceMasks) -> Scores:
    """The unsupervised protocol, pair of objects by pair of objects and frame by frame.

    As the published evaluation does it, for as many proposals as are allowed, whether they have pixels or not.
    """
    num_objects = _num_objects(sequence)
    num_predicted = max(int(sequence.prediction.max()), num_objects)
    scores = np.empty((2, MAX_PROPOSALS, num_objects, len(sequence.annotation)))
    for proposal in range(MAX_PROPOSALS):
        for number in range(num_objects):
            for frame, (true, predicted) in enumerate(zip(sequence.annotation, sequence.prediction, strict=True)):
                counts = true != VOID_INDEX
                scores[:, proposal, number, frame] = plain_region_boundary(
                    true == number + 1, (predicted == proposal + 1) & counts
                )
    scores = scores[:, :num_predicted]
    proposals, objects = linear_sum_assignment(-scores.mean(axis=3).mean(axis=0))
    return scores[0][proposals, objects], scores[1][proposals, objects]


def generated_sequence(num_objects: int, num_frames: int = NUM_FRAMES) -> SequenceMasks:
    """Ellipses that move through 854 x 480 frames with a void band round them; predictions a few pixels off."""
    return SequenceMasks(
        f"generated-{num_objects}",
        np.stack([_ellipses(num_objects, frame, offset=0, void=True) for frame in range(num_frames)]),
        np.stack([_ellipses(num_objects, frame, offset=7, void=False) for frame in range(num_frames)]),
    )


def _ellipses(num_objects: int, frame: int, *, offset: int, void: bool) -> UInt8[np.ndarray, "height width"]:
    canvas = np.zeros((480, 854), dtype=np.uint8)
    for number in range(num_objects):
        centre = (150 + 550 * number // num_objects + 2 * frame + offset, 150 + 60 * (number % 3) + frame + offset)
        axes = (60 + 8 * (number % 4), 45 + 12 * (number % 5) + offset)
        if void:
            cv2.ellipse(canvas, centre, (axes[0] + 2, axes[1] + 2), 20, 0, 360, VOID_INDEX, -1)
        cv2.ellipse(canvas, centre, axes, 20, 0, 360, number + 1, -1)
    return canvas


def _num_objects(sequence: SequenceMasks) -> int:
    return int(sequence.annotation[0][sequence.annotation[0] != VOID_INDEX].max())


def _seconds(score: Callable[[SequenceMasks], Scores], sequences: list[SequenceMasks]) -> float:
    """Processor time, because others use the machine too."""
    start = time.process_time()
    for sequence in sequences:
        score(sequence)
    return time.process_time() - start


def main() -> int:
    """Time both, print and store a table; exit code 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--davis", type=user_path, help="folder like DAVIS; default: generated masks")
    parser.add_argument("--pred", type=user_path, help="folder with a folder of predicted masks per sequence")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both; ours runs three times in each")
    parser.add_argument("--frames", type=int, default=NUM_FRAMES, help="of each generated sequence")
    parser.add_argument("--hardware", default=f"{platform.machine()}-cpu", help="part of the name of the result file")
    parser.add_argument("--out", type=user_path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    cv2.setNumThreads(1)  # ours runs in one thread
    keep_freed_memory()  # as every command does

    sets = {f"generated, {count} object(s)": [generated_sequence(count, options.frames)] for count in (1, 3, 8)}
    if options.davis:
        names = read_sequence_names(options.davis, "val", "2017")
        sets["DAVIS folder"] = list(load_sequences(options.davis, options.pred, names, "unsupervised"))

    lines = [
        "| masks | protocol | frames | plain loop, frames/s | ours, frames/s | ratio | in all rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    worst = dict.fromkeys(TASKS, float("inf"))
    for title, sequences in sets.items():
        num_frames = sum(len(sequence.annotation) for sequence in sequences)
        for task in TASKS:
            ours, plain = score_unsupervised, plain_unsupervised
            if task == "semi-supervised":
                ours, plain = score_semi_supervised, plain_semi_supervised
            for sequence in sequences:
                np.testing.assert_allclose(ours(sequence), plain(sequence), rtol=0, atol=1e-12)
            rounds = [
                (_seconds(plain, sequences), median(_seconds(ours, sequences) for _ in range(3)))
                for _ in range(options.rounds)
            ]
            slow, fast = (median(times) for times in zip(*rounds, strict=True))
            ratios = [plain_time / our_time for plain_time, our_time in rounds]
            worst[task] = min(worst[task], median(ratios))
            figures = f"{num_frames} | {num_frames / slow:.0f} | {num_frames / fast:.0f} | {median(ratios):.1f}"
            lines.append(f"| {title} | {task} | {figures} | {min(ratios):.1f} to {max(ratios):.1f} |")
            print(lines[-1], flush=True)
    missed = [task for task in TASKS if worst[task] < GOAL]
    summary = f"Smallest ratios (goal {GOAL:g}): " + ", ".join(
        f"{task} {worst[task]:.1f}, {'missed' if task in missed else 'reached'}" for task in TASKS
    )
    print(summary)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"region_boundary_{options.hardware}_{date.today().isoformat()}.md"
    way = "by NumPy alone" if count_mask_pairs() is None else "semi-supervised by compiled code"
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, OpenCV {cv2.__version__}, one thread"
    unfinished = path.with_suffix(".unfinished")
    command = f"python -m benchmarks.bench_region_boundary --frames {options.frames} --rounds {options.rounds}"
    command += " --davis DIR --pred DIR" if options.davis else ""
    page = ["# J and F", "", f"`{command}`", "", f"{versions}; {way}", "", *lines, "", summary, ""]
    unfinished.write_text("\n".join(page), encoding="utf-8")
    unfinished.replace(path)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
