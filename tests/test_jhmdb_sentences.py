import json
import os

import numpy as np
import pytest

from configs.schema import DataConfig
from datasets.jhmdb_sentences import JhmdbSentences, choose_frames
from loading.loaders import build_eval_dataset, build_train_loader
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, write_tiny_jhmdb
from tests.video_files import moving_pictures

METADATA = "jhmdb_sentences_samples_metadata.json"


@pytest.fixture
def root(tmp_path):
    return write_tiny_jhmdb(tmp_path / "jhmdb")


def write_choice(root, **frames):
    samples = [
        [
            video,
            f"/elsewhere/Rename_Images/x/{video}/{n:05d}.png",
            "/elsewhere/puppet_mask.mat",
            99,
            f"a man does {video}",
        ]
        for video, numbers in frames.items()
        for n in numbers
    ]
    (root / METADATA).write_text(json.dumps(samples))


def test_frames_masks_and_sentences_are_those_of_the_files(root):
    walk, catch = JhmdbSentences(root, "test").videos
    assert [(v.name, len(v.frame_names), v.expressions[0].sentence) for v in (walk, catch)] == [
        ("walk_2", 9, "a man does walk_2"),
        ("catch_1", 5, "a man does catch_1"),
    ]
    assert JhmdbSentences(root, "test", raw_sentences=True).videos[0].expressions[0].sentence == "A man  does walk_2"
    frames = walk.frames.read((8, 0)).numpy()
    assert np.array_equal(frames, moving_pictures(9)[[8, 0]].transpose(0, 3, 1, 2))
    masks = walk.masks.read((8, 0), size=(HEIGHT, WIDTH), objects=(1, 7)).numpy()
    assert np.array_equal(masks[0], [actor_mask(0, 8), actor_mask(0, 0)])
    assert not masks[1].any()


def test_the_frames_of_the_metadata_file_are_evaluated(root):
    write_choice(root, catch_1=(5, 1, 2), walk_2=(3, 4, 9))
    walk, catch = JhmdbSentences(root, "test").videos
    assert walk.annotated == walk.visible[1] == {2, 3, 8}
    assert catch.annotated == {0, 1, 4}


def test_without_a_metadata_file_frames_are_drawn_with_a_seed(root):
    first = [video.annotated for video in JhmdbSentences(root, "test").videos]
    assert first == [video.annotated for video in JhmdbSentences(root, "test").videos]
    assert [len(positions) for positions in first] == [3, 3]
    counts = {"walk_2": 9, "catch_1": 5}
    assert first == [frozenset(positions) for positions in choose_frames(counts).values()]
    assert choose_frames(counts, seed=1) != choose_frames(counts)
    with pytest.raises(ValueError, match="video v has 2 frames with masks"):
        choose_frames({"v": 2})


def test_it_can_be_evaluated_but_not_trained_on(root):
    data = DataConfig(dataset="jhmdb_sentences", root=root, eval_split="test", train_split="test")
    assert len(build_eval_dataset(data)) == 2
    with pytest.raises(ValueError, match="for evaluation only"):
        build_train_loader(data, seed=0)
    with pytest.raises(ValueError, match=r"only 'test'; set data\.eval_split=test"):
        build_eval_dataset(data.model_copy(update={"eval_split": "valid"}))


def test_a_choice_that_does_not_fit_the_videos_is_refused(root):
    write_choice(root, walk_2=(1, 2, 3))
    with pytest.raises(ValueError, match=r"its videos are not those of jhmdb_annotation\.txt, for instance catch_1"):
        JhmdbSentences(root, "test")
    write_choice(root, walk_2=(1, 2, 30), catch_1=(1, 2, 3))
    with pytest.raises(ValueError, match="video walk_2 has no frame 00030"):
        JhmdbSentences(root, "test")
    (root / METADATA).write_text("[[1]]")
    with pytest.raises(ValueError, match="not a readable list of samples"):
        JhmdbSentences(root, "test")


def test_damaged_and_missing_files_are_named(root):
    mat = root / "puppet_mask" / "walk" / "walk_2" / "puppet_mask.mat"
    os.truncate(mat, mat.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"walk_2/puppet_mask\.mat: not a readable mask file"):
        JhmdbSentences(root, "test").videos[0].masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3))
    mat.unlink()
    with pytest.raises(ValueError, match=r"walk_2/puppet_mask\.mat: no such mask file"):
        JhmdbSentences(root, "test").videos[0].masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))
    frames = root / "Rename_Images" / "walk" / "walk_2"
    (frames / "00004.png").unlink()
    with pytest.raises(ValueError, match=r"walk_2: frame 00004\.png is missing"):
        JhmdbSentences(root, "test")
    for path in frames.iterdir():
        path.unlink()
    frames.rmdir()
    with pytest.raises(ValueError, match="folders of 1 of 2 videos are missing: walk_2"):
        JhmdbSentences(root, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,query\n", "expected the header video_id,query"),
        ("video_id,query\n", "no sentence"),
        ("video_id,query\nwalk_2\n", r"txt:2: expected video_id,query, got 'walk_2'"),
        ("video_id,query\nwalk_2,a\nwalk_2,b\n", r"txt:3: video walk_2 is listed twice"),
    ],
)
def test_what_is_wrong_in_the_list_of_sentences_is_said(root, text, message):
    (root / "jhmdb_annotation.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        JhmdbSentences(root, "test")
