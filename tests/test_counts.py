from pathlib import Path

from datasets.counts import Counts, count_videos
from datasets.readers import ImageFrames
from datasets.records import Expression, VideoRecord


def make_video(*objects, num_frames):
    names = tuple(str(number) for number in range(num_frames))
    expressions = tuple(Expression(str(i), "a square", ids) for i, ids in enumerate(objects))
    return VideoRecord("v", names, ImageFrames(Path("v"), names), None, expressions)


def test_counts_compare_only_what_both_sides_know():
    assert Counts(videos=3, frames=9).differences(Counts(videos=4, objects=2)) == ("videos",)
    assert Counts(videos=3).differences(Counts(videos=3, frames=1)) == ()
    assert Counts(videos=3, frames=2).differences(Counts(videos=2, frames=3)) == ("videos", "frames")


def test_only_known_counts_are_named():
    assert Counts(videos=3, samples=0).as_dict() == {"videos": 3, "samples": 0}
    assert Counts().as_dict() == {}


def test_an_object_of_several_expressions_counts_once_a_video():
    videos = [make_video((1,), (2, 1), (1,), num_frames=4), make_video((1,), num_frames=3)]
    assert count_videos(videos) == Counts(videos=2, objects=3, expressions=4, frames=7)


def test_objects_are_not_counted_where_a_video_keeps_them_secret():
    videos = [make_video((1,), (2,), num_frames=4), make_video(None, num_frames=3)]
    assert count_videos(videos) == Counts(videos=2, objects=None, expressions=3, frames=7)


def test_sentences_that_mean_nothing_are_counted_and_have_no_object():
    videos = [make_video((1,), (), num_frames=4), make_video((), num_frames=3)]
    assert count_videos(videos) == Counts(videos=2, objects=1, expressions=3, absent=2, frames=7)


def test_of_nothing_nothing_is_known():
    assert count_videos([]) == Counts()
