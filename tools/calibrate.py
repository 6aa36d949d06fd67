"""Chooses the score below which sentences are rejected: `python -m tools.calibrate EVALUATION --weights CHECKPOINT`.

EVALUATION is the output folder of a finished `python main.py eval`, with any `predict.min_score`, of a validation split
in which some sentences mean nothing. The threshold is the one with the largest mean of N-acc and T-acc among those
whose T-acc is at least `--min-t-acc`, in the middle between two neighbouring scores. It is stored in the checkpoint;
`eval` and `predict` take it from there. See docs/evaluation.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.checkpoint import store_min_score
from engine.last_net import Command, run_command
from engine.provenance import file_digest
from evaluation.journal import read_videos
from evaluation.output_folder import folder_of_set
from evaluation.report import EntryScore, presence_scores
from evaluation.results import RESULTS_JSON
from metrics.rejection import OperatingPoint, auc, best_point, operating_points
from models.build import read_weights
from structures.state_dicts import state_digest
from structures.user_path import user_path

T_ACC_LEVELS = (0.99, 0.95, 0.9, 0.8)
"""The table shows the best threshold for each of these, too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.calibrate", arguments=arguments, prefix="calibrate")


def _run(command: Command) -> int:
    options = _parser().parse_args(command.arguments)
    command.output_folder = options.evaluation
    if not 0 <= options.min_t_acc <= 1:
        raise ValueError(f"--min-t-acc {options.min_t_acc}: expected a share between 0 and 1")
    calibrate(options.evaluation, options.weights, options.output, name=options.set, min_t_acc=options.min_t_acc)
    return 0


def calibrate(evaluation: Path, weights: Path, output: Path | None, *, name: str | None, min_t_acc: float) -> None:
    """Prints what thresholds give, and stores the best one.

    Args:
        evaluation: folder of the evaluation.
        weights: checkpoint that was evaluated.
        output: takes the checkpoint with the threshold; None: `weights` itself.
        name: of the data set and its split; None: the only one.
        min_t_acc: the lowest T-acc that is accepted.

    Raises:
        ValueError: the evaluation is not finished, has no absent sentences or is one of other weights, or no threshold
            reaches the T-acc.
    """
    results = _read_results(evaluation)
    name, folder = _choose_set(evaluation, results, name)
    entries = [entry for video in read_videos(folder, EntryScore).values() for entry in video]
    present, absent = (presence_scores(entries, absent=is_absent) for is_absent in (False, True))
    if not len(absent) or not len(present):
        missing = "sentence without a target" if len(present) else "sentence with a target"
        raise ValueError(f"{folder}: no {missing} was scored on {name}; a threshold needs some of both")
    _require_same_weights(weights, results["checkpoint"], evaluation)
    points = operating_points(present, absent)
    best = best_point(points, min_t_acc=min_t_acc)
    if best is None:
        raise ValueError(
            f"{folder}: T-acc is {points[0].t_acc:.4f} if no sentence is rejected, less than --min-t-acc {min_t_acc}; "
            "the others have empty masks"
        )
    area = auc(present, absent)
    sys.stdout.write(f"{name}: {len(present)} sentences with a target, {len(absent)} without; AUC {100 * area:.1f}\n\n")
    sys.stdout.write(_table(points, best, min_t_acc))
    data = results["config"]["data"]
    stored = {
        "value": best.threshold,
        "n_acc": best.n_acc,
        "t_acc": best.t_acc,
        "min_t_acc": min_t_acc,
        "auc": area,
        "set": name,
        "present": len(present),
        "absent": len(absent),
        "weights_sha256": results["checkpoint"]["weights_sha256"],
        **{f"data.{key}": data[key] for key in ("eval_num_frames", "eval_identity", "eval_overlap")},
    }
    target = output or weights
    store_min_score(weights, target, stored)
    sys.stdout.write(f"\nmin_score {best.threshold:.6f} is stored in {target}\n")


def _read_results(evaluation: Path) -> dict[str, Any]:
    """The content of `results.json`.

    Raises:
        ValueError: it is missing, damaged or of another version.
    """
    path = evaluation / RESULTS_JSON
    if not path.is_file():
        raise ValueError(f"{path}: no such file; EVALUATION is the output folder of a finished `python main.py eval`")
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        results["sets"], results["config"]["data"], results["checkpoint"]["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the results of this version ({error!r}); evaluate again") from None
    return results


def _choose_set(evaluation: Path, results: dict[str, Any], name: str | None) -> tuple[str, Path]:
    """The data set, and the folder with its scores.

    Raises:
        ValueError: there are several and none is named, or none of that name.
    """
    names = list(results["sets"])
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen is None or chosen not in names:
        raise ValueError(f"--set {name or 'is missing'}: {evaluation} evaluates {', '.join(names)}; name one of them")
    return chosen, folder_of_set(evaluation, chosen) if len(names) > 1 else evaluation


def _require_same_weights(weights: Path, evaluated: dict[str, Any], evaluation: Path) -> None:
    """Raises ValueError unless the checkpoint is the file that was evaluated, or holds the same weights."""
    if not weights.is_file():
        raise ValueError(f"checkpoint {weights}: no such file")
    if evaluated.get("sha256") == file_digest(weights):
        return
    # What was stored in the file before changes the file, but not the weights.
    if evaluated["weights_sha256"] != state_digest(read_weights(weights)):
        raise ValueError(
            f"{weights} does not hold the weights that {evaluation} has evaluated ({evaluated.get('path')}); a "
            "threshold is that of its weights: evaluate these, or name the checkpoint that was evaluated"
        )


def _table(points: list[OperatingPoint], best: OperatingPoint, min_t_acc: float) -> str:
    """What no rejection, some levels of T-acc and the chosen threshold give, in percent."""
    levels = {f"T-acc at least {100 * level:g}": best_point(points, min_t_acc=level) for level in T_ACC_LEVELS}
    rows = {"nothing rejected": points[0], **levels, f"chosen (T-acc at least {100 * min_t_acc:g})": best}
    width = max(map(len, rows))
    lines = [f"{'':{width}}  threshold   N-acc   T-acc    mean"]
    for label, point in rows.items():
        if point is None:
            lines.append(f"{label:{width}}  not reached")
            continue
        numbers = "".join(f"{100 * share:8.1f}" for share in (point.n_acc, point.t_acc, point.mean))
        lines.append(f"{label:{width}}  {point.threshold:9.4f}{numbers}")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.calibrate", description=__doc__)
    parser.add_argument(
        "evaluation", type=user_path, metavar="EVALUATION", help="output folder of `python main.py eval`"
    )
    parser.add_argument(
        "--weights", type=user_path, required=True, metavar="CHECKPOINT", help="what was evaluated there"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="FILE", help="write a new checkpoint (default: into CHECKPOINT)"
    )
    parser.add_argument("--set", metavar="NAME", help="data set and split, where EVALUATION has several")
    parser.add_argument(
        "--min-t-acc", type=float, default=0.95, metavar="SHARE", help="the lowest T-acc (default: 0.95)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
