import numpy as np
import pytest

from metrics.coco_map import CocoMeter


def square(size, side=60):
    mask = np.zeros((120, 120), dtype=bool)
    mask[10 : 10 + side, 10 : 10 + size] = True
    return mask


def test_perfect_masks_have_an_average_precision_of_one(capsys):
    meter = CocoMeter("segm")
    meter.add_masks(square(60), np.stack([square(60), square(10)]), np.array([0.9, 0.1]))
    statistics = meter.compute()
    assert statistics.mean_ap == pytest.approx(1)
    assert statistics.ap_medium == pytest.approx(1)
    assert statistics.ap_small == -1
    assert capsys.readouterr().out == ""


def test_a_better_scored_wrong_mask_costs_precision_but_not_recall():
    meter = CocoMeter("segm")
    meter.add_masks(square(60), np.stack([square(60), square(10)]), np.array([0.1, 0.9]))
    statistics = meter.compute()
    assert statistics.mean_ap == pytest.approx(0.5)
    assert statistics.recall_1 == 0
    assert statistics.recall_10 == pytest.approx(1)


def test_boxes_are_compared_in_both_formats():
    meter = CocoMeter("bbox")
    meter.add_boxes(np.array([10.0, 20.0, 30.0, 40.0]), 900.0, np.array([[10.0, 20.0, 40.0, 60.0]]), np.array([0.5]))
    assert meter.compute().mean_ap == pytest.approx(1)


def test_samples_without_predictions_count_as_missed():
    meter = CocoMeter("segm")
    meter.add_masks(square(60), np.stack([square(60)]), np.array([0.9]))
    meter.add_masks(square(60), np.zeros((0, 120, 120), dtype=bool), np.zeros(0))
    assert meter.compute().recall_100 == pytest.approx(0.5)


def test_merged_meters_score_as_one():
    whole, parts = CocoMeter("segm"), [CocoMeter("segm"), CocoMeter("segm")]
    for sample in range(4):
        masks, scores = np.stack([square(20 + 10 * sample), square(50)]), np.array([0.2 * sample, 0.5])
        whole.add_masks(square(50), masks, scores)
        parts[sample // 2].add_masks(square(50), masks, scores)
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()


def test_mixing_kinds_and_scoring_nothing_are_errors():
    with pytest.raises(ValueError, match="bbox"):
        CocoMeter("bbox").add_masks(square(60), square(60)[None], np.array([0.9]))
    with pytest.raises(ValueError, match="segm"):
        CocoMeter("segm").add_boxes(np.array([0.0, 0.0, 2.0, 2.0]), 4.0, np.array([[0.0, 0.0, 2.0, 2.0]]), np.ones(1))
    with pytest.raises(ValueError, match="bbox"):
        CocoMeter("segm").merge(CocoMeter("bbox"))
    with pytest.raises(ValueError, match="no sample"):
        CocoMeter("segm").compute()
