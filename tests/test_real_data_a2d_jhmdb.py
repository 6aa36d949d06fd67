"""The published lists of A2D- and JHMDB-Sentences; their videos and masks are not at hand and are stood in for."""

import json
import os
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from datasets.a2d_files import read_missed, read_rows
from datasets.a2d_sentences import A2DSentences
from datasets.jhmdb_sentences import JhmdbSentences, choose_frames, read_choice, read_sentences
from tests.tiny_a2d import actor_mask, write_h5
from tests.video_files import moving_pictures, write_video

pytestmark = pytest.mark.real_data

METADATA = "jhmdb_sentences_samples_metadata.json"


@pytest.fixture(scope="module")
def lists(shared_dir):
    return shared_dir / "data" / "a2d_jhmdb_sentences"


@pytest.fixture(scope="module")
def metadata(shared_dir):
    return shared_dir / "data" / "jhmdb_meta" / METADATA


@pytest.fixture(scope="module")
def test_videos(shared_dir):
    return (shared_dir / "data" / "stats" / "a2d_sentences_test_video_ids.txt").read_text().split()


def test_a2d_has_6655_rows_one_of_which_is_a_copy(lists, caplog):
    caplog.set_level("INFO")
    rows = read_rows(lists / "a2d_annotation.txt")
    assert len(rows) == 6655 - 1
    assert "a2d_annotation.txt:3181: instance '1 (copy)' of video T6bNPuKV-wY is a copy" in caplog.text
    assert len({row.video for row in rows}) == 3754
    assert max(row.instance for row in rows) == 15


def test_28_missed_videos_have_no_sentence(lists):
    missed = read_missed(lists / "a2d_missed_videos.txt")
    assert len(missed) == 28
    assert missed.isdisjoint(row.video for row in read_rows(lists / "a2d_annotation.txt"))


@pytest.fixture(scope="module")
def a2d_root(lists, test_videos, tmp_path_factory):
    """The real lists; one clip and one annotation file stand in for all of them."""
    root = tmp_path_factory.mktemp("a2d")
    texts, release = root / "text_annotations", root / "Release"
    texts.mkdir()
    for path in lists.iterdir():
        shutil.copyfile(path, texts / path.name)  # without its permissions: the original may be read-only
    (release / "clips320H").mkdir(parents=True)
    clip = write_video(root / "clip.mp4", moving_pictures(3))
    h5 = root / "frame.h5"
    write_h5(h5, range(16), [actor_mask(0, 0)] * 16)
    described = sorted({row.video for row in read_rows(lists / "a2d_annotation.txt")})
    everything = described + sorted(read_missed(lists / "a2d_missed_videos.txt"))
    rows = [f"{video},1,0:00:00,0:00:05,48,64,3,1,{int(video in test_videos)}" for video in everything]
    (release / "videoset.csv").write_text("\n".join(rows) + "\n")
    for video in test_videos:
        folder = texts / "a2d_annotation_with_instances" / video
        folder.mkdir(parents=True)
        os.link(h5, folder / "00002.h5")
        os.link(clip, release / "clips320H" / f"{video}.mp4")
    return root


def test_the_test_split_has_exactly_its_737_videos_and_1295_sentences(a2d_root, test_videos, tmp_path):
    videos = A2DSentences(a2d_root, "test", cache=tmp_path).videos
    assert [video.name for video in videos] == sorted(test_videos)
    assert len(videos) == 737
    expressions = [expression for video in videos for expression in video.expressions]
    assert len(expressions) == 1295
    assert all(expression.sentence == " ".join(expression.sentence.lower().split()) for expression in expressions)
    assert sum(len(positions) for video in videos for positions in video.visible.values()) == 1295


def test_the_train_split_has_the_other_3017_videos_and_5359_sentences(lists, test_videos):
    rows = [row for row in read_rows(lists / "a2d_annotation.txt") if row.video not in set(test_videos)]
    assert (len({row.video for row in rows}), len(rows)) == (3017, 5359)


def test_jhmdb_has_928_sentences_about_as_many_videos(lists):
    sentences = read_sentences(lists / "jhmdb_annotation.txt")
    assert len(sentences) == 928
    assert sentences["100_pullups_pullup_f_nm_np1_fr_med_1"] == "man in black pulling up"


def test_the_metadata_file_names_three_frames_of_every_video(lists, metadata):
    chosen = read_choice(metadata)
    sentences = read_sentences(lists / "jhmdb_annotation.txt")
    assert list(chosen) == list(sentences)
    assert sum(len(samples) for samples in chosen.values()) == 2784
    assert all(sentence == sentences[video] for video, samples in chosen.items() for _, sentence in samples)


def test_the_seed_draws_the_published_choice_to_the_last_frame(metadata):
    counts = {video: count for video, _, _, count, _ in json.loads(metadata.read_text())}
    drawn = choose_frames(counts)
    published = {video: tuple(int(name) - 1 for name, _ in samples) for video, samples in read_choice(metadata).items()}
    assert drawn == published


def test_the_real_choice_opens_on_folders_of_the_real_names(lists, metadata, tmp_path):
    """Of three real videos, with generated pictures; the other rows are left out of both lists."""
    entries = json.loads(metadata.read_text())
    wanted = list(dict.fromkeys(entry[0] for entry in entries))[:3]
    kept = [entry for entry in entries if entry[0] in wanted]
    (tmp_path / METADATA).write_text(json.dumps(kept))
    lines = (lists / "jhmdb_annotation.txt").read_text().splitlines()
    (tmp_path / "jhmdb_annotation.txt").write_text("\n".join(lines[:4]) + "\n")
    for video, frame, mat, count, _ in kept[::3]:
        folder = tmp_path / frame.removeprefix("./jhmdb_sentences/")
        folder = folder.parent
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            Image.fromarray(np.zeros((24, 32, 3), dtype=np.uint8)).save(folder / f"{number:05d}.png")
        path = tmp_path / mat.removeprefix("./jhmdb_sentences/")
        path.parent.mkdir(parents=True)
        scipy.io.savemat(path, {"part_mask": np.ones((24, 32, count), dtype=np.uint8)})
        assert folder.name == video
    videos = JhmdbSentences(tmp_path, "test").videos
    assert [video.name for video in videos] == wanted
    assert sorted(videos[0].annotated) == [1, 7, 17]
    (tmp_path / METADATA).unlink()
    drawn = JhmdbSentences(tmp_path, "test").videos
    assert [video.annotated for video in drawn] == [video.annotated for video in videos]
