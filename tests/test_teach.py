"""Teaching end to end: a tiny model learns two squares from three labelled frames; nothing is fetched."""

import json
import logging

import numpy as np
import pytest

import teach as teach_module
from configs.loader import load_config
from evaluation.report import EntryScore, EvalReport, FrameScore, RankedQuery
from loading.loaders import training_videos
from main import TEACH_CONFIG, main
from soc_rvos import Segmenter
from teach import choose_min_score, split_stages
from tests.tiny_labels import HEIGHT, NUM_FRAMES, WIDTH, mask_of, write_file, write_frames, write_pngs
from tools.shapes.text import write_text_encoder

WORDS = ["the brown dog", "a dog on the left", "the grey cat", "the white dog", "hound"]
HELD_OUT = 7
"""The frame that is held out of the four that are labelled."""


def tiny_overrides(folder, *, steps=(150, 40)):
    """The recipe with an encoder that learns from scratch in seconds."""
    encoder = {"name": "video-swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]}
    encoder |= {"window_size": [1, 4, 4], "drop_path_rate": 0.0, "weights": None, "frozen": False}
    values = {
        "model.visual_encoder": encoder,
        "model.text_encoder": {"path": str(folder / "text_encoder"), "frozen": False},
        "model.dim": 32, "model.num_heads": 2, "model.ffn_dim": 64, "model.dropout": 0.0,
        "data.short_side": HEIGHT, "data.long_side": WIDTH, "data.flip_probability": 0.0, "data.batch_size": 4,
        "data.scale_jitter": [1.0, 1.0], "data.colour_jitter": 0.1, "data.word_dropout": 0.0,
        "data.sets.0.absent_words": False,
        "optim.lr": 2e-3, "optim.lr_visual_encoder": 2e-3, "optim.lr_text_encoder": 2e-3,
        "stages.0.max_steps": steps[0], "stages.1.max_steps": steps[1],
        "device": "cpu", "num_threads": 1, "data.cache": str(folder / "cache"),
    }  # fmt: skip
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teach")
    write_file(folder / "pets.mp4")
    write_pngs(folder / "labels")
    write_text_encoder(folder / "text_encoder", WORDS, vocab_size=300)
    return folder


def arguments(folder, output, *, steps=(150, 40)):
    paths = ["--video", str(folder / "pets.mp4"), "--labels", str(folder / "labels"), "--output", str(output)]
    return ["teach", *paths, *tiny_overrides(folder, steps=steps)]


@pytest.fixture(scope="module")
def taught(folder):
    """The folder of a taught model, the exit code, and what the log said."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("teach").addHandler(handler)
    code = main(arguments(folder, folder / "model"))
    logging.getLogger("teach").removeHandler(handler)
    return folder / "model", code, "\n".join(said)


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


@pytest.mark.slow
def test_a_taught_model_finds_its_objects_in_frames_without_labels(taught, folder):
    path, code, _ = taught
    assert code == 0
    result = Segmenter.from_pretrained(path)(folder / "pets.mp4", ["The brown dog", "the grey cat"])
    unlabelled = [frame for frame in range(3, NUM_FRAMES) if frame not in (4, 7, 10)]
    for index, number in enumerate((1, 2)):
        own, other = (
            np.mean([iou(result.masks[index][frame], mask_of(each, frame)) for frame in unlabelled])
            for each in (number, 3 - number)
        )
        assert own > 0.7, (number, own)
        assert other < 0.2, (number, other)
    assert result.found.all()


@pytest.mark.slow
def test_the_threshold_is_part_of_the_saved_model(taught):
    config = load_config(taught[0] / "config.yaml")
    assert config.predict.min_score is not None
    assert 0 < config.predict.min_score < 1


@pytest.mark.slow
def test_what_is_said_in_the_end(taught):
    path, _, said = taught
    card = (path / "README.md").read_text(encoding="utf-8")
    assert f"held-out frames: pets/{HELD_OUT:05d}" in said
    assert "before teaching" in said
    assert f"--model {path}" in said
    for text in ("J&F before teaching", "N-acc", "T-acc", "the brown dog", "not stated"):
        assert text in card, text
    assert str(path.parent) not in card  # no folders of this machine


def test_the_model_is_scored_before_it_sees_the_held_out_frames(folder, monkeypatch):
    """Every score of a taught model is given after stages without, and before stages with the held-out frames."""
    events = []

    def train(run, stop):
        for stage in run.config.training_stages():
            video, *repeated = training_videos(stage.data)
            assert all(each == video for each in repeated)
            events.append(("train", HELD_OUT in video.annotated, len(video.annotated)))

    def score(run, held_out, *, min_score):
        events.append(("score", min_score))
        return report([0.9], [0.1])

    monkeypatch.setattr(teach_module, "train_stages", train)
    monkeypatch.setattr(teach_module, "score", score)
    teach_module.teach(load_config(TEACH_CONFIG, overrides_of(folder, folder / "order")))
    kinds = [event[:2] if event[0] == "train" else event[:1] for event in events]
    assert kinds == [("score",), ("train", False), ("score",), ("score",), ("train", True)]
    assert [event[1] for event in events if event[0] == "score"] == [0.0, 0.0, 0.5]
    assert [event[2] for event in events if event[0] == "train"] == [3, 4]


def overrides_of(folder, output):
    videos = [{"video": str(folder / "pets.mp4"), "labels": str(folder / "labels")}]
    return [f"data.sets.0.videos={json.dumps(videos)}", "data.root=.", f"output_dir={output}", *tiny_overrides(folder)]


def report(present, absent, *, empty=0):
    """A report with these presence scores; `empty` present sentences have no pixel."""

    def entry(score, *, is_absent):
        return EntryScore(
            "v", "e", "s", "", (FrameScore(0.5, 0.5),), (RankedQuery(score or 0.0, 0.5),),
            is_absent=is_absent, presence_score=score,
        )  # fmt: skip

    entries = [entry(score, is_absent=False) for score in [*present, *[None] * empty]]
    entries += [entry(score, is_absent=True) for score in absent]
    return EvalReport(1, len(entries), tuple(entries))


def test_the_threshold_lies_between_present_and_absent():
    assert choose_min_score(report([0.9, 0.8], [0.1, 0.2]), min_t_acc=0.95) == pytest.approx(0.5)
    # one present sentence scores less than an absent one: it must stay found ...
    assert choose_min_score(report([0.9, 0.1], [0.2, 0.0]), min_t_acc=1.0) == pytest.approx(0.05)
    # ... unless half of them may be missed
    assert choose_min_score(report([0.9, 0.1], [0.2, 0.3]), min_t_acc=0.5) == pytest.approx(0.6)


@pytest.mark.parametrize("scores", [([0.9], []), ([], [0.2])], ids=["none absent", "none present"])
def test_without_both_kinds_nothing_is_rejected(scores, caplog):
    assert choose_min_score(report(*scores), min_t_acc=0.95) == 0.0
    assert "reject no sentence" in caplog.text


def test_with_too_many_empty_masks_nothing_is_rejected(caplog):
    assert choose_min_score(report([0.9], [0.2], empty=1), min_t_acc=0.95) == 0.0
    assert "fewer than 95.0 %" in caplog.text


def test_stages_are_split_where_they_see_all_frames():
    config = load_config(TEACH_CONFIG, ["data.root=."])
    learning, refitting = split_stages(config.stages)
    assert [stage.name for stage in learning] == ["learn"]
    assert [stage.name for stage in refitting] == ["all frames"]
    with pytest.raises(ValueError, match="a stage that trains on split `train`"):
        split_stages(refitting)
    with pytest.raises(ValueError, match="a stage that trains on split `train`"):
        split_stages(())


@pytest.mark.slow
def test_it_starts_from_a_saved_model(taught, folder, caplog):
    """One step later it still knows what it was taught: the weights are those of the model."""
    again = arguments(folder, folder / "again", steps=(1, 1))
    options = [each for each in again if not each.startswith("model.")]
    assert main([*options, "--model", str(taught[0]), "optim.lr=1e-9", "optim.lr_visual_encoder=0"]) == 0
    before = float(caplog.text.split("before teaching: J&F ")[1].split(" %")[0])
    assert before > 70


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [a[0], *a[5:]], "teach needs --video FILE --labels PATH, or --data FOLDER"),
        (lambda a: [*a, "--labels", "more"], "--labels for each --video: there are 1 videos, 2 labels"),
        (lambda a: [*a, "--data", "folder"], "--data FOLDER, or --video and --labels"),
        (lambda a: [*a[:4], "missing", *a[5:]], "missing: no such file or folder of labels"),
        (lambda a: [a[0], "--video", "missing.mp4", *a[3:]], "missing.mp4"),
    ],
)
def test_mistakes_give_one_message(folder, tmp_path, change, message, capsys):
    assert main(change(arguments(folder, tmp_path / "model"))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_output_folder_with_something_else_is_refused_before_it_learns(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(arguments(folder, tmp_path)) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_several_videos_teach_one_model(folder, tmp_path):
    """Their sentences are absent ones of each other, unless they share a noun."""
    other = tmp_path / "other"
    write_frames(other / "frames")
    write_pngs(other / "labels", sentences={"1": ["a red car"], "2": ["a truck"]})
    run_folder = tmp_path / "run"
    options = arguments(folder, tmp_path / "model", steps=(2, 1))
    options += ["--video", str(other / "frames"), "--labels", str(other / "labels")]
    assert main([*options, f"teach.run_folder={run_folder}", "train.log_every=1"]) == 0
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["stage"] for row in rows if "total" in row] == ["learn", "learn", "all frames"]
    config = load_config(tmp_path / "model" / "config.yaml")
    assert len(config.data.sets[0].videos) == 2
