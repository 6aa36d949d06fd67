"""Numbers of `tools.analyze`, with values that were computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.ranked_report import RankedScore, score_masks
from evaluation.report import EntryScore, FrameScore, RankedQuery
from tools.analyze.bootstrap import VideoBootstrap
from tools.analyze.calibration import calibrate
from tools.analyze.choice import chosen_and_best, verdict_of
from tools.analyze.comparison import Changes, changed_settings, count_changes, in_order_of, require_same_samples
from tools.analyze.examples import choose_galleries
from tools.analyze.grouping import breakdowns, by_position
from tools.analyze.samples import Sample, sample_of_video, samples_of_frames

SAMPLE = Sample(
    video="v",
    expression="0",
    frame="",
    sentence="a cat",
    group="",
    score=0.5,
    region=0.4,
    boundary=0.6,
    frame_regions=(0.4,),
    ranking=(),
    num_objects=1,
    area_share=None,
    speed=None,
)


def ranking(*regions, score=0.9):
    return tuple(RankedQuery(score - 0.1 * place, region) for place, region in enumerate(regions))


# ---- bootstrap ----


def test_whole_videos_are_drawn():
    """Of two videos the draws are aa, ab, ba and bb: means of 1, 3/4, 3/4 and 0, a quarter of the draws each."""
    estimate = VideoBootstrap(["a", "a", "a", "b"]).mean(np.array([1.0, 1.0, 1.0, 0.0]))
    assert estimate == (0.75, 0.0, 1.0, 4, 2)


def test_the_interval_holds_the_middle_95_percent():
    """The mean of 100 fair coins, one a video: the quantiles of the binomial distribution are 0.40 and 0.60."""
    values = np.arange(100) % 2.0
    estimate = VideoBootstrap([f"v{i}" for i in range(100)]).mean(values)
    assert estimate.mean == 0.5
    assert estimate.low == pytest.approx(0.40, abs=0.011)
    assert estimate.high == pytest.approx(0.60, abs=0.011)


def test_identical_runs_do_not_differ():
    scores = np.random.default_rng(1).random(50)
    estimate = VideoBootstrap([f"v{i // 5}" for i in range(50)]).mean(scores - scores)
    assert estimate == (0.0, 0.0, 0.0, 50, 10)


def test_a_constant_difference_is_certain_although_the_scores_are_not():
    scores = np.random.default_rng(1).random(50)
    bootstrap = VideoBootstrap([f"v{i // 5}" for i in range(50)])
    difference = bootstrap.mean((scores + 0.25) - scores)
    assert (difference.low, difference.high) == pytest.approx((0.25, 0.25))
    alone = bootstrap.mean(scores)
    assert alone.high - alone.low > 0.05


def test_only_members_with_a_value_count():
    bootstrap = VideoBootstrap(["a", "b", "c", "d"])
    values = np.array([0.2, np.nan, 0.4, 1.0])
    estimate = bootstrap.mean(values, np.array([True, True, True, False]))
    assert estimate.mean == pytest.approx(0.3)
    assert (estimate.num_samples, estimate.num_videos) == (2, 2)
    # draws without a and c say nothing, the others are between the two
    assert (estimate.low, estimate.high) == pytest.approx((0.2, 0.4))
    assert bootstrap.mean(values, np.array([False, True, False, False])) is None


def test_a_single_video_has_no_interval():
    estimate = VideoBootstrap(["a", "a", "b"]).mean(np.array([0.0, 1.0, 0.3]), np.array([True, True, False]))
    assert estimate == (0.5, None, None, 2, 1)


def test_the_draws_are_the_same_every_time():
    videos, values = [f"v{i}" for i in range(30)], np.random.default_rng(2).random(30)
    assert VideoBootstrap(videos).mean(values) == VideoBootstrap(videos).mean(values)
    assert VideoBootstrap(videos).mean(values) != VideoBootstrap(videos, seed=1).mean(values)


# ---- choice or masks ----


@pytest.mark.parametrize(
    ("regions", "verdict"),
    [
        ((0.2, 0.8, 0.1), "choice"),
        ((0.2, 0.1, 0.41), "choice"),
        ((0.3, 0.5, 0.0), "good"),  # better by 0.2, not by more
        ((0.9, 0.1, 0.2), "good"),
        ((0.4, 0.49, 0.3), "masks"),
        ((0.0, 0.0), "masks"),
        ((0.9,), ""),
        ((), ""),
    ],
)
def test_what_went_wrong(regions, verdict):
    assert verdict_of(ranking(*regions)) == verdict


def test_what_is_lost_by_choice_and_by_masks():
    samples = [replace(SAMPLE, ranking=ranking(*regions)) for regions in ((0.2, 0.8, 0.1), (0.9, 0.3, 0.1), (0.5,))]
    chosen, best = chosen_and_best(samples)
    np.testing.assert_array_equal(chosen, [0.2, 0.9, np.nan])
    np.testing.assert_array_equal(best, [0.8, 0.9, np.nan])
    lost_by_choice, lost_by_masks = best - chosen, 1 - best
    assert np.nanmean(lost_by_choice) == pytest.approx(0.3)
    assert np.nanmean(lost_by_masks) == pytest.approx(0.15)
    assert np.nanmean(chosen + lost_by_choice + lost_by_masks) == pytest.approx(1)


# ---- calibration ----


def test_calibration_of_four_samples():
    scores, regions = (0.10, 0.15, 0.95, 1.0), (0.0, 1.0, 1.0, 0.6)
    samples = [
        replace(SAMPLE, region=region, ranking=ranking(region, 0.0, score=score))
        for score, region in zip(scores, regions, strict=True)
    ]
    result = calibrate([*samples, SAMPLE])  # the last one has no score
    low, high = result.bins
    assert (low.low, low.high, low.count) == (0.1, 0.2, 2)
    assert (low.score, low.region, low.hits) == pytest.approx((0.125, 0.5, 0.5))
    assert (high.low, high.high, high.count) == (0.9, 1.0, 2)
    assert (high.score, high.region, high.hits) == pytest.approx((0.975, 0.8, 1.0))
    assert result.error == pytest.approx(0.5 * 0.375 + 0.5 * 0.175)
    assert result.hit_error == pytest.approx(0.5 * 0.375 + 0.5 * 0.025)
    assert calibrate([SAMPLE]) is None


def test_a_j_of_one_half_is_no_hit():
    (only,) = calibrate([replace(SAMPLE, region=0.5, ranking=ranking(0.5, score=0.5))]).bins
    assert only.hits == 0


# ---- samples and groups ----


def entry(*frames, **changes):
    values = {"video": "v", "expression": "1", "sentence": "the cat", "group": "place", "frames": frames}
    return EntryScore(**(values | changes))


def test_size_and_speed_of_an_object():
    frames = (
        FrameScore(0.5, 0.7, annotated_px=100, predicted_px=0, centre_px=(0.0, 0.0)),
        FrameScore(0.7, 0.9, annotated_px=100, predicted_px=0, centre_px=(3.0, 4.0)),
        FrameScore(0.0, 0.0, annotated_px=0, predicted_px=0, centre_px=None),
        FrameScore(0.8, 0.8, annotated_px=100, predicted_px=0, centre_px=(90.0, 0.0)),
    )
    sample = sample_of_video(entry(*frames, num_objects=3), (40, 50))
    assert sample.area_share == pytest.approx(100 / 2000)
    assert sample.speed == pytest.approx(0.5)  # 5 pixels of 10; the jump while it was hidden does not count
    assert (sample.region, sample.boundary) == pytest.approx((0.5, 0.6))
    assert sample.score == pytest.approx(0.55)
    assert (sample.num_words, sample.num_objects, sample.group) == (2, 3, "place")
    assert sample_of_video(entry(*frames), None).area_share is None
    assert sample_of_video(entry(FrameScore(1.0, 1.0)), (4, 4)).speed is None


def test_samples_of_single_frames_rank_the_best_three_queries():
    annotation = np.zeros((4, 5), dtype=bool)
    annotation[:2] = True  # 10 pixels
    half, other = np.zeros_like(annotation), ~annotation
    half[0] = True
    masks = np.stack([half, annotation, other, half])
    scores = np.array([0.9, 0.3, 0.9, 0.5])

    def score(frame, expression, truth):
        return RankedScore(f"v/{frame}", "v", frame, expression, "the cat", score_masks(truth, masks, scores))

    samples = samples_of_frames(
        [score("f1", "0", annotation), score("f1", "1", other), score("f1", "2", other), score("f2", "0", half)]
    )
    first = samples[0]
    # of equal scores the last query is chosen, as the benchmark does; the one with score 0.3 is fourth
    assert [query.score for query in first.ranking] == [0.9, 0.9, 0.5]
    assert [query.region for query in first.ranking] == pytest.approx([0.0, 0.5, 0.5], abs=1e-6)
    assert first.score == pytest.approx(0.0, abs=1e-6)
    assert first.area_share == 0.5
    assert [sample.num_objects for sample in samples] == [2, 2, 2, 1]


def groups_by(title, samples):
    (breakdown,) = [each for each in breakdowns(samples) if each.title == title]
    return {group.name: np.flatnonzero(group.members).tolist() for group in breakdown.groups}


def test_samples_are_grouped_by_what_they_have_in_common():
    samples = [
        replace(SAMPLE, group="place", sentence="one two three", area_share=0.03, num_objects=1, speed=0.0),
        replace(SAMPLE, group="action", sentence="one two three four", area_share=0.0299, num_objects=2, speed=0.05),
        replace(SAMPLE, group="place", sentence="w " * 16, area_share=0.9, num_objects=9, speed=7.0),
        replace(SAMPLE, group="", sentence="", area_share=None, num_objects=2, speed=None),
    ]
    assert groups_by("Kind", samples) == {"action": [1], "place": [0, 2]}
    assert groups_by("Length of the sentence", samples) == {
        "up to 3 words": [0],
        "4 to 5 words": [1],
        "16 or more words": [2],
    }
    assert groups_by("Size of the object", samples) == {"1 to 3 %": [1], "3 to 10 %": [0], "30 or more %": [2]}
    assert groups_by("Number of objects", samples) == {"1": [0], "2": [1, 3], "6 or more": [2]}
    assert groups_by("Speed of the object", samples) == {"below 0.02": [0], "0.05 to 0.1": [1], "0.5 or more": [2]}


def test_frames_of_short_videos_keep_their_numbers():
    samples = [replace(SAMPLE, frame_regions=(0.1, 0.2, 0.3)), replace(SAMPLE, frame_regions=(0.5, 0.6, 0.9))]
    positions = by_position(samples)
    assert positions.names == ("1", "2", "3")
    np.testing.assert_array_equal(positions.regions, [[0.1, 0.2, 0.3], [0.5, 0.6, 0.9]])


def test_videos_of_several_lengths_are_cut_into_equal_parts():
    samples = [
        replace(SAMPLE, frame_regions=(0.1, 0.3, 0.5, 0.7)),
        replace(SAMPLE, frame_regions=(0.2, 0.8)),
        replace(SAMPLE, frame_regions=(1.0,)),
    ]
    positions = by_position(samples)
    assert positions.names == ("0 to 50 %", "50 to 100 %")
    np.testing.assert_allclose(positions.regions, [[0.2, 0.6], [0.2, 0.8], [np.nan, 1.0]])
    assert by_position([SAMPLE]) is None


# ---- two runs ----


def test_a_change_is_more_than_one_point():
    assert count_changes(np.array([0.02, 0.005, -0.3, -0.011, -0.005, 0.0])) == Changes(better=1, worse=2, same=3)


def test_the_second_run_is_put_in_the_order_of_the_first():
    first = [replace(SAMPLE, video="a"), replace(SAMPLE, video="b"), replace(SAMPLE, video="b", frame="7")]
    second = [replace(sample, score=score) for sample, score in zip(first, (0.1, 0.2, 0.3), strict=True)][::-1]
    require_same_samples("set", first, second)
    assert [sample.score for sample in in_order_of(first, second)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": "w"}, "1 of 2 are in the first run only, for instance video b, expression 0"),
        ({"expression": "9"}, "1 of 2 are in the first run only"),
        ({"sentence": "a dog"}, "video b, expression 0 reads 'a cat' in the first run and 'a dog' in the second"),
        ({"frame_regions": (0.1, 0.2)}, "video b, expression 0 has 1 frames in the first run and 2 in the second"),
    ],
)
def test_runs_on_different_sentences_are_refused(changes, message):
    first = [replace(SAMPLE, video="a"), replace(SAMPLE, video="b")]
    with pytest.raises(ValueError, match=f"set: .*{message}"):
        require_same_samples("set", first, [first[0], replace(first[1], **changes)])


def test_a_run_on_more_sentences_is_refused():
    first = [replace(SAMPLE, video="a")]
    with pytest.raises(ValueError, match="1 of 2 are in the second run only"):
        require_same_samples("set", first, [*first, replace(SAMPLE, video="b")])


def test_case_and_punctuation_of_sentences_may_differ():
    require_same_samples("set", [SAMPLE], [replace(SAMPLE, sentence="A  cat.")])


def test_merged_objects_of_several_annotators_are_different_ones():
    objects = [replace(SAMPLE, sentence="", group=group, score=score) for group, score in (("a0", 0.1), ("a1", 0.9))]
    assert [sample.score for sample in in_order_of(objects, objects[::-1])] == [0.1, 0.9]


def test_settings_that_differ_are_named():
    first = {"model": {"dim": 8, "depths": [1, 2]}, "data": {"sets": [{"root": "a"}]}, "seed": 1}
    second = {"model": {"dim": 8, "depths": [1, 3]}, "data": {"sets": [{"root": "b"}]}, "seed": 1, "new": True}
    assert changed_settings(first, second) == [
        ("model.depths", [1, 2], [1, 3]),
        ("data.sets.0.root", "a", "b"),
        ("new", None, True),
    ]


def test_examples_are_the_extremes_of_different_videos():
    scores, videos = (0.5, 0.0, 0.1, 0.9, 0.8, 0.2), ("a", "b", "b", "c", "c", "d")
    samples = [replace(SAMPLE, video=v, score=s) for v, s in zip(videos, scores, strict=True)]
    worst, best = choose_galleries(samples, None, 2)
    assert (worst.title, worst.indices) == ("Worst", (1, 5))
    assert (best.title, best.indices) == ("Best", (3, 0))
    differences = np.array([0.0, 0.1, 0.3, -0.2, 0.0, 0.0])
    better, worse, *_ = choose_galleries(samples, differences, 2)
    assert (better.title, better.indices) == ("Most improved", (2,))
    assert (worse.title, worse.indices) == ("Most worsened", (3,))
