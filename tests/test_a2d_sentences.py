import json
import logging
import os

import numpy as np
import pytest

from configs.schema import DataConfig
from datasets import a2d_sentences
from datasets.a2d_files import read_rows, read_videoset
from datasets.a2d_sentences import A2DSentences
from loading.loaders import build_train_loader, open_split
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, write_h5, write_tiny_a2d
from tests.video_files import read_whole_video


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_a2d(tmp_path_factory.mktemp("a2d"))


@pytest.fixture
def own_root(tmp_path):
    return write_tiny_a2d(tmp_path / "a2d")


def settings(root, tmp_path, **changes):
    values = {"dataset": "a2d_sentences", "root": root, "eval_split": "test", "cache": tmp_path / "cache"}
    return DataConfig.model_validate(values | changes)


def test_videos_sentences_and_annotated_frames_are_those_of_the_files(root, tmp_path):
    train, test = A2DSentences(root, "train", cache=tmp_path), A2DSentences(root, "test", cache=tmp_path)
    a, b = train.videos
    (t,) = test.videos
    assert [(v.name, len(v.frame_names), v.annotated) for v in (a, b, t)] == [
        ("a", 3, {1}),
        ("b", 20, {0, 14}),
        ("t", 12, {0, 5, 11}),
    ]
    assert b.visible == {0: {0, 14}, 1: {14}}
    assert t.visible == {0: {0, 11}, 2: {0, 5}}
    assert [e.sentence for e in (*a.expressions, *b.expressions)] == [
        "a dog, running",
        "a man on the left",
        "another man",
    ]
    assert [(e.name, e.object_ids, e.sentence) for e in t.expressions] == [
        ("0", (0,), "a cat"),
        ("2", (2,), "the café's bird"),
    ]
    assert A2DSentences(root, "train", raw_sentences=True, cache=tmp_path).videos[1].expressions[0].sentence == (
        "A man  on the Left "
    )
    assert (b.frame_names[0], b.frame_names[-1]) == ("00001", "00020")


def test_masks_are_turned_and_absent_actors_have_none(root, tmp_path):
    (video,) = A2DSentences(root, "test", cache=tmp_path).videos
    assert video.frames.size() == (HEIGHT, WIDTH)
    masks = video.masks.read((0, 5), size=(HEIGHT, WIDTH), objects=(2, 0)).numpy()
    assert np.array_equal(masks[0], [actor_mask(2, 1), actor_mask(2, 6)])
    assert np.array_equal(masks[1], [actor_mask(0, 1), np.zeros((HEIGHT, WIDTH))])
    with pytest.raises(ValueError, match="frame 2 is not annotated"):
        video.masks.read((1,), size=(HEIGHT, WIDTH), objects=(0,))
    with pytest.raises(ValueError, match=r"00001\.h5: mask of"):
        video.masks.read((0,), size=(WIDTH, HEIGHT), objects=(0,))


def test_a_training_clip_has_its_annotated_frame_in_the_middle(root, tmp_path):
    data = settings(root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH, flip_probability=0.0)
    batches = list(build_train_loader(data, seed=0))
    samples = {(b.meta[0].video, b.meta[0].expression, b.meta[0].frame_names): b for b in batches}
    assert {(video, name, frames[4]) for video, name, frames in samples} == {
        ("a", "0", "00002"),
        ("b", "0", "00001"),
        ("b", "0", "00015"),
        ("b", "1", "00015"),
    }
    window = tuple(f"{number:05d}" for number in range(11, 19))
    batch = samples["b", "1", window]
    whole = read_whole_video(root / "Release" / "clips320H" / "b.mp4")
    assert np.array_equal(batch.clips.frames[0].numpy(), whole[10:18])
    assert batch.annotated_frame.tolist() == [4]
    assert np.array_equal(batch.targets[0].masks[0].numpy(), [actor_mask(1, 15)])
    clamped = next(frames for video, _, frames in samples if video == "a")
    assert clamped == ("00001",) * 3 + ("00001", "00002", "00003", "00003", "00003")


def test_the_other_name_of_the_clips_folder_is_found(tmp_path):
    root = write_tiny_a2d(tmp_path / "data", clips="CLIPS320")
    assert A2DSentences(root, "test", cache=tmp_path).videos[0].frames.num_frames == 12


