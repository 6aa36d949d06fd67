"""The threshold of rejection: how it is chosen, and how it comes into a checkpoint."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoint import store_min_score
from eval import evaluate
from evaluation.journal import UNFINISHED
from metrics.rejection import OperatingPoint, auc, best_point, operating_points
from models.build import resolve_min_score
from structures.checkpoint_file import read_min_score, read_state_dict
from tests.tiny_absent import absent_config, results_of, with_threshold, write_tiny_absent
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tools.calibrate import main
from train import fit

PRESENT, ABSENT = np.array([0.9, 0.8, 0.6, 0.3]), np.array([-np.inf, 0.2, 0.4, 0.6])


def test_every_threshold_counts_both_kinds():
    """Thresholds are the middles; a sentence whose score equals another's changes together with it."""
    points = operating_points(PRESENT, ABSENT)
    expected = [
        (0.0, 1 / 4, 1.0), (0.25, 2 / 4, 1.0), (0.35, 2 / 4, 3 / 4), (0.5, 3 / 4, 3 / 4), (0.7, 1.0, 2 / 4),
        (0.85, 1.0, 1 / 4), (0.95, 1.0, 0.0),
    ]  # fmt: skip
    assert [(p.threshold, p.n_acc, p.t_acc) for p in points] == [pytest.approx(each) for each in expected]


def test_a_sentence_is_found_at_its_own_score_and_rejected_above():
    for score in PRESENT:
        for threshold, found in ((score, 1.0), (math.nextafter(score, 1), 0.0)):
            assert float(score >= threshold) == found
    (_, point) = operating_points(np.array([0.5]), np.array([0.5]))
    assert (point.threshold, point.n_acc, point.t_acc) == (0.75, 1.0, 0.0)


def test_the_best_threshold_has_the_largest_mean_with_enough_of_the_present_sentences():
    points = operating_points(PRESENT, ABSENT)
    assert [best_point(points, min_t_acc=level).threshold for level in (1.0, 0.75, 0.5, 0.0)] == pytest.approx(
        [0.25] * 4
    )
    steep = [OperatingPoint(0.0, 0.1, 1.0), OperatingPoint(0.3, 0.5, 0.9), OperatingPoint(0.6, 1.0, 0.5)]
    assert [best_point(steep, min_t_acc=level).threshold for level in (0.95, 0.9, 0.51, 0.5)] == [0.0, 0.3, 0.3, 0.6]
    assert best_point(steep[1:], min_t_acc=0.95) is None
    equal = [OperatingPoint(0.2, 0.5, 0.9), OperatingPoint(0.4, 0.6, 0.8)]
    assert best_point(equal, min_t_acc=0.0).threshold == 0.2


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    pairs = [(p > a) + (p == a) / 2 for p in PRESENT for a in ABSENT]
    assert auc(PRESENT, ABSENT) == pytest.approx(np.mean(pairs)) == 13.5 / 16
    assert auc(ABSENT[1:], PRESENT) < 0.5
    assert (auc(np.array([0.9]), np.array([0.1])), auc(np.array([0.1]), np.array([0.9]))) == (1, 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_absent(tmp_path_factory.mktemp("data") / "mevis")


@pytest.fixture(scope="module")
def evaluated(root, tmp_path_factory):
    """An evaluation that rejects some sentences: the scores in it do not depend on that."""
    folder = tmp_path_factory.mktemp("runs")
    config = absent_config(root, folder / "eval")
    content = {"format": "soc-1", "model": torch.load(config.model.weights), "git": "0" * 40, "progress": {"step": 7}}
    path = folder / "trained.pt"
    torch.save(content, path)
    config = config.model_copy(update={"model": config.model.model_copy(update={"weights": path})})
    evaluate(with_threshold(config, 0.00145, folder / "eval"))
    return config


def with_copy_of_weights(config, path):
    path.write_bytes(config.model.weights.read_bytes())
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": path})})


def calibrate(folder, weights, *options):
    return main([str(folder), "--weights", str(weights), *options])


def test_the_threshold_comes_into_the_checkpoint_and_evaluation_takes_it_from_there(evaluated, tmp_path, capsys):
    config = with_copy_of_weights(evaluated, tmp_path / "model.pt")
    before = torch.load(tmp_path / "model.pt")
    assert read_min_score(tmp_path / "model.pt") is None
    assert calibrate(evaluated.output_dir, tmp_path / "model.pt", "--min-t-acc", "0.6") == 0
    after = torch.load(tmp_path / "model.pt")
    stored = after.pop("min_score")
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if k != "model"} == {k: v for k, v in before.items() if k != "model"}
    assert after["model"].keys() == before["model"].keys()
    assert all(torch.equal(after["model"][name], before["model"][name]) for name in before["model"])
    assert stored["t_acc"] >= 0.6
    assert (stored["present"], stored["absent"], stored["set"]) == (3, 4, "mevis/train")
    printed = capsys.readouterr().out
    row = f"{stored['value']:9.4f}{100 * stored['n_acc']:8.1f}"
    assert row in next(line for line in printed.splitlines() if line.startswith("chosen (T-acc at least 60)"))
    assert resolve_min_score(config) == stored["value"] == read_min_score(tmp_path / "model.pt") > 0
    report = evaluate(with_threshold(config, None, tmp_path / "out")).only
    assert report.min_score == stored["value"]
    assert report.scores()["N-acc"] == stored["n_acc"] > 0
    assert report.scores()["T-acc"] == stored["t_acc"]
    assert evaluate(with_threshold(config, 0.0, tmp_path / "none")).only.scores()["N-acc"] == 0
    assert calibrate(tmp_path / "out", tmp_path / "model.pt") == 0, "the file has changed, its weights have not"
    assert calibrate(evaluated.output_dir, tmp_path / "model.pt", "--output", str(tmp_path / "new.pt")) == 0
    assert read_min_score(tmp_path / "new.pt") == read_min_score(tmp_path / "model.pt")


