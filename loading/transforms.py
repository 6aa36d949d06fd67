"""Transforms of a clip between decoding and batching: resize and flip. Frames are normalised on the device.

Each transform maps an `AnnotatedClip` to a new one. Frames, masks and boxes are tv_tensors, so torchvision
does the geometry; sentences are part of the clip, because a flip exchanges left and right in them.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from loading.frames import bytes_resized, resized_size
from loading.text import swap_left_right
from structures.boxes import mask_extents_xyxy


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """A decoded clip with masks, boxes and sentences.

    Attributes:
        frames: RGB in [0, 255], a tv_tensors.Video.
        masks: 1 on the referred objects, else 0, a tv_tensors.Mask; of every frame, or of the only annotated one. As
            large as the frames after `resize`; before it a data set may have masks of another size.
        boxes_xyxy_px: tv_tensors.BoundingBoxes of the targets, target by target, of the same frames as `masks`;
            undefined where not visible.
        sentences: at least one.
    """

    frames: UInt8[Tensor, "time 3 height width"]
    masks: UInt8[Tensor, "target mask_time mask_height mask_width"]
    boxes_xyxy_px: Float[Tensor, "target_time 4"]
    sentences: tuple[str, ...]


def annotate_clip(
    frames: UInt8[Tensor, "time 3 height width"],
    masks: Bool[Tensor, "target mask_time mask_height mask_width"],
    *,
    sentences: tuple[str, ...],
    boxes_xyxy_px: Float[Tensor, "target mask_time 4"] | None = None,
) -> AnnotatedClip:
    """Wraps decoded arrays; without boxes, measures them, as published, before any resizing."""
    boxes_xyxy_px = mask_extents_xyxy(masks) if boxes_xyxy_px is None else boxes_xyxy_px
    boxes = tv_tensors.BoundingBoxes(
        boxes_xyxy_px.flatten(0, 1),  # (target*time, 4)
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=(masks.shape[-2], masks.shape[-1]),
    )
    return AnnotatedClip(
        frames=tv_tensors.Video(frames),
        masks=tv_tensors.Mask(masks.view(torch.uint8)),
        boxes_xyxy_px=boxes,
        sentences=sentences,
    )


def resize(clip: AnnotatedClip, *, short_side: int, long_side: int) -> AnnotatedClip:
    """The clip at the size of `resized_size` of its frames."""
    height, width = clip.frames.shape[-2:]
    return resize_to(clip, resized_size(height, width, short_side=short_side, long_side=long_side))


def resize_to(clip: AnnotatedClip, size: tuple[int, int]) -> AnnotatedClip:
    """The clip with frames, masks and boxes of `size` (height, width); itself if all of it has that size already."""
    height, width = clip.frames.shape[-2:]
    if size == (height, width) == clip.masks.shape[-2:]:
        return clip
    frames = clip.frames.as_subclass(Tensor)
    return replace(
        clip,
        frames=clip.frames if size == (height, width) else tv_tensors.Video(bytes_resized(frames, size)),
        masks=functional.resize(clip.masks, list(size), interpolation=InterpolationMode.NEAREST),
        boxes_xyxy_px=functional.resize(clip.boxes_xyxy_px, list(size)),
    )


def flip_left_right(clip: AnnotatedClip) -> AnnotatedClip:
    """The mirrored clip; sentences swap left and right."""
    return replace(
        clip,
        frames=functional.horizontal_flip(clip.frames),
        masks=functional.horizontal_flip(clip.masks),
        boxes_xyxy_px=functional.horizontal_flip(clip.boxes_xyxy_px),
        sentences=tuple(swap_left_right(sentence) for sentence in clip.sentences),
    )


def random_flip_left_right(clip: AnnotatedClip, *, probability: float, generator: torch.Generator) -> AnnotatedClip:
    """`flip_left_right` with the given probability."""
    flipped = torch.rand((), generator=generator).item() < probability
    return flip_left_right(clip) if flipped else clip
