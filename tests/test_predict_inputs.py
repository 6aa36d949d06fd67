"""What a prediction is asked for: several videos, named sentences, a part of a video; and what goes wrong."""

import json
import os
import shutil
import typing

import av
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from configs.predict_schema import OutputFormat, PredictConfig
from main import main
from media.mask_png import read_index_png
from models.saved_model import read_saved_config
from predict import predict
from prediction.inputs import find_objects, find_videos
from prediction.output_folder import UNFINISHED
from prediction.writers import DEFAULT_FORMATS, FORMATS
from tests.tiny_saved_model import write_tiny_saved_model
from tests.video_files import moving_pictures, write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    write_tiny_saved_model(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """`clips` holds two videos, a folder of frames, and a file that is none; `frames` holds images."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "clips" / "walk").mkdir(parents=True)
    (folder / "frames").mkdir()
    for number in (2, 10):
        write_video(folder / "clips" / f"clip{number}.mp4", moving_pictures(12, seed=number), rate=10)
    for index, pixels in enumerate(moving_pictures(3)):
        Image.fromarray(pixels).save(folder / "clips" / "walk" / f"{index}.png")
        Image.fromarray(pixels).save(folder / "frames" / f"{index}.png")
    (folder / "clips" / "notes.txt").write_text("no video")
    return folder


def run(model, out, *arguments):
    """`main.py predict` with the saved model; returns the exit code."""
    return main(["predict", "--model", str(model), "--output", str(out), *map(str, arguments), "device=cpu"])


def summary_of(folder):
    return json.loads((folder / "prediction.json").read_text(encoding="utf-8"))


# ---- which videos ----


def names_of(*paths):
    return [(video.name, str(video.path)) for video in find_videos([str(path) for path in paths])]


def test_a_folder_of_videos_is_each_of_them(videos):
    clips = videos / "clips"
    expected = [("clip2", clips / "clip2.mp4"), ("clip10", clips / "clip10.mp4"), ("walk", clips / "walk")]
    assert names_of(clips) == [(name, str(path)) for name, path in expected]
    assert names_of(videos / "frames") == [("frames", str(videos / "frames"))]
    assert names_of(clips / "*.mp4") == [(name, str(path)) for name, path in expected[:2]]
    assert names_of(videos / "frames" / "*.png") == [("frames", str(videos / "frames" / "*.png"))], "one video"
    assert names_of(videos / "frames" / "1.png", clips / "clip2.mp4") == [
        ("1", str(videos / "frames" / "1.png")),
        ("clip2", str(clips / "clip2.mp4")),
    ]


def test_videos_of_one_name_get_folders_of_their_own(videos):
    clip = videos / "clips" / "clip2.mp4"
    assert [name for name, _ in names_of(clip, clip, videos / "frames")] == ["clip2", "clip2-2", "frames"]


def folder_with_both(folder):
    (folder / "a.png").touch()
    (folder / "b.mp4").touch()
    return folder


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "*.mp4", "nothing matches"),
        (lambda folder: folder, "the folder holds no image and no video"),
        (folder_with_both, r"holds images and videos \(b\.mp4\); name one of them"),
    ],
)
def test_folders_without_a_video_are_named(tmp_path, prepare, message):
    with pytest.raises(ValueError, match=message):
        names_of(prepare(tmp_path))


# ---- which sentences ----


def objects_of(**settings):
    found = find_objects(PredictConfig(**settings), lower_case=True)
    return [(each.name, each.sentence) for each in found]


def test_a_name_stands_before_its_sentence():
    sentences = ("girl = The Girl  on the left", "the boy: in blue", "dog-2=a dog", "the sum a + b = c")
    assert objects_of(sentences=sentences) == [
        ("girl", "the girl on the left"),
        ("", "the boy: in blue"),
        ("dog-2", "a dog"),
        ("", "the sum a + b = c"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.txt", "# what is looked for\n\ngirl = The girl\n  a dog \n"),
        ("s.txt", "\ufeffgirl=the girl\r\na dog\r\n"),
        ("s.json", '["girl = the girl", "a dog"]'),
    ],
)
def test_sentences_come_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert objects_of(sentences_file=tmp_path / name) == [("girl", "the girl"), ("", "a dog")]


def test_names_come_from_a_json_file(tmp_path):
    (tmp_path / "s.json").write_text('{"the Mädchen": "the girl", "2nd": "a = b"}', encoding="utf-8")
    assert objects_of(sentences_file=tmp_path / "s.json") == [("the Mädchen", "the girl"), ("2nd", "a = b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.txt", "# nothing\n", r"s\.txt is empty"),
        ("s.txt", "a dog\ncat =\n", "sentence 2 of 2 is empty"),
        ("s.txt", "a dog\n\u200b\n", "sentence 2 of 2 is empty"),
        ("s.json", '["a \\ud800"]', r"sentence 1 of 1: got 'a \\ud800', expected text that can be written as UTF-8"),
        ("s.json", "{", r"s\.json: not valid JSON"),
        ("s.json", '{"a": 1}', r'expected \{"name": "sentence", ...\}'),
        ("s.json", '"a dog"', "expected"),
        ("s.json", '{"../dog": "a dog"}', r"the name '../dog' cannot be that of a folder"),
        ("s.json", '{"Dog": "a dog", "dog": "a dog"}', "two objects are called dog"),
        ("s.txt", "01 = a dog\na cat\n", "two objects are called 01"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        objects_of(sentences_file=tmp_path / name)


def test_a_missing_or_binary_file_is_named(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (("none.txt", "no such file"), ("binary.txt", "cannot be read as text")):
        with pytest.raises(ValueError, match=message):
            objects_of(sentences_file=tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentences": ("a dog",), "sentences_file": "s.txt"}, "both given"),
        ({"start": "soon"}, "'soon' is no moment of a video"),
        ({"start": -1.0}, "no moment"),
        ({"start": "9", "end": "00:09"}, "end=00:09 must lie after start=9"),
        ({"start": "9f", "end": "3f"}, "end=3f must lie after start=9f"),
        ({"size": 0}, "greater than or equal to 16"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message):
    with pytest.raises(ValidationError, match=message):
        PredictConfig(**settings)


# ---- the command ----


def test_several_videos_get_a_folder_each(model, videos, tmp_path):
    out = tmp_path / "out"
    assert run(model, out, "--video", videos / "clips", "--video", videos / "frames" / "1.png", "--sentence", "x") == 0
    assert sorted(path.name for path in out.iterdir()) == ["1", "clip10", "clip2", "walk"]
    frames = {"1": 1, "clip10": 12, "clip2": 12, "walk": 3}
    assert {name: len(summary_of(out / name)["frame_names"]) for name in frames} == frames
    for name in frames:
        assert len(list((out / name / "masks" / "00").iterdir())) == frames[name]
        with av.open(str(out / name / "overlay.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames[name]


def test_a_video_is_segmented_alike_alone_and_among_others(model, videos, tmp_path):
    clips = videos / "clips"
    assert run(model, tmp_path / "alone", "--video", clips / "walk", "--sentence", "a square") == 0
    assert run(model, tmp_path / "all", "--video", clips, "--sentence", "a square") == 0
    alone, among = summary_of(tmp_path / "alone"), summary_of(tmp_path / "all" / "walk")
    assert alone["objects"] == among["objects"]
    assert sum(alone["objects"][0]["areas_px"]) > 0


def test_a_part_of_a_video_and_names_of_objects(model, videos, tmp_path):
    (tmp_path / "sentences.json").write_text('{"big": "the upper square", "small": "a square"}')
    part = ("--start", "0.3", "--end", "11f", "--step", "2", "--size", "48")
    video = videos / "clips" / "clip2.mp4"
    assert run(model, tmp_path / "out", "--video", video, "--sentences", tmp_path / "sentences.json", *part) == 0
    summary = summary_of(tmp_path / "out")
    assert summary["frame_indices"] == [3, 5, 7, 9]
    assert summary["overlay_fps"] == 5
    assert summary["config"]["predict"]["size"] == 48
    assert [(each["name"], each["sentence"]) for each in summary["objects"]] == [
        ("big", "the upper square"),
        ("small", "a square"),
    ]
    assert [each["masks"] for each in summary["objects"]] == ["masks/big", "masks/small"]
    names = ["00003.png", "00005.png", "00007.png", "00009.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "masks" / "small").iterdir()) == names
    areas = [int((read_index_png(tmp_path / "out" / "masks" / "big" / name) > 0).sum()) for name in names]
    assert areas == summary["objects"][0]["areas_px"]
    # at another size the model sees something else
    assert run(model, tmp_path / "small", "--video", video, "--sentence", "the upper square", *part[:-2]) == 0
    assert summary_of(tmp_path / "small")["objects"][0]["scores"] != summary["objects"][0]["scores"]


def test_frames_of_a_part_are_answered_as_if_the_video_were_that_part(model, videos, tmp_path):
    frames = videos / "part"
    frames.mkdir(exist_ok=True)
    for index, pixels in enumerate(moving_pictures(12)):
        Image.fromarray(pixels).save(frames / f"{index:02d}.png")
    shutil.copytree(frames, tmp_path / "only")
    for index in (0, 1, 2, 10, 11):
        (tmp_path / "only" / f"{index:02d}.png").unlink()
    assert run(model, tmp_path / "a", "--video", frames, "--sentence", "a square", "--start", "3f", "--end", "1.0") == 0
    assert run(model, tmp_path / "b", "--video", tmp_path / "only", "--sentence", "a square") == 0
    assert summary_of(tmp_path / "a")["objects"] == summary_of(tmp_path / "b")["objects"]


def test_a_video_that_breaks_among_several_does_not_stop_the_others(model, videos, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(videos / "frames", broken)
    Image.new("RGB", (9, 9)).save(broken / "9.png")
    code = run(model, tmp_path / "out", "--video", broken, "--video", videos / "frames", "--sentence", "a square")
    assert code == 2
    assert "1 of 2 videos could not be segmented" in capsys.readouterr().err
    assert not (tmp_path / "out" / "broken" / "prediction.json").exists()
    assert summary_of(tmp_path / "out" / "frames")["frame_names"] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--video", "none.mp4"), "none.mp4: no such file or folder"),
        (("--video", "*.none"), "nothing matches"),
        (("--start", "99f"), "it ends before its frame 99"),
        (("--start", "soon"), "command line: predict.start: 'soon' is no moment"),
        (("--start", "5", "--end", "4"), "end=4 must lie after start=5"),
        (("--step", "0"), "command line: predict.frame_step: expected greater than 0, got 0"),
        (("--size", "wide"), "command line: predict.size: expected a valid integer"),
        (("--sentences", "none.txt"), "sentences and sentences_file=none.txt are both given"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(model, videos, tmp_path, capsys, arguments, message):
    code = run(model, tmp_path / "out", "--video", videos / "frames", "--sentence", "x", *arguments)
    error = capsys.readouterr().err
    assert code == 2
    assert [message in line for line in error.splitlines() if not line.startswith(("frames:", "\r"))].count(True) == 1
    written = {path.name for path in (tmp_path / "out").rglob("*.*")}
    assert written <= {UNFINISHED}  # a note for the next prediction, which then cleans up


def test_a_folder_that_is_no_saved_model_is_one_message(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out", "--video", "x.mp4", "--sentence", "x") == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is not a saved model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "x"], "--model: not an option of train"),
        (["predict"], "--config FILE is needed, or for predict --model FOLDER"),
        (["predict", "--model", "x", "--config", "y"], "and not both"),
    ],
)
def test_a_model_takes_the_place_of_a_configuration(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


# ---- videos as they are ----


def test_a_video_of_one_frame(model, tmp_path):
    write_video(tmp_path / "one.mp4", moving_pictures(1))
    assert run(model, tmp_path / "out", "--video", tmp_path / "one.mp4", "--sentence", "a square") == 0
    assert summary_of(tmp_path / "out")["frame_names"] == ["00000"]


def test_a_video_that_breaks_off_is_segmented_up_to_there(model, tmp_path):
    path = write_video(tmp_path / "clip.mkv", moving_pictures(40), options={"g": "5", "bf": "0"})
    os.truncate(path, path.stat().st_size // 2)
    assert run(model, tmp_path / "out", "--video", path, "--sentence", "a square") == 0
    assert 5 < len(summary_of(tmp_path / "out")["frame_names"]) < 40


@pytest.mark.slow
def test_three_hundred_sentences(model, videos, tmp_path):
    part = ["device=cpu", "data.eval_sentences=64", "predict.end=2f", "predict.frame_step=2"]
    config = read_saved_config(model, [f'predict.video="{videos / "frames"}"', *part])
    sentences = tuple(f"a square {i}" for i in range(300))
    predict_settings = config.predict.model_copy(update={"sentences": sentences})
    predict(config.model_copy(update={"predict": predict_settings, "output_dir": tmp_path / "out"}))
    objects = summary_of(tmp_path / "out")["objects"]
    assert [entry["sentence"] for entry in objects] == list(sentences)
    assert len({entry["masks"] for entry in objects}) == 300
    for index in (0, 99, 100, 299):
        masks = sorted((tmp_path / "out" / objects[index]["masks"]).iterdir())
        assert [int((read_index_png(path) > 0).sum()) for path in masks] == objects[index]["areas_px"]
    assert np.ptp([entry["scores"][0] for entry in objects]) > 0


def test_no_sentence_at_all(model, videos, tmp_path, capsys):
    assert run(model, tmp_path / "out", "--video", videos / "frames") == 2
    assert "predict.sentences is empty: give --sentence" in capsys.readouterr().err


def test_formats_of_the_configuration_are_those_that_can_be_written():
    assert typing.get_args(OutputFormat) == tuple(FORMATS)
    assert PredictConfig().formats == DEFAULT_FORMATS


def test_only_the_chosen_formats_are_written(model, videos, tmp_path, capsys):
    arguments = ("--video", videos / "frames", "--sentence", "square = a square")
    assert run(model, tmp_path, *arguments, "--formats", "palette, contact_sheet") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"palette", "contact_sheet.jpg", "prediction.json"}
    summary = summary_of(tmp_path)
    assert summary["formats"] == ["palette", "contact_sheet"]
    assert "masks" not in summary["objects"][0]
    areas = [int((read_index_png(tmp_path / "palette" / f"{index}.png") == 1).sum()) for index in range(3)]
    assert areas == summary["objects"][0]["areas_px"]
    assert run(model, tmp_path, *arguments, "--formats", "gif") == 2
    assert "predict.formats.0: expected 'masks', 'palette'" in capsys.readouterr().err
    assert run(model, tmp_path, *arguments, "--formats", "masks") == 2
    assert "already holds palette, contact_sheet.jpg, prediction.json" in capsys.readouterr().err
    assert run(model, tmp_path, *arguments, "--formats", "masks", "overwrite=true") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "prediction.json"}
