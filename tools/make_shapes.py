"""Generate Referring Shapes: `python -m tools.make_shapes OUT`; see docs/data.md."""

import argparse
import re
import sys
import time
from pathlib import Path

from datasets.shapes.writer import GUESSES, make_shapes

__all__ = ["main", "make_shapes"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_shapes", description="Generate Referring Shapes.")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1500, help="clips of the train split (default 1500)")
    parser.add_argument("--valid", type=int, default=120, help="clips of the valid split (default 120)")
    parser.add_argument("--frames", type=int, default=12, help="frames of each clip (default 12)")
    parser.add_argument("--size", default="64x96", help="HEIGHTxWIDTH of the frames in pixels (default 64x96)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds Referring Shapes")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        statistics = make_shapes(
            options.out,
            seed=options.seed,
            num_train=options.train,
            num_valid=options.valid,
            num_frames=options.frames,
            size=_parse_size(options.size),
            num_workers=options.workers,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"make_shapes: {error}\n")
        return 2
    sys.stdout.write(format_statistics(statistics))
    sys.stdout.write(f"{options.out}: written in {time.monotonic() - begin:.0f} s\n")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ValueError(f"--size {text!r} must be HEIGHTxWIDTH, such as 64x96")
    return int(match[1]), int(match[2])


def format_statistics(statistics: dict) -> str:
    """A table of sentences per kind and of the J that guessing reaches on the valid split."""
    counts, chance = statistics["sentences"], statistics["valid_j_of_guessing"]
    lines = ["sentences per kind, and region J on the valid split of always picking", ""]
    lines.append(f"{'kind':12}{'train':>8}{'valid':>8}" + "".join(f"{name:>20}" for name in GUESSES))
    for kind in (*counts["train"], "all"):
        train, valid = (sum(c.values()) if kind == "all" else c[kind] for c in (counts["train"], counts["valid"]))
        levels = "".join(f"{chance[kind][name]:20.3f}" if kind in chance else f"{'-':>20}" for name in GUESSES)
        lines.append(f"{kind:12}{train:8}{valid:8}{levels}")
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    sys.exit(main())
