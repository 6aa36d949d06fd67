"""Boxes: formats, overlap, and extents of masks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cxcywh_to_xyxy(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """Centre, width and height to left, top, right and bottom, in the same unit."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """Left, top, right and bottom to centre, width and height, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def xywh_to_xyxy_inside(boxes: Float[Tensor, "*shape 4"], *, height: int, width: int) -> Float[Tensor, "*shape 4"]:
    """Left, top, width and height in pixels to left, top, right and bottom, each moved to the border of the image.

    A box outside of the image, or without width or height, has no area left.
    """
    low, size = boxes[..., :2], boxes[..., 2:]
    limits = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    corners = torch.cat([low, low + size], dim=-1).clamp(min=0)
    return corners.minimum(limits.repeat(2))


def mask_extents_xyxy(masks: Bool[Tensor, "*shape height width"]) -> Float[Tensor, "*shape 4"]:
    """Smallest and largest pixel index of each mask, (x_min, y_min, x_max, y_max); zeros for an empty mask.

    The far edge is the index of the last pixel, without the usual plus one: the published targets are so.
    """
    height, width = masks.shape[-2:]
    # Bool `any` is several times slower than the maximum of bytes.
    as_bytes = masks.view(torch.uint8)
    columns, rows = as_bytes.amax(dim=-2).bool(), as_bytes.amax(dim=-1).bool()
    x = torch.arange(width, device=masks.device)
    y = torch.arange(height, device=masks.device)
    extents = torch.stack(
        [
            torch.where(columns, x, width).amin(dim=-1),
            torch.where(rows, y, height).amin(dim=-1),
            torch.where(columns, x, -1).amax(dim=-1),
            torch.where(rows, y, -1).amax(dim=-1),
        ],
        dim=-1,
    )
    return torch.where(rows.any(dim=-1)[..., None], extents, 0).float()
