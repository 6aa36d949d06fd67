"""From the model's output to masks: the one way that evaluation, validation, prediction and the parity fixtures go.

`best_queries` serves whole videos: one query per sentence and clip, whose logits are resized once, as the published
inference scripts do. `all_queries` (A2D, JHMDB) and `ranked_detections` (RefCOCO) serve single frames: padding is cut
off and masks are resized twice, as the published evaluation loops do. A probability above one half is a logit above
zero, so no sigmoid is taken where only that matters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from models.outputs import Predictions
from structures.boxes import cxcywh_to_xyxy
from structures.predictions import Detections, FrameCandidates
from structures.transfer import fetch

Size = tuple[int, int]
"""(height, width) in pixels."""

LOGIT_BYTES = 2**27
"""Of mask logits at the size of the frames that a GPU holds at a time. A CPU is fastest with a frame at a time, which
stays in its cache."""


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """One query, usually the best, for one sentence about one clip.

    Attributes:
        mask_logits: before the sigmoid, at stride 4 of the resized frames; on the device of the model, where resizing
            is fast. Everything else is on the CPU.
        boxes_xyxy_norm: left, top, right and bottom as shares of the frame, as the model predicts them.
        frame_scores: probability in each frame that the query shows the referred object (best class).
        query_scores: of every query, for the whole clip.
        query: the index of this one.
    """

    mask_logits: Float[Tensor, "time height4 width4"]
    boxes_xyxy_norm: Float[Tensor, "time 4"]
    frame_scores: Float[Tensor, " time"]
    query_scores: Float[Tensor, " query"]
    query: int

    @property
    def score(self) -> float:
        """Of this query, for the whole clip."""
        return float(self.query_scores[self.query])

    def logits_at(self, size: Size) -> Float[Tensor, "time height width"]:
        """Mask logits at (height, width), resized once, on the device of the model.

        A stride-4 map of a frame whose sides are not multiples of 4 covers slightly more than the frame; the published
        scripts do not correct for that, nor do we.
        """
        return resize_logits(self.mask_logits, size)

    def masks_at(self, size: Size, *, logit_threshold: float = 0.0) -> Bool[Tensor, "time height width"]:
        """Masks at (height, width), on the CPU; only some frames at a time are held as numbers."""
        return self._masks_at(size, logit_threshold).cpu()

    def start_masks(self, size: Size) -> Callable[[], Bool[Tensor, "time height width"]]:
        """Gives what gives `masks_at`, in whatever thread.

        A GPU is given the work now, and nobody waits for it; a CPU has it done when the masks are asked for.
        """
        if self.mask_logits.device.type == "cpu":
            return partial(self.masks_at, size)
        return fetch(self._masks_at(size, 0.0))

    def _masks_at(self, size: Size, logit_threshold: float) -> Bool[Tensor, "time height width"]:
        masks = torch.empty(len(self.mask_logits), *size, dtype=torch.bool, device=self.mask_logits.device)
        for frames in chunks_of_frames(self.mask_logits, size):
            masks[frames] = resize_logits(self.mask_logits[frames], size) > logit_threshold
        return masks

    def frames(self, start: int, stop: int | None = None) -> "ClipPrediction":
        """The same for frames [start, stop) alone."""
        return replace(
            self,
            mask_logits=self.mask_logits[start:stop],
            boxes_xyxy_norm=self.boxes_xyxy_norm[start:stop],
            frame_scores=self.frame_scores[start:stop],
        )

    def to(self, device: torch.device | str) -> "ClipPrediction":
        """The same with the mask logits on another device."""
        return replace(self, mask_logits=self.mask_logits.to(device))


def trajectory_scores(class_logits: Float[Tensor, "batch time query num_classes"]) -> Float[Tensor, "batch query"]:
    """Score of each query for a whole clip: the best class by its mean probability over the frames."""
    return class_logits.sigmoid().mean(dim=1).amax(dim=-1)


def best_queries(layer: Predictions) -> tuple[ClipPrediction, ...]:
    """For each sample the query with the highest score over the whole clip."""
    return predictions_of(layer, trajectory_scores(layer.class_logits).argmax(dim=-1))


def predictions_of(layer: Predictions, queries: Int[Tensor, " batch"]) -> tuple[ClipPrediction, ...]:
    """What a query of each sample shows."""
    scores = trajectory_scores(layer.class_logits).float()
    sample = torch.arange(len(queries), device=queries.device)
    masks = layer.masks_of(queries).float()
    boxes = cxcywh_to_xyxy(layer.boxes_cxcywh_norm[sample, :, queries].float())
    frame_scores = layer.class_logits[sample, :, queries].float().sigmoid().amax(dim=-1)
    # In one transfer, for which a GPU is waited for once; an index of a query is exact in float32.
    numbers = torch.cat([boxes.flatten(1), frame_scores, scores, queries[:, None].float()], dim=1).cpu()
    time = frame_scores.shape[1]
    return tuple(
        ClipPrediction(
            masks[i].clone(),
            row[: 4 * time].view(time, 4),
            row[4 * time : 5 * time],
            row[5 * time : -1],
            int(row[-1]),
        )
        for i, row in enumerate(numbers)
    )


def all_queries(
    layer: Predictions, *, padded: Size, unpadded: Sequence[Size], original: Sequence[Size]
) -> tuple[FrameCandidates, ...]:
    """The masks of all queries in the one annotated frame of each sample, unranked, on the CPU (A2D, JHMDB).

    Args:
        layer: predictions for a single frame per sample.
        padded: size of the batch of frames that the model saw.
        unpadded: size of each sample's frames before padding.
        original: size of each sample's frames on disk.
    """
    _require_single_frames(layer)
    scores = layer.class_logits[:, 0, :, 0].float().sigmoid().cpu()
    return tuple(
        FrameCandidates(
            masks_at_original(layer.masks_in(i)[0], padded=padded, unpadded=size, original=size_on_disk), score
        )
        for i, (score, size, size_on_disk) in enumerate(zip(scores, unpadded, original, strict=True))
    )


def ranked_detections(
    layer: Predictions, *, unpadded: Sequence[Size], original: Sequence[Size]
) -> tuple[Detections, ...]:
    """The queries of each image, best first, as detections, on the CPU (RefCOCO).

    Masks are enlarged by exactly 4, whatever the size of the padded batch, as published.

    Args:
        layer: predictions for a single frame per sample.
        unpadded: size of each sample's image before padding.
        original: size of each sample's image on disk.
    """
    _require_single_frames(layer)
    num_queries, num_classes = layer.class_logits.shape[2:]
    probability = rearrange(layer.class_logits.float().sigmoid(), "b 1 q k -> b (q k)")
    scores, ranked = probability.topk(num_queries, dim=-1)
    queries = ranked.div(num_classes, rounding_mode="floor")
    detections = []
    for i, query in enumerate(queries):
        height, width = original[i]
        masks = layer.masks_in(i)[0]  # (query, height4, width4)
        boxes = cxcywh_to_xyxy(layer.boxes_cxcywh_norm[i, 0, query].float())
        detections.append(
            Detections(
                masks=masks_at_original(
                    masks[query],
                    padded=(4 * masks.shape[-2], 4 * masks.shape[-1]),
                    unpadded=unpadded[i],
                    original=original[i],
                ),
                boxes_xyxy_px=(boxes * boxes.new_tensor([width, height, width, height])).cpu(),
                scores=scores[i].cpu(),
            )
        )
    return tuple(detections)


def resize_logits(mask_logits: Float[Tensor, "mask height4 width4"], size: Size) -> Float[Tensor, "mask height width"]:
    """Mask logits at another size, bilinearly."""
    return functional.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]


def masks_at_original(
    mask_logits: Float[Tensor, "mask height4 width4"], *, padded: Size, unpadded: Size, original: Size
) -> Bool[Tensor, "mask height width"]:
    """Masks at the size of the frame on disk, on the CPU: enlarged to the padded frame, cut off, resized once more.

    The second time without values between True and False.

    Args:
        mask_logits: at stride 4 of the padded frame.
        padded: size of the frame that the model saw.
        unpadded: its size before padding.
        original: size on disk.
    """
    height, width = unpadded
    masks = resize_logits(mask_logits, padded) > 0
    cropped = masks[None, :, :height, :width].to(torch.uint8)
    return functional.interpolate(cropped, size=original, mode="nearest")[0].bool().cpu()


def chunks_of_frames(
    mask_logits: Float[Tensor, "time height4 width4"], size: Size, *, maps: int = 1
) -> Iterator[slice]:
    """Consecutive frames that are resized together: one on a CPU, and on a GPU as many as `LOGIT_BYTES` allow.

    Args:
        mask_logits: of all frames.
        size: (height, width) to which they are resized.
        maps: of this size, for each frame, that are held at the same time.
    """
    frame_bytes = 4 * size[0] * size[1] * maps
    step = 1 if mask_logits.device.type == "cpu" else max(1, LOGIT_BYTES // frame_bytes)
    return (slice(first, first + step) for first in range(0, len(mask_logits), step))


def merge_objects(mask_logits: Sequence[Float[Tensor, "time height width"]]) -> UInt8[Tensor, "time height width"]:
    """One index map for several objects of a clip, on their device: 0 is background, i + 1 the i-th (Ref-DAVIS17).

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


def _require_single_frames(layer: Predictions) -> None:
    if layer.class_logits.shape[1] != 1:
        raise ValueError(f"expected predictions for single frames, got clips of {layer.class_logits.shape[1]} frames")
