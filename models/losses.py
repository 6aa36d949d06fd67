"""The terms of the training objective; each is a plain function, normalised by its caller."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from structures.boxes import cxcywh_to_xyxy

FOCAL_ALPHA = 0.25
"""Weight of the positive side of every focal term; the negative side gets the rest. RetinaNet's value."""


def upsample_logits(
    mask_logits: Float[Tensor, "outer inner height4 width4"], size: tuple[int, int]
) -> Float[Tensor, "outer inner height width"]:
    """Mask logits at the resolution of the targets, (height, width) in pixels."""
    return functional.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)


def focal_loss(logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Binary cross entropy that pays less for what is nearly right (alpha 0.25, gamma 2), per element.

    Args:
        logits: before the sigmoid.
        target: 0 or 1; only then is the squared error the focal factor (1 - p_t)^2.

    Source: RetinaNet (arXiv:1708.02002), equation 5.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    side = (1 - FOCAL_ALPHA) + (2 * FOCAL_ALPHA - 1) * target
    return side * (logits.sigmoid() - target).square() * cross_entropy


def dice_loss(
    mask_logits: Float[Tensor, "*objects pixel"], target: Float[Tensor, "*objects pixel"]
) -> Float[Tensor, "*objects"]:
    """One minus the soft Dice overlap of each object, smoothed by one pixel.

    Args:
        mask_logits: before the sigmoid.
        target: 1 on the object, 0 elsewhere.

    Returns:
        A loss in [0, 1) per object.

    Source: the Dice loss of V-Net (arXiv:1606.04797) with DETR's linear denominator.
    """
    probability = mask_logits.sigmoid()
    overlap = 2 * (probability * target).sum(dim=-1)
    total = probability.sum(dim=-1) + target.sum(dim=-1)
    return 1 - (overlap + 1) / (total + 1)


def generalized_iou(
    boxes_cxcywh: Float[Tensor, "*#shape 4"], other_cxcywh: Float[Tensor, "*#shape 4"]
) -> Float[Tensor, "*shape"]:
    """Overlap of boxes minus the share of their hull that neither covers, in (-1, 1]; shapes broadcast.

    Both ratios are smoothed by 1e-6, as published: an invisible target (a zero box) gives a finite value.

    Source: generalized IoU (arXiv:1902.09630).
    """
    (low, high), (other_low, other_high) = (cxcywh_to_xyxy(x).chunk(2, dim=-1) for x in (boxes_cxcywh, other_cxcywh))
    intersection = _area(torch.maximum(low, other_low), torch.minimum(high, other_high))
    hull = _area(torch.minimum(low, other_low), torch.maximum(high, other_high))
    union = _area(low, high) + _area(other_low, other_high) - intersection
    return (intersection + 1e-6) / (union + 1e-6) - (hull - union + 1e-6) / (hull + 1e-6)


def _area(low: Float[Tensor, "*shape 2"], high: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape"]:
    width, height = (high - low).clamp(min=0).unbind(dim=-1)
    return width * height


def contrastive_loss(
    cluster: Float[Tensor, "layer batch query dim"],
    sentence: Float[Tensor, "batch dim"],
    query_of_referred: Int[Tensor, "layer batch"],
) -> Float[Tensor, " layer"]:
    """Cross entropy of the choice of the referred object's query by similarity to the sentence, summed over the batch.

    Source: SOC (arXiv:2305.17011), the visual-linguistic contrastive loss; the similarity is divided by the width.
    """
    similarity = torch.einsum("l b q c, b c -> l b q", cluster, sentence) / cluster.shape[-1]
    chosen = similarity.log_softmax(dim=-1).gather(-1, query_of_referred[..., None])
    return (-chosen.squeeze(-1)).sum(dim=-1)
