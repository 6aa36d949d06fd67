"""Every format through the whole program: one training step and an evaluation with a tiny random model."""

import json

import pytest

from engine.logging import METRICS_FILE
from main import run
from tests.tiny_run import read_metrics, tiny_config
from tools.shapes.writer import make_shapes

FORMATS = {
    "a2d_sentences": ("a2d", {"eval_split": "test"}),
    "jhmdb_sentences": ("jhmdb", {"eval_split": "test"}),
    "ref_davis17": ("davis", {}),
    "refcoco": ("refcoco", {"eval_split": "val"}),
    "mevis": ("mevis", {"eval_split": "valid_u"}),
    "mevis v2": ("mevis_v2", {"eval_split": "valid_u"}),
    "ref_youtube_vos": ("ref_youtube_vos", {}),
}
"""Loader, and perhaps a release -> layout of the generator, and settings."""


@pytest.fixture(scope="module")
def config_of(request, tmp_path_factory):
    """Makes a configuration for a folder of results, over data of the format."""
    layout, settings = FORMATS[request.param]
    folder = tmp_path_factory.mktemp(layout)
    make_shapes(
        folder / "set", layout=layout, seed=3, num_train=2, num_valid=2, num_frames=4, size=(64, 96), num_workers=1
    )

    def make(name, **data):
        return tiny_config(
            folder / "set",
            folder / name,
            data={"dataset": request.param.split()[0], "cache": folder / "cache", **settings, **data},
            stages=({"name": "one step", "epochs": 1, "max_steps": 1},),
            train={"log_every": 1, "validate_every": 0},
        )

    return make


@pytest.mark.parametrize("config_of", FORMATS, indirect=True)
def test_an_evaluation_runs_through(config_of):
    config = config_of("eval")
    run("eval", config)
    (report,) = json.loads((config.output_dir / "results.json").read_text())["sets"].values()
    assert report["num_videos"] == 2
    assert "no masks to score" not in (config.output_dir / "results.md").read_text()


@pytest.mark.parametrize("config_of", [name for name in FORMATS if name != "jhmdb_sentences"], indirect=True)
def test_one_step_of_training_runs_through(config_of):
    config = config_of("train")
    run("train", config)
    losses = [line["total"] for line in read_metrics(config.output_dir / METRICS_FILE) if line["event"] == "train"]
    assert len(losses) == 1
    assert losses[0] > 0


@pytest.mark.parametrize("config_of", ["mevis"], indirect=True)
def test_the_split_of_mevis_without_masks_gives_a_submission(config_of):
    config = config_of("secret", eval_split="valid")
    run("eval", config)
    assert len(list((config.output_dir / "Annotations").rglob("*.png"))) >= 4
    assert "no masks to score" in (config.output_dir / "results.md").read_text()


@pytest.mark.parametrize("config_of", ["mevis v2"], indirect=True)
def test_sentences_that_mean_nothing_are_written_and_scored_by_their_rejection(config_of):
    config = config_of("absent")
    run("eval", config)
    (report,) = json.loads((config.output_dir / "results.json").read_text())["sets"].values()
    path = config.data.root / "valid_u" / "meta_expressions_v2.json"
    described = json.loads(path.read_text())["videos"]
    with_target = {
        (video, name)
        for video, content in described.items()
        for name, entry in content["expressions"].items()
        if entry["anno_id"]
    }
    everything = {(video, name) for video, content in described.items() for name in content["expressions"]}
    assert with_target < everything
    scored = {
        is_absent: {(e["video"], e["expression"]) for e in report["entries"] if e["absent"] == is_absent}
        for is_absent in (False, True)
    }
    assert scored == {False: with_target, True: everything - with_target}
    assert report["rejection"]["absent"] == len(everything - with_target)
    assert "mevis v2" in (config.output_dir / "results.json").read_text(), "the results say which release they are of"
    written = {path.parent.parts[-2:] for path in (config.output_dir / "Annotations").rglob("*.png")}
    assert written == everything
