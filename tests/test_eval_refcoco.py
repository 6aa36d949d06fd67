"""Training on and evaluation of images, in the format of RefCOCO, and of a mixture with videos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eval import evaluate, load_model_for_inference
from loading.loaders import build_eval_dataset
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_refcoco import SENTENCES, write_instances_layout, write_refs_layout
from tests.tiny_run import tiny_config
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


def busy_model(config):
    """Random weights draw no mask at all; noise makes masks that differ between sentences."""
    torch.manual_seed(0)
    model = load_model_for_inference(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_images_are_scored_by_overall_and_mean_iou_and_precision(root, tmp_path):
    images = {"dataset": "refcoco", "root": root / "coco", "eval_split": "train"}
    config = make_config(root, tmp_path / "out", images)
    report = evaluate(config, busy_model(config))
    assert (report.num_videos, report.num_sentences, len(report.entries)) == (2, 5, 5)
    intersections, unions = [], []
    for image in build_eval_dataset(config.data):
        for expression, objects in zip(image.expressions, image.object_ids, strict=True):
            (path,) = (tmp_path / "out" / "Annotations" / image.video / expression).iterdir()
            with Image.open(path) as file:
                mask = np.array(file) > 0
            truth = image.load_masks(objects)[0].numpy()
            intersections.append((mask & truth).sum())
            unions.append((mask | truth).sum())
    iou = np.array(intersections) / np.array(unions)
    scores = report.scores()
    assert sum(intersections) > 0
    assert scores["oIoU"] == pytest.approx(sum(intersections) / sum(unions))
    assert scores["mIoU"] == pytest.approx(iou.mean(), abs=1e-6)
    assert scores["P@0.5"] == pytest.approx((iou > 0.5).mean())
    assert scores["J"] == pytest.approx(scores["mIoU"], abs=1e-6), "an image is a video of one frame"
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["overlap"]["oIoU"] == pytest.approx(scores["oIoU"])
    assert "oIoU" in (tmp_path / "out" / "report.md").read_text()


def test_videos_are_not_scored_by_the_measures_of_images(root, tmp_path):
    report = evaluate(make_config(root, tmp_path / "out", {"root": root / "videos"}))
    assert report.overlap is None
    assert set(report.scores()) == {"J&F", "J", "F", "J&F/appearance", "J&F/motion"}


def test_a_mixture_trains_and_is_validated_on_its_first_part(root, tmp_path):
    parts = (
        {"dataset": "refcoco", "root": "coco", "pseudo_clips": True},
        {"dataset": "refcoco", "root": "coco", "variant": "refcoco+", "pseudo_clips": True},
        {"dataset": "ref_youtube_vos", "root": "videos"},
    )
    mixture = {"dataset": "joint", "parts": parts, "eval_split": "val"}
    fit(make_config(root, tmp_path / "out", mixture, stages=({"name": "mixture", "epochs": 1, "max_steps": 2},)))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("oIoU" in line for line in lines)
