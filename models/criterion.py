"""The training objective: predictions and targets to one weighted sum, with its terms for the log."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, distributed

from models.losses import contrastive_loss, dice_loss, focal_loss, generalized_iou, upsample_logits
from models.matcher import Assignment, Matcher, StackedTargets, stack_targets
from models.outputs import LayerOutput, SOCOutput
from structures.samples import ClipTarget
from structures.transfer import constant, send


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each term, the same for every decoder layer; the defaults are those of all published recipes.

    Attributes:
        classification: focal loss of the class logits.
        contrastive: choice of the query by its similarity to the sentence.
        mask_focal: focal loss of the mask, mean over pixels.
        dice: overlap of the mask.
        box: L1 distance of the box.
        giou: overlap of the box.
    """

    classification: float = 2.0
    contrastive: float = 1.0
    mask_focal: float = 2.0
    dice: float = 5.0
    box: float = 2.0
    giou: float = 2.0


@dataclass(frozen=True, slots=True)
class Losses:
    """The objective and its terms.

    Attributes:
        per_layer: unweighted terms of each decoder layer, last one final; keys are the fields of `LossWeights`.
        total: weighted sum over terms and layers; the only one to differentiate.
    """

    per_layer: tuple[dict[str, Float[Tensor, ""]], ...]
    total: Float[Tensor, ""]

    def scalars(self) -> dict[str, Float[Tensor, ""]]:
        """For the log, detached and still on the device: "total", "dice/final", "dice/0" (first layer), ..."""
        last = len(self.per_layer) - 1
        named = {
            f"{name}/{'final' if i == last else i}": value.detach()
            for i, terms in enumerate(self.per_layer)
            for name, value in terms.items()
        }
        return {"total": self.total.detach(), **named}


