"""Training clips of sentences that mean nothing in their video."""

import dataclasses

import numpy as np
import pytest

from datasets.records import Expression
from loading import loaders
from loading.clips import ClipDataset
from loading.collate import collate
from loading.loaders import training_videos
from loading.sampling import SampleKey
from tests.tiny_clips import change_expressions, make_clips, make_config, where
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH, object_map, write_tiny_data

OBJECT_OF = {"0": 1, "1": 2, "2": 1}
"""Of each expression of the tiny data that means something."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def absent_clips(root, *, only=False, **changes):
    """Clips of the tiny data, whose videos have a sentence about nothing, and with `only` no other."""
    nothing = Expression("nothing", "a circle on the left", (), kind="place")
    videos = [
        dataclasses.replace(video, expressions=(nothing, *(() if only else video.expressions)))
        for video in training_videos(make_config(root))
    ]
    fields = {"num_frames": 4, "short_side": HEIGHT, "long_side": WIDTH, "seed": 0}
    return ClipDataset(videos, **(fields | {"sentences_per_clip": 1, "flip_probability": 0.0} | changes))


def samples_of(clips, *, epochs=1):
    return [clips[SampleKey(i, epoch)] for epoch in range(epochs) for i in range(len(clips))]


def starts_of(samples, *, expression="nothing"):
    """First frames of the clips of video "long" with this sentence."""
    entries = [entry for sample in samples for entry in where(sample) if entry[:2] == ("long", expression)]
    return [int(names[0]) // 5 for _, _, names in entries]


def test_an_absent_sentence_is_a_sample_of_every_window(root):
    clips = absent_clips(root)
    samples = samples_of(clips)
    assert starts_of(samples) == [0, 4, 6]
    assert starts_of(samples, expression="1") == [6], "object 2 is in the last window only"
    assert len(clips) == len(make_clips(root)) + 3 + 1
    plain = [where(sample) for sample in samples if sample.meta[0].expression != "nothing"]
    assert plain == [where(sample) for sample in samples_of(make_clips(root))]


def test_absent_sentences_of_a_file_are_trained_on_also_where_a_video_has_no_other(root):
    def edit(videos):
        videos["long"]["expressions"] = {"0": {"exp": "x", "obj_id": []}, "1": {"exp": "y", "obj_id": "2"}}
        videos["short"]["expressions"] = {"0": {"exp": "a ring", "obj_id": []}}

    change_expressions(root, "train", edit)
    samples = samples_of(make_clips(root))
    found = [(sample.meta[0].video, sample.meta[0].expression, sample.targets[0].referred) for sample in samples]
    assert found == [*[("long", "0", None)] * 3, ("long", "1", 0), ("short", "0", None)]


def test_the_target_of_an_absent_sentence_has_no_object(root):
    for sample in samples_of(absent_clips(root, sentences_per_clip=4, short_side=17, long_side=29)):
        for meta, target in zip(sample.meta, sample.targets, strict=True):
            count = 0 if meta.expression == "nothing" else 1
            assert target.referred == (None if meta.expression == "nothing" else 0)
            assert target.masks.shape == (count, 4, *sample.frames.shape[-2:])
            assert target.boxes_cxcywh_norm.shape == (count, 4, 4)
            assert target.is_visible.shape == (count, 4)
            assert target.labels.shape == (count,)


def test_absent_and_present_sentences_are_drawn_together_with_their_own_masks(root):
    clips = absent_clips(root, sentences_per_clip=2)
    drawn = set()
    for sample in samples_of(clips, epochs=20):
        names = [meta.expression for meta in sample.meta]
        drawn |= {tuple(sorted(names))}
        for name, frames, target in zip(names, (m.frame_names for m in sample.meta), sample.targets, strict=True):
            if name != "nothing":
                expected = object_map({1: range(10), 2: (8, 9)}, int(frames[3]) // 5) == OBJECT_OF[name]
                assert sample.meta[0].video == "short" or np.array_equal(target.masks[0, 3].numpy(), expected)
    assert drawn == {("0", "1"), ("0", "2"), ("1", "2"), ("0", "nothing"), ("1", "nothing"), ("2", "nothing")}


def test_a_video_with_only_absent_sentences_needs_no_masks(root):
    clips = absent_clips(root, only=True)
    videos = [dataclasses.replace(sample.video, masks=None, visible={}) for sample in clips.samples]
    fields = {"num_frames": 4, "sentences_per_clip": 2, "short_side": HEIGHT, "long_side": WIDTH}
    blind = ClipDataset(videos[:1], **fields, flip_probability=0.0, seed=0)
    assert starts_of(samples_of(blind)) == [0, 4, 6]
    assert all(target.is_absent for sample in samples_of(blind) for target in sample.targets)


@pytest.mark.parametrize("sentences_per_clip", [1, 4])
def test_random_windows_with_an_absent_sentence_start_anywhere(root, sentences_per_clip):
    clips = absent_clips(root, frame_sampling="random", sentences_per_clip=sentences_per_clip)
    samples = samples_of(clips, epochs=30)
    assert set(starts_of(samples)) == set(range(7))
    assert set(starts_of(samples, expression="1")) == {5, 6}
    for sample in samples:
        assert all(target.is_absent or target.is_visible.any() for target in sample.targets)


def clips_of_nothing_and_object_2(root, **settings):
    """Clips of one video with two sentences: about nothing, and about object 2."""
    video = training_videos(make_config(root))[0]
    video = dataclasses.replace(video, expressions=(Expression("nothing", "x", ()), video.expressions[1]))
    fields = {"num_frames": 4, "sentences_per_clip": 2, "short_side": HEIGHT, "long_side": WIDTH}
    return ClipDataset([video], **fields, **settings, flip_probability=0.0, seed=0)


def test_random_windows_need_not_show_an_object_if_a_sentence_is_absent(root):
    clips = clips_of_nothing_and_object_2(root, frame_sampling="random")
    samples = samples_of(clips, epochs=30)
    assert set(starts_of(samples)) == set(range(7))
    assert set(starts_of(samples, expression="1")) == {5, 6}, "object 2 shows in frames 8 and 9 alone"


def test_one_supervised_frame_of_an_absent_sentence_is_any_frame(root):
    samples = samples_of(absent_clips(root, supervised_frames="one", flip_probability=0.5), epochs=20)
    nothing = [sample for sample in samples if sample.targets[0].is_absent]
    assert {sample.annotated_frame for sample in nothing} == {0, 1, 2, 3}
    assert {tuple(sample.targets[0].masks.shape) for sample in nothing} == {(0, 1, HEIGHT, WIDTH)}
    others = [sample for sample in samples if not sample.targets[0].is_absent]
    assert all(sample.targets[0].is_visible.all() for sample in others)


def test_one_supervised_frame_shows_an_object_wherever_the_window_does(root):
    clips = clips_of_nothing_and_object_2(root, supervised_frames="one")
    found = {}
    for sample in samples_of(clips, epochs=20):
        start = int(sample.meta[0].frame_names[0]) // 5
        found.setdefault(start, set()).add((sample.annotated_frame, len(sample.sentences)))
    # object 2 shows in frames 8 and 9 alone, which are the last two of the last window
    everywhere = {(frame, 1) for frame in range(4)}
    assert found == {0: everywhere, 4: everywhere, 6: {(2, 2), (3, 2)}}


def test_an_absent_sentence_stays_absent_in_the_mirror(root):
    samples = samples_of(absent_clips(root, flip_probability=1.0, short_side=17, long_side=29))
    nothing = [sample for sample in samples if sample.meta[0].expression == "nothing"]
    assert {sample.sentences for sample in nothing} == {("a circle on the right",)}
    assert all(sample.targets[0].is_absent for sample in nothing)


def test_batches_with_absent_sentences_are_padded_like_others(root):
    small, large = (absent_clips(root, only=True, short_side=side, long_side=64)[0] for side in (17, 32))
    batch = collate([small, large, absent_clips(root)[1]])
    assert [target.referred for target in batch.targets] == [None, None, 0]
    height, width = batch.clips.frames.shape[-2:]
    assert [tuple(target.masks.shape) for target in batch.targets] == [(n, 4, height, width) for n in (0, 0, 1)]
    assert [tuple(target.boxes_cxcywh_norm.shape) for target in batch.targets] == [(n, 4, 4) for n in (0, 0, 1)]
    assert [target.is_absent for target in batch.to("cpu").targets] == [True, True, False]


def test_absent_sentences_are_left_out_if_asked_for(root):
    clips = absent_clips(root, absent="leave_out")
    assert [where(sample) for sample in samples_of(clips)] == [where(sample) for sample in samples_of(make_clips(root))]
    with pytest.raises(ValueError, match="none of the 2 videos"):
        absent_clips(root, only=True, absent="leave_out")


def test_secret_sentences_cannot_be_trained_on(root):
    (video, _) = training_videos(make_config(root))
    secret = dataclasses.replace(video, expressions=(Expression("0", "a square"),))
    fields = {"num_frames": 4, "sentences_per_clip": 1, "short_side": HEIGHT, "long_side": WIDTH}
    with pytest.raises(ValueError, match="video long, expression 0: its object is secret"):
        ClipDataset([secret], **fields, flip_probability=0.0, seed=0)


def test_absent_sentences_are_chosen_by_their_kind_like_others(root, monkeypatch):
    videos = [sample.video for sample in absent_clips(root, sentences_per_clip=8).samples[:1]]
    monkeypatch.setattr(loaders, "training_videos", lambda data: tuple(videos))
    for kind, expected in (("place", {"nothing"}), ("motion", {"1"})):
        clips = loaders.build_train_loader(make_config(root, kinds=(kind,)), seed=0).dataset
        assert {meta.expression for sample in samples_of(clips) for meta in sample.meta} == expected
