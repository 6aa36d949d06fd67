"""From the model's answer to masks at the size of the frames on disk.

`segment_best_query` and `segment_all_queries` cut the padding off and resize twice, as the published evaluation
loops do; `segment_at_original_size` resizes the logits once, as the published inference scripts do.
A probability above one half is a logit above zero, so no sigmoid is taken where only that matters.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from models.outputs import LayerOutput
from structures.boxes import cxcywh_to_xyxy
from structures.predictions import Detections, FrameCandidates, VideoSegmentation

Size = tuple[int, int]
"""(height, width) in pixels."""


def trajectory_scores(class_logits: Float[Tensor, "batch time query num_classes"]) -> Float[Tensor, "batch query"]:
    """Score of each query for a whole clip: the best class by its mean probability over the frames."""
    return class_logits.sigmoid().mean(dim=1).amax(dim=-1)


def choose_query(class_logits: Float[Tensor, "batch time query num_classes"]) -> Int[Tensor, " batch"]:
    """The query that answers for the whole clip."""
    return trajectory_scores(class_logits).argmax(dim=-1)


def resize_logits(mask_logits: Float[Tensor, "mask height4 width4"], size: Size) -> Float[Tensor, "mask height width"]:
    """Mask logits at another size, bilinearly."""
    return functional.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_to_original(
    masks: Bool[Tensor, "mask padded_height padded_width"], *, unpadded: Size, original: Size
) -> Bool[Tensor, "mask height width"]:
    """Cut the padding off and resize to the frames on disk, without values between True and False."""
    height, width = unpadded
    cropped = masks[None, :, :height, :width].to(torch.uint8)
    return functional.interpolate(cropped, size=original, mode="nearest")[0].bool()


def boxes_to_pixels(boxes_cxcywh_norm: Float[Tensor, "*shape 4"], original: Size) -> Float[Tensor, "*shape 4"]:
    """Left, top, right and bottom in pixels of a frame of the given size."""
    height, width = original
    return cxcywh_to_xyxy(boxes_cxcywh_norm) * boxes_cxcywh_norm.new_tensor([width, height, width, height])


def segment_all_queries(
    layer: LayerOutput, *, padded: Size, unpadded: Sequence[Size], original: Sequence[Size]
) -> tuple[FrameCandidates, ...]:
    """The masks of all queries in the one annotated frame of each sample, unranked (A2D, JHMDB).

    Args:
        layer: predictions for a single frame per sample.
        padded: size of the batch of frames that the model saw.
        unpadded: size of each sample's frames before padding.
        original: size of each sample's frames on disk.
    """
    if layer.mask_logits.shape[1] != 1:
        raise ValueError(f"expected predictions for the annotated frame alone, got {layer.mask_logits.shape[1]} frames")
    scores = layer.class_logits[:, 0, :, 0].sigmoid()
    return tuple(
        FrameCandidates(
            masks=resize_to_original(resize_logits(logits[0], padded) > 0, unpadded=size, original=size_on_disk),
            scores=score,
        )
        for logits, score, size, size_on_disk in zip(layer.mask_logits, scores, unpadded, original, strict=True)
    )


def segment_best_query(
    layer: LayerOutput, *, padded: Size, unpadded: Sequence[Size], original: Sequence[Size]
) -> tuple[VideoSegmentation, ...]:
    """The masks of the best query of each sample, as the training loop evaluates Ref-YouTube-VOS.

    Args:
        layer: predictions for whole clips.
        padded: size of the batch of frames that the model saw.
        unpadded: size of each sample's frames before padding.
        original: size of each sample's frames on disk.
    """
    scores = trajectory_scores(layer.class_logits)
    queries = scores.argmax(dim=-1).tolist()
    return tuple(
        VideoSegmentation(
            masks=resize_to_original(
                resize_logits(layer.mask_logits[i, :, query], padded) > 0, unpadded=unpadded[i], original=original[i]
            ),
            boxes_xyxy_px=boxes_to_pixels(layer.boxes_cxcywh_norm[i, :, query], original[i]),
            scores=scores[i],
            query=query,
        )
        for i, query in enumerate(queries)
    )


def segment_at_original_size(layer: LayerOutput, *, original: Sequence[Size]) -> tuple[VideoSegmentation, ...]:
    """The masks of the best query of each sample, resized once, as the published inference does.

    A stride-4 map of a frame whose sides are not multiples of 4 covers slightly more than the frame; the published
    scripts do not correct for that, nor do we.

    Args:
        layer: predictions for whole clips, not padded.
        original: size of each sample's frames on disk.
    """
    scores = trajectory_scores(layer.class_logits)
    queries = scores.argmax(dim=-1).tolist()
    return tuple(
        VideoSegmentation(
            masks=resize_logits(layer.mask_logits[i, :, query], original[i]) > 0,
            boxes_xyxy_px=boxes_to_pixels(layer.boxes_cxcywh_norm[i, :, query], original[i]),
            scores=scores[i],
            query=query,
        )
        for i, query in enumerate(queries)
    )


def merge_objects(mask_logits: Sequence[Float[Tensor, "time height width"]]) -> UInt8[Tensor, "time height width"]:
    """One index map for several objects of a clip: 0 is background, i + 1 the i-th object (Ref-DAVIS17).

    A pixel goes to the most probable object whose probability is at least one half, to the first of equals.

    Args:
        mask_logits: of each object, at the size of the frames on disk; objects are read one after the other.
    """
    if not 1 <= len(mask_logits) <= 255:
        raise ValueError(f"got {len(mask_logits)} objects, expected 1 to 255")
    index_map = torch.zeros_like(mask_logits[0], dtype=torch.uint8)
    best = torch.zeros_like(mask_logits[0])
    for number, logits in enumerate(mask_logits, start=1):
        # Probabilities, not logits: confident ones round to the same number, and then the first object wins.
        probability = logits.sigmoid()
        wins = (probability >= 0.5) & (probability > best)
        index_map.masked_fill_(wins, number)
        best = torch.where(wins, probability, best)
    return index_map


def detect(layer: LayerOutput, *, unpadded: Sequence[Size], original: Sequence[Size]) -> tuple[Detections, ...]:
    """The queries of each image, best first, as detections (RefCOCO).

    Masks are enlarged by exactly 4, whatever the size of the padded batch, as published.

    Args:
        layer: predictions for a single frame per sample.
        unpadded: size of each sample's image before padding.
        original: size of each sample's image on disk.
    """
    if layer.mask_logits.shape[1] != 1:
        raise ValueError(f"expected predictions for single images, got {layer.mask_logits.shape[1]} frames")
    num_queries, height4, width4 = layer.mask_logits.shape[2:]
    num_classes = layer.class_logits.shape[-1]
    probability = rearrange(layer.class_logits.sigmoid(), "b 1 q k -> b (q k)")
    scores, ranked = probability.topk(num_queries, dim=-1)
    queries = ranked.div(num_classes, rounding_mode="floor")
    detections = []
    for i, query in enumerate(queries):
        enlarged = resize_logits(layer.mask_logits[i, 0, query], (4 * height4, 4 * width4))
        detections.append(
            Detections(
                masks=resize_to_original(enlarged > 0, unpadded=unpadded[i], original=original[i]),
                boxes_xyxy_px=boxes_to_pixels(layer.boxes_cxcywh_norm[i, 0, query], original[i]),
                scores=scores[i],
                labels=torch.ones_like(query),
            )
        )
    return tuple(detections)
