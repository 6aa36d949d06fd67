"""Queries followed from window to window of a long video."""

import pytest
import torch

from evaluation.benchmarks import evaluated_sets
from models.identity import QueryChoice, match_queries
from models.inference import windows
from models.outputs import LayerOutput
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root

LEFT, RIGHT, NOTHING = (slice(0, 4), slice(0, 4)), (slice(0, 4), slice(6, 10)), None
OVERLAP = 2


def window(*queries, num_frames=6):
    """Predictions for one sentence: where each query is, its score, and its embedding."""
    masks = torch.full((1, num_frames, len(queries), 6, 12), -5.0)
    for index, (where, _, _) in enumerate(queries):
        if where is not None:
            masks[(0, slice(None), index, *where)] = 5.0
    scores = torch.tensor([score for _, score, _ in queries]).logit()
    return LayerOutput(
        mask_logits=masks,
        class_logits=scores.expand(1, num_frames, len(queries))[..., None],
        boxes_cxcywh_norm=torch.zeros(1, num_frames, len(queries), 4),
        cluster=torch.tensor([[embedding for _, _, embedding in queries]]),
    )


ONE, OTHER = [1.0, 0.0], [0.0, 1.0]
FIRST = window((RIGHT, 0.2, OTHER), (LEFT, 0.9, ONE), (NOTHING, 0.1, [-1.0, 0.0]))


def choices(overlap, *layers):
    choice = QueryChoice(overlap=overlap)
    return [choice.rank(layer)[0][0].tolist() for layer in layers]


def test_the_object_is_kept_where_queries_change_places():
    second = window((LEFT, 0.5, ONE), (NOTHING, 0.1, [-1.0, 0.0]), (RIGHT, 0.6, OTHER))
    assert choices(0, FIRST, second) == [[1, 0, 2], [2, 0, 1]], "independent windows take the best of each"
    assert choices(OVERLAP, FIRST, second) == [[1, 0, 2], [0, 2, 1]]


def test_a_later_window_can_overrule_an_earlier_one_by_its_frames():
    second = window((LEFT, 0.1, ONE), (NOTHING, 0.1, [-1.0, 0.0]), (RIGHT, 0.95, OTHER), num_frames=12)
    choice = QueryChoice(overlap=OVERLAP)
    choice.rank(FIRST)
    queries, scores = choice.rank(second)
    assert queries[0].tolist() == [2, 0, 1]
    assert scores[0].tolist() == pytest.approx([(6 * 0.2 + 12 * 0.95) / 18, (6 * 0.9 + 12 * 0.1) / 18, 0.1])


def test_where_nothing_is_drawn_embeddings_tell_queries_apart():
    before = window((NOTHING, 0.9, ONE), (NOTHING, 0.2, OTHER))
    after = window((NOTHING, 0.5, OTHER), (NOTHING, 0.4, ONE))
    assert choices(OVERLAP, before, after)[1] == [1, 0]


def test_masks_decide_before_embeddings():
    masks = torch.zeros(1, 2, 6, 12, dtype=torch.bool)
    masks[(0, 0, *LEFT)] = True
    masks[(0, 1, *RIGHT)] = True
    embeddings = torch.eye(2)
    assert match_queries(masks, embeddings, masks.flip(1), embeddings).tolist() == [1, 0]
    assert match_queries(masks, embeddings, masks, embeddings.flip(0)).tolist() == [0, 1]


def test_only_the_shared_frames_are_compared():
    moved = window((LEFT, 0.9, ONE), (RIGHT, 0.2, ONE))
    moved.mask_logits[0, -OVERLAP:] = moved.mask_logits[0, -OVERLAP:].flip(1)  # they change places at the end
    after = window((LEFT, 0.5, ONE), (RIGHT, 0.5, ONE))
    after.mask_logits[0, OVERLAP:] = after.mask_logits[0, OVERLAP:].flip(1)  # and later once more
    assert choices(OVERLAP, moved, after)[1] == [1, 0]


def test_neighbouring_frames_are_compared_where_windows_share_none():
    moved = window((LEFT, 0.9, ONE), (RIGHT, 0.2, ONE))
    moved.mask_logits[0, -1:] = moved.mask_logits[0, -1:].flip(1)  # they change places in the last frame
    after = window((LEFT, 0.5, ONE), (RIGHT, 0.5, ONE))
    after.mask_logits[0, 1:] = after.mask_logits[0, 1:].flip(1)  # and once more after the first
    choice = QueryChoice(overlap=0, follow=True)
    assert [choice.rank(layer)[0][0].tolist() for layer in (moved, after)] == [[0, 1], [1, 0]]
    independent = QueryChoice(overlap=0, follow=False)
    assert [independent.rank(layer)[0][0].tolist() for layer in (moved, after)] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(("remembered", "expected"), [(0, 24), (12, 12), (18, 18), (100, 24)])
def test_the_past_counts_as_so_many_frames_at_most(remembered, expected):
    """Four windows of 0.9, then one of 0.1: the past is `expected` frames of 0.9."""
    choice = QueryChoice(overlap=OVERLAP, remembered_frames=remembered)
    layers = [window((LEFT, score, ONE), (RIGHT, 0.05, OTHER)) for score in (0.9, 0.9, 0.9, 0.9, 0.1)]
    scores = [choice.rank(layer)[1][0, 0].item() for layer in layers]
    assert scores[-1] == pytest.approx((expected * 0.9 + 6 * 0.1) / (expected + 6))


def test_each_sentence_has_tracks_of_its_own():
    choice = QueryChoice(overlap=OVERLAP)
    swapped = window((LEFT, 0.5, ONE), (NOTHING, 0.1, [-1.0, 0.0]), (RIGHT, 0.6, OTHER))
    other = window((RIGHT, 0.9, OTHER), (LEFT, 0.2, ONE), (NOTHING, 0.1, [-1.0, 0.0]))
    choice.rank(FIRST, first_sentence=0)
    choice.rank(other, first_sentence=1)
    assert choice.rank(swapped, first_sentence=0)[0][0, 0] == 0
    assert choice.rank(swapped, first_sentence=1)[0][0, 0] == 2


def test_windows_share_frames_and_end_with_the_video():
    assert list(windows(10, 4, overlap=1)) == [(0, 4), (3, 7), (6, 10)]
    assert list(windows(11, 4, overlap=1)) == [(0, 4), (3, 7), (6, 10), (9, 11)]
    assert list(windows(3, 4, overlap=1)) == [(0, 3)]
    assert list(windows(9, 0, overlap=2)) == [(0, 9)]


def test_every_frame_of_a_video_is_answered_once(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    data = {"eval_num_frames": 3, "eval_overlap": 2, "eval_identity": "matched"}
    (one,) = evaluated_sets(with_busy_weights(tiny_config(root, tmp_path / "out", data=data)).data)
    run = one.benchmark.open(one.dataset[0], folder=None)
    assert [clip.positions for clip in run.clips()] == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert [position for clip in run.clips() for position in run.new_positions(clip)] == [0, 1, 2, 3, 4]


def test_windows_that_never_end_are_refused(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    with pytest.raises(ValueError, match=r"eval_overlap=3 must be smaller than eval_num_frames=3"):
        tiny_config(root, tmp_path, data={"eval_num_frames": 3, "eval_overlap": 3, "eval_identity": "matched"})
