"""An evaluation that is interrupted goes on where it stopped, and never mixes two models, settings or runs."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.loader import dump_config
from engine.distributed import World
from eval import evaluate
from evaluation.journal import UNFINISHED, Journal, read_videos
from evaluation.ranked_report import RankedReport, RankedScore
from evaluation.runner import share_work
from loading.loaders import build_eval_dataset
from media.mask_png import write_binary_png
from tests.test_eval_frames import config_of
from tests.tiny_a2d import write_tiny_a2d
from tests.tiny_ref_youtube_vos import write_expressions, write_video
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tools.shapes.text import write_text_encoder

LENGTHS = {"longest": 7, "longer": 6, "short": 3}


@pytest.fixture
def root(tmp_path):
    """Three valid videos of different lengths."""
    root = write_tiny_root(tmp_path / "data")
    described = {}
    for video, length in LENGTHS.items():
        names = write_video(root, "valid", video, num_frames=length, visible={1: range(length)})
        described[video] = {
            "frames": names,
            "expressions": {
                "0": {"exp": "a square that leaves", "obj_id": "1"},
                "1": {"exp": "a square", "obj_id": "1"},
            },
        }
    write_expressions(root, "valid", described)
    return root


@pytest.fixture
def config(root, tmp_path):
    return with_busy_weights(tiny_config(root, tmp_path / "out", eval={"workers": 1}))


def frame_of(root, video):
    return root / "valid" / "JPEGImages" / video / "00000.jpg"


def interrupt(config, root, video="short"):
    """Evaluates until a damaged frame of this video, which is mended afterwards."""
    path = frame_of(root, video)
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match=str(path)):
        evaluate(config)
    path.write_bytes(content)


def times(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*.png")}


def test_finished_videos_are_not_computed_again(config, root, tmp_path):
    whole = evaluate(config.model_copy(update={"output_dir": tmp_path / "whole"})).only
    interrupt(config, root)
    before = times(tmp_path / "out")
    assert {name.split("/")[1] for name in before} >= {"longest", "longer"}
    assert not (tmp_path / "out" / "results.json").exists()
    report = evaluate(config).only
    after = times(tmp_path / "out")
    assert {name for name, time in before.items() if after[name] != time} == set()
    assert report == whole
    assert any(frame.predicted_px for entry in report.entries for frame in entry.frames)
    for name in ("videos.jsonl", "expressions.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / UNFINISHED).exists()
    with pytest.raises(ValueError, match=r"already holds results\.json"):
        evaluate(config)


def other_weights(config, tmp_path):
    state = torch.load(config.model.weights)
    torch.save({name: t + 0.01 if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "other.pt")
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": tmp_path / "other.pt"})})


def other_size(config, tmp_path):
    return config.model_copy(update={"data": config.data.model_copy(update={"short_side": 20})})


def other_threshold(config, tmp_path):
    return config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": 0.3})})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_weights, "weights: "),
        (other_size, "data.short_side: 24 before, 20 now"),
        (other_threshold, "min_score: 0.0 before, 0.3 now"),
    ],
)
def test_nothing_is_kept_of_another_model_or_setting(config, root, tmp_path, caplog, change, named):
    interrupt(config, root)
    before = times(tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        report = evaluate(change(config, tmp_path)).only
    assert f"begun anew, because something changed: {named}" in caplog.text
    after = times(tmp_path / "out")
    assert all(after[name] > time for name, time in before.items())
    fresh = change(config, tmp_path).model_copy(update={"output_dir": tmp_path / "fresh"})
    assert report == evaluate(fresh).only


def test_nothing_is_kept_of_another_code(config, root, tmp_path, caplog, monkeypatch):
    interrupt(config, root)
    before = times(tmp_path / "out")
    monkeypatch.setattr("evaluation.origin.code_digest", lambda: "0" * 64)
    with caplog.at_level(logging.WARNING):
        evaluate(config)
    assert "code: " in caplog.text
    assert all(times(tmp_path / "out")[name] > time for name, time in before.items())


def test_settings_without_effect_and_another_name_of_the_weights_change_nothing(config, root, tmp_path, caplog):
    interrupt(config, root)
    moved = config.model.weights.rename(tmp_path / "moved.pt")
    again = config.model_copy(
        update={
            "model": config.model.model_copy(update={"weights": moved}),
            "data": config.data.model_copy(update={"num_workers": 1, "batch_size": 5, "flip_probability": 0.1}),
            "eval": config.eval.model_copy(update={"workers": 0}),
        }
    )
    with caplog.at_level(logging.INFO):
        evaluate(again)
    assert "2 videos are finished already" in caplog.text


def test_overwrite_replaces_what_is_finished_and_goes_on_with_what_is_not(config, root, tmp_path, caplog):
    overwriting = config.model_copy(update={"overwrite": True})
    interrupt(overwriting, root)
    before = times(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        evaluate(overwriting)
    assert "2 videos are finished already" in caplog.text
    assert before.items() <= times(tmp_path / "out").items()
    before = times(tmp_path / "out")
    evaluate(overwriting)
    after = times(tmp_path / "out")
    assert after.keys() == before.keys()
    assert all(after[name] > time for name, time in before.items())


def test_without_masks_on_disk_it_goes_on_too(config, root, caplog):
    unwritten = config.model_copy(update={"eval": config.eval.model_copy(update={"write_masks": False})})
    interrupt(unwritten, root)
    with caplog.at_level(logging.INFO):
        evaluate(unwritten)
    assert "2 videos are finished already" in caplog.text
    assert not times(config.output_dir)


def test_a_line_that_was_cut_off_is_computed_again(config, root, tmp_path):
    interrupt(config, root)
    (journal,) = (path for path in (tmp_path / "out" / UNFINISHED).glob("*.jsonl") if path.stat().st_size)
    journal.write_text(journal.read_text()[:-20])
    before = times(tmp_path / "out")
    evaluate(config)
    again = {name.split("/")[1] for name, time in before.items() if times(tmp_path / "out")[name] != time}
    assert again == {"longer"}


def test_scores_of_single_frames_come_back_as_they_were(tmp_path):
    write_text_encoder(tmp_path / "text_encoder", ["a man on the left"], vocab_size=300)
    data = {"a2d_sentences": write_tiny_a2d(tmp_path / "a2d")}
    report = evaluate(with_busy_weights(config_of(data, "a2d_sentences", tmp_path / "out"))).only
    with Journal(tmp_path, {}, RankedScore, World()) as journal:
        journal.add("t", report.entries)
    with Journal(tmp_path, {}, RankedScore, World()) as journal:
        assert journal.finished == {"t": list(report.entries)}
        again = RankedReport(1, len(report.entries), journal.finished["t"])
    assert again.scores() == report.scores()
    assert again.coco_results() == report.coco_results()
    assert read_videos(tmp_path / "out", RankedScore) == {"t": list(report.entries)}


def test_the_longest_videos_come_first_and_processes_get_equal_shares(root):
    videos = build_eval_dataset(tiny_config(root, Path("out")).data).videos
    assert [video.name for video in share_work(videos, World())] == ["longest", "longer", "short"]
    two = [[video.name for video in share_work(videos, World(rank=rank, size=2))] for rank in range(2)]
    assert two == [["longest"], ["longer", "short"]]


def start(config, tmp_path, repository, *, processes):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "main.py", "eval", "--config", str(path)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=(tmp_path / f"{processes}.log").open("w"),
    )


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_go_on_with_an_evaluation_that_was_killed(config, root, tmp_path, repository):
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"workers": 0})})
    whole = evaluate(config.model_copy(update={"output_dir": tmp_path / "whole"}))
    path = frame_of(root, "longer")
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # whoever reads this frame waits until it is killed
    journal = tmp_path / "out" / UNFINISHED / "1.jsonl"
    with start(config, tmp_path, repository, processes=1) as running:
        deadline = time.monotonic() + 60
        while not (journal.is_file() and journal.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        running.kill()
    path.unlink()
    path.write_bytes(content)
    before = times(tmp_path / "out")
    assert {name.split("/")[1] for name in before} == {"longest"}
    with start(config, tmp_path, repository, processes=2) as running:
        assert running.wait(timeout=120) == 0, (tmp_path / "2.log").read_text()
    assert "1 videos are finished already" in (tmp_path / "2.log").read_text()
    assert before.items() <= times(tmp_path / "out").items()
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["scores"] == pytest.approx(whole.scores(), abs=1e-9)
    assert written["speed"]["processes"] == 2
    assert written["speed"]["frames"] == LENGTHS["longer"] + LENGTHS["short"]
    assert sorted(times(tmp_path / "out")) == sorted(times(tmp_path / "whole"))


def test_overwrite_removes_what_an_evaluation_of_other_sets_has_left(config, tmp_path):
    packed = {"zip_submission": True, "partial_submission": True}
    alone = config.model_copy(update={"eval": config.eval.model_copy(update=packed), "overwrite": True})
    (entry,) = config.data.sets
    both = (entry, entry.model_copy(update={"eval_split": "train"}))
    two = alone.model_copy(update={"data": config.data.model_copy(update={"eval_sets": both})})
    out = tmp_path / "out"
    evaluate(alone)
    (out / "analysis.html").touch()
    write_binary_png(out / "anno_0" / "old" / "00000.png", np.zeros((4, 4), dtype=bool))  # of Ref-DAVIS17
    assert (out / "submission.zip").is_file()
    evaluate(two)
    assert {path.name for path in out.iterdir()} == {"results.json", "results.md", "ref_youtube_vos"}
    evaluate(alone)
    assert not list((out / "ref_youtube_vos").rglob("*.*"))
    assert (out / "submission.zip").is_file()


def test_overwrite_removes_an_interrupted_evaluation_of_several_sets(config, root, tmp_path):
    (entry,) = config.data.sets
    both = (entry, entry.model_copy(update={"eval_split": "train"}))
    interrupt(config.model_copy(update={"data": config.data.model_copy(update={"eval_sets": both})}), root)
    assert list((tmp_path / "out" / "ref_youtube_vos" / "valid").rglob("*.png"))
    evaluate(config.model_copy(update={"overwrite": True}))
    assert not list((tmp_path / "out" / "ref_youtube_vos").rglob("*.*"))
    assert (tmp_path / "out" / "results.json").is_file()


def test_overwrite_spares_a_folder_of_data(config, root):
    masks = sorted((root / "valid" / "Annotations").rglob("*.png"))
    assert masks
    careless = config.model_copy(update={"output_dir": root / "valid", "overwrite": True})
    with pytest.raises(ValueError, match=r"valid holds JPEGImages beside Annotations, and no results"):
        evaluate(careless)
    assert sorted((root / "valid" / "Annotations").rglob("*.png")) == masks


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["lost", "emptied"])
def test_a_finished_video_whose_masks_are_gone_is_computed_again(config, root, tmp_path, damage):
    interrupt(config, root)
    before = times(tmp_path / "out")
    path = next((tmp_path / "out").rglob("longer/*/*.png"))
    content = path.read_bytes()
    damage(path)
    evaluate(config)
    assert path.read_bytes() == content
    again = {name.split("/")[1] for name, time in before.items() if times(tmp_path / "out")[name] != time}
    assert again == {"longer"}


def test_nothing_is_kept_of_another_tokenizer(config, root, caplog):
    interrupt(config, root)
    path = root / "text_encoder" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"]}
    names = [name for name in vocabulary if name not in special]
    swapped = dict(zip(names, reversed([vocabulary[name] for name in names]), strict=True))
    content["model"]["vocab"] = vocabulary | swapped
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        evaluate(config)
    assert "begun anew, because something changed: tokens: " in caplog.text
