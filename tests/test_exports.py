"""Results in the forms of other tools, checked with the tools themselves."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO

from soc_rvos import Segmenter
from tests.tiny_saved_model import write_tiny_saved_model

SENTENCES = ["a square", "the upper square", "a square moving right"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Three sentences, of which one is rejected in one of its windows, and frames without any object."""
    folder = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(folder)
    segmenter = Segmenter.from_pretrained(folder, device="cpu")
    video = np.random.default_rng(0).integers(0, 60, (7, 27, 41, 3), dtype=np.uint8)
    video[2:5, 5:15, 10:22] = 250
    everything = segmenter(video, SENTENCES)
    assert np.asarray(everything.masks).any()
    scores = np.array([part.scores.mean(axis=1) for part in segmenter.stream(video, SENTENCES)])
    some = segmenter.with_settings(min_score=float(np.median(scores)))(video, SENTENCES)
    assert 0 < some.found_in_frames.mean() < 1
    return some


def opened(dataset, path):
    path.write_text(json.dumps(dataset))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_the_same_masks_back(result, tmp_path):
    coco = opened(result.to_coco(), tmp_path / "coco.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == SENTENCES
    masks = np.zeros(result.masks.shape, dtype=bool)
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == [f"{name}.jpg" for name in result.frame_names]
    for time, image in enumerate(images):
        assert (image["height"], image["width"]) == result.size
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            index = coco.getCatIds().index(annotation["category_id"])
            mask = coco.annToMask(annotation).astype(bool)
            masks[index, time] = mask
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum() > 0
            assert annotation["score"] == pytest.approx(result.scores[index, time], abs=1e-5)
            assert annotation["track_id"] == annotation["category_id"]
    np.testing.assert_array_equal(masks, np.asarray(result.masks))
    assert masks.any()


def test_pycocotools_takes_the_answers_as_detections_of_themselves(result, tmp_path):
    """The keys that COCO's own evaluation needs are there: a result equals itself."""
    from pycocotools.cocoeval import COCOeval

    dataset = result.to_coco()
    truth = opened(dataset, tmp_path / "coco.json")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(dataset["annotations"]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_supervision_gets_every_frame(result):
    supervision = pytest.importorskip("supervision", reason="an optional package")
    frames = result.to_supervision()
    assert len(frames) == len(result)
    seen = 0
    for time, detections in enumerate(frames):
        assert isinstance(detections, supervision.Detections)
        expected = [i for i in range(3) if result.masks[i, time].any()]
        assert detections.class_id.tolist() == expected
        if not expected:
            continue
        seen += len(expected)
        np.testing.assert_array_equal(detections.mask, result.masks[expected, time])
        np.testing.assert_allclose(detections.confidence, result.scores[expected, time])
        assert detections.data["class_name"].tolist() == [SENTENCES[i] for i in expected]
        for (left, top, right, bottom), mask in zip(detections.xyxy, detections.mask, strict=True):
            rows, columns = np.nonzero(mask)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == np.asarray(result.masks).any(axis=(2, 3)).sum() > 0
    assert [len(each) for each in frames[1:3]] == [len(frames[1]), len(frames[2])]
    assert len(frames[-1]) == len(frames[len(result) - 1])
    with pytest.raises(IndexError):
        frames[len(result)]
    full = max(frames, key=len)
    picture = np.zeros((*result.size, 3), dtype=np.uint8)
    assert supervision.MaskAnnotator().annotate(picture.copy(), full).any()
    assert len(supervision.Detections.merge([each for each in frames if len(each)])) == seen


def test_without_supervision_it_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        result.to_supervision()
