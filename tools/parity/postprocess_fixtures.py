"""Recomputes the fixtures of post-processing with the functions that evaluation and prediction call."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from metrics.coco_map import CATEGORY
from models.outputs import LayerOutput
from models.postprocess import all_queries, best_queries, masks_at_original, merge_objects, ranked_detections
from structures.boxes import xyxy_to_cxcywh
from tools.parity.criterion_fixtures import Outputs, layer_output, only, raw_outputs

LoadSpec = Callable[[str], dict[str, Any]]


def _synthetic_layer(entry: Mapping[str, Any], prefix: str, time: int, batch: int, queries: int) -> LayerOutput:
    """Outputs of the post-processing fixtures: single precision, one class unless stated otherwise."""
    shapes = {
        "masks": (time, batch, queries, *entry["mask_hw"]),
        "cls": (time, batch, queries, entry.get("K", 1)),
        "boxes": (time, batch, queries, 4),
    }
    return layer_output(raw_outputs(prefix, shapes, torch.float32))


def _size(pair: Iterable[int]) -> tuple[int, int]:
    height, width = pair
    return height, width


def run_postprocess_a2d(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """All queries of single frames."""
    candidates = all_queries(
        _synthetic_layer(entry, entry["key"], entry.get("T", 1), entry["B"], entry["Q"]),
        padded=_size(entry["padded"]),
        unpadded=[_size(pair) for pair in entry["resized"]],
        original=[_size(pair) for pair in entry["original"]],
    )
    outputs: dict[str, Any] = {}
    for i, candidate in enumerate(candidates):
        outputs[f"scores/{i}"] = candidate.scores
        outputs[f"masks/{i}"] = candidate.masks
        outputs[f"area/{i}"] = candidate.masks.flatten(1).sum(dim=1)
    return only(entry, outputs)


def run_postprocess_ytvos(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """The best query of padded clips, as the published training loop evaluates them."""
    predictions = best_queries(_synthetic_layer(entry, entry["key"], entry["T"], entry["B"], entry["Q"]))
    outputs: dict[str, Any] = {
        f"masks/{i}": masks_at_original(
            prediction.mask_logits,
            padded=_size(entry["padded"]),
            unpadded=_size(entry["resized"][i]),
            original=_size(entry["original"][i]),
        )
        for i, prediction in enumerate(predictions)
    }
    outputs["chosen"] = torch.tensor([prediction.query for prediction in predictions])
    outputs["scores"] = torch.stack([prediction.query_scores for prediction in predictions])
    return only(entry, outputs)


def run_postprocess_coco(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """Ranked detections in images."""
    detections = ranked_detections(
        _synthetic_layer(entry, entry["key"], entry.get("T", 1), entry["B"], entry["Q"]),
        unpadded=[_size(pair) for pair in entry["resized"]],
        original=[_size(pair) for pair in entry["original"]],
    )
    outputs: dict[str, Any] = {}
    for i, image in enumerate(detections):
        outputs[f"scores/{i}"] = image.scores
        outputs[f"labels/{i}"] = torch.full((len(image.scores),), CATEGORY)
        outputs[f"boxes/{i}"] = image.boxes_xyxy_px
        outputs[f"masks/{i}"] = image.masks
        outputs[f"area/{i}"] = image.masks.flatten(1).sum(dim=1)
    return only(entry, outputs)


def run_infer_ytvos(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """The best query of one whole video."""
    (video,) = best_queries(_synthetic_layer(entry, entry["key"], entry["T"], 1, entry["Q"]))
    outputs = {
        "masks": video.masks_at(_size(entry["original"])),
        "boxes": xyxy_to_cxcywh(video.boxes_xyxy_norm),
        "chosen": torch.tensor(video.query),
        "scores": video.query_scores,
    }
    return only(entry, outputs)


def run_infer_davis(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """Several objects, each with its own choice per clip, merged to one index map."""
    size = _size(entry["original"])
    outputs: dict[str, Any] = {}
    index_maps = []
    for c, (start, stop) in enumerate(entry["clips"]):
        logits = []
        for o in range(entry["objects"]):
            layer = _synthetic_layer(entry, f"{entry['key']}/{o}/{c}", stop - start, 1, entry["Q"])
            (prediction,) = best_queries(layer)
            logits.append(prediction.logits_at(size))
            outputs[f"chosen/{o}/{c}"] = torch.tensor(prediction.query)
        index_maps.append(merge_objects(logits))
    index_map = torch.cat(index_maps)
    outputs["index_map"] = index_map
    outputs["histogram"] = torch.bincount(index_map.flatten().long(), minlength=entry["objects"] + 1)
    return only(entry, outputs)


RUNNERS: dict[str, Callable[[dict[str, Any], Any, LoadSpec], Outputs]] = {
    "postprocess_a2d": run_postprocess_a2d,
    "postprocess_ytvos": run_postprocess_ytvos,
    "postprocess_coco": run_postprocess_coco,
    "infer_ytvos": run_infer_ytvos,
    "infer_davis": run_infer_davis,
}
