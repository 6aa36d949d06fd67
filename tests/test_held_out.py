"""Training videos that are held out: how they are chosen, that they are never trained on, and validation on them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from configs.schema import Config, DataConfig
from datasets.held_out import choose_held_out, read_held_out
from engine.logging import METRICS_FILE
from eval import evaluate
from loading.loaders import build_eval_dataset, require_held_out, training_videos, validation_data
from tests.tiny_clips import change_expressions, make_config
from tests.tiny_ref_youtube_vos import object_map
from tests.tiny_run import read_metrics, tiny_config, write_tiny_root
from tools.check_data import main as check_data
from tools.prepare_data import main as prepare_data
from tools.prepare_data import prepare
from train import fit

NAMES = [f"video_{number:03d}" for number in range(200)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Training videos "long" and "short"; the objects of valid are secret, as in the published file."""
    root = write_tiny_root(tmp_path_factory.mktemp("data"))

    def hide(videos):
        for video in videos.values():
            for expression in video["expressions"].values():
                del expression["obj_id"]

    change_expressions(root, "valid", hide)
    return root


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.txt"
    path.write_text("short\n")
    return path


# --- the choice ---


def test_the_choice_depends_on_seed_and_names_alone():
    chosen = choose_held_out(NAMES, share=0.05, seed=0)
    assert len(chosen) == 10
    assert list(chosen) == sorted(chosen)
    assert set(chosen) <= set(NAMES)
    assert choose_held_out(NAMES[::-1] + NAMES[:3], share=0.05, seed=0) == chosen
    assert choose_held_out(NAMES, share=0.05, seed=1) != chosen
    assert set(choose_held_out(NAMES, share=0.1, seed=0)) > set(chosen)
    assert len(set(choose_held_out([*NAMES, "one_more"], share=0.05, seed=0)) & set(chosen)) >= 9


