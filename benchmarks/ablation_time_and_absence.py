"""The trajectory and absent sentences, ablated: `python -m benchmarks.ablation_time_and_absence DATA OUT`.

DATA are Referring Shapes with absent sentences, as the quick start generates them. For each seed three models are
trained by the stages of configs/shapes.yaml:

    published    the published object cluster; absent sentences are left out of training
    trajectory   the same with `model.trajectory`
    absent       the same with `model.trajectory`, trained on absent sentences, too: the quick start

They differ in the last stage alone: the second and third start from the weights that the first has before it. For each
a threshold is chosen on held-out training clips (`tools.calibrate`), and both splits are evaluated.

A finished run is not repeated: start the command again to go on. OUT/ablation.md is the table, mean and standard
deviation (n - 1) over the seeds; OUT/ablation.json has the numbers of each seed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from evaluation.journal import read_videos
from evaluation.report import EntryScore, EvalReport, presence_scores
from metrics.rejection import best_point, operating_points
from structures.user_path import user_path

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "configs" / "shapes.yaml"
ARMS = {"published": (False, False), "trajectory": (True, False), "absent": (True, True)}
"""Whether the object cluster sees trajectories, and whether the model is trained on absent sentences."""

HELD_OUT_SHARE, MIN_T_ACC = 0.03, 0.9


def run(*command: str) -> None:
    """Runs a Python command of the repository.

    Raises:
        RuntimeError: it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")


def train(output: Path, stages: Sequence[Mapping[str, Any]], *settings: str) -> Path:
    """Trains stages in two processes, unless that is done; returns the folder of checkpoints."""
    if not (output / "trained").exists():
        recipe = output.with_suffix(".yaml")
        with recipe.open("w", encoding="utf-8") as file:
            YAML().dump({"base": str(RECIPE), "stages": list(stages)}, file)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "main.py", "train"]
        run(*launch, "--config", str(recipe), f"output_dir={output}", "overwrite=true", "device=cpu", *settings)
        (output / "trained").touch()
    return output / "checkpoints"


def evaluate(output: Path, *settings: str) -> list[EntryScore]:
    """Scores every sentence of a split without rejecting any."""
    common = ["eval.write_masks=false", "predict.min_score=0", "overwrite=true", "device=cpu"]
    run("main.py", "eval", "--config", str(RECIPE), f"output_dir={output}", *common, *settings)
    return [entry for video in read_videos(output, EntryScore).values() for entry in video]


def scores(entries: Sequence[EntryScore], *, threshold: float) -> dict[str, float]:
    """J&F of present sentences, overall and by kind, and what the threshold rejects."""
    report = EvalReport(0, 0, tuple(entries))
    measured = report.scores()
    numbers = {"J&F": measured["J&F"], **{kind: measured[f"J&F/{kind}"] for kind in report.groups}}
    found, refused = presence_scores(entries, absent=False), presence_scores(entries, absent=True)
    numbers["AUC"] = measured["AUC"]
    numbers["N-acc"], numbers["T-acc"] = float((refused < threshold).mean()), float((found >= threshold).mean())
    means = np.array([(entry.region.mean + entry.boundary.mean) / 2 for entry in report.present])
    numbers["J&F with rejection"] = float((means * (found >= threshold)).mean())
    return numbers


def read_stages(share: float) -> list[dict[str, Any]]:
    """The stages of the recipe with a share of their steps."""
    with RECIPE.open(encoding="utf-8") as file:
        stages: list[dict[str, Any]] = YAML(typ="safe").load(file)["stages"]
    return [{**stage, "max_steps": max(1, round(share * stage["max_steps"]))} for stage in stages]


def run_seed(data: Path, folder: Path, seed: int, share: float) -> dict[str, dict[str, float]]:
    """The numbers of the three arms."""
    stages = read_stages(share)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = folder.parent / "ref_youtube_vos_train_held_out.txt"
    if not held_out.exists():
        options = ["--cache", str(folder.parent), "--held-out", str(HELD_OUT_SHARE)]
        run("-m", "tools.prepare_data", "--config", str(RECIPE), *options, f"data.root={data}")
    common = [f"data.root={data}", f"data.sets.0.held_out={held_out}"]
    before_last = sum(stage["max_steps"] for stage in stages[:-1])
    numbers = {}
    for arm, (trajectory, absent) in ARMS.items():
        last = {**stages[-1], "data": {**stages[-1]["data"], "absent": "train" if absent else "leave_out"}}
        settings = [*common, f"model.trajectory={str(trajectory).lower()}", f"train.seed={seed}"]
        if arm == "published":
            checkpoints = train(folder / arm, [*stages[:-1], last], *settings)
        else:
            start = folder / "published" / "checkpoints" / f"step_{before_last:08d}.pt"
            checkpoints = train(folder / arm, [last], *settings, f"model.weights={start}")
        model = [*settings, f"model.weights={checkpoints / 'last.pt'}"]
        calibration = evaluate(folder / f"{arm}_held_out", *model, "data.sets.0.eval_split=held_out")
        points = operating_points(*(presence_scores(calibration, absent=absent) for absent in (False, True)))
        best = best_point(points, min_t_acc=MIN_T_ACC) or points[0]
        numbers[arm] = scores(evaluate(folder / f"{arm}_valid", *model), threshold=best.threshold)
    return numbers


def as_table(by_seed: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    columns = list(next(iter(by_seed.values()))["published"])
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for arm in ARMS:
        cells = []
        for column in columns:
            values = [100 * numbers[arm][column] for numbers in by_seed.values()]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=user_path, help="Referring Shapes with absent sentences")
    parser.add_argument("out", type=user_path, help="folder of runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of each stage (default: all)")
    options = parser.parse_args()
    by_seed = {}
    for seed in options.seeds:
        result = options.out / f"seed{seed}.json"
        if not result.exists():
            numbers = run_seed(options.data.resolve(), options.out.resolve() / f"seed{seed}", seed, options.share)
            result.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
        by_seed[str(seed)] = json.loads(result.read_text(encoding="utf-8"))
    steps = ", ".join(f"{stage['name']} {stage['max_steps']}" for stage in read_stages(options.share))
    heading = f"Seeds {', '.join(by_seed)}; steps: {steps}; PyTorch {torch.__version__}, {date.today()}."
    text = f"{heading}\n\n{as_table(by_seed)}"
    (options.out / "ablation.json").write_text(json.dumps(by_seed, indent=1), encoding="utf-8")
    (options.out / "ablation.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