def refusal(capsys, *arguments):
    capsys.readouterr()  # progress bars
    assert calibrate(*arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("calibrate: ")
    assert message.count("\n") == 1
    return message


def test_what_cannot_be_calibrated_is_refused_in_one_sentence(evaluated, root, tmp_path, capsys):
    weights, folder = evaluated.model.weights, evaluated.output_dir
    content = weights.read_bytes()
    other = torch.load(weights)
    other["model"] = {name: tensor + 1 for name, tensor in other["model"].items()}
    torch.save(other, tmp_path / "other.pt")
    assert "does not hold the weights that" in refusal(capsys, folder, tmp_path / "other.pt")
    assert "min_score" not in torch.load(tmp_path / "other.pt")
    assert "missing.pt: no such file" in refusal(capsys, folder, tmp_path / "missing.pt")
    assert "results.json: no such file; EVALUATION is the output folder" in refusal(capsys, tmp_path, weights)
    assert "--min-t-acc 95.0: expected a share" in refusal(capsys, folder, weights, "--min-t-acc", "95")
    assert "--set mevis/valid: " in refusal(capsys, folder, weights, "--set", "mevis/valid")
    output = tmp_path / "a.safetensors"
    assert "holds tensors alone" in refusal(capsys, folder, weights, "--output", str(output))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "results.json").write_text((folder / "results.json").read_text())
    (tmp_path / "half" / UNFINISHED).mkdir()
    (tmp_path / "half" / UNFINISHED / "origin.json").write_text("{}")
    assert "the evaluation was interrupted; start it again" in refusal(capsys, tmp_path / "half", weights)
    assert weights.read_bytes() == content


def test_a_split_without_absent_sentences_is_refused(tmp_path, capsys):
    root = write_tiny_root(tmp_path / "data")
    config = with_busy_weights(tiny_config(root, tmp_path / "out"))
    evaluate(config)
    message = refusal(capsys, tmp_path / "out", config.model.weights)
    assert "no sentence without a target was scored on ref_youtube_vos/valid" in message


def test_masks_that_are_empty_without_rejection_are_named(evaluated, tmp_path, capsys):
    """T-acc cannot be reached by any threshold."""
    folder = tmp_path / "eval"
    folder.mkdir()
    for name in ("results.json", "videos.jsonl"):
        (folder / name).write_text((evaluated.output_dir / name).read_text())
    line = json.loads((folder / "videos.jsonl").read_text())
    line["scores"][0]["presence_score"] = None
    (folder / "videos.jsonl").write_text(json.dumps(line) + "\n")
    assert "T-acc is 0.6667 if no sentence is rejected" in refusal(capsys, folder, evaluated.model.weights)


def test_of_several_data_sets_one_is_named(evaluated, tmp_path, capsys):
    config = with_copy_of_weights(evaluated, tmp_path / "model.pt")
    (entry,) = config.data.sets
    sets = (entry, entry.model_copy(update={"eval_split": "valid"}))
    data = config.data.model_copy(update={"eval_sets": sets})
    evaluate(config.model_copy(update={"data": data, "output_dir": tmp_path / "two"}))
    assert list(results_of(tmp_path / "two")["sets"]) == ["mevis/train", "mevis/valid"]
    assert "evaluates mevis/train, mevis/valid; name one" in refusal(capsys, tmp_path / "two", tmp_path / "model.pt")
    assert calibrate(tmp_path / "two", tmp_path / "model.pt", "--set", "mevis/train", "--min-t-acc", "0.6") == 0
    assert read_min_score(tmp_path / "model.pt") > 0


def test_bare_weights_of_any_form_can_take_a_threshold(tmp_path):
    state = {"a.weight": torch.arange(3.0), "min_score_head": torch.ones(2)}
    torch.save(state, tmp_path / "bare.pt")
    save_file(state, tmp_path / "bare.safetensors")
    for name in ("bare.pt", "bare.safetensors"):
        assert read_min_score(tmp_path / name) is None
        store_min_score(tmp_path / name, tmp_path / "out.pt", {"value": 0.25})
        assert read_min_score(tmp_path / "out.pt") == 0.25
        torch.testing.assert_close(read_state_dict(tmp_path / "out.pt"), state, rtol=0, atol=0)


@pytest.mark.parametrize("stored", [0.3, {"value": 3.0}, {"value": "0.3"}, {}, {"value": math.nan}], ids=str)
def test_a_stored_threshold_that_is_none_is_an_error(tmp_path, stored):
    torch.save({"model": {"a": torch.ones(1)}, "min_score": stored}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"file\.pt: min_score=.* is no score between 0 and 1"):
        read_min_score(tmp_path / "file.pt")


def test_training_goes_on_from_a_calibrated_checkpoint_and_forgets_the_threshold(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    config = tiny_config(root, tmp_path / "run", stages=({"epochs": 2},), train={"validate_every": 0})
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    fit(whole)
    first = tmp_path / "whole" / "checkpoints"
    numbered = sorted(first.glob("step_*.pt"))[0]
    store_min_score(numbered, tmp_path / "run" / "checkpoints" / "last.pt", {"value": 0.5})
    fit(config.model_copy(update={"train": config.train.model_copy(update={"resume": True})}))
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    assert read_min_score(last) is None
    expected, state = read_state_dict(first / "last.pt"), read_state_dict(last)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
