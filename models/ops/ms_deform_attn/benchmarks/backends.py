"""Every backend beside the pure PyTorch function: `python -m models.ops.ms_deform_attn.benchmarks.backends`.

All contestants take turns in one process, round after round, so that whoever else uses the machine slows all of them;
a ratio is the median of the ratios within a round. Exit code 1 where a goal is missed.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from models.ops.ms_deform_attn.backends import BACKENDS, Backend, use_backend
from models.ops.ms_deform_attn.problems import FULL_LEVELS, SMALL_LEVELS, Problem, Shapes, make_problem
from models.ops.ms_deform_attn.reference import ms_deform_attn_reference
from structures.user_path import user_path

PLAIN = "pure PyTorch"
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Case:
    """A size that occurs in SOC.

    Attributes:
        title: in the table.
        levels: (height, width) of each.
        batch: frames.
        heads: attention heads.
        channels: of a head.
        points: samples per head and level.
        queries: None: one per token.
        goals: smallest ratio to pure PyTorch, forward and forward + backward, by backend.
    """

    title: str
    levels: Shapes
    batch: int
    heads: int
    channels: int
    points: int
    queries: int | None
    goals: dict[str, tuple[float, float]]

    def problem(self, dtype: torch.dtype, device: str) -> Problem:
        """Its inputs."""
        sizes = {"heads": self.heads, "channels": self.channels, "points": self.points}
        return make_problem(self.levels, batch=self.batch, queries=self.queries, **sizes).to(dtype, device)


CASES = (
    Case("encoder, 360 x 640, 8 frames", FULL_LEVELS, 8, 8, 32, 4, None, {"cpu": (10.0, 6.0)}),
    Case("decoder, 360 x 640, 8 frames, 20 queries", FULL_LEVELS, 8, 8, 32, 4, 20, {}),
    Case("encoder, quick start, 36 frames", SMALL_LEVELS, 36, 4, 24, 2, None, {}),
    Case("decoder, quick start, 36 frames, 6 queries", SMALL_LEVELS, 36, 4, 24, 2, 6, {}),
)


def plain_forward(problem: Problem) -> Tensor:
    """The function without the operator around it."""
    return ms_deform_attn_reference(
        problem.value, problem.spatial_shapes, problem.sampling_locations, problem.attention_weights
    )


def plain_forward_backward(problem: Problem) -> tuple[Tensor, ...]:
    """The same with the gradients that PyTorch derives."""
    leaves = (problem.value, problem.sampling_locations, problem.attention_weights)
    return torch.autograd.grad(plain_forward(problem), leaves, problem.grad_output)


def seconds(run: Callable[[Problem], object], problem: Problem, repeats: int) -> float:
    """Mean time of a call."""
    _wait(problem)
    begin = time.perf_counter()
    for _ in range(repeats):
        run(problem)
    _wait(problem)
    return (time.perf_counter() - begin) / repeats


def _wait(problem: Problem) -> None:
    if problem.value.device.type != "cpu":
        torch.accelerator.synchronize()


def race(problem: Problem, backends: list[Backend], *, backward: bool, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round."""
    plain = plain_forward_backward if backward else plain_forward
    with torch.set_grad_enabled(backward):
        contestants: list[tuple[str, Callable[[Problem], object]]] = [(PLAIN, plain)]
        contestants += [(backend.name, _through(backend, backward)) for backend in backends]
        repeats = {}
        for name, run in contestants:  # also warms up
            run(problem)
            repeats[name] = max(1, min(100, int(0.05 / seconds(run, problem, 1))))
        times: dict[str, list[float]] = {name: [] for name, _ in contestants}
        for _ in range(rounds):
            for name, run in contestants:
                times[name].append(seconds(run, problem, repeats[name]))
    return times


def _through(backend: Backend, backward: bool) -> Callable[[Problem], object]:
    def run(problem: Problem) -> object:
        with use_backend(backend.name):
            return problem.forward_backward() if backward else problem.forward()

    return run


def usable(device: str, dtype: torch.dtype) -> list[Backend]:
    """Backends that can take part; prints why the others cannot."""
    chosen = []
    for backend in BACKENDS.values():
        if backend.device_types and device not in backend.device_types:
            continue
        reason = backend.why_unsuitable(device, dtype)
        if reason is None:
            chosen.append(backend)
        else:
            print(f"without {backend.name}: {reason}")
    return chosen


def measure(case: Case, dtype: torch.dtype, device: str, rounds: int) -> tuple[list[str], bool]:
    """Lines of the table, and whether the goals of the case are reached."""
    problem, backends = case.problem(dtype, device), usable(device, dtype)
    lines, reached = [], True
    races = [race(problem, backends, backward=backward, rounds=rounds) for backward in (False, True)]
    for name in races[0]:
        cells = [case.title, str(dtype)[6:], name]
        for index, times in enumerate(races):
            ratio = statistics.median(slow / fast for slow, fast in zip(times[PLAIN], times[name], strict=True))
            cells += [f"{1000 * statistics.median(times[name]):.2f}", f"{ratio:.1f}"]
            if name in case.goals and dtype == torch.float32 and ratio < case.goals[name][index]:
                reached = False
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines, reached


def hardware(device: str) -> str:
    """Part of the name of the result file."""
    if device == "cpu":
        return f"cpu{torch.get_num_threads()}"
    return torch.cuda.get_device_name().replace(" ", "_")


def main() -> int:
    """Time all cases, print and store a table; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose title holds this")
    parser.add_argument("--out", type=user_path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    lines = [
        "| case | dtype | backend | forward, ms | times as fast | forward + backward, ms | times as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    all_reached = True
    for case in CASES:
        for name in options.dtypes if options.only in case.title else ():
            added, reached = measure(case, DTYPES[name], options.device, options.rounds)
            lines += added
            all_reached = all_reached and reached
    goals = [
        f"{case.title}, float32: {backend} at least {forward:.0f} times forward, {both:.0f} times forward + backward"
        for case in CASES
        for backend, (forward, both) in case.goals.items()
        if options.device in BACKENDS[backend].device_types
    ]
    verdict = f"Goals ({'; '.join(goals) or 'none'}): {'reached' if all_reached else 'missed'}."
    print(verdict)
    name = f"ms_deform_attn_{hardware(options.device)}_{date.today().isoformat()}.md"
    versions = (
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {options.threads} threads, "
        f"{os.cpu_count()} cores, load average {load:.1f} when this began; medians of "
        f"{options.rounds} rounds in which all took turns. `pure PyTorch` is the function `ms_deform_attn_reference`; "
        "`reference` is the same as a backend of the operator, whose backward samples again instead of remembering."
    )
    text = "\n".join(["# Deformable attention", "", versions, "", *lines, "", verdict, ""])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / name).write_text(text, encoding="utf-8")
    return 0 if all_reached else 1


if __name__ == "__main__":
    sys.exit(main())
