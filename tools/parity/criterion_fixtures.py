"""Rebuild the inputs of the criterion fixtures and run our code on them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from models.criterion import Criterion, Losses, LossWeights
from models.matcher import Assignment, Matcher, cost_matrices, stack_targets
from models.outputs import LayerOutput, SOCOutput
from structures.boxes import mask_extents_xyxy, xyxy_to_cxcywh
from structures.samples import ClipTarget
from tools.parity import inputs, weights

Outputs = dict[str, Tensor | np.ndarray]

#: Our name of each term -> the published one.
PUBLISHED_LOSS_NAMES = {
    "classification": "loss_cls",
    "contrastive": "loss_con",
    "mask_focal": "loss_sigmoid_focal",
    "dice": "loss_dice",
    "box": "loss_bbox",
    "giou": "loss_giou",
}

#: Published names of the raw outputs -> factor of the uniform numbers that stand for them.
_SYNTHETIC_SCALES = {"masks": 3.0, "cls": 3.0, "boxes": 1.0, "logit": 2.0, "text": 2.0}


def _uniform(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(weights.uniform(name, int(np.prod(shape))).reshape(shape)).to(dtype)


def raw_outputs(prefix: str, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Synthetic outputs in the published axis order (time first), by the last part of their published names."""
    raw = {}
    for name, shape in shapes.items():
        values = _uniform(f"{prefix}/{name}", shape, dtype)
        if name == "boxes":
            raw[name] = torch.cat([0.5 + 0.3 * values[..., :2], 0.25 + 0.2 * values[..., 2:]], dim=-1)
        else:
            raw[name] = _SYNTHETIC_SCALES[name] * values
    return raw


def layer_output(raw: Mapping[str, Tensor]) -> LayerOutput:
    """Our axis order; a fixture without cluster features gets empty ones."""
    time, batch, queries = raw["masks"].shape[:3]
    class_logits = raw["cls"] if "cls" in raw else raw["masks"].new_zeros(time, batch, queries, 1)
    boxes = raw["boxes"] if "boxes" in raw else raw["masks"].new_zeros(time, batch, queries, 4)
    return LayerOutput(
        mask_logits=rearrange(raw["masks"], "t b q h w -> b t q h w"),
        class_logits=rearrange(class_logits, "t b q k -> b t q k"),
        boxes_cxcywh_norm=rearrange(boxes, "t b q c -> b t q c"),
        cluster=raw["logit"] if "logit" in raw else raw["masks"].new_zeros(batch, queries, 1),
    )


