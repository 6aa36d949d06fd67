"""Which splits can be evaluated: all of a split is scored, or nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from loading.videos import EvalDataset


def make_video(name: str, *, has_masks: bool = True, objects: tuple[int, ...] = (1,)) -> VideoRecord:
    return VideoRecord(
        name=name,
        frame_names=("0",),
        frames=ImageFrames(Path(name), ("0",)),
        masks=PngMasks(Path(name), ("0",)) if has_masks else None,
        expressions=(Expression("0", "a square", objects), Expression("1", "a circle", objects)),
    )


def secret(name: str) -> VideoRecord:
    return make_video(name, has_masks=False, objects=())


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
    with pytest.raises(ValueError, match=r"^video a: its expressions have no object.*\(2 of 3 videos have none\)"):
        EvalDataset([secret("a"), make_video("b"), secret("c")])


def test_a_video_of_which_some_expressions_have_no_object_is_refused():
    video = make_video("a")
    mixed = replace(video, expressions=(video.expressions[0], Expression("1", "a circle")))
    with pytest.raises(ValueError, match=r"^video a: some expressions have an object, others do not"):
        EvalDataset([make_video("b"), mixed])
