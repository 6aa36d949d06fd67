import numpy as np
import pytest
from jaxtyping import TypeCheckError

from metrics.overlap import OverlapMeter, best_query, box_giou, first_hit_rank, refexp_precision


def masks_with_iou(numerator, denominator):
    annotation = np.zeros((1, denominator), dtype=bool)
    annotation[:, :numerator] = True
    return annotation, np.ones((1, denominator), dtype=bool)


def test_precision_counts_only_what_is_strictly_above_the_threshold():
    meter = OverlapMeter()
    annotation, prediction = masks_with_iou(3, 4)
    meter.add_masks(annotation, prediction[None], np.array([0.3]))
    assert meter.compute().precision_at == (1, 1, 1, 0, 0)
    empty = OverlapMeter()
    empty.add(0.0, 2.0)
    assert empty.compute().precision_at == (0, 0, 0, 0, 0)
    assert empty.compute().mean_iou == pytest.approx(1e-6 / (2 + 1e-6), rel=1e-9, abs=0)
    exactly_half = OverlapMeter()
    exactly_half.add(1e12, 2e12)  # so large that the smoothing vanishes
    assert exactly_half.compute().precision_at == (0, 0, 0, 0, 0)


def test_overall_iou_weighs_by_size_and_mean_iou_does_not():
    meter = OverlapMeter()
    meter.add(90.0, 100.0)
    meter.add(1.0, 10.0)
    scores = meter.compute()
    assert scores.overall_iou == pytest.approx(91 / 110)
    assert scores.mean_iou == pytest.approx(0.5, abs=1e-6)


def test_two_empty_masks_agree():
    meter = OverlapMeter()
    empty = np.zeros((3, 4), dtype=bool)
    meter.add_masks(empty, empty[None], np.array([0.1]))
    scores = meter.compute()
    assert scores.mean_iou == scores.overall_iou == 1


def test_of_equal_scores_the_last_wins():
    assert best_query(np.array([0.1, 0.9, 0.9, 0.2])) == 2


def test_merged_meters_score_as_one():
    whole, parts = OverlapMeter(), [OverlapMeter(), OverlapMeter()]
    for sample, (intersection, union) in enumerate([(1.0, 2.0), (3.0, 4.0), (5.0, 9.0)]):
        whole.add(intersection, union)
        parts[sample % 2].add(intersection, union)
    parts[0].merge(parts[1])
    assert parts[0].compute().overall_iou == whole.compute().overall_iou
    assert parts[0].compute().mean_iou == pytest.approx(whole.compute().mean_iou)


def test_giou_of_boxes_apart_is_negative():
    box, other = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[2.0, 0.0, 3.0, 1.0]])
    assert box_giou(box, other) == pytest.approx(-1 / 3)
    assert box_giou(box, box) == 1


def test_hits_are_looked_for_in_the_order_of_scores():
    truth = np.array([0.0, 0.0, 10.0, 10.0])
    boxes = np.array([[20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    assert first_hit_rank(truth, boxes, np.array([0.9, 0.1])) == 1
    assert first_hit_rank(truth, boxes, np.array([0.1, 0.9])) == 0
    assert first_hit_rank(truth, boxes[:1], np.array([0.1])) is None
    assert refexp_precision([0, 3, None, 7]) == (0.25, 0.5, 0.75)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        OverlapMeter().compute()
    with pytest.raises(ValueError, match="at least one query"):
        best_query(np.zeros(0))
    with pytest.raises((ValueError, TypeCheckError)):  # the shape checker of the tests comes first
        OverlapMeter().add_masks(np.ones((3, 4), dtype=bool), np.ones((1, 3, 5), dtype=bool), np.array([1.0]))
