import os
import subprocess
import sys

import pytest
import torch

from engine.logging import METRICS_FILE
from tests.double_precision import use_double_precision
from tests.tiny_run import read_metrics, tiny_config, write_absent_root, write_tiny_root
from train import fit

# Sums are in another order, and AdamW divides by the root of tiny second moments.
FIRST_STEP_TOLERANCE = 1e-5
LATER_TOLERANCE = 5e-3


def run_two_processes(config, tmp_path, repository, *options):
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.distributed.worker", str(path), *options],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def without_chance(root, output_dir, **sections):
    """A tiny run without anything random in the model."""
    plain = tiny_config(root, output_dir).model
    model = {"dropout": 0.0, "visual_encoder": {**plain.visual_encoder.model_dump(), "drop_path_rate": 0.0}}
    return tiny_config(root, output_dir, model=model, train={"log_every": 1}, **sections)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_losses_and_scores_of_one(tmp_path, repository):
    root = write_tiny_root(tmp_path / "data")
    settings = {
        "optim": {"lr": 1e-5, "lr_visual_encoder": 1e-5, "lr_text_encoder": 1e-5},
        "stages": ({"epochs": 1, "max_steps": 4},),
    }
    fit(without_chance(root, tmp_path / "one", data={"batch_size": 2}, **settings))
    run_two_processes(without_chance(root, tmp_path / "two", data={"batch_size": 1}, **settings), tmp_path, repository)

    one, two = (read_metrics(tmp_path / name / METRICS_FILE) for name in ("one", "two"))
    assert [line["event"] for line in one] == [line["event"] for line in two] == ["train"] * 4 + ["validation"]
    assert two[0]["total"] == pytest.approx(one[0]["total"], rel=FIRST_STEP_TOLERANCE)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=LATER_TOLERANCE)
    for mine, other in zip(one[1:-1], two[1:-1], strict=True):
        assert other["total"] == pytest.approx(mine["total"], rel=LATER_TOLERANCE)
    assert two[-1]["J&F"] == pytest.approx(one[-1]["J&F"], abs=0.05)
    checkpoint = torch.load(tmp_path / "two" / "checkpoints" / "last.pt", weights_only=True)
    first, second = (state["torch"] for state in checkpoint["random_states"])
    assert not torch.equal(first, second), "each process draws its own dropout"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_with_accumulated_batches_train_the_weights_of_one_large_batch(tmp_path, repository, monkeypatch):
    root = write_tiny_root(tmp_path / "data")
    use_double_precision(monkeypatch)
    rates = {"lr": 1e-3, "lr_visual_encoder": 1e-3, "lr_text_encoder": 1e-3}
    stages = ({"epochs": 1, "max_steps": 2},)  # the third step of two processes sees one of the 17 clips twice
    fit(without_chance(root, tmp_path / "one", data={"batch_size": 6}, stages=stages))
    two = without_chance(
        root, tmp_path / "two", data={"batch_size": 1}, stages=stages, optim={**rates, "accumulate": 3}
    )
    run_two_processes(two, tmp_path, repository, "--double")
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"] for name in ("one", "two")
    )
    torch.testing.assert_close(second, first, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_the_weights_of_one_although_sentences_are_absent(tmp_path, repository, monkeypatch):
    """Clips have 2 or 3 sentences, and about video "two" all are absent: the shares of the processes differ."""
    root = write_absent_root(tmp_path / "data")
    use_double_precision(monkeypatch)
    rates = {"lr": 1e-3, "lr_visual_encoder": 1e-3, "lr_text_encoder": 1e-3}
    data = {"dataset": "mevis", "eval_split": "train", "sentences_per_clip": 3}
    stages = ({"epochs": 3},)
    fit(without_chance(root, tmp_path / "one", data=data | {"batch_size": 2}, stages=stages))
    two = without_chance(root, tmp_path / "two", data=data | {"batch_size": 1}, stages=stages, optim=rates)
    run_two_processes(two, tmp_path, repository, "--double")
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"] for name in ("one", "two")
    )
    torch.testing.assert_close(second, first, rtol=1e-7, atol=1e-9)
    lines = [
        [line for line in read_metrics(tmp_path / name / METRICS_FILE) if line["event"] == "train"]
        for name in ("one", "two")
    ]
    for one, other in zip(*lines, strict=True):
        for term in ("total", "contrastive/final", "classification/final", "dice/final", "grad_norm"):
            assert other[term] == pytest.approx(one[term], rel=1e-6), term


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_parts_of_a_model_and_single_frames_of_one_with_trajectories(tmp_path, repository):
    """A parameter that waits for a gradient that never comes would end the run: nothing looks for unused ones."""
    root = write_tiny_root(tmp_path / "data")
    stages = (
        {"name": "images", "epochs": 1, "max_steps": 2, "data": {"num_frames": 1}},
        {
            "name": "time",
            "epochs": 1,
            "max_steps": 2,
            "trainable": ("object_cluster", "class_heads"),
            "supervised_layers": "last",
        },
    )
    plain = tiny_config(root, tmp_path / "run")
    model = {**plain.model.model_dump(), "trajectory": True, "output_layer": "last"}
    config = tiny_config(root, tmp_path / "run", model=model, stages=stages, train={"log_every": 1})
    run_two_processes(config, tmp_path, repository)
    folder = tmp_path / "run" / "checkpoints"
    first, last = (torch.load(path, weights_only=True)["model"] for path in sorted(folder.glob("step_*.pt")))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"object_cluster", "class_heads"}
