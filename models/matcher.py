"""Bipartite matching of queries and objects: one assignment per video and decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.losses import FOCAL_ALPHA, generalized_iou, upsample_logits
from models.outputs import LayerOutput, SOCOutput
from structures.samples import ClipTarget

Assignment = tuple[tuple[Int[Tensor, " _"], Int[Tensor, " _"]], ...]
"""Per sample: indices of the matched queries, ascending, and of their objects; on the CPU."""


@dataclass(frozen=True, slots=True)
class StackedTargets:
    """The targets of a batch in one tensor each; samples with fewer objects are filled with empty ones at the end.

    The sample of an absent sentence has no object.

    Attributes:
        masks: 1 on the object, 0 elsewhere.
        boxes_cxcywh_norm: relative to the unpadded frame; zeros where not visible.
        referred_is_visible: of the object that the sentence refers to; False where the sentence is absent.
        labels: class index of each object.
        referred: index of the object that the sentence refers to; None if it is absent.
        num_objects: per sample, without the fill.
    """

    masks: Float[Tensor, "batch object time height width"]
    boxes_cxcywh_norm: Float[Tensor, "batch object time 4"]
    referred_is_visible: Bool[Tensor, "batch time"]
    labels: Int[Tensor, "batch object"]
    referred: tuple[int | None, ...]
    num_objects: tuple[int, ...]


def stack_targets(targets: tuple[ClipTarget, ...], layer: LayerOutput) -> StackedTargets:
    """Stack the targets of a batch, in the precision of the predictions.

    Args:
        targets: one per sample, masks padded to one size.
        layer: any of the predictions that they will be compared with.

    Raises:
        ValueError: if targets and predictions do not fit together.
    """
    batch, time, num_queries = layer.class_logits.shape[:3]
    if len(targets) != batch:
        raise ValueError(f"{len(targets)} targets for predictions of {batch} samples")
    for i, target in enumerate(targets):
        num_objects, frames, *size = target.masks.shape
        if num_objects > num_queries:
            raise ValueError(
                f"target {i} has {num_objects} objects, expected at most {num_queries}, one query for each"
            )
        fits = num_objects == 0 if target.referred is None else 0 <= target.referred < num_objects
        if not fits:
            raise ValueError(f"target {i}: referred={target.referred}, but it has {num_objects} objects")
        if frames != time:
            raise ValueError(f"target {i} has {frames} frames, the predictions have {time}")
        if tuple(size) != tuple(targets[0].masks.shape[-2:]):
            raise ValueError(f"masks of target {i} are {size} pixels, those of target 0 {targets[0].masks.shape[-2:]}")
    dtype = layer.mask_logits.dtype
    return StackedTargets(
        masks=_stack([target.masks for target in targets]).to(dtype),
        boxes_cxcywh_norm=_stack([target.boxes_cxcywh_norm for target in targets]).to(dtype),
        referred_is_visible=torch.stack([_referred_is_visible(target) for target in targets]),
        labels=_stack([target.labels for target in targets]).long(),
        referred=tuple(target.referred for target in targets),
        num_objects=tuple(len(target.masks) for target in targets),
    )


def _referred_is_visible(target: ClipTarget) -> Bool[Tensor, " time"]:
    if target.referred is None:
        return target.is_visible.new_zeros(target.is_visible.shape[1])
    return target.is_visible[target.referred]


def _stack(tensors: list[Tensor]) -> Tensor:
    if len({len(tensor) for tensor in tensors}) == 1:
        return torch.stack(tensors)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


@dataclass(frozen=True, slots=True)
class MatchingCosts:
    """Costs of matching each query with each object, term by term, before the weights.

    Attributes:
        classification: focal cost of the class; the mean of the frames that show the referred object.
        dice: minus the Dice overlap of the masks, mean of all frames.
        box: L1 distance of (centre, size), mean of all frames.
        giou: minus the generalized IoU, mean of all frames.
        contrastive: minus the probability of the query given the sentence; None without a sentence.
    """

    classification: Float[Tensor, "layer batch query object"]
    dice: Float[Tensor, "layer batch query object"]
    box: Float[Tensor, "layer batch query object"]
    giou: Float[Tensor, "layer batch query object"]
    contrastive: Float[Tensor, "layer batch query 1"] | None


@torch.no_grad()
def cost_matrices(
    layers: tuple[LayerOutput, ...], sentence: Float[Tensor, "batch dim"] | None, targets: StackedTargets
) -> MatchingCosts:
    """All matching costs between the queries of each layer and the objects of each sample."""
    predicted_boxes = rearrange([layer.boxes_cxcywh_norm for layer in layers], "l b t q c -> l b q 1 t c")
    target_boxes = rearrange(targets.boxes_cxcywh_norm, "b n t c -> b 1 n t c")
    contrastive = None
    if sentence is not None:
        # Not divided by the width, unlike in the loss: as published.
        cluster = torch.stack([layer.cluster for layer in layers])
        contrastive = -torch.einsum("l b q c, b c -> l b q", cluster, sentence).softmax(dim=-1)[..., None]
    return MatchingCosts(
        classification=_classification_cost(torch.stack([layer.class_logits for layer in layers]), targets),
        dice=_dice_cost([layer.mask_logits for layer in layers], targets.masks),
        box=(predicted_boxes - target_boxes).abs().sum(dim=-1).mean(dim=-1),
        giou=-generalized_iou(predicted_boxes, target_boxes).mean(dim=-1),
        contrastive=contrastive,
    )


def _classification_cost(
    class_logits: Float[Tensor, "layer batch time query num_classes"], targets: StackedTargets
) -> Float[Tensor, "layer batch query object"]:
    """Focal cost of predicting the class of each object, mean of the frames in which the referred object is visible."""
    num_layers, _, time, num_queries, num_classes = class_logits.shape
    # With a single class, "referred or not", the labels of the data are not used.
    labels = targets.labels if num_classes > 1 else torch.zeros_like(targets.labels)
    index = labels[:, None, None].expand(num_layers, -1, time, num_queries, -1)  # (l, b, t, q, n)
    probability = class_logits.gather(-1, index).sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** 2 * -(probability + 1e-8).log()
    negative = (1 - FOCAL_ALPHA) * probability**2 * -(1 - probability + 1e-8).log()
    # An object that is never visible would have no frame to average over (the published code divides by zero):
    # then all frames count. This is also the published rule for single frames, where visibility is ignored.
    is_visible = targets.referred_is_visible
    counts = is_visible | ~is_visible.any(dim=1, keepdim=True)
    weight = counts.to(probability.dtype) / counts.sum(dim=1, keepdim=True)
    return torch.einsum("l b t q n, b t -> l b q n", positive - negative, weight)


def _dice_cost(
    mask_logits: Sequence[Float[Tensor, "batch time query height4 width4"]],
    masks: Float[Tensor, "batch object time height width"],
) -> Float[Tensor, "layer batch query object"]:
    """Minus the smoothed Dice overlap, compared at the resolution of the targets; layer by layer, to save memory."""
    b, size = masks.shape[0], (masks.shape[-2], masks.shape[-1])
    target = rearrange(masks, "b n t h w -> b t (h w) n")
    target_sum = target.sum(dim=-2)[:, :, None]  # (b, t, 1, n)
    overlaps, totals = [], []
    for logits in mask_logits:
        upsampled = upsample_logits(rearrange(logits, "b t q h w -> (b t) q h w"), size)
        probability = rearrange(upsampled.sigmoid_(), "(b t) q h w -> b t q (h w)", b=b)
        overlaps.append(probability @ target)
        totals.append(probability.sum(dim=-1))
    total = torch.stack(totals)[..., None] + target_sum
    return -((2 * torch.stack(overlaps) + 1) / (total + 1)).mean(dim=2)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Assigns each object its own query, at the smallest total cost; the sample of an absent sentence gets no pair.

    Attributes:
        cost_class: weight of the classification cost.
        cost_dice: weight of the mask overlap.
        cost_box: weight of the L1 distance of the boxes.
        cost_giou: weight of the box overlap.
        cost_contrastive: weight of the similarity to the sentence; 0 in all published recipes.
    """

    cost_class: float = 2.0
    cost_dice: float = 5.0
    cost_box: float = 2.0
    cost_giou: float = 2.0
    cost_contrastive: float = 0.0

    def __call__(
        self, layer: LayerOutput, sentence: Float[Tensor, "batch dim"] | None, targets: tuple[ClipTarget, ...]
    ) -> Assignment:
        """The assignment for one layer; no gradient flows."""
        return self.match_layers(SOCOutput((layer,), sentence), stack_targets(targets, layer))[0]

    @torch.no_grad()
    def match_layers(self, output: SOCOutput, targets: StackedTargets) -> tuple[Assignment, ...]:
        """The assignment for every layer, after a single wait for the device.

        Raises:
            ValueError: if a cost is not a finite number: the predictions have diverged.
        """
        costs_on_host = self.total_cost(output, targets).cpu().numpy()
        if not np.isfinite(costs_on_host).all():
            layer = int(np.flatnonzero(~np.isfinite(costs_on_host).all(axis=(1, 2, 3)))[0])
            raise ValueError(f"matching costs of layer {layer} are not finite: predictions or target boxes are not")
        return tuple(
            tuple(
                _assign(cost[:, :num_objects])
                for cost, num_objects in zip(costs_of_layer, targets.num_objects, strict=True)
            )
            for costs_of_layer in costs_on_host
        )

    def total_cost(self, output: SOCOutput, targets: StackedTargets) -> Float[Tensor, "layer batch query object"]:
        """The weighted sum of the costs.

        Raises:
            ValueError: if the similarity to the sentence has a weight, but the output no sentence.
        """
        if self.cost_contrastive and output.sentence is None:
            raise ValueError(f"cost_contrastive={self.cost_contrastive} needs the model's sentence feature, got None")
        costs = cost_matrices(output.layers, output.sentence if self.cost_contrastive else None, targets)
        total = (
            self.cost_class * costs.classification
            + self.cost_dice * costs.dice
            + self.cost_box * costs.box
            + self.cost_giou * costs.giou
        )
        return total if costs.contrastive is None else total + self.cost_contrastive * costs.contrastive


def _assign(cost: np.ndarray) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    query, target = linear_sum_assignment(cost)
    return torch.from_numpy(query), torch.from_numpy(target)
