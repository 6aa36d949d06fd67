"""Overwriting: nothing of an old run lies beside something new at any moment, wherever the process is killed."""

import json
import shutil
from pathlib import Path

import pytest

from eval import evaluate
from evaluation.benchmarks import evaluated_sets
from evaluation.output_folder import claim as claim_evaluation
from predict import predict
from prediction.output_folder import SUMMARY, UNFINISHED, claim
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root

MARK = "of the old run"


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def kill_after(monkeypatch, number):
    """Lets so many calls remove something, and no more."""
    left = [number]
    real = {"unlink": Path.unlink, "rmdir": Path.rmdir, "rmtree": shutil.rmtree}

    def counted(name):
        def call(path, *arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real[name](path, *arguments, **options)

        return call

    monkeypatch.setattr(Path, "unlink", counted("unlink"))
    monkeypatch.setattr(Path, "rmdir", counted("rmdir"))
    monkeypatch.setattr(shutil, "rmtree", counted("rmtree"))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


# ---- evaluation ----


@pytest.fixture(scope="module")
def evaluated(root, tmp_path_factory):
    """A finished evaluation with everything that there can be, and its configuration."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    settings = {"zip_submission": True, "partial_submission": True}
    config = with_busy_weights(tiny_config(root, out, eval=settings, overwrite=True))
    evaluate(config)
    (out / "analysis.html").write_text(MARK)
    return config


@pytest.fixture
def old(evaluated, tmp_path):
    """A copy of it."""
    shutil.copytree(evaluated.output_dir, tmp_path / "out")
    return evaluated.model_copy(update={"output_dir": tmp_path / "out"})


@pytest.mark.parametrize("number", range(12))
def test_a_report_never_stands_beside_masks_that_are_half_gone(old, number, monkeypatch):
    out, sets = old.output_dir, evaluated_sets(old.data)
    before = files(out)
    assert {"results.json", "results.md", "analysis.html", "submission.zip", "expressions.csv"} < before
    with monkeypatch.context() as patched:
        kill_after(patched, number)
        try:
            claim_evaluation(old, sets)
        except Killed:
            pass
        else:
            assert number > 5, "something is removed"
    assert "results.json" not in files(out) or before - files(out) == set()
    claim_evaluation(old.model_copy(update={"overwrite": False}), sets)
    assert files(out) == set(), "the next run finishes what was begun, and finds nothing old"


def test_an_interrupted_evaluation_of_another_data_set_is_not_removed_unasked(old, root):
    """Two sets have folders of their own; with one of them the output folder itself is where results go."""
    out = old.output_dir
    shutil.rmtree(out)
    one = old.data.sets[0]
    both = (one, one.model_copy(update={"eval_split": "train"}))
    two = old.model_copy(update={"data": old.data.model_copy(update={"eval_sets": both}), "overwrite": False})
    frame = next((root / "valid" / "JPEGImages" / "v_a").iterdir())
    content = frame.read_bytes()
    frame.write_bytes(content[:50])
    with pytest.raises(ValueError, match="not a readable image"):
        evaluate(two)
    frame.write_bytes(content)
    (unfinished,) = {path.parent for path in out.glob("*/*/unfinished")}
    single = old.model_copy(update={"overwrite": False})
    with pytest.raises(ValueError, match=f"holds the interrupted evaluation of another data set, {unfinished}"):
        evaluate(single)
    assert (unfinished / "unfinished" / "origin.json").is_file()
    evaluate(single.model_copy(update={"overwrite": True}))
    assert not any(unfinished.iterdir())


def test_an_evaluation_that_goes_on_leaves_no_report_from_before(old):
    out = old.output_dir
    (out / "results.json").unlink()
    (out / "results.md").write_text(MARK)
    (out / "unfinished").mkdir()
    (out / "unfinished" / "origin.json").write_text('{"weights": "others"}')
    (out / ".00003.0123456789abcdef.png").write_text(MARK)
    evaluate(old.model_copy(update={"overwrite": False}))
    assert MARK not in (out / "results.md").read_text()
    assert not (out / "analysis.html").exists()
    assert not any(name.startswith(".") for name in files(out))


def test_lines_of_a_record_without_its_origin_do_not_count(old):
    out = old.output_dir
    lines = (out / "videos.jsonl").read_text()
    (out / "unfinished").mkdir()
    (out / "unfinished" / "0.jsonl").write_text(lines.replace('"predicted_px":', '"predicted_px":1'))
    evaluate(old)
    assert (out / "videos.jsonl").read_text() == lines


# ---- prediction ----


@pytest.fixture
def videos(root, tmp_path):
    """Three folders of frames."""
    folder = tmp_path / "videos"
    for name in ("a", "b", "c"):
        shutil.copytree(root / "valid" / "JPEGImages" / "v_a", folder / name)
    return folder


def prediction(root, out, *names, **settings):
    predicted = {"video": tuple(map(str, names)), "sentences": ("a square",), "formats": ("masks", "rle"), **settings}
    return tiny_config(root, out, predict=predicted, overwrite=True)


def test_videos_that_are_not_segmented_again_are_gone(root, videos, tmp_path):
    out = tmp_path / "out"
    predict(prediction(root, out, *(videos / name for name in "abc")))
    assert {path.parent.name for path in out.glob(f"*/{SUMMARY}")} == {"a", "b", "c"}
    (out / "c" / "mine.txt").write_text("")
    predict(prediction(root, out, videos / "a", videos / "b"))
    assert {name.split("/")[0] for name in files(out)} == {"a", "b", "c"}
    assert files(out / "c") == {"mine.txt"}
    predict(prediction(root, out, videos / "c"))
    assert {name.split("/")[0] for name in files(out)} == {"masks", "masks_rle.json", SUMMARY, "c"}
    assert files(out / "c") == {"mine.txt"}


@pytest.mark.parametrize("number", range(6))
def test_what_a_killed_prediction_left_is_found_by_the_next(root, tmp_path, number, monkeypatch):
    out = tmp_path / "out"
    for name in ("a", "b"):
        (out / name / "masks" / "00").mkdir(parents=True)
        for path in (SUMMARY, "masks/00/00000.png", "overlay.mp4", ".overlay.0123456789abcdef.mp4"):
            (out / name / path).write_text(MARK)
    with monkeypatch.context() as patched:
        kill_after(patched, number)
        with pytest.raises(Killed):
            claim(out, [out / "a", out / "b"], overwrite=True)
    for name in ("a", "b"):
        old = {"masks/00/00000.png", "overlay.mp4"}
        assert not (out / name / SUMMARY).exists() or old <= files(out / name)
    claim(out, [out], overwrite=True)
    assert files(out) == {UNFINISHED}


def test_a_prediction_that_breaks_off_is_cleaned_up_by_the_next(root, videos, tmp_path):
    out = tmp_path / "out"
    frame = sorted((videos / "b").iterdir())[-1]
    frame.write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 2 videos could not be segmented"):
        predict(prediction(root, out, videos / "a", videos / "b"))
    assert files(out / "b"), "its first frames"
    assert json.loads((out / UNFINISHED).read_text()) == [".", "a", "b"]
    predict(prediction(root, out, videos / "a"))
    assert {name.split("/")[0] for name in files(out)} == {"masks", "masks_rle.json", SUMMARY}


@pytest.mark.parametrize("content", ["[", '["../other"]', "3", "[3]"])
def test_a_list_of_folders_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / SUMMARY).write_text(MARK)
    out = tmp_path / "out"
    out.mkdir()
    (out / UNFINISHED).write_text(content)
    with pytest.raises(ValueError, match=rf"{UNFINISHED}: not a list of folders here"):
        claim(out, [out], overwrite=True)
    assert files(tmp_path / "other") == {SUMMARY}
