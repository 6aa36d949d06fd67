"""Which backends of deformable attention are available, correct, and how fast: `python -m models.ops.ms_deform_attn`.

Exit code 1 where a backend computes something else than the reference.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable

import torch

from models.ops.ms_deform_attn.backends import AUTO, BACKENDS, HALF, REAL, choose, requested, use_backend
from models.ops.ms_deform_attn.problems import BOUNDS, SMALL_LEVELS, error_against_reference, make_problem


def milliseconds(run: Callable[[], object], device: str, budget_s: float = 0.3) -> float:
    """Best time of a call, tried for a while."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        if device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - begin

    once()
    end, best = time.perf_counter() + budget_s, float("inf")
    while time.perf_counter() < end:
        best = min(best, once())
    return 1000 * best


def report(device: str) -> bool:
    """Prints a line per backend and dtype; whether all were right."""
    sizes = f"{SMALL_LEVELS[0]} to {SMALL_LEVELS[-1]} pixels, 32 frames, 4 heads x 24, 2 points, a query per pixel"
    _print(f"\n{device}: {sizes}")
    small = make_problem([(5, 7), (3, 4), (1, 1)], batch=2, heads=3, channels=24, points=2)
    timed = make_problem(SMALL_LEVELS, batch=32, heads=4, channels=24, points=2).to(torch.float32, device)
    all_right = True
    for backend in BACKENDS.values():
        if backend.device_types and device not in backend.device_types:
            continue
        reason = backend.why_unavailable()
        if reason is not None:
            _print(f"  {backend.name:10} not available: {reason}")
            continue
        for dtype in (*REAL, *HALF):
            if dtype in backend.dtypes:
                error = error_against_reference(backend.name, small, device, dtype)
                is_right = error <= BOUNDS[dtype]
                all_right = all_right and is_right
                verdict = "right" if is_right else "WRONG"
                _print(f"  {backend.name:10} {str(dtype)[6:]:9} {verdict}, relative error {error:.1e}")
        with use_backend(backend.name):
            with torch.no_grad():
                forward = milliseconds(timed.forward, device)
            both = milliseconds(timed.forward_backward, device)
        _print(f"  {backend.name:10} float32   forward {forward:.2f} ms, with backward {both:.2f} ms")
    _print(f"  `{AUTO}` takes: {choose(device, torch.float32).name}")
    return all_right


def main() -> int:
    """Report on every device that is there."""
    argparse.ArgumentParser(prog="python -m models.ops.ms_deform_attn", description=__doc__).parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("models.ops.ms_deform_attn.build").setLevel(logging.INFO)
    if requested() != AUTO:
        _print(f"SOC_MS_DEFORM_ATTN={requested()} is set and would hide the others; run without it")
        return 2
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if len(devices) == 1:
        _print("cuda: PyTorch sees no CUDA device")
    results = [report(device) for device in devices]
    return 0 if all(results) else 1


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