def test_at_least_one_video_is_held_out_and_one_is_left():
    assert len(choose_held_out(NAMES[:3], share=0.01, seed=0)) == 1
    with pytest.raises(ValueError, match="3 of 3 videos held out leave none to train on"):
        choose_held_out(NAMES[:3], share=0.9, seed=0)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"\n \n", "names no video"), (b"\xff", "not UTF-8")]
)
def test_a_file_that_names_nothing_is_an_error(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_held_out(path)
    assert f"held_out={path}" in str(error.value)


def test_prepare_data_writes_the_list_once(root: Path, tmp_path: Path, capsys):
    data, cache = make_config(root), tmp_path / "cache"
    path = cache / "ref_youtube_vos_train_held_out.txt"
    lines = [line for line in prepare(data, cache, held_out=0.5, seed=3) if "held_out" in line]
    assert lines == [f"made: {path} (1 of 2 videos; data.sets.0.held_out={path} uses it)"]
    assert read_held_out(path) == choose_held_out(["long", "short"], share=0.5, seed=3)
    assert any(line.startswith(f"up to date: {path}") for line in prepare(data, cache, held_out=0.5, seed=3))
    other = next(s for s in range(20) if choose_held_out(["long", "short"], share=0.5, seed=s) != read_held_out(path))
    again = [line for line in prepare(data, cache, held_out=0.5, seed=other) if "held_out" in line]
    assert again[0].startswith(f"made anew, another choice: {path}")
    assert not any("held_out" in line for line in prepare(data, cache))
    for share in ("0", "1", "x"):
        with pytest.raises(SystemExit):
            prepare_data(["--config", "x.yaml", "--cache", str(cache), "--held-out", share])
    assert "0.05" in capsys.readouterr().err


def test_two_sets_of_one_name_get_a_list_each(root: Path, tmp_path: Path):
    sets = [{"dataset": "ref_youtube_vos"}, {"dataset": "ref_youtube_vos", "lower_case": False}]
    data = DataConfig.model_validate({"root": root, "sets": sets})
    list(prepare(data, tmp_path / "cache", held_out=0.5))
    names = {path.name for path in (tmp_path / "cache").glob("*.txt")}
    assert names == {"ref_youtube_vos_train_held_out_0.txt", "ref_youtube_vos_train_held_out_1.txt"}


# --- reading ---


def test_held_out_videos_are_evaluated_with_their_masks_and_not_trained_on(root: Path, held_out: Path):
    data = make_config(root, held_out=held_out, eval_split="held_out")
    assert {video.name for video in training_videos(data)} == {"long"}
    (video,) = build_eval_dataset(data)
    assert video.record.name == "short"
    assert [e.object_ids for e in video.record.expressions] == [(1,), (2,), (1,)]
    masks = video.load_masks(video.record.expressions[0])
    np.testing.assert_array_equal(masks, [object_map({1: range(3), 2: range(3)}, frame) == 1 for frame in range(3)])
    assert {video.record.name for video in build_eval_dataset(make_config(root, held_out=held_out))} == {"v_a", "v_b"}


def test_a_name_that_is_no_video_of_the_split_is_an_error(root: Path, held_out: Path):
    held_out.write_text("short\nv_a\n\nno_video\n")
    data = make_config(root, held_out=held_out, eval_split="held_out")
    for use in (training_videos, build_eval_dataset):
        with pytest.raises(ValueError, match="2 of 3 names are not videos of split 'train': v_a, no_video") as error:
            use(data)
        assert f"held_out={held_out}" in str(error.value)


def test_all_videos_held_out_are_an_error(root: Path, held_out: Path):
    held_out.write_text("short\nlong\n")
    with pytest.raises(ValueError, match="names all videos of split 'train'"):
        training_videos(make_config(root, held_out=held_out))


def test_held_out_videos_need_a_file(root: Path):
    with pytest.raises(ValueError, match="eval_split: held_out needs held_out: FILE"):
        make_config(root, eval_split="held_out")


def test_validation_runs_on_the_held_out_videos_of_all_sets_that_have_some(held_out: Path):
    plain, davis = {"dataset": "refcoco"}, {"dataset": "ref_davis17", "held_out": held_out}
    youtube = {"dataset": "ref_youtube_vos", "held_out": held_out}

    def names(**keys):
        return [s.eval_name for s in validation_data(DataConfig.model_validate(keys)).evaluated]

    assert names(sets=[plain, youtube, davis]) == ["ref_youtube_vos/held_out", "ref_davis17/held_out"]
    assert names(sets=[plain, {"dataset": "mevis"}]) == ["refcoco/val"]
    assert names(sets=[youtube], eval_sets=[plain, youtube]) == ["refcoco/val", "ref_youtube_vos/held_out"]
    assert names(sets=[youtube], eval_sets=[plain]) == ["refcoco/val"]
    with pytest.raises(ValueError, match="several results of one name"):
        names(sets=[youtube, youtube | {"root": "elsewhere"}])


def test_a_stage_that_would_train_on_validation_videos_is_an_error(root: Path, tmp_path: Path, held_out: Path):
    data = make_config(root, held_out=held_out)
    require_held_out(validation_data(data), [data, make_config(root, held_out=held_out, repeat=2)])
    with pytest.raises(ValueError, match=r"trains on split 'train' with held_out=None; give it the same file"):
        require_held_out(validation_data(data), [data, make_config(root)])
    stages = ({"epochs": 1}, {"epochs": 1, "data": {"held_out": None}})
    with pytest.raises(ValueError, match="held_out=None"):
        fit(tiny_config(root, tmp_path / "run", data={"held_out": held_out}, stages=stages))
    assert not (tmp_path / "run").exists()


def test_errors_name_the_entry_that_the_user_wrote(root: Path, held_out: Path):
    sets = [{"dataset": "ref_youtube_vos"}, {"dataset": "ref_davis17", "root": "nowhere", "held_out": held_out}]
    data = validation_data(DataConfig.model_validate({"root": root, "sets": sets}))
    with pytest.raises(ValueError, match=r"^data\.sets\.1\.root=nowhere"):
        build_eval_dataset(data, data.evaluated[0])


def test_the_check_looks_at_the_split_on_disk(root: Path, held_out: Path, repository: Path, capsys):
    config = repository / "configs" / "ref_youtube_vos_scratch.yaml"
    overrides = [f"data.root={root}", f"data.sets.0.held_out={held_out}", "data.sets.0.eval_split=held_out"]
    check_data(["--config", str(config), "--workers", "0", *overrides])
    printed = capsys.readouterr().out
    assert "train" in printed
    assert "split 'held_out'" not in printed
    assert "no such file" not in printed


# --- training ---


def spied_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Trains; returns the names of all videos that were trained on."""
    seen: set[str] = set()
    original = train.steps_of

    def steps_of(*args, **kwargs):
        for batches in original(*args, **kwargs):
            seen.update(meta.video for batch in batches for meta in batch.meta)
            yield batches

    monkeypatch.setattr(train, "steps_of", steps_of)
    fit(config)
    return seen


def events(config: Config) -> list[str]:
    return [line["event"] for line in read_metrics(config.output_dir / METRICS_FILE)]


def checkpoints(config: Config) -> set[str]:
    return {path.name for path in (config.output_dir / "checkpoints").iterdir()}


def test_without_masks_no_validation_runs_which_is_said_once(root: Path, tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(train, "validate_model", lambda *args, **kwargs: pytest.fail("validated"))
    config = tiny_config(root, tmp_path / "run")
    with caplog.at_level(logging.INFO):
        fit(config)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([message for message in warnings if "masks are not known" in message]) == 1
    assert "ref_youtube_vos/valid: its masks are not known, so no validation runs" in caplog.text
    assert "--held-out 0.05" in caplog.text
    assert "last.pt is the newest checkpoint" in caplog.records[-1].message
    assert "validation" not in events(config)
    assert "last.pt" in checkpoints(config)
    assert "best.pt" not in checkpoints(config)
    last = torch.load(config.output_dir / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert last["step"] == read_metrics(config.output_dir / METRICS_FILE)[-1]["step"]
    assert last["best_score"] == -1


def test_with_held_out_videos_training_validates_on_them_and_never_sees_them(
    root: Path, tmp_path: Path, held_out: Path, monkeypatch, caplog
):
    config = tiny_config(root, tmp_path / "run", data={"held_out": held_out})
    with caplog.at_level(logging.INFO):
        assert spied_fit(config, monkeypatch) == {"long"}
    assert "masks are not known" not in caplog.text
    assert "ref_youtube_vos: 1 of 2 videos are held out" in caplog.text
    assert events(config).count("validation") == 2
    assert {"last.pt", "best.pt"} <= checkpoints(config)
    weights = config.output_dir / "checkpoints" / "last.pt"
    data = {"held_out": held_out, "eval_split": "held_out"}
    report = evaluate(tiny_config(root, tmp_path / "eval", data=data, model={"weights": weights})).only
    assert report.num_videos == 1
    validation = [line for line in read_metrics(config.output_dir / METRICS_FILE) if line["event"] == "validation"]
    assert report.scores()["J&F"] == pytest.approx(validation[-1]["J&F"], abs=1e-12)


def test_a_set_without_masks_does_not_keep_others_from_being_validated(
    root: Path, tmp_path: Path, held_out: Path, caplog
):
    own = {"dataset": "ref_youtube_vos", "held_out": held_out, "eval_split": "held_out"}
    config = tiny_config(root, tmp_path / "run", data={"held_out": held_out, "max_eval_videos": 1})
    secret = {"dataset": "ref_youtube_vos"}
    data = DataConfig.model_validate(dict(config.data) | {"eval_sets": (own, secret)})
    config = config.model_copy(update={"data": data})
    with caplog.at_level(logging.WARNING):
        fit(config)
    assert "ref_youtube_vos/valid: its masks are not known; validation leaves it out" in caplog.text
    assert events(config).count("validation") == 2
    assert "best.pt" in checkpoints(config)
