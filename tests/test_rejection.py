"""Sentences without a target in an evaluation, and what rejection does to all of them."""

import csv

import numpy as np
import pytest
import torch

from engine.distributed import World
from eval import evaluate
from loading.loaders import build_eval_dataset
from media.mask_png import read_index_png
from metrics.region_boundary import region_and_boundary
from models.build import resolve_min_score
from models.postprocess import ClipPrediction
from tests.test_eval import davis_config
from tests.test_eval_frames import config_of
from tests.tiny_a2d import write_tiny_a2d
from tests.tiny_absent import (
    ABSENT,
    absent_config,
    entries_of,
    results_of,
    with_threshold,
    write_tiny_absent,
    written_masks,
)
from tests.tiny_davis import write_tiny_davis
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tools.analyze.__main__ import main as analyze
from tools.shapes.text import write_text_encoder
from train import prepare_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_absent(tmp_path_factory.mktemp("data") / "mevis")


@pytest.fixture(scope="module")
def accepting(root, tmp_path_factory):
    """An evaluation that rejects nothing."""
    config = absent_config(root, tmp_path_factory.mktemp("runs") / "all")
    evaluate(config)
    return config


def middle_threshold(config):
    """Between the fourth and the fifth of the seven presence scores."""
    scores = sorted(entry.presence_score for entry in entries_of(config.output_dir).values())
    return (scores[3] + scores[4]) / 2


