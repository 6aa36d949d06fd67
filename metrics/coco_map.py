"""COCO mean average precision of masks and boxes, for samples that have one annotated object each."""

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORY = 1
"""All objects have the same category: only their masks and boxes are compared."""


class CocoStatistics(NamedTuple):
    """The twelve figures of the COCO evaluation; -1 where no object has that size.

    Attributes:
        mean_ap: average precision over IoU thresholds .5, .55, ... .95.
        ap_50: at threshold .5.
        ap_75: at threshold .75.
        ap_small: of objects below 32 x 32 pixels.
        ap_medium: of objects below 96 x 96 pixels.
        ap_large: of larger objects.
        recall_1: average recall with one prediction per sample.
        recall_10: with ten.
        recall_100: with a hundred.
        recall_small: of objects below 32 x 32 pixels.
        recall_medium: of objects below 96 x 96 pixels.
        recall_large: of larger objects.
    """

    mean_ap: float
    ap_50: float
    ap_75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall_1: float
    recall_10: float
    recall_100: float
    recall_small: float
    recall_medium: float
    recall_large: float


@dataclass(slots=True)
class CocoMeter:
    """Collects annotations and predictions of samples, one by one, as compressed masks or as boxes.

    Attributes:
        kind: what is compared: "segm" for masks, "bbox" for boxes.
        annotations: one per sample, in the format of COCO. Predictions of different samples with the same score count
            in the order of the samples.
        predictions: those of each sample.
    """

    kind: Literal["segm", "bbox"]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[list[dict[str, Any]]] = field(default_factory=list)

    def add_masks(
        self,
        annotation: Bool[np.ndarray, "height width"],
        predictions: Bool[np.ndarray, "query height width"],
        scores: Float[np.ndarray, " query"],
    ) -> None:
        """Add a sample whose masks are compared.

        Args:
            annotation: of the object.
            predictions: any number, in any order.
            scores: higher is better.
        """
        self._require("segm")
        true = _encode(annotation)
        self.annotations.append({"segmentation": true, "area": float(coco_mask.area(true))})
        encoded = [_encode(mask) for mask in predictions]
        self.predictions.append(
            [
                {"segmentation": mask, "area": float(coco_mask.area(mask)), "score": score}
                for mask, score in zip(encoded, scores.tolist(), strict=True)
            ]
        )

    def add_boxes(
        self,
        annotation_xywh_px: Float[np.ndarray, "4"],
        annotation_area_px: float,
        predictions_xyxy_px: Float[np.ndarray, "query 4"],
        scores: Float[np.ndarray, " query"],
    ) -> None:
        """Add a sample whose boxes are compared.

        Args:
            annotation_xywh_px: left, top, width, height.
            annotation_area_px: of the object's mask, as COCO has it.
            predictions_xyxy_px: any number, in any order.
            scores: higher is better.
        """
        self._require("bbox")
        self.annotations.append({"bbox": annotation_xywh_px.tolist(), "area": float(annotation_area_px)})
        sizes = predictions_xyxy_px[:, 2:] - predictions_xyxy_px[:, :2]
        boxes = np.concatenate([predictions_xyxy_px[:, :2], sizes], axis=1).tolist()
        self.predictions.append(
            [
                {"bbox": box, "area": box[2] * box[3], "score": score}
                for box, score in zip(boxes, scores.tolist(), strict=True)
            ]
        )

    def merge(self, other: "CocoMeter") -> None:
        """Add the samples of another meter, of another process for instance."""
        other._require(self.kind)
        self.annotations.extend(other.annotations)
        self.predictions.extend(other.predictions)

    def compute(self) -> CocoStatistics:
        """The statistics of all samples so far.

        Raises:
            ValueError: there is no sample.
        """
        if not self.annotations:
            raise ValueError("no sample was added: there is nothing to score")
        images = [{"id": image, **_image_size(annotation)} for image, annotation in enumerate(self.annotations)]
        # ids of annotations start at 1: COCOeval takes 0 for "not matched"
        annotations = [
            {**annotation, "id": image + 1, "image_id": image, "category_id": CATEGORY, "iscrowd": 0}
            for image, annotation in enumerate(self.annotations)
        ]
        flat = [
            {**prediction, "image_id": image, "category_id": CATEGORY}
            for image, predictions in enumerate(self.predictions)
            for prediction in predictions
        ]
        detections = [{**detection, "id": number} for number, detection in enumerate(flat, start=1)]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
            evaluation = COCOeval(_dataset(images, annotations), _dataset(images, detections), self.kind)
            evaluation.params.useCats = 0
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return CocoStatistics(*(float(figure) for figure in evaluation.stats))

    def _require(self, kind: str) -> None:
        if kind != self.kind:
            raise ValueError(f"a meter of kind={self.kind!r} cannot take samples of kind {kind!r}")


def _encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {**encoded, "counts": encoded["counts"].decode("ascii")}  # text, as COCO files have it


def _image_size(annotation: dict[str, Any]) -> dict[str, int]:
    """Height and width for those annotations that need them."""
    if "segmentation" not in annotation:
        return {}
    height, width = annotation["segmentation"]["size"]
    return {"height": height, "width": width}


def _dataset(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": CATEGORY, "name": "object"}]}
    coco.createIndex()
    return coco