@dataclass(frozen=True, slots=True)
class Totals:
    """What the terms are divided by: counts of one batch, or of all batches whose gradients make one step.

    All are means over the processes, which average their gradients. What there is none of in all processes together
    counts as 1.

    Attributes:
        num_masks: target masks over all frames and samples, visible or not; for mask and box terms.
        num_frames: the same, and the frames of absent sentences, so that one of them counts as much as a sentence
            about one object; for the classification term.
        num_present: sentences that refer to something; for the contrastive term.
    """

    num_masks: Float[Tensor, ""] | float
    num_frames: Float[Tensor, ""] | float
    num_present: Float[Tensor, ""] | float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Matched queries, ordered by sample and object, so that all layers share their targets.

    Attributes:
        sample: of each pair.
        target: index of the object within its sample.
        query: matched to that object, per layer.
        present: samples whose sentence refers to something, ascending.
        query_of_referred: matched to the object that the sentence refers to, for each of these samples.
    """

    sample: Int[Tensor, " pair"]
    target: Int[Tensor, " pair"]
    query: Int[Tensor, "layer pair"]
    present: Int[Tensor, " present"]
    query_of_referred: Int[Tensor, "layer present"]


@dataclass(frozen=True, slots=True)
class Criterion:
    """Matches queries with objects and adds up the losses of all decoder layers.

    For an absent sentence no query is right: the class logits of all of them are negative, and it has no other term.

    Attributes:
        matcher: decides which query shows which object.
        weights: of the terms.
    """

    matcher: Matcher = field(default_factory=Matcher)
    weights: LossWeights = field(default_factory=LossWeights)

    def __call__(self, output: SOCOutput, targets: tuple[ClipTarget, ...], *, totals: Totals | None = None) -> Losses:
        """Compute the losses, in at least single precision whatever the model ran in.

        Args:
            output: of the model.
            targets: one per sample.
            totals: counts of all batches of a step, of which this is one: then the losses of the batches, and their
                gradients, add up to those of one large batch. None: this batch is the whole step.

        Raises:
            ValueError: if outputs and targets do not fit together, if predictions are not finite, or if the
                contrastive term has a weight but the output no sentence.
        """
        if output.sentence is None and self.weights.contrastive:
            raise ValueError(f"weights.contrastive={self.weights.contrastive} needs output.sentence, which is None")
        with torch.autocast(output.final.mask_logits.device.type, enabled=False):
            precise = _at_least_single_precision(output)
            stacked = stack_targets(targets, precise.final)
            assignments = self.matcher.match_layers(precise, stacked)
            pairs = _sorted_pairs(assignments, stacked, precise.final.mask_logits.device)
            terms = self._terms(precise, stacked, pairs, totals or count_totals(targets))
        names = [weight.name for weight in fields(LossWeights) if weight.name in terms]
        per_layer = tuple({name: terms[name][i] for name in names} for i in range(len(output.layers)))
        stacked_terms = torch.stack([terms[name] for name in names]).sum(dim=1)
        weights = tuple(getattr(self.weights, name) for name in names)
        total = (constant(weights, dtype=stacked_terms.dtype, device=stacked_terms.device) * stacked_terms).sum()
        return Losses(per_layer=per_layer, total=total)

    def _terms(
        self, output: SOCOutput, targets: StackedTargets, pairs: Pairs, totals: Totals
    ) -> dict[str, Float[Tensor, " layer"]]:
        """Every term, unweighted, for all layers at once."""
        num_masks = totals.num_masks
        terms = {"classification": _classification_loss(output.layers, targets, pairs) / totals.num_frames}
        if output.sentence is not None:
            cluster = torch.stack([layer.cluster for layer in output.layers])[:, pairs.present]
            chosen = contrastive_loss(cluster, output.sentence[pairs.present], pairs.query_of_referred)
            terms["contrastive"] = chosen / totals.num_present
        focal, dice = _mask_losses(output.layers, targets, pairs)
        l1, giou = _box_losses(output.layers, targets, pairs)
        return terms | {
            "mask_focal": focal / num_masks,
            "dice": dice / num_masks,
            "box": l1 / num_masks,
            "giou": giou / num_masks,
        }


def count_totals(targets: Iterable[ClipTarget], *, device: torch.device | None = None) -> Totals:
    """Counts what the terms of a step are divided by; every process must call this, for they add up their counts.

    Args:
        targets: of all batches of the step in this process.
        device: where the processes add up their counts; None: that of the targets.
    """
    targets = tuple(targets)
    num_masks = sum(target.masks.shape[0] * target.masks.shape[1] for target in targets)
    num_absent_frames = sum(target.masks.shape[1] for target in targets if target.is_absent)
    num_present = sum(not target.is_absent for target in targets)
    counts = torch.tensor([num_masks, num_masks + num_absent_frames, num_present], dtype=torch.float)
    if not (distributed.is_available() and distributed.is_initialized()):
        masks, frames, present = counts.clamp(min=1).tolist()
        return Totals(num_masks=masks, num_frames=frames, num_present=present)
    counts = counts.to(device or targets[0].masks.device)
    distributed.all_reduce(counts)
    means = counts.clamp(min=1) / distributed.get_world_size()
    return Totals(num_masks=means[0], num_frames=means[1], num_present=means[2])


def _at_least_single_precision(output: SOCOutput) -> SOCOutput:
    def cast(x: Tensor) -> Tensor:
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    layers = tuple(
        replace(
            layer,
            mask_logits=cast(layer.mask_logits),
            class_logits=cast(layer.class_logits),
            boxes_cxcywh_norm=cast(layer.boxes_cxcywh_norm),
            cluster=cast(layer.cluster),
        )
        for layer in output.layers
    )
    return SOCOutput(layers=layers, sentence=None if output.sentence is None else cast(output.sentence))


def _sorted_pairs(assignments: tuple[Assignment, ...], targets: StackedTargets, device: torch.device) -> Pairs:
    """Order the assignments by object and move them to the device, in one transfer; both may have no pair at all."""
    queries = torch.stack(
        [torch.cat([query[target.argsort()] for query, target in assignment]) for assignment in assignments]
    )
    sample = torch.tensor([i for i, count in enumerate(targets.num_objects) for _ in range(count)], dtype=torch.long)
    target = torch.cat([torch.arange(count) for count in targets.num_objects])
    all_pairs = torch.cat([sample[None], target[None], queries])
    starts = [sum(targets.num_objects[:i]) for i in range(len(targets.num_objects))]
    referred = [start + i for start, i in zip(starts, targets.referred, strict=True) if i is not None]
    of_referred = all_pairs[:, torch.tensor(referred, dtype=torch.long)]
    moved = send(torch.cat([all_pairs, of_referred], dim=1), device)
    all_pairs, of_referred = moved.split([all_pairs.shape[1], of_referred.shape[1]], dim=1)
    return Pairs(
        sample=all_pairs[0],
        target=all_pairs[1],
        query=all_pairs[2:],
        present=of_referred[0],
        query_of_referred=of_referred[2:],
    )


def _classification_loss(
    layers: tuple[LayerOutput, ...], targets: StackedTargets, pairs: Pairs
) -> Float[Tensor, " layer"]:
    """Focal loss of every class logit, summed; positive only for the query of the referred object, where visible."""
    logits = torch.stack([layer.class_logits for layer in layers])
    num_layers, _, _, _, num_classes = logits.shape
    layer = torch.arange(num_layers, device=logits.device)[:, None]
    label = torch.zeros_like(pairs.present)
    if num_classes > 1 and len(label):
        found = zip(targets.labels, targets.referred, strict=True)
        label = torch.stack([labels[i] for labels, i in found if i is not None])
    is_visible = targets.referred_is_visible[pairs.present].to(logits.dtype)
    target = torch.zeros_like(logits)
    target[layer, pairs.present, :, pairs.query_of_referred, label] = is_visible.expand(num_layers, -1, -1)
    return focal_loss(logits, target).flatten(1).sum(dim=1)  # (layer,)


def _mask_losses(
    layers: tuple[LayerOutput, ...], targets: StackedTargets, pairs: Pairs
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """Focal (mean over pixels) and Dice loss of the matched masks, summed over pairs and frames.

    All frames count, also those where the object is not visible; padding counts as background.
    """
    matched = torch.stack(
        [layer.mask_logits[pairs.sample, :, query] for layer, query in zip(layers, pairs.query, strict=True)]
    )
    if not matched.numel():
        # Interpolation refuses it. This sum is 0 with a graph, so that all parameters get gradients.
        nothing = matched.flatten(1).sum(dim=1)
        return nothing, nothing
    size = (targets.masks.shape[-2], targets.masks.shape[-1])
    upsampled = upsample_logits(rearrange(matched, "l p t h w -> l (p t) h w"), size)
    logits = rearrange(upsampled, "l n h w -> l n (h w)")
    masks = rearrange(targets.masks[pairs.sample, pairs.target], "p t h w -> (p t) (h w)").expand_as(logits)
    return focal_loss(logits, masks).mean(dim=-1).sum(dim=-1), dice_loss(logits, masks).sum(dim=-1)


def _box_losses(
    layers: tuple[LayerOutput, ...], targets: StackedTargets, pairs: Pairs
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """L1 and generalized-IoU loss of the matched boxes, summed over pairs and frames.

    Where the object is not visible its box is zero and counts all the same: as published.
    """
    boxes = torch.stack(
        [layer.boxes_cxcywh_norm[pairs.sample, :, query] for layer, query in zip(layers, pairs.query, strict=True)]
    )
    target = targets.boxes_cxcywh_norm[pairs.sample, pairs.target]
    l1 = (boxes - target).abs().flatten(1).sum(dim=1)  # (layer,)
    giou = (1 - generalized_iou(boxes, target)).flatten(1).sum(dim=1)  # (layer,)
    return l1, giou