def test_absent_sentences_count_for_n_acc_and_not_for_j_and_f(accepting, root, tmp_path):
    report = results_of(accepting.output_dir)["sets"]["mevis/train"]
    masks = written_masks(accepting.output_dir)
    (video,) = build_eval_dataset(accepting.data)
    truth = {e.name: video.load_masks(e) for e in video.record.expressions}
    scores = [np.mean(region_and_boundary(truth[name], masks[name])) for name in "012"]
    assert report["overall"]["J&F"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert report["overall"]["entries"] == 3
    found = {name: bool(mask.any()) for name, mask in masks.items()}
    assert found == dict.fromkeys(["0", "1", "2", *ABSENT], True), "the weights draw something for every sentence"
    rejection = report["rejection"]
    assert (rejection["present"], rejection["found"]) == (3, 3)
    assert (rejection["absent"], rejection["rejected"]) == (4, 0)
    assert (rejection["T-acc"], rejection["N-acc"]) == (1, 0)
    entries = entries_of(accepting.output_dir)
    assert [name for name, entry in entries.items() if entry.is_absent] == list(ABSENT)
    frames = [frame for name in ABSENT for frame in entries[name].frames]
    assert all(frame.annotated_px == 0 for frame in frames)
    assert {(frame.region, frame.predicted_px > 0) for frame in frames} <= {(0.0, True), (1.0, False)}
    pairs = [entries[p].presence_score > entries[a].presence_score for p in "012" for a in ABSENT]
    assert rejection["AUC"] == pytest.approx(np.mean(pairs))


def test_rejected_sentences_have_empty_masks_and_everything_follows_from_these(accepting, tmp_path):
    threshold = middle_threshold(accepting)
    out = tmp_path / "some"
    report = evaluate(with_threshold(accepting, threshold, out)).only
    before, after = written_masks(accepting.output_dir), written_masks(out)
    old, entries = entries_of(accepting.output_dir), entries_of(out)
    found = {name: bool(mask.any()) for name, mask in after.items()}
    assert found == {name: entry.presence_score >= threshold for name, entry in old.items()}
    assert sum(found.values()) == 3
    (video,) = build_eval_dataset(accepting.data)
    expected = []
    for expression in video.record.expressions:
        name = expression.name
        assert (after[name] & ~before[name]).sum() == 0
        assert entries[name].presence_score == old[name].presence_score, "scores are those before rejection"
        assert [query.score for query in entries[name].ranking] == [query.score for query in old[name].ranking]
        assert [query.region for query in entries[name].ranking] == [query.region for query in old[name].ranking]
        if not expression.is_absent:
            truth = video.load_masks(expression)
            expected.append(np.mean(region_and_boundary(truth, after[name])))
            if not found[name]:
                empty = ~truth.any(axis=(1, 2))
                assert [frame.region for frame in entries[name].frames] == empty.astype(float).tolist()
    assert report.scores()["J&F"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert report.scores()["N-acc"] == sum(not found[name] for name in ABSENT) / 4
    assert report.scores()["T-acc"] == sum(found[name] for name in "012") / 3
    assert report.scores()["AUC"] == results_of(accepting.output_dir)["scores"]["AUC"]
    table = (out / "results.md").read_text()
    assert f"Rejected are those with a score below {threshold:.4f}" in table
    assert results_of(out)["sets"]["mevis/train"]["min_score"] == threshold
    with (out / "expressions.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["expression"]: row for row in csv.DictReader(file)}
    assert {name: row["found"] == "True" for name, row in rows.items()} == found
    assert [name for name, row in rows.items() if row["absent"] == "True"] == list(ABSENT)
    assert all((rows[name]["J&F"] == "") == (name in ABSENT) for name in rows)
    assert [float(row["presence score"]) for row in rows.values()] == [e.presence_score for e in old.values()]
    assert [float(row["score"]) for row in rows.values()] == [e.ranking[0].score for e in old.values()]


@pytest.mark.parametrize("identity", ["independent", "matched"])
def test_the_presence_score_tells_what_any_threshold_gives_over_several_windows(root, tmp_path, identity):
    data = {"eval_num_frames": 2, "eval_identity": identity, "eval_overlap": 1}
    config = absent_config(root, tmp_path / "all", data=data)
    evaluate(config)
    known = {name: entry.presence_score for name, entry in entries_of(tmp_path / "all").items()}
    assert len(set(known.values())) > 4
    for number, threshold in enumerate(sorted(known.values())[1::2]):
        out = tmp_path / str(number)
        evaluate(with_threshold(config, threshold, out))
        entries = entries_of(out)
        assert {name: entry.is_found for name, entry in entries.items()} == {
            name: score >= threshold for name, score in known.items()
        }
        assert {name: entry.presence_score for name, entry in entries.items()} == known


def test_a_window_in_which_nothing_is_drawn_does_not_count_as_found(accepting, root, tmp_path, monkeypatch):
    """Where one of the two windows draws nothing, the score of the other decides, whichever is higher."""
    masks_at = ClipPrediction.masks_at
    both = {name: entry.presence_score for name, entry in entries_of(accepting.output_dir).items()}
    alone = []
    for num_frames in (3, 2):  # of the window that draws something
        monkeypatch.setattr(
            ClipPrediction,
            "masks_at",
            lambda self, size, n=num_frames, **kw: masks_at(self, size, **kw) & (len(self.mask_logits) == n),
        )
        out = tmp_path / str(num_frames)
        evaluate(with_threshold(accepting, None, out))
        alone.append({name: entry.presence_score for name, entry in entries_of(out).items()})
    first, second = alone
    assert {name: max(first[name], second[name]) for name in both} == both
    assert {first[name] > second[name] for name in both} == {True, False}


def test_without_absent_sentences_and_threshold_nothing_is_said_about_rejection(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    config = with_busy_weights(tiny_config(root, tmp_path / "out"))
    report = evaluate(config).only
    assert set(report.scores()) == {"J&F", "J", "F", "J&F/appearance", "J&F/motion"}
    assert "acc" not in (tmp_path / "out" / "results.md").read_text()
    strict = evaluate(with_threshold(config, 1.0, tmp_path / "strict")).only
    assert strict.scores()["T-acc"] == strict.scores()["T-acc/motion"] == 0
    assert "N-acc" not in strict.scores()


def test_a_rejected_object_of_ref_davis17_has_no_pixel(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    davis = write_tiny_davis(tmp_path / "davis", text_encoder=root / "text_encoder")
    config = with_busy_weights(davis_config(davis, tmp_path / "all"))
    assert max(mask.max() for mask in _index_maps(config)) > 0
    strict = with_threshold(config, 1.0, tmp_path / "none")
    assert max(mask.max() for mask in _index_maps(strict)) == 0


def _index_maps(config):
    report = evaluate(config).only
    assert report.rejection is None
    return [read_index_png(path) for path in sorted(config.output_dir.glob("anno_*/*/*.png"))]


def test_single_frames_are_scored_as_published_whatever_the_threshold(tmp_path):
    write_text_encoder(tmp_path / "text_encoder", ["a man on the left"], vocab_size=300)
    data = {"a2d_sentences": write_tiny_a2d(tmp_path / "a2d")}
    config = with_busy_weights(config_of(data, "a2d_sentences", tmp_path / "all"))
    plain, strict = evaluate(config).only, evaluate(with_threshold(config, 1.0, tmp_path / "none")).only
    assert strict.scores() == plain.scores()
    assert (tmp_path / "none" / "predictions.json").read_bytes() == (tmp_path / "all" / "predictions.json").read_bytes()


def test_validation_during_training_rejects_only_by_a_configured_threshold(accepting, root, tmp_path):
    calibrated = tmp_path / "calibrated.pt"
    torch.save({"model": torch.load(accepting.model.weights), "min_score": {"value": 0.7}}, calibrated)
    weights = accepting.model.model_copy(update={"weights": calibrated})
    for number, (min_score, expected) in enumerate(((None, 0.0), (0.25, 0.25))):
        config = with_threshold(accepting, min_score, tmp_path / f"run{number}").model_copy(update={"model": weights})
        (one,) = prepare_run(config, World(), torch.device("cpu")).validation
        assert one.benchmark.min_score == expected
        assert resolve_min_score(config) == (0.7 if min_score is None else min_score)


def test_the_analysis_counts_what_is_refused_and_invented(accepting, tmp_path):
    out = tmp_path / "some"
    threshold = middle_threshold(accepting)
    evaluate(with_threshold(accepting, threshold, out))
    known = entries_of(accepting.output_dir)
    refused = sum(known[name].presence_score < threshold for name in "012")
    invented = sum(known[name].presence_score >= threshold for name in ABSENT)
    assert analyze([str(accepting.output_dir), str(out)]) == 0
    page = (out / "analysis.html").read_text()
    for words, before, after, total in (("not found", 0, refused, 3), ("got a mask", 4, invented, 4)):
        cells = "".join(f"<td>{n} of {total} ({100 * n / total:.1f} %)</td>" for n in (before, after))
        assert f"{words}</th>{cells}" in page
    assert "1 videos, 3 expressions" in page, "everything else is about sentences with a target"
