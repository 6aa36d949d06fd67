"""Which splits can be evaluated: all of a split is scored, or nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from loading.videos import EvalDataset, EvalVideo
from tests.data_settings import data_config, read
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH, write_tiny_data


def make_video(name: str, *, has_masks: bool = True, objects: tuple[int, ...] | None = (1,)) -> VideoRecord:
    return VideoRecord(
        name=name,
        frame_names=("0",),
        frames=ImageFrames(Path(name), ("0",)),
        masks=PngMasks(Path(name), ("0",)) if has_masks else None,
        expressions=(Expression("0", "a square", objects), Expression("1", "a circle", objects)),
    )


def secret(name: str) -> VideoRecord:
    return make_video(name, has_masks=False, objects=None)


def test_a_split_with_all_masks_or_none_and_all_objects_or_none_is_evaluated():
    for videos in (
        [make_video("a"), make_video("b")],
        [make_video("a", has_masks=False), make_video("b", has_masks=False)],
        [secret("a"), secret("b")],
        [],
    ):
        assert [video.record.name for video in EvalDataset(videos)] == [video.name for video in videos]


def test_a_split_of_which_some_videos_have_no_masks_is_refused():
    videos = [make_video("a"), make_video("b", has_masks=False), make_video("c", has_masks=False)]
    message = r"^video b: no masks, although others have some \(2 of 3 videos have none\)"
    with pytest.raises(ValueError, match=message):
        EvalDataset(videos)
    with pytest.raises(ValueError, match=message):
        EvalDataset(videos, max_videos=1)


def test_a_split_of_which_some_videos_have_no_objects_is_refused():
    with pytest.raises(
        ValueError, match=r"^video a: its expressions do not name their objects.*\(2 of 3 videos name none\)"
    ):
        EvalDataset([secret("a"), make_video("b"), secret("c")])


def test_a_video_of_which_some_expressions_have_no_object_is_refused():
    video = make_video("a")
    mixed = replace(video, expressions=(video.expressions[0], Expression("1", "a circle")))
    with pytest.raises(ValueError, match=r"^video a: some expressions name their objects, others do not"):
        EvalDataset([make_video("b"), mixed])


def test_sentences_that_mean_nothing_have_empty_masks_and_secret_ones_have_none(tmp_path):
    absent, hidden = Expression("1", "a circle", ()), Expression("2", "a circle")
    root = write_tiny_data(tmp_path)
    record = next(video for video in read(data_config(root=root), "valid").videos if video.name == "v_a")
    for masks in (record.masks, None):
        video = EvalVideo(replace(record, masks=masks))
        assert video.load_masks(hidden) is None
        assert video.load_masks(absent).shape == (5, HEIGHT, WIDTH)
        assert not video.load_masks(absent, (0, 2)).any()
        assert len(video.load_masks(absent, (0, 2))) == 2
    assert EvalVideo(record).load_masks(record.expressions[0]).any()


def test_a_video_about_which_no_sentence_is_true_needs_no_masks():
    alone = make_video("b", has_masks=False, objects=())
    dataset = EvalDataset([make_video("a"), alone])
    assert len(dataset) == 2
    assert dataset.can_be_scored
    with pytest.raises(ValueError, match=r"^video c: no masks, although others have some \(1 of 2 videos"):
        EvalDataset([make_video("a"), alone, make_video("c", has_masks=False)])


def test_sentences_that_mean_nothing_may_stand_beside_secret_ones():
    absent = Expression("1", "a circle", ())
    video = secret("a")
    mixed = replace(video, expressions=(video.expressions[0], absent))
    alone = replace(video, name="b", expressions=(absent,))
    assert [len(item.record.expressions) for item in EvalDataset([mixed, alone, secret("c")])] == [2, 1, 2]
    with pytest.raises(ValueError, match=r"^video a: its expressions do not name their objects.*\(1 of 3"):
        EvalDataset([mixed, alone, make_video("c")])
