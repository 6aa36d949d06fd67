import json
import shutil

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from eval import evaluate
from evaluation.ranked_report import RankedReport, RankedScore, score_masks
from loading.frames import as_clip, resize_frames
from loading.sampling import centred_window
from models.build import build_model_for_inference
from models.postprocess import all_queries
from structures.clips import PaddedClips
from tests.data_settings import read
from tests.official_coco import official_statistics
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, replace_masks, write_tiny_a2d, write_tiny_jhmdb
from tests.tiny_run import tiny_config, with_busy_weights
from tools.prepare_data import prepare
from tools.shapes.text import write_text_encoder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_text_encoder(
        root / "text_encoder", ["a man on the left", "another cat", "the bird does walk"], vocab_size=300
    )
    return {"a2d_sentences": write_tiny_a2d(root / "a2d"), "jhmdb_sentences": write_tiny_jhmdb(root / "jhmdb")}


def config_of(data, dataset, output, **sections):
    root = data[dataset]
    own = {
        "dataset": dataset,
        "eval_split": "test",
        "num_frames": 8,
        "short_side": 32,
        "long_side": 60,
        "cache": output.parent / "cache",
    }
    model = {"text_encoder": {"path": str(root.parent / "text_encoder"), "frozen": False}}
    return tiny_config(root, output, model=model, data=own, **sections)


@pytest.mark.parametrize(("dataset", "num_samples"), [("a2d_sentences", 4), ("jhmdb_sentences", 6)])
def test_pycocotools_gives_the_reported_map_for_the_written_files(data, tmp_path, dataset, num_samples, capsys):
    config = with_busy_weights(config_of(data, dataset, tmp_path / "out"))
    report = evaluate(config).only
    assert len(report.entries) == num_samples
    list(prepare(config.data, tmp_path / "prepared"))
    truth = COCO(str(tmp_path / "prepared" / f"{dataset}_test_coco.json"))
    assert report.mask_ap == pytest.approx(
        official_statistics(truth, str(tmp_path / "out" / "predictions.json"), "segm"), abs=1e-12
    )
    assert report.mask_ap.recall_100 > 0 or report.mask_overlap.mean_iou > 0
    assert report.box_ap is None
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (content,) = results["sets"].values()
    assert results["speed"]["masks"] == num_samples
    assert content["overall"] == report.scores()
    assert set(content["overall"]) >= {"mAP", "P@0.5", "P@0.9", "oIoU", "mIoU"}
    assert f"| {num_samples} |" in (tmp_path / "out" / "results.md").read_text()


def test_a_frame_of_a2d_is_scored_at_the_size_of_its_mask(data, tmp_path, capsys):
    """As published, where a mask has another size than its frame; the others are scored at the size of the frame."""
    root = tmp_path / "a2d"
    shutil.copytree(data["a2d_sentences"], root)
    half = actor_mask(2, 6)[::2, ::2]
    replace_masks(root / "text_annotations" / "a2d_annotation_with_instances" / "t" / "00006.h5", half)
    shutil.copytree(data["a2d_sentences"].parent / "text_encoder", tmp_path / "text_encoder")
    config = with_busy_weights(config_of({"a2d_sentences": root}, "a2d_sentences", tmp_path / "out"))
    report = evaluate(config).only
    list(prepare(config.data, tmp_path / "prepared"))
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    sizes = {found["image_id"]: tuple(found["segmentation"]["size"]) for found in predictions}
    assert sizes["v_t_f_6_i_2"] == (HEIGHT // 2, WIDTH // 2)
    assert sizes["v_t_f_1_i_2"] == (HEIGHT, WIDTH)
    truth = COCO(str(tmp_path / "prepared" / "a2d_sentences_test_coco.json"))
    assert report.mask_ap == pytest.approx(official_statistics(truth, predictions, "segm"), abs=1e-12)


def test_the_answer_is_that_of_the_frame_in_the_middle_of_its_window(data, tmp_path):
    config = with_busy_weights(config_of(data, "a2d_sentences", tmp_path / "out"))
    model = build_model_for_inference(config).eval()
    report = evaluate(config).only
    (video,) = read(config.data, "test").videos
    frames = resize_frames(as_clip(video.frames.read(centred_window(11, 12, 8))), short_side=32, long_side=60)
    padding = torch.zeros(1, 8, *frames.shape[-2:], dtype=torch.bool)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (frames / 255 - mean[:, None, None]) / deviation[:, None, None]
    size = (frames.shape[-2], frames.shape[-1])
    with torch.no_grad():
        clips = PaddedClips(pixels[None].float(), padding, (size,))
        layer = model(clips, model.tokenize(["a cat"]), annotated_frame=torch.tensor([4])).final
        (expected,) = all_queries(layer, padded=size, unpadded=[size], original=[(HEIGHT, WIDTH)])
    entry = next(entry for entry in report.entries if entry.sample == "v_t_f_12_i_0")
    assert (entry.video, entry.frame, entry.expression, entry.sentence) == ("t", "00012", "0", "a cat")
    best = expected.masks[int(expected.scores.argmax())].numpy()
    truth = video.masks.read((11,), size=(HEIGHT, WIDTH), objects=(0,))[0, 0]
    assert entry.masks.overlap.intersections[0] == pytest.approx((best & truth).sum(), abs=2)
    assert entry.masks.overlap.unions[0] == pytest.approx((best | truth).sum(), abs=2)
    (scores,) = [[found["score"] for found in found_in] for found_in in entry.masks.coco.predictions]
    assert scores == pytest.approx(expected.scores.tolist(), rel=1e-4)
    assert len(set(scores)) > 1


def test_a_perfect_and_a_missed_sample_give_half_of_everything():
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:30, 5:30] = True
    entries = [
        RankedScore(f"v_{i}", f"v{i}", "00001", "0", "", score_masks(mask, predictions, np.array([0.9, 0.1])))
        for i, predictions in enumerate([np.stack([mask, ~mask]), np.stack([~mask, ~mask])])
    ]
    report = RankedReport(2, 2, entries)
    assert report.main_score == pytest.approx(0.5, abs=0.01)
    scores = report.scores()
    assert [scores[f"P@{t}"] for t in (0.5, 0.6, 0.7, 0.8, 0.9)] == [0.5] * 5
    assert scores["mIoU"] == pytest.approx(0.5)
    assert scores["oIoU"] == pytest.approx(625 / (625 + 1600))


def test_a_report_without_samples_says_so():
    report = RankedReport(1, 2, [])
    assert report.main_score is None
    assert report.scores() == {}
    assert "no annotated frame" in report.as_table()
    assert report.as_dict()["coco"] is None


def test_a_submission_that_does_not_exist_is_refused_before_the_work(data, tmp_path):
    config = config_of(data, "a2d_sentences", tmp_path / "out", eval={"zip_submission": True})
    with pytest.raises(ValueError, match=r"eval\.zip_submission: this data set has no submission"):
        evaluate(config)
