"""Post-processing: recorded masks, and the geometry of crop, resize and merge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from models.outputs import LayerOutput
from models.postprocess import (
    choose_query,
    detect,
    merge_objects,
    resize_to_original,
    segment_all_queries,
    segment_at_original_size,
    segment_best_query,
    trajectory_scores,
)
from tools.parity.criterion_fixtures import RUNNERS
from tools.parity.fixture_io import difference

FIXTURES = Path(__file__).parent / "parity" / "fixtures"
ENTRIES = {
    name: entry
    for name, entry in json.loads((FIXTURES / "manifest.json").read_text()).items()
    if entry["kind"] in RUNNERS and entry["kind"] != "criterion"
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
    assert choose_query(class_logits).tolist() == [1]
    expected = torch.tensor([[0.5, torch.tensor(1.0).sigmoid()]])
    torch.testing.assert_close(trajectory_scores(class_logits), expected, atol=1e-3, rtol=0)


def test_crop_undoes_padding():
    masks = torch.rand(2, 6, 8) > 0.5
    padded = torch.nn.functional.pad(masks, (0, 5, 0, 3), value=True)
    assert torch.equal(resize_to_original(padded, unpadded=(6, 8), original=(6, 8)), masks)
    doubled = masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(resize_to_original(padded, unpadded=(6, 8), original=(12, 16)), doubled)


def test_both_ways_to_the_original_size_agree_where_nothing_is_padded_or_resized():
    layer = make_layer(batch=2)
    sizes = [(12, 16), (12, 16)]
    in_loop = segment_best_query(layer, padded=(12, 16), unpadded=sizes, original=sizes)
    direct = segment_at_original_size(layer, original=sizes)
    for first, second in zip(in_loop, direct, strict=True):
        assert first.query == second.query
        assert torch.equal(first.masks, second.masks)
        assert torch.equal(first.boxes_xyxy_px, second.boxes_xyxy_px)


def test_the_best_query_is_one_of_all_queries():
    layer = make_layer(time=1)
    unpadded, original = [(10, 16)], [(20, 30)]
    (best,) = segment_best_query(layer, padded=(12, 16), unpadded=unpadded, original=original)
    (candidates,) = segment_all_queries(layer, padded=(12, 16), unpadded=unpadded, original=original)
    assert int(candidates.scores.argmax()) == best.query
    assert torch.equal(candidates.masks[best.query], best.masks[0])


def test_detections_are_ranked_and_their_boxes_are_in_pixels():
    (detections,) = detect(make_layer(time=1), unpadded=[(12, 16)], original=[(24, 32)])
    assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
    assert detections.masks.shape == (4, 24, 32)
    assert detections.labels.tolist() == [1, 1, 1, 1]
    size = detections.boxes_xyxy_px[:, 2:] - detections.boxes_xyxy_px[:, :2]
    ranked = make_layer(time=1).class_logits[0, 0, :, 0].argsort(descending=True)
    torch.testing.assert_close(
        size, make_layer(time=1).boxes_cxcywh_norm[0, 0, ranked, 2:] * torch.tensor([32.0, 24.0])
    )


def test_merged_objects_do_not_overlap_and_the_first_of_equals_wins():
    low, middle, high = torch.full((3, 1, 1, 4), -1.0).unbind()
    middle = torch.tensor([[[1.0, 1.0, -1.0, 0.0]]])
    high = torch.tensor([[[2.0, 1.0, -1.0, -1.0]]])
    assert merge_objects([low, middle, high]).tolist() == [[[3, 2, 0, 2]]]


def test_single_frame_benchmarks_refuse_clips():
    with pytest.raises(ValueError, match="3 frames"):
        segment_all_queries(make_layer(), padded=(12, 16), unpadded=[(12, 16)], original=[(12, 16)])
    with pytest.raises(ValueError, match="3 frames"):
        detect(make_layer(), unpadded=[(12, 16)], original=[(12, 16)])


def test_merging_nothing_is_an_error():
    with pytest.raises(ValueError, match="0 objects"):
        merge_objects([])
