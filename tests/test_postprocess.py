"""From logits to masks: recorded masks, the choice of the query, the geometry of crop, resize and merge.

These are the functions that `main.py eval`, `main.py predict`, validation and the parity fixtures call; there is no
second way.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional

from models.outputs import LayerOutput
from models.postprocess import (
    LOGIT_BYTES,
    all_queries,
    best_queries,
    chunks_of_frames,
    masks_at_original,
    merge_objects,
    ranked_detections,
    trajectory_scores,
)
from tools.parity.fixture_io import difference
from tools.parity.postprocess_fixtures import RUNNERS

FIXTURES = Path(__file__).parent / "parity" / "fixtures"
ENTRIES = {
    name: entry
    for name, entry in json.loads((FIXTURES / "manifest.json").read_text()).items()
    if entry["kind"] in RUNNERS
}


def make_layer(batch: int = 1, time: int = 3, queries: int = 4, num_classes: int = 1) -> LayerOutput:
    generator = torch.Generator().manual_seed(0)
    return LayerOutput(
        mask_logits=torch.randn(batch, time, queries, 3, 4, generator=generator),
        class_logits=torch.randn(batch, time, queries, num_classes, generator=generator),
        boxes_cxcywh_norm=torch.rand(batch, time, queries, 4, generator=generator),
        cluster=torch.randn(batch, queries, 8, generator=generator),
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", ENTRIES)
def test_masks_scores_and_choices_equal_the_recorded_ones(name: str):
    entry = ENTRIES[name]
    with np.load(FIXTURES / f"{name}.npz") as fixture:
        outputs = RUNNERS[entry["kind"]](entry, fixture, lambda spec: {})
        for key, value in outputs.items():
            # float32 sigmoid and box arithmetic may differ in the last bits; masks and choices may not at all.
            tolerance = 1e-6 if key.startswith(("scores", "boxes")) else 0
            error = difference(fixture, key, value)
            assert max(error["rel"], error["stats"]) <= tolerance, f"{key}: {error}"
    for i, counts in enumerate(entry.get("rle_counts", [])):
        masks = outputs[f"masks/{i}"][: len(counts)]  # only the first ones are recorded
        rles = [coco_mask.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8))) for mask in masks]
        assert [rle["counts"].decode() for rle in rles] == counts


def test_the_score_is_the_best_class_of_the_mean_over_frames_not_the_mean_of_the_best():
    class_logits = torch.full((1, 2, 2, 2), -9.0)
    class_logits[0, 0, 0, 0] = class_logits[0, 1, 0, 1] = 9.0  # query 0: a different class in each frame
    class_logits[0, :, 1, 0] = 1.0  # query 1: always the same
    layer = make_layer(time=2, queries=2, num_classes=2)
    layer = LayerOutput(layer.mask_logits, class_logits, layer.boxes_cxcywh_norm, layer.cluster)
    (prediction,) = best_queries(layer)
    assert prediction.query == 1
    expected = torch.tensor([0.5, torch.tensor(1.0).sigmoid()])
    torch.testing.assert_close(prediction.query_scores, expected, atol=1e-3, rtol=0)
    assert prediction.score == pytest.approx(float(expected[1]), abs=1e-3)


def test_each_sample_gets_masks_boxes_and_scores_of_its_own_best_query():
    layer = make_layer(batch=3, time=2, queries=5, num_classes=2)
    scores = trajectory_scores(layer.class_logits)
    for i, prediction in enumerate(best_queries(layer)):
        query = int(scores[i].argmax())
        assert prediction.query == query
        assert torch.equal(prediction.mask_logits, layer.mask_logits[i, :, query])
        x, y, width, height = layer.boxes_cxcywh_norm[i, :, query].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
        torch.testing.assert_close(prediction.boxes_xyxy_norm, corners)
        torch.testing.assert_close(
            prediction.frame_scores, layer.class_logits[i, :, query].sigmoid().max(dim=-1).values
        )
    assert len({prediction.query for prediction in best_queries(layer)}) > 1


def test_masks_at_a_size_are_the_logits_at_that_size_above_the_threshold():
    (prediction,) = best_queries(make_layer())
    logits = functional.interpolate(prediction.mask_logits[None], size=(10, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(prediction.logits_at((10, 21)), logits[0])
    assert torch.equal(prediction.masks_at((10, 21)), logits[0] > 0)
    assert torch.equal(prediction.masks_at((10, 21), logit_threshold=0.5), logits[0] > 0.5)


def test_masks_that_are_started_are_those_that_are_made_at_once():
    (prediction,) = best_queries(make_layer())
    assert torch.equal(prediction.start_masks((10, 21))(), prediction.masks_at((10, 21)))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_it_does_not_matter_how_many_frames_are_resized_at_a_time(step, monkeypatch):
    (prediction,) = best_queries(make_layer())
    expected = prediction.logits_at((10, 21)) > 0
    slices = [slice(first, first + step) for first in range(0, len(expected), step)]
    monkeypatch.setattr("models.postprocess.chunks_of_frames", lambda *_, **__: iter(slices))
    assert torch.equal(prediction.masks_at((10, 21)), expected)


def test_a_gpu_resizes_as_many_frames_at_a_time_as_memory_allows():
    logits = torch.empty(7, 2, 3, device="meta")  # like a GPU, it is no CPU
    size = (1000, LOGIT_BYTES // 12_000)  # of which three fit
    steps = [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert list(chunks_of_frames(logits, size)) == steps
    assert list(chunks_of_frames(logits, size, maps=3)) == [slice(i, i + 1) for i in range(7)]
    assert list(chunks_of_frames(logits, (1000, 9000), maps=9)) == [slice(i, i + 1) for i in range(7)], "one at least"
    assert list(chunks_of_frames(torch.empty(2, 2, 3), (4, 6))) == [slice(0, 1), slice(1, 2)]


def test_crop_undoes_padding():
    logits = torch.randn(2, 6, 8)
    masks = logits > 0
    padded = functional.pad(logits, (0, 5, 0, 3), value=1.0)
    same = masks_at_original(padded, padded=(9, 13), unpadded=(6, 8), original=(6, 8))
    assert torch.equal(same, masks)
    doubled = masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    larger = masks_at_original(padded, padded=(9, 13), unpadded=(6, 8), original=(12, 16))
    assert torch.equal(larger, doubled)


def test_both_ways_to_the_original_size_agree_where_nothing_is_padded_or_resized():
    (prediction,) = best_queries(make_layer())
    size = (12, 16)
    twice = masks_at_original(prediction.mask_logits, padded=size, unpadded=size, original=size)
    assert torch.equal(twice, prediction.masks_at(size))


def test_the_best_query_is_one_of_all_queries():
    layer = make_layer(batch=2, time=1)
    sizes = {"unpadded": [(10, 16), (12, 14)], "original": [(20, 30), (12, 14)]}
    candidates = all_queries(layer, padded=(12, 16), **sizes)
    for i, (best, candidate) in enumerate(zip(best_queries(layer), candidates, strict=True)):
        assert int(candidate.scores.argmax()) == best.query
        torch.testing.assert_close(candidate.scores, layer.class_logits[i, 0, :, 0].sigmoid())
        expected = masks_at_original(
            layer.mask_logits[i, 0], padded=(12, 16), unpadded=sizes["unpadded"][i], original=sizes["original"][i]
        )
        assert torch.equal(candidate.masks, expected)
        assert candidate.masks.shape[1:] == sizes["original"][i]


def test_detections_are_ranked_and_their_boxes_are_in_pixels():
    layer = make_layer(time=1)
    (detections,) = ranked_detections(layer, unpadded=[(12, 16)], original=[(24, 32)])
    assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
    ranked = layer.class_logits[0, 0, :, 0].argsort(descending=True)
    expected = masks_at_original(layer.mask_logits[0, 0, ranked], padded=(12, 16), unpadded=(12, 16), original=(24, 32))
    assert torch.equal(detections.masks, expected)
    size = detections.boxes_xyxy_px[:, 2:] - detections.boxes_xyxy_px[:, :2]
    torch.testing.assert_close(size, layer.boxes_cxcywh_norm[0, 0, ranked, 2:] * torch.tensor([32.0, 24.0]))
    centre = (detections.boxes_xyxy_px[:, 2:] + detections.boxes_xyxy_px[:, :2]) / 2
    torch.testing.assert_close(centre, layer.boxes_cxcywh_norm[0, 0, ranked, :2] * torch.tensor([32.0, 24.0]))


def test_merged_objects_do_not_overlap_and_the_first_of_equals_wins():
    low, middle, high = torch.full((3, 1, 1, 4), -1.0).unbind()
    middle = torch.tensor([[[1.0, 1.0, -1.0, 0.0]]])
    high = torch.tensor([[[2.0, 1.0, -1.0, -1.0]]])
    assert merge_objects([low, middle, high]).tolist() == [[[3, 2, 0, 2]]]


def test_single_frame_benchmarks_refuse_clips():
    with pytest.raises(ValueError, match="3 frames"):
        all_queries(make_layer(), padded=(12, 16), unpadded=[(12, 16)], original=[(12, 16)])
    with pytest.raises(ValueError, match="3 frames"):
        ranked_detections(make_layer(), unpadded=[(12, 16)], original=[(12, 16)])


@pytest.mark.parametrize("count", [0, 256])
def test_an_index_map_holds_one_to_255_objects(count):
    with pytest.raises(ValueError, match=f"{count} objects"):
        merge_objects([torch.zeros(1, 1, 1)] * count)
    assert merge_objects([torch.ones(1, 1, 1)] * 255).item() == 1
