"""Average precision over single frames equals that of pycocotools, also where many predictions have the same score."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from evaluation.coco_ground_truth import sample_id
from evaluation.ranked_report import RankedReport, RankedScore, score_boxes, score_masks
from metrics.coco_map import CocoMeter
from tests.official_coco import official_statistics

HEIGHT, WIDTH = 40, 60
TIED_SCORES = (0.25, 0.5, 0.75)


class Sample:
    """Rectangles of one sample: its object, predictions near to it, and scores of which many are equal."""

    def __init__(self, generator):
        self.object = self.rectangle(generator)
        moved = [self.object + generator.integers(-4, 5, size=4) for _ in range(5)]
        self.predictions = np.array([self.clipped(*rectangle) for rectangle in moved])
        self.scores = generator.choice(TIED_SCORES, size=5)

    @staticmethod
    def rectangle(generator):
        left, top = generator.integers(0, WIDTH - 20), generator.integers(0, HEIGHT - 20)
        return np.array([left, top, left + generator.integers(8, 20), top + generator.integers(8, 20)])

    @staticmethod
    def clipped(left, top, right, bottom):
        left, top = max(left, 0), max(top, 0)
        return [left, top, min(max(right, left + 1), WIDTH), min(max(bottom, top + 1), HEIGHT)]

    @staticmethod
    def mask(rectangle):
        left, top, right, bottom = rectangle
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[top:bottom, left:right] = True
        return mask

    def score_masks(self):
        return score_masks(self.mask(self.object), np.stack(list(map(self.mask, self.predictions))), self.scores)

    def score_boxes(self):
        left, top, right, bottom = map(float, self.object)
        box = np.array([left, top, right - left, bottom - top])
        return score_boxes(box, box[2] * box[3], self.predictions.astype(float), self.scores)


def run_pycocotools(samples, kind):
    """The program of the published evaluations, on files as they have them: by id of the image."""

    def entry(image, rectangle, **more):
        left, top, right, bottom = map(float, rectangle)
        mask = coco_mask.encode(np.asfortranarray(Sample.mask(rectangle), dtype=np.uint8))
        shape = {"segmentation": mask} if kind == "segm" else {"bbox": [left, top, right - left, bottom - top]}
        return {"image_id": image, "category_id": 1, "area": (right - left) * (bottom - top), **shape, **more}

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH} for image in samples],
        "annotations": [
            entry(image, sample.object, id=number, iscrowd=0)
            for number, (image, sample) in enumerate(samples.items(), start=1)
        ],
        "categories": [{"id": 1, "name": "dummy_class"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = [
            entry(image, rectangle, score=score)
            for image, sample in samples.items()
            for rectangle, score in zip(sample.predictions, sample.scores.tolist(), strict=True)
        ]
    return official_statistics(truth, results, kind)


def in_the_order_of_evaluation(meters):
    together = CocoMeter(meters[0].kind)
    for meter in meters:
        together.merge(meter)
    return tuple(together.compute())


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_in_different_frames_count_in_the_order_of_pycocotools(seed):
    generator = np.random.default_rng(seed)
    # not in the order of the texts: videos as the list has them, frame 5 before 10 and 100
    keys = [(video, frame, name) for video in ("b", "a") for frame in (5, 10, 100) for name in ("2", "10")]
    samples = {sample_id(video, f"{frame:05d}", name): Sample(generator) for video, frame, name in keys}
    entries = [
        RankedScore(image, video, f"{frame:05d}", name, "a square", sample.score_masks())
        for (image, sample), (video, frame, name) in zip(samples.items(), keys, strict=True)
    ]
    expected = run_pycocotools(samples, "segm")
    assert tuple(RankedReport(2, 12, entries).mask_ap) == expected
    assert tuple(RankedReport(2, 12, entries[::-1]).mask_ap) == expected, "in whatever order processes deliver them"
    assert in_the_order_of_evaluation([entry.masks.coco for entry in entries]) != expected, "the case has no ties"


@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_in_different_images_count_in_the_order_of_the_numbers_of_their_sentences(seed):
    generator = np.random.default_rng(10 + seed)
    numbers = (100, 9, 20, 3, 11, 1, 2, 30, 4, 10)
    samples = {number: Sample(generator) for number in numbers}
    entries = [
        RankedScore(f"image_{n}", "image", "image", str(n), "a square", sample.score_masks(), sample.score_boxes())
        for n, sample in samples.items()
    ]
    report = RankedReport(1, len(numbers), entries)
    assert tuple(report.mask_ap) == run_pycocotools(samples, "segm")
    assert tuple(report.box_ap) == run_pycocotools(samples, "bbox")
    assert report.mask_ap_by_box_corner.mean_ap == report.mask_ap.mean_ap
    assert in_the_order_of_evaluation([entry.boxes.coco for entry in entries]) != tuple(report.box_ap)