def padded_size(entry: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the padded frames of a batch."""
    return max(h for h, _ in entry["sizes"]), max(w for _, w in entry["sizes"])


def build_targets(entry: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> tuple[ClipTarget, ...]:
    """The targets of a `criterion` or `soc_train` fixture: ellipses, with boxes in the given precision."""
    targets = []
    padded_height, padded_width = padded_size(entry)
    for b, (height, width) in enumerate(entry["sizes"]):
        visible = entry["visible"][b]
        num_objects = entry["instances"][b] if "instances" in entry else 1
        referred = entry["referred"][b] if "referred" in entry else 0
        masks = torch.zeros(num_objects, len(visible), padded_height, padded_width, dtype=torch.bool)
        for i in range(num_objects):
            for t, is_shown in enumerate(visible):
                if is_shown or i != referred:
                    middle = f"t/{b}/{i}/{t}" if entry["kind"] == "criterion" else f"target/{b}/{t}"
                    blob = inputs.blob_mask(f"{entry['key']}/{middle}", height, width)
                    masks[i, t, :height, :width] = torch.from_numpy(blob)
        label = entry["labels"][b] if entry.get("labels") else 0
        extents = mask_extents_xyxy(masks).to(dtype)
        targets.append(
            ClipTarget(
                masks=masks,
                boxes_cxcywh_norm=xyxy_to_cxcywh(extents) / extents.new_tensor([width, height, width, height]),
                is_visible=masks.any(dim=-1).any(dim=-1),
                labels=torch.full((num_objects,), label),
                referred=referred,
            )
        )
    return tuple(targets)


def loss_weights(published: Mapping[str, float]) -> LossWeights:
    """Our weights from a table with the published names."""
    return LossWeights(**{ours: float(published[theirs]) for ours, theirs in PUBLISHED_LOSS_NAMES.items()})


def layer_names(num_layers: int) -> tuple[str, ...]:
    """Published names of our layers: the auxiliary ones are numbered, the final one is "last"."""
    return (*(str(i) for i in range(num_layers - 1)), "last")


def loss_keys(losses: Losses, loss_weight: LossWeights) -> dict[str, Tensor]:
    """Losses under the keys of the fixtures: `loss/*`, `weighted/*` (suffix _i: auxiliary layer i), `total_loss`."""
    keys = {"total_loss": losses.total.detach()}
    for name, terms in zip(layer_names(len(losses.per_layer)), losses.per_layer, strict=True):
        suffix = "" if name == "last" else f"_{name}"
        for ours, value in terms.items():
            published = PUBLISHED_LOSS_NAMES[ours] + suffix
            keys[f"loss/{published}"] = value.detach()
            keys[f"weighted/{published}"] = getattr(loss_weight, ours) * value.detach()
    return keys


def match_keys(assignments: Iterable[Assignment]) -> dict[str, Tensor]:
    """Assignments of all layers, last one final, under the keys of the fixtures."""
    per_layer = list(assignments)
    return {
        f"match/{name}/{sample}/{side}": indices
        for name, assignment in zip(layer_names(len(per_layer)), per_layer, strict=True)
        for sample, pair in enumerate(assignment)
        for side, indices in zip(("query", "target"), pair, strict=True)
    }


def only(entry: Mapping[str, Any], outputs: Mapping[str, Any]) -> Outputs:
    """The outputs that the manifest lists."""
    return {key: outputs[key] for key in entry["outputs"]}


def _sample(layer: LayerOutput, i: int) -> LayerOutput:
    return LayerOutput(
        mask_logits=layer.mask_logits[i : i + 1],
        class_logits=layer.class_logits[i : i + 1],
        boxes_cxcywh_norm=layer.boxes_cxcywh_norm[i : i + 1],
        cluster=layer.cluster[i : i + 1],
    )


def _cost_keys(
    entry: Mapping[str, Any], layer: LayerOutput, sentence: Tensor, targets: tuple[ClipTarget, ...]
) -> Outputs:
    """Costs between the queries of every sample and the objects of every sample, as the published code records them.

    The published class cost has one column where all objects cost the same, one per sample or one per object.
    """
    samples = [_sample(layer, i) for i in range(len(targets))]
    pairs = [
        [cost_matrices((one,), sentence[i : i + 1], stack_targets((target,), one)) for target in targets]
        for i, one in enumerate(samples)
    ]

    def matrix(name: str) -> Tensor:
        return torch.cat([torch.cat([getattr(cost, name)[0, 0] for cost in row], dim=1) for row in pairs])

    classification = matrix("classification")
    num_columns = entry["outputs"]["cost/cls"][1]
    if num_columns != classification.shape[1]:
        starts = np.cumsum([0, *entry["instances"]])[:-1]
        referred = [int(s) + (target.referred or 0) for s, target in zip(starts, targets, strict=True)]
        per_sample = classification[:, referred]
        classification = per_sample[:, :num_columns]
    return {
        "cost/cls": classification,
        "cost/dice": matrix("dice"),
        "cost/box": matrix("box"),
        "cost/giou": matrix("giou"),
        "cost/con": torch.cat([row[0].contrastive[0, 0] for row in pairs if row[0].contrastive is not None]),
    }


def run_criterion(entry: dict[str, Any], fixture: Any, load_spec: Callable[[str], dict[str, Any]]) -> Outputs:
    """Costs, assignments, losses and gradients of the weighted total; every layer has its own sentence feature."""
    targets = build_targets(entry, torch.float64)
    t, b, q, k = entry["T"], len(entry["sizes"]), entry["queries"], entry["num_classes"]
    dim = entry["outputs"]["grad/last/pred_logit"][-1]
    shapes = {
        "masks": (t, b, q, *entry["mask_hw"]),
        "cls": (t, b, q, k),
        "boxes": (t, b, q, 4),
        "logit": (b, q, dim),
        "text": (b, dim),
    }
    matcher_weights = entry["matcher"]
    matcher = Matcher(
        cost_class=float(matcher_weights["cost_cls"]),
        cost_dice=float(matcher_weights["cost_dice"]),
        cost_box=float(matcher_weights["cost_box"]),
        cost_giou=float(matcher_weights["cost_giou"]),
        cost_contrastive=float(matcher_weights["cost_con"]),
    )
    criterion = Criterion(matcher, loss_weights(entry["weights"]))
    prefixes = [*(f"{entry['key']}/aux{i}" for i in range(entry["naux"])), f"{entry['key']}/last"]
    raws = [
        {name: x.requires_grad_() for name, x in raw_outputs(prefix, shapes, torch.float64).items()}
        for prefix in prefixes
    ]
    layers = [layer_output(raw) for raw in raws]
    losses = [criterion(SOCOutput((layer,), raw["text"]), targets) for layer, raw in zip(layers, raws, strict=True)]
    total = torch.stack([loss.total for loss in losses]).sum()
    names = ("masks", "cls", "boxes", "logit", "text")
    gradients = torch.autograd.grad(total, [raws[-1][name] for name in names])
    published = ("pred_masks", "pred_cls", "pred_boxes", "pred_logit", "text_sentence_feature")
    outputs: dict[str, Any] = {
        **_cost_keys(entry, layers[-1], raws[-1]["text"], targets),
        **match_keys(matcher(layer, raw["text"], targets) for layer, raw in zip(layers, raws, strict=True)),
        **loss_keys(Losses(tuple(loss.per_layer[0] for loss in losses), total), criterion.weights),
        **{f"grad/last/{name}": gradient for name, gradient in zip(published, gradients, strict=True)},
    }
    return only(entry, outputs)


RUNNERS: dict[str, Callable[[dict[str, Any], Any, Callable[[str], dict[str, Any]]], Outputs]] = {
    "criterion": run_criterion,
}
