"""Generate Referring Shapes: `python -m tools.make_shapes OUT [--format a2d]`; see docs/data.md."""

import argparse
import re
import sys
import time
from collections.abc import Sequence

from engine.last_net import Command, run_command
from structures.user_path import user_path
from tools.shapes.writer import DEFAULT_LAYOUT, GUESSES, LAYOUTS, make_shapes

__all__ = ["main", "make_shapes"]

_FORMATS = """\
formats:
  ref_youtube_vos  JPEG frames, palette PNG masks, meta.json, meta_expressions.json; what the recipes train on
  a2d              A2D-Sentences: mp4 clips, sentences in a csv, h5 masks of the first, middle and last frame
  jhmdb            JHMDB-Sentences: PNG frames, puppet_mask.mat, three frames of each clip chosen; --valid clips only
  davis            Ref-DAVIS17: DAVIS folders, void pixels in every second clip, the four text files of the annotators
                   and the prepared meta_expressions.json
  refcoco          RefCOCO, RefCOCO+, RefCOCOg: one image per clip; refs(...).p with instances.json, and the
                   instances_*.json with one entry per sentence; polygons
  mevis            MeViS: sentences that mean several objects, mask_dict.json; train, valid_u, and valid without masks
  mevis_v2         its second release: also sentences that mean nothing in their video, meta_expressions_v2.json

All but ref_youtube_vos come with a folder `truth` that no loader reads: SPLIT.json (number of the clip, frames and
sentences of each video, which objects each one means, which frames are annotated) and SPLIT/VIDEO.npz (object_ids,
boxes_xyxy_px, is_visible).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.make_shapes", arguments=arguments, prefix="make_shapes")


def _run(command: Command) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_shapes",
        description="Generate Referring Shapes in the layout of a real data set.",
        epilog=_FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=user_path, help="folder to create; it is what data.root should name")
    parser.add_argument("--format", choices=list(LAYOUTS), default=DEFAULT_LAYOUT, help="see below")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1500, help="clips of the train split (default 1500)")
    parser.add_argument("--valid", type=int, default=120, help="clips of the valid split (default 120)")
    parser.add_argument("--frames", type=int, default=12, help="frames of each clip (default 12)")
    parser.add_argument(
        "--size", help="HEIGHTxWIDTH of the frames in pixels (default 64x96; a2d: 320x480, multiples of 16)"
    )
    parser.add_argument(
        "--absent",
        type=float,
        metavar="SHARE",
        help="share of the sentences that mean nothing in their clip, from 0 to below 1; only ref_youtube_vos (default "
        "0) and mevis_v2 (default 0.2)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds Referring Shapes")
    options = parser.parse_args(command.arguments)
    begin = time.monotonic()
    statistics = make_shapes(
        options.out,
        layout=options.format,
        seed=options.seed,
        num_train=options.train,
        num_valid=options.valid,
        num_frames=options.frames,
        size=None if options.size is None else _parse_size(options.size),
        absent_share=options.absent,
        num_workers=options.workers,
        overwrite=options.overwrite,
    )
    sys.stdout.write(format_statistics(statistics))
    sys.stdout.write(f"{options.out}: written in {time.monotonic() - begin:.0f} s\n")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ValueError(f"--size {text!r} must be HEIGHTxWIDTH, such as 64x96")
    return int(match[1]), int(match[2])


def format_statistics(statistics: dict) -> str:
    """A table: sentences per kind, and J of guessing on the valid split."""
    counts = statistics["sentences"]
    baselines = next(scores for key, scores in statistics.items() if key.endswith("_j_of_guessing"))
    absent = statistics.get("absent_sentences", {})
    columns = [(split, counts[split]) for split in counts] + [(f"{split} absent", absent[split]) for split in absent]
    note = "; absent: they mean nothing in their clip, and nobody guesses them" if absent else ""
    lines = [f"sentences per kind, and region J on the valid split of always picking{note}", ""]
    lines.append(f"{'kind':12}" + "".join(f"{name:>14}" for name, _ in columns) + "".join(f"{n:>20}" for n in GUESSES))
    for kind in (*counts["valid"], "all"):
        numbers = [sum(count.values()) if kind == "all" else count[kind] for _, count in columns]
        scores = "".join(f"{baselines[kind][name]:20.3f}" if kind in baselines else f"{'-':>20}" for name in GUESSES)
        lines.append(f"{kind:12}" + "".join(f"{number:14}" for number in numbers) + scores)
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    sys.exit(main())
