"""Training on and evaluation of images, in the format of RefCOCO, and of a mixture with videos."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch.nn import functional

from eval import evaluate
from evaluation.ranked_report import RankedReport, RankedScore, score_boxes, score_masks
from loading.frames import resize_frames
from loading.loaders import build_eval_dataset
from models.build import build_model_for_inference
from structures.clips import one_clip
from tests.official_coco import official_statistics
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_refcoco import SENTENCES, write_instances_layout, write_refs_layout
from tests.tiny_run import tiny_config, with_busy_weights
from tools.shapes.text import write_text_encoder
from train import fit


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_refs_layout(root / "coco")
    write_instances_layout(root / "coco", "refcoco+")
    write_tiny_data(root / "videos")
    write_text_encoder(root / "text_encoder", [text for texts in SENTENCES.values() for text in texts], vocab_size=300)
    return root


def make_config(root, output_dir, data, **sections):
    model = {"text_encoder": {"path": str(root / "text_encoder"), "frozen": False}}
    return tiny_config(root, output_dir, model=model, data=data, **sections)


def rank_by_hand(model, image, expression):
    """Masks, boxes in pixels and scores of all queries for one sentence, best first, straight from the model."""
    frames = image.load_frames()
    resized = resize_frames(frames, short_side=24, long_side=40)
    height, width = resized.shape[-2:]
    with torch.no_grad():
        layer = model(one_clip(resized).normalised(), model.tokenize([expression.sentence])).final
    scores = layer.class_logits[0, 0, :, 0].sigmoid()
    order = scores.argsort(descending=True)
    original_height, original_width = image.original_size
    logits = layer.mask_logits[0, 0, order]
    enlarged = functional.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[
        0, :, :height, :width
    ]
    masks = functional.interpolate((enlarged > 0).byte()[None], size=image.original_size, mode="nearest")[0] > 0
    x, y, w, h = layer.boxes_cxcywh_norm[0, 0, order].unbind(-1)
    unit = torch.tensor([original_width, original_height, original_width, original_height])
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1) * unit
    return masks.numpy(), boxes.numpy(), scores[order].numpy()


def iou_of_boxes(box, other):
    corners = [*np.maximum(box[:2], other[:2]), *np.minimum(box[2:], other[2:])]
    intersection = max(0, corners[2] - corners[0]) * max(0, corners[3] - corners[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return intersection / (sum(areas) - intersection)


def test_images_are_scored_by_the_published_measures_of_masks_and_boxes(root, tmp_path):
    images = {"dataset": "refcoco", "root": root / "coco", "eval_split": "train"}
    config = with_busy_weights(make_config(root, tmp_path / "out", images))
    model = build_model_for_inference(config).eval()
    report = evaluate(config).only
    assert (report.num_videos, report.num_sentences, len(report.entries)) == (2, 5, 5)
    mask_ious, box_ious, intersections, unions = [], [], [], []
    for image in build_eval_dataset(config.data):
        for expression in image.record.expressions:
            masks, boxes, scores = rank_by_hand(model, image, expression)
            truth = image.load_masks(expression)[0]
            entry = next(e for e in report.entries if (e.video, e.expression) == (image.record.name, expression.name))
            assert entry.sentence == expression.sentence
            ranked = [prediction["score"] for prediction in entry.masks.coco.predictions[0]]
            assert ranked == pytest.approx(scores.tolist(), abs=1e-5)
            areas = [prediction["area"] for prediction in entry.masks.coco.predictions[0]]
            assert areas == pytest.approx(masks.sum(axis=(1, 2)), abs=3)
            intersections.append((masks[0] & truth).sum())
            unions.append((masks[0] | truth).sum())
            x, y, w, h = image.record.boxes_xywh_px[expression.object_ids[0]]
            box_ious.append(iou_of_boxes(boxes[0], np.array([x, y, x + w, y + h])))
    mask_ious = np.array(intersections) / np.array(unions)
    scores = report.scores()
    assert sum(intersections) > 0
    assert scores["oIoU"] == pytest.approx(sum(intersections) / sum(unions), abs=5e-3)
    assert scores["mIoU"] == pytest.approx(mask_ious.mean(), abs=5e-3)
    assert scores["box mIoU"] == pytest.approx(np.mean(box_ious), abs=1e-3)
    assert {"mAP", "AP@0.5", "P@0.5", "box mAP", "box AP@0.5", "box P@0.9", "box oIoU", "box GIoU@10"} <= set(scores)
    assert report.main_score == scores["mAP"]


def test_the_report_and_the_predictions_are_written_whole(root, tmp_path, capsys):
    images = {"dataset": "refcoco", "root": root / "coco", "eval_split": "train"}
    config = with_busy_weights(make_config(root, tmp_path / "out", images))
    report = evaluate(config).only
    (written,) = json.loads((tmp_path / "out" / "results.json").read_text())["sets"].values()
    assert written["overall"] == report.scores()
    assert set(written["coco_boxes"]) == set(written["coco"]) == set(written["coco_areas_by_box_corner"])
    assert "box mIoU" in (tmp_path / "out" / "results.md").read_text()
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(results) == 5 * config.model.num_queries
    truth = {entry.image_id: entry for entry in report.entries}
    images_of_truth = [{"id": sample, "height": 24, "width": 40} for sample in truth]
    annotations = [
        {"id": i, "image_id": sample, "category_id": 1, "iscrowd": 0, **entry.boxes.coco.annotations[0]}
        for i, (sample, entry) in enumerate(truth.items(), start=1)
    ]
    ground_truth = COCO()
    ground_truth.dataset = {"images": images_of_truth, "annotations": annotations, "categories": [{"id": 1}]}
    ground_truth.createIndex()
    boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    assert report.box_ap == pytest.approx(official_statistics(ground_truth, boxes, "bbox"), abs=1e-12)


def test_predictions_name_the_images_of_the_prepared_annotations(root, tmp_path, capsys):
    """As both files lie on disk, pycocotools finds for each sentence the overlap that the report has."""
    images = {"dataset": "refcoco", "variant": "refcoco+", "root": root / "coco", "eval_split": "train"}
    report = evaluate(with_busy_weights(make_config(root, tmp_path / "out", images))).only
    prepared = COCO(str(root / "coco" / "refcoco+" / "instances_refcoco+_train.json"))
    results = prepared.loadRes(str(tmp_path / "out" / "predictions.json"))
    capsys.readouterr()
    assert sorted(entry.image_id for entry in report.entries) == prepared.getImgIds() == [0, 1, 2, 3, 4]
    for entry in report.entries:
        best = max(results.imgToAnns[entry.image_id], key=lambda result: result["score"])
        (annotation,) = prepared.imgToAnns[entry.image_id]
        ((overlap,),) = coco_mask.iou([best["segmentation"]], [prepared.annToRLE(annotation)], [0])
        row = entry.as_row()
        assert prepared.imgs[entry.image_id]["caption"].lower().split() == row["sentence"].split()
        assert row["IoU"] == pytest.approx(overlap, abs=1e-6)
    assert any(entry.as_row()["IoU"] > 0.1 for entry in report.entries)


def test_ranked_boxes_are_judged_in_the_order_of_their_scores():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:30, 5:30] = True
    box, wrong, right = np.array([5.0, 5.0, 25.0, 25.0]), [20.0, 20.0, 40.0, 40.0], [5.0, 5.0, 30.0, 30.0]
    masks = np.stack([~mask, mask])
    entries = [
        RankedScore(
            f"sample {i}",
            "v",
            "0",
            str(i),
            "",
            score_masks(mask, masks, scores),
            score_boxes(box, 625.0, np.array([wrong, right]), scores),
        )
        for i, scores in enumerate([np.array([0.9, 0.1]), np.array([0.1, 0.9])])
    ]
    report = RankedReport(1, 2, entries)
    assert report.first_hits == (0.5, 1, 1)
    assert report.scores()["box P@0.9"] == report.scores()["P@0.9"] == 0.5
    assert report.scores()["box GIoU@1"] == 0.5
    assert report.box_overlap.mean_iou == pytest.approx((1 + 100 / (400 + 625 - 100)) / 2, rel=0.1)
    assert report.mask_ap.ap_medium == report.mask_ap_by_box_corner.ap_medium


def test_videos_are_not_scored_by_the_measures_of_images(root, tmp_path):
    report = evaluate(make_config(root, tmp_path / "out", {"root": root / "videos"})).only
    assert set(report.scores()) == {"J&F", "J", "F", "J&F/appearance", "J&F/motion"}


def test_a_mixture_trains_and_is_validated_on_its_first_set(root, tmp_path):
    sets = (
        {"dataset": "refcoco", "root": "coco", "pseudo_clips": True},
        {"dataset": "refcoco", "root": "coco", "variant": "refcoco+", "pseudo_clips": True},
        {"dataset": "ref_youtube_vos", "root": "videos"},
    )
    stages = ({"name": "mixture", "epochs": 1, "max_steps": 2},)
    fit(make_config(root, tmp_path / "out", {"sets": sets}, stages=stages))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("box mAP" in line for line in lines)


def test_several_sets_are_evaluated_in_one_run_and_compared_by_the_mean_of_their_map(root, tmp_path):
    entries = (
        {"dataset": "refcoco", "variant": "refcoco", "eval_split": "train"},
        {"dataset": "refcoco", "variant": "refcoco+", "eval_split": "val"},
    )
    both = {"sets": (entries[0],), "eval_sets": entries, "root": root / "coco"}
    config = with_busy_weights(make_config(root, tmp_path / "both", both))
    results = evaluate(config)
    assert list(results.reports) == ["refcoco/train", "refcoco+/val"]
    alone = []
    for index, entry in enumerate(entries):
        one = make_config(root, tmp_path / str(index), {"sets": (entry,), "root": root / "coco"})
        alone.append(evaluate(with_busy_weights(one)).only)
    assert alone[0].scores()["oIoU"] != alone[1].scores()["oIoU"]
    assert [report.scores() for report in results.reports.values()] == [report.scores() for report in alone]
    cost = json.loads((tmp_path / "both" / "results.json").read_text())["speed"]
    assert (cost["processes"], cost["frames"], cost["masks"]) == (1, 2 + 1, 5 + 1)
    assert results.main_score == pytest.approx((alone[0].main_score + alone[1].main_score) / 2, abs=1e-15)
    assert results.scores()["refcoco+/val oIoU"] == alone[1].scores()["oIoU"]
    for name, report in zip(("refcoco/train", "refcoco+/val"), alone, strict=True):
        written = json.loads((tmp_path / "both" / name / "predictions.json").read_text())
        assert len(written) == len(report.entries) * config.model.num_queries