def test_files_are_looked_into_once_and_again_when_one_has_changed(own_root, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    A2DSentences(own_root, "test", cache=cache)
    looked = []
    real = a2d_sentences.read_instances
    monkeypatch.setattr(a2d_sentences, "read_instances", lambda path: looked.append(path.name) or real(path))
    A2DSentences(own_root, "test", cache=cache)
    assert not looked
    folder = own_root / "text_annotations" / "a2d_annotation_with_instances" / "t"
    write_h5(folder / "00003.h5", (0,), [actor_mask(0, 3)])
    with caplog.at_level(logging.INFO):
        (video,) = A2DSentences(own_root, "test", cache=cache).videos
    assert "a2d_sentences_test.json is stale" in caplog.text
    assert len(looked) == 4
    assert video.visible[0] == {0, 2, 11}
    content = json.loads((cache / "a2d_sentences_test.json").read_text())
    (cache / "a2d_sentences_test.json").write_text(json.dumps(content)[:-5])
    A2DSentences(own_root, "test", cache=cache)
    assert len(looked) == 8
    assert not list(own_root.rglob("*.json"))


@pytest.mark.parametrize("kind", ["h5", "mp4"])
def test_a_truncated_file_is_named_or_left_out_as_configured(own_root, tmp_path, kind, caplog):
    if kind == "h5":
        path = own_root / "text_annotations" / "a2d_annotation_with_instances" / "b" / "00015.h5"
    else:
        path = own_root / "Release" / "clips320H" / "b.mp4"
    os.truncate(path, path.stat().st_size // 2)
    data = settings(own_root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH)
    with pytest.raises(ValueError, match=path.name):
        list(build_train_loader(data, seed=0))
    relaxed = data.model_copy(update={"on_error": "skip"})
    for _ in range(2):  # the second time the list of annotated frames comes from the cache
        caplog.clear()
        videos = {meta.video for batch in build_train_loader(relaxed, seed=0) for meta in batch.meta}
        assert "a" in videos
        assert path.name in caplog.text
    with pytest.raises(ValueError, match=path.name):
        list(build_train_loader(data, seed=0))


def test_an_annotated_frame_just_after_the_end_is_taken_as_the_last(own_root, tmp_path):
    folder = own_root / "text_annotations" / "a2d_annotation_with_instances" / "t"
    (folder / "00012.h5").rename(folder / "00013.h5")
    (video,) = A2DSentences(own_root, "test", cache=tmp_path).videos
    assert video.annotated == {0, 5, 11}
    assert video.masks.path(11).name == "00013.h5"
    (folder / "00013.h5").rename(folder / "00015.h5")
    with pytest.raises(ValueError, match=r"00015\.h5: frame 00015 is not one of the 12 of the clip"):
        A2DSentences(own_root, "test", cache=tmp_path)


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("text_annotations/a2d_annotation.txt", "t,2,", "t,x,", r"txt:7: instance_id='x' must be a number"),
        ("text_annotations/a2d_annotation.txt", "t,2,", "t,0,", r"txt:7: video t has two sentences about instance 0"),
        ("text_annotations/a2d_annotation.txt", "t,0,a cat", "t,0, ", r"txt:6: video t: the sentence is empty"),
        ("text_annotations/a2d_annotation.txt", "t,0,a cat", "t,a cat", r"txt:6: expected video_id,instance_id,query"),
        ("text_annotations/a2d_annotation.txt", "video_id,", "video,", r"txt:1: expected the header"),
        ("text_annotations/a2d_annotation.txt", "t,0,", "u,0,", r"txt: u not in .*videoset\.csv"),
        ("text_annotations/a2d_missed_videos.txt", "m", "t", r"missed_videos\.txt: t have sentences"),
        ("Release/videoset.csv", ",3,1\n", ",3,2\n", r"videoset\.csv:3: expected 9 columns"),
        ("Release/videoset.csv", "m,13", "t,13", r"videoset\.csv:4: video t is listed twice"),
    ],
)
def test_what_is_wrong_in_a_list_is_said_with_its_line(own_root, tmp_path, name, old, new, message):
    edit(own_root / name, old, new)
    with pytest.raises(ValueError, match=message):
        A2DSentences(own_root, "test", cache=tmp_path)


def test_lists_with_windows_line_ends_and_byte_order_mark_read_the_same(root, tmp_path):
    text = (root / "text_annotations" / "a2d_annotation.txt").read_text(encoding="utf-8")
    (tmp_path / "rows.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_rows(tmp_path / "rows.txt") == read_rows(root / "text_annotations" / "a2d_annotation.txt")
    table = (root / "Release" / "videoset.csv").read_text()
    (tmp_path / "set.csv").write_text(table.replace("\n", "\r\n"), newline="")
    assert read_videoset(tmp_path / "set.csv") == read_videoset(root / "Release" / "videoset.csv")


def test_missing_files_and_wrong_settings_are_named(own_root, tmp_path, caplog):
    with pytest.raises(ValueError, match="split 'valid' of A2D-Sentences: expected one of train, test"):
        open_split(settings(own_root, tmp_path), "valid")
    with pytest.raises(ValueError, match=r"data\.sequences"):
        open_split(settings(own_root, tmp_path, sequences=("t",)), "test")
    annotations = own_root / "text_annotations" / "a2d_annotation_with_instances"
    (annotations / "a" / "00002.h5").unlink()
    with pytest.raises(ValueError, match=r"no annotation file \(\*\.h5\) of video a"):
        open_split(settings(own_root, tmp_path), "train")
    first = open_split(settings(own_root, tmp_path, on_error="skip"), "train").videos[0]
    assert not first.annotated
    assert "train: no annotated frame shows the actors a 0" in caplog.text
    (own_root / "Release" / "videoset.csv").unlink()
    with pytest.raises(ValueError, match=r"videoset\.csv: no such file; data\.root must hold Release/"):
        open_split(settings(own_root, tmp_path), "test")
