"""Every backend on a GPU beside the roofline: `python -m models.ops.ms_deform_attn.benchmarks.roofline`.

The roofline is the time in which the bytes that must move (every input once, every output once) would be copied. The
comparators are the published algorithm (`baseline.cu` beside this file, float32 only) and the package `deformops` where
it can be imported. All take turns, round after round; a time is the median over the rounds. Exit code 1 where a
contestant is wrong or a goal is missed; that of milliseconds is for an H200. `--device cpu` only shows that this
program works.
"""

import argparse
import importlib.util
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from models.ops.ms_deform_attn import build
from models.ops.ms_deform_attn.backends import BACKENDS, Backend
from models.ops.ms_deform_attn.problems import BOUNDS, FULL_LEVELS, SMALL_LEVELS, Shapes, make_problem
from models.ops.ms_deform_attn.reference import ms_deform_attn_reference
from structures.user_path import user_path

BASELINE_SOURCE = Path(__file__).resolve().parent / "baseline.cu"
BASELINE, OURS, DETERMINISTIC, DEFORMOPS = "published algorithm", "cuda", "cuda, deterministic", "deformops"
ENCODER = "encoder, 8 frames"
DTYPES = (torch.float32, torch.bfloat16)
MIN_BATCH_S = 2e-3  # calls are timed in batches of about this length

# (case, dtype, forward): smallest ratio of the published algorithm's time (in float32) to ours.
GOALS = {
    (ENCODER, torch.float32, True): 3.0,
    (ENCODER, torch.bfloat16, True): 4.0,
    (ENCODER, torch.float32, False): 2.5,
}
GOAL_MS = 0.13  # forward in bfloat16, ENCODER, on an H200


@dataclass(frozen=True, slots=True)
class Case:
    """A size that occurs in SOC; 8 heads of 32 channels, 4 points unless said otherwise."""

    title: str
    levels: Shapes
    batch: int
    queries: int | None
    heads: int = 8
    channels: int = 32
    points: int = 4


