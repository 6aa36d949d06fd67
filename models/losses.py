"""The terms of the training objective; each is a plain function, normalised by its caller."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

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
    # All areas at once: on a GPU what takes time here is the number of operators.
    sides, other_sides = torch.broadcast_tensors(_sides(boxes_cxcywh), _sides(other_cxcywh))
    smaller, larger = torch.minimum(sides, other_sides), torch.maximum(sides, other_sides)
    every = torch.stack([smaller, larger, sides, other_sides])
    width, height = (every[..., :2] + every[..., 2:]).clamp(min=0).unbind(dim=-1)
    intersection, hull, area, other_area = width * height
    union = area + other_area - intersection
    return (intersection + 1e-6) / (union + 1e-6) - (hull - union + 1e-6) / (hull + 1e-6)


def _sides(boxes_cxcywh: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """How far each side lies outwards: -left, -top, right, bottom. The smaller of two is that of the intersection."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([half - centre, half + centre], dim=-1)


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
