"""The answer to a sentence in a window: found or rejected, and by which score."""

import math

import pytest
import torch

from models.answers import Answers, start_merged
from models.identity import QueryChoice
from models.outputs import LayerOutput
from models.postprocess import merge_objects

SIZE = (24, 48)


def window(*scores, num_frames=6):
    """One sentence; query i draws a square of its own and has the i-th score in every frame."""
    masks = torch.full((1, num_frames, len(scores), 6, 12), -5.0)
    for query in range(len(scores)):
        masks[0, :, query, 1:4, 4 * query : 4 * query + 3] = 5.0
    logits = torch.tensor(scores, dtype=torch.float64).logit().float()
    return LayerOutput(
        mask_logits=masks,
        class_logits=logits.expand(1, num_frames, len(scores))[..., None],
        boxes_cxcywh_norm=torch.zeros(1, num_frames, len(scores), 4),
        cluster=torch.eye(len(scores))[None],
    )


def answer(layer, min_score, **settings):
    (only,) = Answers(choice=QueryChoice(overlap=0), min_score=min_score, **settings).of(layer)
    return only


def test_a_sentence_is_found_if_its_best_score_is_not_below_the_threshold():
    layer = window(0.2, 0.7, 0.1)
    (score,) = answer(layer, 0.0).scores
    assert score == pytest.approx(0.7)
    for threshold, is_found in ((0.0, True), (score, True), (math.nextafter(score, 1), False), (1.0, False)):
        assert answer(layer, threshold).is_found is is_found


def test_what_is_rejected_has_no_pixel_but_keeps_its_scores_and_queries():
    layer = window(0.2, 0.7, 0.1)
    found, rejected = (answer(layer, threshold, num_ranked=3) for threshold in (0.6, 0.8))
    assert found.masks_at(SIZE).any()
    assert torch.equal(found.masks_at(SIZE), found.ranked[0].masks_at(SIZE))
    assert rejected.masks_at(SIZE).shape == found.masks_at(SIZE).shape
    assert not rejected.masks_at(SIZE).any()
    assert not rejected.masks_at(SIZE, logit_threshold=-600.0).any(), "at whatever threshold of pixels"
    assert rejected.scores == found.scores == pytest.approx((0.7, 0.2, 0.1))
    assert [prediction.query for prediction in rejected.ranked] == [1, 0, 2]
    assert torch.equal(rejected.ranked[0].masks_at(SIZE), found.masks_at(SIZE))
    assert torch.equal(found.start_masks(SIZE)(), found.masks_at(SIZE))
    assert torch.equal(rejected.start_masks(SIZE)(), rejected.masks_at(SIZE))
    assert rejected.frames(2).masks_at(SIZE).shape == (4, *SIZE)
    assert not rejected.frames(2).is_found


def test_a_score_that_is_no_number_is_rejected_only_where_a_threshold_is_set():
    layer = window(math.nan)
    assert answer(layer, 0.0).is_found


def test_a_rejected_object_takes_part_in_a_merge_without_a_pixel():
    first, second = answer(window(0.2), 0.5), answer(window(0.9), 0.5)
    (drawn,) = first.ranked[0].masks_at(SIZE)[:1]
    merged = merge_objects([first.logits_at(SIZE), second.logits_at(SIZE)])
    assert merged.unique().tolist() == [0, 2], "the other keeps its number"
    assert torch.equal(merged[0] == 2, drawn), "and gets the pixels that both draw"


@pytest.mark.parametrize("step", [1, 4, 6])
def test_objects_are_merged_a_few_frames_at_a_time(step, monkeypatch):
    torch.manual_seed(0)
    answers = [answer(window(score), 0.5) for score in (0.9, 0.2, 0.8)]
    for each in answers:
        each.ranked[0].mask_logits.copy_(torch.randn(6, 6, 12))
    expected = merge_objects([each.logits_at(SIZE) for each in answers])
    assert expected.unique().tolist() == [0, 1, 3]
    slices = [slice(first, first + step) for first in range(0, 6, step)]
    monkeypatch.setattr("models.answers.chunks_of_frames", lambda *_, **__: iter(slices))
    assert torch.equal(start_merged(answers, SIZE)(), expected)


@pytest.mark.parametrize(("overlap", "found"), [(0, [True, False]), (2, [True, True])])
def test_the_decision_is_by_the_score_that_the_query_is_chosen_by(overlap, found):
    """With identity over windows that is the mean over all frames so far: (6 * 0.9 + 6 * 0.4) / 12 = 0.65."""
    answers = Answers(choice=QueryChoice(overlap=overlap), min_score=0.6)
    results = [next(iter(answers.of(window(score, 0.1)))) for score in (0.9, 0.4)]
    assert [result.is_found for result in results] == found
    assert results[1].scores == pytest.approx((0.65 if overlap else 0.4,))


@pytest.mark.parametrize("overlap", [0, 2])
def test_the_decision_can_be_by_the_score_in_the_window_alone(overlap):
    answers = Answers(choice=QueryChoice(overlap=overlap), min_score=0.6, by_window=True)
    results = [next(iter(answers.of(window(score, 0.1)))) for score in (0.9, 0.4, 0.7)]
    assert [result.is_found for result in results] == [True, False, True]
    assert [result.ranked[0].query for result in results] == [0, 0, 0]


def test_sentences_of_later_groups_have_tracks_of_their_own():
    answers = Answers(choice=QueryChoice(overlap=2), min_score=0.6)
    for score, first_sentence in ((0.9, 0), (0.2, 1)):
        list(answers.of(window(score, 0.1), first_sentence=first_sentence))
    decisions = [next(iter(answers.of(window(0.4, 0.1), first_sentence=k))).is_found for k in (0, 1)]
    assert decisions == [True, False]
