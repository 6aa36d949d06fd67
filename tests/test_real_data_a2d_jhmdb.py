"""The published lists of A2D- and JHMDB-Sentences; their videos and masks are not at hand and are stood in for."""

import json
import os
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from datasets.a2d_files import read_missed, read_rows
from datasets.a2d_sentences import A2D_SENTENCES, A2DSentencesSettings
from datasets.counts import Counts
from datasets.definition import SplitRequest
from datasets.jhmdb_files import read_choice, read_sentences
from datasets.jhmdb_sentences import (
    FEWEST_FRAMES,
    JHMDB_SENTENCES,
    MOST_FRAMES,
    JhmdbSentencesSettings,
    choose_frames,
)
from loading.loaders import clean_sentences
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
def facts(shared_dir):
    return json.loads((shared_dir / "data" / "stats" / "statistics.json").read_text())


def rows_of(lists):
    problems = []
    rows = read_rows(lists / "a2d_annotation.txt", problems)
    assert problems == []
    return rows


def missed_of(lists):
    problems = []
    missed = read_missed(lists / "a2d_missed_videos.txt", problems)
    assert problems == []
    return missed


def sentences_of(lists):
    problems = []
    sentences = read_sentences(lists / "jhmdb_annotation.txt", problems)
    assert problems == []
    return sentences


def read_jhmdb(root):
    contents = JHMDB_SENTENCES.read(SplitRequest(JhmdbSentencesSettings(), root, "test"))
    assert contents.problems == ()
    return contents.videos


@pytest.fixture(scope="module")
def test_videos(shared_dir):
    return (shared_dir / "data" / "stats" / "a2d_sentences_test_video_ids.txt").read_text().split()


def test_a2d_has_6655_rows_one_of_which_is_a_copy(lists, caplog):
    caplog.set_level("INFO")
    rows = rows_of(lists)
    assert len(rows) == 6655 - 1
    assert "a2d_annotation.txt:3181: instance '1 (copy)' of video T6bNPuKV-wY is a copy" in caplog.text
    assert len({row.video for row in rows}) == 3754
    assert max(row.instance for row in rows) == 15


def test_28_missed_videos_have_no_sentence(lists):
    missed = missed_of(lists)
    assert len(missed) == 28
    assert missed.isdisjoint(row.video for row in rows_of(lists))


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
    described = sorted({row.video for row in rows_of(lists)})
    everything = described + sorted(missed_of(lists))
    rows = [f"{video},1,0:00:00,0:00:05,48,64,3,1,{int(video in test_videos)}" for video in everything]
    (release / "videoset.csv").write_text("\n".join(rows) + "\n")
    for video in test_videos:
        folder = texts / "a2d_annotation_with_instances" / video
        folder.mkdir(parents=True)
        os.link(h5, folder / "00002.h5")
        os.link(clip, release / "clips320H" / f"{video}.mp4")
    return root


@pytest.mark.slow
def test_the_test_split_has_exactly_its_737_videos_and_1295_sentences(a2d_root, lists, test_videos, tmp_path):
    contents = A2D_SENTENCES.read(SplitRequest(A2DSentencesSettings(), a2d_root, "test", cache=tmp_path))
    assert contents.problems == ()
    videos = contents.videos
    assert [video.name for video in videos] == sorted(test_videos)
    assert len(videos) == 737
    expressions = [expression for video in videos for expression in video.expressions]
    assert len(expressions) == 1295
    as_written = {(row.video, str(row.instance)): row.query for row in rows_of(lists)}
    assert all(e.sentence == as_written[video.name, e.name] for video in videos for e in video.expressions)
    cleaned = clean_sentences(videos, A2DSentencesSettings(), for_training=False)
    sentences = [expression.sentence for video in cleaned for expression in video.expressions]
    assert sentences == [" ".join(expression.sentence.lower().split()) for expression in expressions]
    assert sum(len(positions) for video in videos for positions in video.visible.values()) == 1295
    assert A2D_SENTENCES.count(videos).differences(A2D_SENTENCES.published["a2d_sentences"]["test"]) == ()


def test_the_train_split_has_the_other_3017_videos_and_5359_sentences(lists, test_videos):
    rows = [row for row in rows_of(lists) if row.video not in set(test_videos)]
    assert (len({row.video for row in rows}), len(rows)) == (3017, 5359)


def test_jhmdb_has_928_sentences_about_as_many_videos(lists):
    sentences = sentences_of(lists)
    assert len(sentences) == 928
    assert sentences["100_pullups_pullup_f_nm_np1_fr_med_1"] == "man in black pulling up"


def test_the_metadata_file_names_three_frames_of_every_video(lists, metadata):
    chosen = read_choice(metadata)
    sentences = sentences_of(lists)
    assert list(chosen) == list(sentences)
    assert sum(len(samples) for samples in chosen.values()) == 2784
    assert all(own.sentence == sentences[video] for video, samples in chosen.items() for own in samples)


def test_the_seed_draws_the_published_choice_to_the_last_frame(metadata):
    counts = {video: count for video, _, _, count, _ in json.loads(metadata.read_text())}
    drawn = choose_frames(counts)
    published = {
        video: tuple(int(own.frame) - 1 for own in samples) for video, samples in read_choice(metadata).items()
    }
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
    videos = read_jhmdb(tmp_path)
    assert [video.name for video in videos] == wanted
    assert sorted(videos[0].annotated) == [1, 7, 17]
    (tmp_path / METADATA).unlink()
    drawn = read_jhmdb(tmp_path)
    assert [video.annotated for video in drawn] == [video.annotated for video in videos]


def test_the_published_counts_of_a2d_are_those_of_the_shared_statistics(facts):
    a2d, published = facts["a2d_sentences"], A2D_SENTENCES.published["a2d_sentences"]
    assert published == {
        "train": Counts(videos=a2d["train_videos"], expressions=a2d["train_sentences_rows"] - len(a2d["bad_rows"])),
        "test": Counts(videos=a2d["test_videos"], expressions=a2d["test_sentences"]),
    }
    assert (a2d["annotation_rows"], a2d["videoset_rows"]) == (6655, 3782)


def test_the_published_counts_of_jhmdb_are_those_of_the_shared_statistics(facts):
    jhmdb, published = facts["jhmdb_sentences"], JHMDB_SENTENCES.published["jhmdb_sentences"]
    samples = jhmdb["eval_samples_3_frames_each"]
    assert published == {"test": Counts(videos=jhmdb["videos"], expressions=jhmdb["sentences"], samples=samples)}
    assert (jhmdb["frames_min"], jhmdb["frames_max"]) == (FEWEST_FRAMES, MOST_FRAMES)
