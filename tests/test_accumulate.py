"""Batches whose gradients are added up train like one large batch."""

import pytest
import torch

import train
from engine.logging import METRICS_FILE
from tests.double_precision import use_double_precision
from tests.tiny_run import read_metrics, tiny_config, write_absent_root, write_tiny_root
from train import fit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


def without_chance(root, output_dir, **sections):
    """Two epochs without anything random in the model."""
    plain = tiny_config(root, output_dir).model
    model = {"dropout": 0.0, "visual_encoder": {**plain.visual_encoder.model_dump(), "drop_path_rate": 0.0}}
    return tiny_config(root, output_dir, model=model, train={"log_every": 1}, **sections)


def weights_of(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


def losses_of(folder):
    return [line for line in read_metrics(folder / METRICS_FILE) if line["event"] == "train"]


# There are 17 clips: the last step of an epoch has 1 of them, and with 2 and 3 it has 5, in batches of 2, 2 and 1.
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 3)])
def test_small_batches_train_the_weights_of_a_large_one(root, tmp_path, monkeypatch, batch_size, accumulate):
    use_double_precision(monkeypatch)
    large, small = tmp_path / "large", tmp_path / "small"
    fit(without_chance(root, large, data={"batch_size": batch_size * accumulate}))
    optim = {"lr": 1e-3, "lr_visual_encoder": 1e-3, "lr_text_encoder": 1e-3, "accumulate": accumulate}
    fit(without_chance(root, small, data={"batch_size": batch_size}, optim=optim))
    torch.testing.assert_close(weights_of(small), weights_of(large), rtol=1e-7, atol=1e-9)
    for mine, other in zip(losses_of(small), losses_of(large), strict=True):
        assert mine["step"] == other["step"]
        assert mine["lr"] == other["lr"]
        assert mine["total"] == pytest.approx(other["total"], rel=1e-6)
        assert mine["contrastive/final"] == pytest.approx(other["contrastive/final"], rel=1e-6)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-6)


@pytest.mark.parametrize(("sentences_per_clip", "batch_size", "accumulate"), [(1, 2, 3), (3, 1, 4)])
def test_small_batches_train_the_weights_of_a_large_one_although_sentences_are_absent(
    tmp_path, monkeypatch, sentences_per_clip, batch_size, accumulate
):
    root = write_absent_root(tmp_path / "data")
    use_double_precision(monkeypatch)
    data = {"dataset": "mevis", "eval_split": "train", "sentences_per_clip": sentences_per_clip}
    counts = []
    original = train.add_gradients

    def note(run, parallel, criterion, batches):
        counts.extend([target.is_absent for target in batch.targets] for batch in batches)
        return original(run, parallel, criterion, batches)

    monkeypatch.setattr(train, "add_gradients", note)
    large, small = tmp_path / "large", tmp_path / "small"
    fit(without_chance(root, large, data=data | {"batch_size": batch_size * accumulate}))
    counts.clear()
    optim = {"lr": 1e-3, "lr_visual_encoder": 1e-3, "lr_text_encoder": 1e-3, "accumulate": accumulate}
    fit(without_chance(root, small, data=data | {"batch_size": batch_size}, optim=optim))
    assert any(all(batch) for batch in counts), "a batch of absent sentences alone"
    assert any(not all(batch) for batch in counts)
    torch.testing.assert_close(weights_of(small), weights_of(large), rtol=1e-7, atol=1e-9)
    for mine, other in zip(losses_of(small), losses_of(large), strict=True):
        for name in ("total", "contrastive/final", "classification/final", "dice/final", "grad_norm"):
            assert mine[name] == pytest.approx(other[name], rel=1e-6), name


def test_steps_and_milestones_count_steps_of_the_optimiser(root, tmp_path):
    optim = {"accumulate": 4, "milestones": (1,), "gamma": 0.5}
    stage = {"epochs": 3, "max_steps": 7, "optim": optim}
    fit(without_chance(root, tmp_path / "run", stages=(stage,), data={"batch_size": 2}))
    lines = losses_of(tmp_path / "run")
    rates = [line["lr"]["rest"] for line in lines]
    # 17 clips in batches of 2 are 9 batches, which are 3 steps of up to 4 batches
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1, 2]
    assert rates == pytest.approx([1e-3] * 3 + [5e-4] * 4)


def test_only_as_many_batches_are_read_as_the_steps_need(root, tmp_path, monkeypatch):
    seen = []
    original = train.add_gradients

    def note(run, parallel, criterion, batches):
        seen.append(len(batches))
        return original(run, parallel, criterion, batches)

    monkeypatch.setattr(train, "add_gradients", note)
    stage = {"epochs": 3, "max_steps": 4, "optim": {"accumulate": 4}}
    fit(without_chance(root, tmp_path / "run", stages=(stage,), data={"batch_size": 2}))
    assert seen == [4, 4, 1, 4]
