"""Damage done on purpose to tiny data sets, and what the check says about it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets.problems import KINDS
from media.mask_png import write_index_png
from tests.checking import check, check_folder, truncate
from tests.tiny_clips import change_expressions
from tests.tiny_davis import write_tiny_davis
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH, write_expressions, write_tiny_data
from tools.check_data import main


@pytest.fixture
def root(tmp_path):
    return write_tiny_data(tmp_path / "data")


@pytest.fixture
def davis(tmp_path):
    (tmp_path / "text").mkdir()
    return write_tiny_davis(tmp_path / "davis", text_encoder=tmp_path / "text")


# --- Ref-YouTube-VOS ---


def test_a_sound_folder_has_no_problems_but_its_counts(root, capsys):
    assert check_folder(capsys, root) == (0, {})
    assert main(["--all", "--root", str(root.parent)]) == 0
    printed = capsys.readouterr().out
    assert "Ref-YouTube-VOS, train" in printed
    assert "videos 2 of 3,471" in printed
    assert "2 splits are ready" in printed
    assert "opened 13 of 13 frames\n" in printed


def test_truncated_images_and_masks_are_named(root, capsys):
    truncate(root / "train/JPEGImages/long/00010.jpg")
    truncate(root / "train/Annotations/short/00005.png")
    (root / "valid/JPEGImages/v_a/00000.jpg").write_bytes(b"")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {
        "train/JPEGImages/long/00010.jpg",
        "train/Annotations/short/00005.png",
        "valid/JPEGImages/v_a/00000.jpg",
    }
    detail = problems["unreadable"]["train/JPEGImages/long/00010.jpg"]
    assert detail == "not a readable image (Truncated File Read)", "without a path of another machine"


def test_missing_files_are_named_once_and_whole_folders_as_such(root, capsys):
    (root / "train/JPEGImages/long/00015.jpg").unlink()
    (root / "train/Annotations/long/00020.png").unlink()
    shutil.rmtree(root / "valid/JPEGImages/v_b")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert problems == {
        "missing": {
            "train/JPEGImages/long/00015.jpg": "",
            "train/Annotations/long/00020.png": "",
            "valid/JPEGImages/v_b/": "no such folder of video v_b; it may be one of the test videos, which the "
            "released file names, too, and meta_expressions/test/meta_expressions.json is missing",
        }
    }


def test_of_a_missing_folder_of_masks_only_its_name_is_given(root, capsys):
    shutil.rmtree(root / "train/Annotations/long")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert problems == {"missing": {"train/Annotations/long/": "no such folder; 10 files expected in it"}}


def test_surplus_files_and_folders_are_notes(root, capsys):
    (root / "train/JPEGImages/long/.DS_Store").touch()  # clutter is nobody's concern
    (root / "train/Annotations/long/00000_copy.png").touch()
    (root / "train/JPEGImages/unknown").mkdir()
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert problems == {
        "surplus": {
            "train/Annotations/long/00000_copy.png": "",
            "train/JPEGImages/unknown": "no sentence is about it",
        }
    }


def test_a_mask_of_another_size_than_its_frame_is_a_mismatch(root, capsys):
    write_index_png(root / "train/Annotations/long/00005.png", np.ones((HEIGHT, WIDTH - 1), dtype=np.uint8))
    Image.new("RGB", (WIDTH, HEIGHT - 2)).save(root / "valid/JPEGImages/v_a/00010.jpg")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"mismatched"}
    assert f"({HEIGHT}, {WIDTH - 1})" in problems["mismatched"]["train/Annotations/long/00005.png"]
    assert f"({HEIGHT - 2}, {WIDTH})" in problems["mismatched"]["valid/JPEGImages/v_a/00010.jpg"]


def test_a_mask_in_colours_is_unreadable(root, capsys):
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train/Annotations/long/00005.png")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {"train/Annotations/long/00005.png"}
    assert "RGB" in problems["unreadable"]["train/Annotations/long/00005.png"]


def test_an_object_without_pixels_stops_training_unless_meta_json_knows_it(root, capsys):
    change_expressions(root, "train", lambda videos: videos["short"]["expressions"]["1"].update(obj_id="7"))
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert problems == {"objects": {"video short, object 7": "no pixel in any mask (expressions 1)"}}
    meta = json.loads((root / "train/meta.json").read_text())
    meta["videos"]["short"]["objects"]["7"] = {"category": "bear"}
    (root / "train/meta.json").write_text(json.dumps(meta))
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert problems == {"unseen": {"video short, object 7": "no pixel in any mask (expressions 1)"}}


def test_a_sample_says_nothing_about_objects_that_it_may_have_missed(root, capsys):
    assert check_folder(capsys, root, "--sample", "3") == (0, {})
    main(["--all", "--root", str(root), "--sample", "3"])
    assert "opened 3 of 13 frames (a sample; --full opens all)" in capsys.readouterr().out


def test_the_full_check_uses_processes_and_finds_the_same(root, capsys):
    truncate(root / "train/JPEGImages/long/00010.jpg")
    write_index_png(root / "train/Annotations/short/00005.png", np.ones((4, 4), dtype=np.uint8))
    assert check_folder(capsys, root, "--full", "--workers", "2") == check_folder(capsys, root)


def test_empty_sentences_are_all_listed(root, capsys):
    def empty(videos):
        videos["long"]["expressions"]["0"]["exp"] = "  "
        videos["short"]["expressions"]["2"]["exp"] = ""

    change_expressions(root, "train", empty)
    truncate(root / "train/JPEGImages/long/00010.jpg")
    code, problems = check_folder(capsys, root)
    assert code == 1
    file = "meta_expressions/train/meta_expressions.json"
    assert set(problems) == {"expressions", "unreadable"}, "the rest is looked at all the same"
    assert problems["expressions"] == {
        file: "videos.long.expressions.0.exp: got '  ', expected a text that is not empty\n"
        "videos.short.expressions.2.exp: got '', expected a text that is not empty"
    }
    assert set(problems["unreadable"]) == {"train/JPEGImages/long/00010.jpg"}
    assert main(["--all", "--root", str(root)]) == 1
    printed = capsys.readouterr().out
    assert f"{file}: videos.long.expressions.0.exp: got '  ', expected a text that is not empty" in printed
    assert "train/JPEGImages/long/00010.jpg: not a readable image" in printed


def test_what_cannot_be_trained_on_is_found_without_reading_the_masks(root, capsys):
    change_expressions(root, "train", lambda videos: videos["long"]["expressions"]["1"].pop("obj_id"))
    change_expressions(
        root, "valid", lambda videos: [e.pop("obj_id") for v in videos.values() for e in v["expressions"].values()]
    )
    code, problems = check_folder(capsys, root, "--sample", "1")
    assert code == 1
    assert problems == {
        "expressions": {
            "meta_expressions/train/meta_expressions.json": (
                "videos.long.expressions.1: has no obj_id; this split cannot be trained on"
            )
        }
    }, "the valid split does not need it"
    assert not list(root.rglob("visible_objects*.json")), "where objects are visible is for the training to find out"


def test_videos_of_which_only_some_expressions_have_objects_cannot_be_evaluated(root, capsys):
    change_expressions(root, "valid", lambda videos: videos["v_a"]["expressions"]["1"].pop("obj_id"))
    code, problems = check_folder(capsys, root)
    assert code == 1
    detail = "some expressions name their objects, others do not; a sentence without an object is not scored"
    assert problems == {"index": {"video v_a": detail}}


def test_duplicated_ids_are_noticed(root, capsys):
    path = root / "meta_expressions/train/meta_expressions.json"
    text = path.read_text()
    assert '"2": {' in text
    path.write_text(text.replace('"2": {', '"1": {'))
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"index"}
    detail = problems["index"]["meta_expressions/train/meta_expressions.json"]
    assert detail.startswith("videos.long.expressions: the key '1' stands there twice, a duplicate")


def test_damaged_index_files_are_named(root, capsys):
    truncate(root / "meta_expressions/train/meta_expressions.json")
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"index"}
    assert set(problems["index"]) == {"meta_expressions/train/meta_expressions.json"}
    assert "not JSON: line 1, column" in problems["index"]["meta_expressions/train/meta_expressions.json"]


def test_a_split_without_videos_is_an_error(root, capsys):
    write_expressions(root, "valid", {})
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert problems == {
        "index": {
            "meta_expressions/valid/meta_expressions.json": "videos: got {}, expected at least one entry; it is empty"
        },
    }


def test_windows_line_ends_in_json_do_no_harm(root, capsys):
    path = root / "meta_expressions/train/meta_expressions.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n").encode())
    assert check_folder(capsys, root) == (0, {})


def test_test_videos_in_the_valid_file_are_neither_counted_nor_surplus(root, capsys):
    write_expressions(root, "test", {"v_a": {"frames": ["00000"], "expressions": {"0": {"exp": "x"}}}})
    (root / "test/JPEGImages").mkdir(parents=True)
    shutil.copytree(root / "valid/JPEGImages/v_a", root / "test/JPEGImages/v_a")
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert set(problems) == {"surplus"}
    assert set(problems["surplus"]) == {
        f"test/JPEGImages/v_a/{name}.jpg" for name in ("00005", "00010", "00015", "00020")
    }
    main(["--all", "--root", str(root)])
    assert "videos 1 of 202" in capsys.readouterr().out


# --- Ref-DAVIS17 ---


def test_a_folder_of_davis_is_recognised(davis, capsys):
    code, problems = check_folder(capsys, davis)
    assert code == 1, "the tiny data has sentences about a video that is not there"
    assert problems == {
        "missing": {
            "JPEGImages/480p/absent/": "no such folder of video absent; `sequences` names the videos to use",
        },
        "index": {
            "video absent": (
                "no masks, although others have some (1 of 3 videos have none); a score must be over all videos or none"
            )
        },
    }


def test_training_on_davis_needs_the_masks_of_every_video(davis, capsys):
    shutil.copytree(davis / "meta_expressions/valid", davis / "meta_expressions/train")
    shutil.copytree(davis / "JPEGImages/480p/one", davis / "JPEGImages/480p/absent")
    code, problems = check_folder(capsys, davis)
    assert code == 1
    assert problems == {
        "missing": {
            "Annotations_unsupervised/480p/absent/": (
                "no such folder of video absent; a video without masks cannot be trained on"
            ),
        },
        "index": {
            "video absent": (
                "no masks, although others have some (1 of 3 videos have none); a score must be over all videos or none"
            )
        },
    }


DAVIS_CONFIG = "data:\n  sets: [{dataset: ref_davis17, train_split: valid, sequences: [one, two]}]\n"


def test_the_sequences_of_the_configuration_are_checked_alone(davis, tmp_path, capsys):
    config = tmp_path / "davis.yaml"
    config.write_text(DAVIS_CONFIG)
    truncate(davis / "Annotations_unsupervised/480p/two/00001.png")
    code, problems = check(capsys, "--config", config, f"data.root={davis}")
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {"Annotations_unsupervised/480p/two/00001.png"}
    code, problems = check(capsys, "--config", config, f"data.root={davis}", "data.sets.0.sequences=[one]")
    assert (code, problems) == (0, {})


def test_a_part_of_a_set_is_not_compared_with_the_published_counts(davis, tmp_path, capsys):
    config = tmp_path / "davis.yaml"
    config.write_text(DAVIS_CONFIG)
    assert main(["--config", str(config), f"data.root={davis}", "--json"]) == 0
    (split,) = json.loads(capsys.readouterr().out)["splits"]
    assert (split["split"], split["counts"]["videos"]) == ("valid", 2), "trained on and evaluated, but checked once"
    assert (split["expected"], split["problems"]) == (None, [])


def test_folders_that_reading_cannot_do_without_are_named_below_the_root(davis, tmp_path, capsys):
    config = tmp_path / "davis.yaml"
    config.write_text(DAVIS_CONFIG)
    shutil.rmtree(davis / "Annotations_unsupervised")
    code, problems = check(capsys, "--config", config, f"data.root={davis}")
    assert code == 1
    ((name, detail),) = problems["index"].items()
    assert name == "Annotations_unsupervised/480p"
    assert "those of the semi-supervised task in Annotations/480p show other objects" in detail
    shutil.rmtree(davis / "Annotations")
    code, problems = check(capsys, "--config", config, f"data.root={davis}")
    assert code == 1
    assert problems == {"index": {"no such folder": "Annotations_unsupervised/480p or valid/Annotations"}}


def test_windows_line_ends_in_lists_are_a_note(davis, capsys):
    (davis / "ImageSets/2017/val.txt").write_bytes(b"one\r\ntwo\r\n")
    _, problems = check_folder(capsys, davis)
    assert set(problems) == {"missing", "line_ends", "index"}
    assert problems["line_ends"] == {"ImageSets/2017/val.txt": ""}


# --- the command ---


def test_a_configuration_names_what_is_checked(root, capsys, repository):
    config = repository / "configs/ref_youtube_vos_scratch.yaml"
    assert check(capsys, "--config", config, f"data.root={root}") == (0, {})


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all"],
        ["--root", "."],
        ["--config", "x.yaml", "--all", "--root", "."],
        ["--all", "--root", ".", "data.root=x"],
        ["--all", "--root", ".", "--sample", "0"],
        ["--all", "--root", ".", "--workers", "-1"],
    ],
)
def test_commands_that_make_no_sense_are_explained(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_folders_without_data_are_an_error(tmp_path, capsys, repository):
    for arguments in (
        ["--all", "--root", str(tmp_path)],
        ["--all", "--root", str(tmp_path / "nowhere")],
        ["--config", str(tmp_path / "nowhere.yaml")],
        ["--config", str(repository / "configs/base.yaml"), f"data.root={tmp_path / 'nowhere'}"],
    ):
        assert main(arguments) == 2
        assert "check_data: " in capsys.readouterr().err


def test_every_stage_and_every_set_of_a_configuration_is_checked(root, tmp_path, capsys):
    for name in ("one", "two", "three"):
        shutil.copytree(root, tmp_path / "all" / name)
    truncate(tmp_path / "all/two/train/JPEGImages/long/00010.jpg")
    truncate(tmp_path / "all/two/valid/JPEGImages/v_a/00000.jpg")  # only the first set is evaluated
    truncate(tmp_path / "all/three/train/JPEGImages/long/00020.jpg")
    config = tmp_path / "stages.yaml"
    config.write_text(
        "data:\n  sets: [{dataset: ref_youtube_vos, root: one}, {dataset: ref_youtube_vos, root: two}]\n"
        "stages:\n  - {name: first}\n"
        "  - {name: again, data: {sets: [{dataset: ref_youtube_vos, root: one, lower_case: false}]}}\n"
        "  - {name: second, data: {sets: [{dataset: ref_youtube_vos, root: three, eval_split: train}]}}\n"
    )
    code, problems = check(capsys, "--config", config, f"data.root={tmp_path / 'all'}")
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {"train/JPEGImages/long/00010.jpg", "train/JPEGImages/long/00020.jpg"}
    main(["--config", str(config), f"data.root={tmp_path / 'all'}", "--json"])
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert {(split["root"].rsplit("/", 1)[1], split["split"]) for split in splits} == {
        ("one", "train"),
        ("one", "valid"),
        ("two", "train"),
        ("three", "train"),
    }
    assert len(splits) == 4


def test_the_split_that_eval_would_score_is_checked_whatever_the_stages_validate_on(root, tmp_path, capsys):
    config = tmp_path / "stages.yaml"
    config.write_text(
        "data:\n  sets: [{dataset: ref_youtube_vos}]\n"
        "stages:\n  - {name: only, data: {sets: [{dataset: ref_youtube_vos, eval_split: train}]}}\n"
    )
    main(["--config", str(config), f"data.root={root}", "--json"])
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [split["split"] for split in splits] == ["train", "valid"]


def test_a_split_that_is_trained_on_and_evaluated_must_be_fit_for_training(root, tmp_path, capsys):
    change_expressions(root, "valid", lambda videos: [e.pop("obj_id") for e in videos["v_a"]["expressions"].values()])
    config = tmp_path / "valid.yaml"
    config.write_text("data:\n  sets: [{dataset: ref_youtube_vos, train_split: valid}]\n")
    code, problems = check(capsys, "--config", config, f"data.root={root}")
    assert code == 1
    assert set(problems) == {"expressions"}
    assert set(problems["expressions"]) == {"meta_expressions/valid/meta_expressions.json"}


def test_different_data_sets_in_one_folder_are_told_apart(root, tmp_path, capsys):
    config = tmp_path / "two.yaml"
    config.write_text("data:\n  sets: [{dataset: mevis}, {dataset: a2d_sentences}]\n")
    assert main(["--config", str(config), f"data.root={root}", "--json"]) == 1
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [(split["dataset"], split["split"]) for split in splits] == [
        ("mevis", "train"),
        ("a2d_sentences", "train"),
        ("mevis", "valid_u"),
    ]


def test_names_are_relative_to_the_root_however_it_is_given(root, capsys, monkeypatch):
    truncate(root / "train/JPEGImages/long/00010.jpg")
    monkeypatch.chdir(root)
    for folder in (".", "..", root):
        code, problems = check_folder(capsys, folder)
        assert code == 1
        assert set(problems["unreadable"]) == {"train/JPEGImages/long/00010.jpg"}


def test_every_kind_of_problem_says_what_to_do():
    assert all(kind.title and kind.advice for kind in KINDS.values())


def test_long_lists_are_cut_short_unless_all_is_asked_for(root, capsys):
    for i in range(15):
        (root / "train/JPEGImages/long" / f"x{i}.txt").touch()
    main(["--all", "--root", str(root)])
    assert "... and 5 more (--show 0 lists all)" in capsys.readouterr().out
    main(["--all", "--root", str(root), "--show", "0"])
    assert "more" not in capsys.readouterr().out