CASES = (
    Case(ENCODER, FULL_LEVELS, 8, None),
    Case("encoder, 36 frames", FULL_LEVELS, 36, None),
    Case("decoder, 8 frames, 20 queries", FULL_LEVELS, 8, 20),
)
TINY_CASES = (Case("tiny", SMALL_LEVELS, 2, None, heads=2, channels=16, points=2),)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Inputs as the model passes them: locations and weights of half-precision values are float32."""

    value: Tensor
    levels: Shapes
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    @classmethod
    def of(cls, case: Case, dtype: torch.dtype, device: str) -> "Arguments":
        """Inputs of a case."""
        sizes = {"heads": case.heads, "channels": case.channels, "points": case.points}
        problem = make_problem(case.levels, batch=case.batch, queries=case.queries, **sizes)
        wide = torch.float32 if dtype.itemsize == 2 else dtype
        return cls(
            problem.value.detach().to(device, dtype),
            case.levels,
            problem.sampling_locations.detach().to(device, wide),
            problem.attention_weights.detach().to(device, wide),
            problem.grad_output.to(device, dtype),
        )

    @property
    def shapes(self) -> list[int]:
        """[height, width, height, ...]."""
        return [side for level in self.levels for side in level]

    def bytes_that_must_move(self, *, forward: bool) -> int:
        """Every input is read once, every output written once."""
        inputs = sum(tensor.nbytes for tensor in (self.value, self.locations, self.weights))
        # The gradients of the three inputs are as large as they are.
        return inputs + self.grad_output.nbytes if forward else 2 * inputs + self.grad_output.nbytes


@dataclass(frozen=True, slots=True)
class Contestant:
    """One implementation for given arguments; `backward` returns gradients of value, locations and weights."""

    name: str
    forward: Callable[[], Tensor]
    backward: Callable[[], Sequence[Tensor]]


def contestants(arguments: Arguments) -> list[Contestant]:
    """All that are available for this device and dtype; prints why the others are not."""
    device, dtype = arguments.value.device.type, arguments.value.dtype
    available = []
    for backend in BACKENDS.values():
        reason = backend.why_unsuitable(device, dtype)
        if reason is not None:
            print(f"without {backend.name}: {reason}")
            continue
        available.append(_of_backend(backend.name, backend, arguments, deterministic=False))
        if backend.name == OURS:
            available.append(_of_backend(DETERMINISTIC, backend, arguments, deterministic=True))
    if device == "cuda" and dtype == torch.float32:
        available.append(_baseline(arguments))
    if device == "cuda":
        if importlib.util.find_spec("deformops") is not None:
            available.append(_deformops(arguments))
        else:
            print("without deformops: not installed (it needs Python 3.12 or newer)")
    return available


def _of_backend(name: str, backend: Backend, a: Arguments, *, deterministic: bool) -> Contestant:
    return Contestant(
        name,
        lambda: backend.forward(a.value, a.shapes, a.locations, a.weights),
        lambda: backend.backward(a.grad_output, a.value, a.shapes, a.locations, a.weights, deterministic),
    )


def _baseline(a: Arguments) -> Contestant:
    operators = torch.ops.soc_ms_deform_attn_baseline
    return Contestant(
        BASELINE,
        lambda: operators.forward(a.value, a.shapes, a.locations, a.weights),
        lambda: operators.backward(a.grad_output, a.value, a.shapes, a.locations, a.weights),
    )


def _deformops(a: Arguments) -> Contestant:
    from deformops.registry import msda

    shapes = torch.tensor(a.levels, device=a.value.device)
    areas = shapes.prod(dim=1)
    starts = areas.cumsum(0) - areas
    weights = a.weights.to(a.value.dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in (a.value, a.locations, weights)]

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return msda(value, shapes, starts, locations, weights.flatten(-2)).flatten(2)

    output = call(*leaves)
    return Contestant(
        DEFORMOPS,
        lambda: call(a.value, a.locations, weights),
        lambda: torch.autograd.grad(output, leaves, a.grad_output, retain_graph=True),
    )


def load_baseline() -> None:
    """Compiles the comparator into the cache and loads it.

    Raises:
        BuildError: if there is no compiler, or it fails.
    """
    folder = build.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "soc_ms_deform_attn_baseline.so"
    command = [*build.find_compiler("cuda"), *build.cuda_flags(), str(BASELINE_SOURCE)]
    run = subprocess.run(
        [*command, "-o", str(library), *build.include_flags(), *build.link_flags("cuda")],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise build.BuildError(f"nvcc failed on {BASELINE_SOURCE}: {run.stderr[-2000:]}")
    torch.ops.load_library(str(library))


def errors(arguments: Arguments, competitors: Sequence[Contestant]) -> dict[str, float]:
    """Largest deviation from the reference in float64, relative to the largest number of each tensor."""
    leaves = [t.double().requires_grad_() for t in (arguments.value, arguments.locations, arguments.weights)]
    output = ms_deform_attn_reference(leaves[0], arguments.levels, leaves[1], leaves[2])
    expected = [output.detach(), *torch.autograd.grad(output, leaves, arguments.grad_output.double())]
    result = {}
    for contestant in competitors:
        actual = [contestant.forward(), *contestant.backward()]
        deviations = [
            ((ours.double() - right).abs().amax() / right.abs().amax()).item()
            for ours, right in zip(actual, expected, strict=True)
        ]
        result[contestant.name] = max(deviations)
    return result


def milliseconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Mean time of a call, by the GPU's own clock."""
    if device == "cpu":
        begin_s = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - begin_s) * 1000 / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def race(runs: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of each."""
    repeats = {}
    for name, run in runs.items():
        for _ in range(3):
            run()
        repeats[name] = max(1, min(200, int(MIN_BATCH_S * 1000 / milliseconds(run, device, 1))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(milliseconds(run, device, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def copy_bandwidth(device: str) -> float:
    """Bytes per second that a large copy reads and writes."""
    size = 2**30 if device == "cuda" else 2**26
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = race({"copy": lambda: target.copy_(source)}, device, 7)
    return 2 * size / (times["copy"] / 1000)


def measure(case: Case, device: str, rounds: int, bandwidth: float) -> tuple[list[str], list[str]]:
    """Lines of the table, and what is wrong or misses a goal."""
    lines, complaints = [], []
    base: dict[bool, float] = {}  # the published algorithm's times, forward and backward; it knows float32 only
    for dtype in DTYPES:
        arguments = Arguments.of(case, dtype, device)
        competitors = contestants(arguments)
        error = errors(arguments, competitors)
        complaints += [
            f"{name} is wrong: {case.title}, {dtype}, error {value:.1e}"
            for name, value in error.items()
            if name != DEFORMOPS and not value <= BOUNDS[dtype]  # also where it is not a number
        ]
        with torch.no_grad():
            forward = race({c.name: c.forward for c in competitors}, device, rounds)
        with torch.enable_grad():
            backward = race({c.name: c.backward for c in competitors}, device, rounds)
        for is_forward, times in ((True, forward), (False, backward)):
            if BASELINE in times:
                base[is_forward] = times[BASELINE]
            complaints += missed_goals(case.title, dtype, is_forward, times, base.get(is_forward))
        floors = [1000 * arguments.bytes_that_must_move(forward=f) / bandwidth for f in (True, False)]
        lines.append(f"| {case.title} | {str(dtype)[6:]} | roofline | {floors[0]:.4f} | | {floors[1]:.4f} | | |")
        for name in forward:
            cells = [case.title, str(dtype)[6:], name]
            for is_forward, times in ((True, forward), (False, backward)):
                cells += [f"{times[name]:.4f}", f"{base[is_forward] / times[name]:.2f}" if base else ""]
            lines.append(f"| {' | '.join(cells)} | {error[name]:.1e} |")
    return lines, complaints


def missed_goals(
    title: str, dtype: torch.dtype, is_forward: bool, times: dict[str, float], base: float | None
) -> list[str]:
    """What the CUDA backend should reach and does not."""
    if OURS not in times:
        return []
    direction = f"{'forward' if is_forward else 'backward'}, {title}, {str(dtype)[6:]}"
    missed = []
    goal = GOALS.get((title, dtype, is_forward))
    if goal is not None and base is not None and base / times[OURS] < goal:
        missed.append(f"{direction}: {base / times[OURS]:.2f} times the published algorithm, goal {goal}")
    is_timed = (title, dtype, is_forward) == (ENCODER, torch.bfloat16, True) and "H200" in torch.cuda.get_device_name()
    if is_timed and times[OURS] > GOAL_MS:
        missed.append(f"{direction}: {times[OURS]:.3f} ms, goal {GOAL_MS}")
    if DEFORMOPS in times and times[OURS] > times[DEFORMOPS]:
        missed.append(f"{direction}: slower than deformops ({times[OURS]:.3f} > {times[DEFORMOPS]:.3f} ms)")
    return missed


def machine(device: str) -> str:
    """What the numbers belong to."""
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads, {versions}"
    query = [
        "nvidia-smi",
        "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit",
        "--format=csv,noheader",
    ]
    try:
        state = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        state = f"unknown ({error})"
    return (
        f"{torch.cuda.get_device_name()}; driver, clocks, power limit: {state}; CUDA {torch.version.cuda}, {versions}"
    )


def main() -> int:
    """Check and time everything, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=user_path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.device == "cuda":
        if not torch.cuda.is_available():
            print("PyTorch sees no CUDA device: nothing was measured")
            return 2
        load_baseline()
    bandwidth = copy_bandwidth(options.device)
    lines = [
        "| case | dtype | | forward, ms | times as fast as published | backward, ms | times as fast | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    complaints = []
    for case in CASES if options.device == "cuda" else TINY_CASES:
        added, wrong = measure(case, options.device, options.rounds, bandwidth)
        print("\n".join(added), flush=True)
        lines += added
        complaints += wrong
    all_right = (
        "All are right, and all goals are reached." if options.device == "cuda" else "All are right. No GPU, no goals."
    )
    verdict = [f"- {complaint}" for complaint in complaints] or [all_right]
    text = [
        "# Deformable attention on a GPU",
        "",
        f"{machine(options.device)}. Copy: {bandwidth / 1e12:.3f} TB/s read and written.",
        "",
        f"Medians of {options.rounds} rounds in which all took turns; times of the kernels with their memory "
        "allocation, no autograd around them (but for deformops, whose backward goes through it). The published "
        f"algorithm is that of `{BASELINE_SOURCE.name}` beside this program, float32; ratios in bfloat16 are to its "
        "float32. Weights are float32, as the model passes them (for deformops of the dtype of the values, as it wants "
        "them). Errors are relative to the largest number, against the reference in float64.",
        "",
        *lines,
        "",
        *verdict,
        "",
    ]
    name = "cpu" if options.device == "cpu" else re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name().lower())
    path = options.out / f"ms_deform_attn_{name}_{date.today().isoformat()}.md"
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text), encoding="utf-8")
    print("\n".join([*verdict, f"written to {path}"]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
