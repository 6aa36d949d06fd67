"""Several samples to one padded batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from structures.clips import ByteClips
from structures.samples import ClipTarget, SkippedSample, VideoBatch, VideoSample


def collate(items: Sequence[VideoSample | SkippedSample]) -> VideoBatch:
    """Pads clips and masks to the largest of the batch, and concatenates the sentences clip by clip.

    Args:
        items: at least one sample, and those that could not be read.

    Raises:
        ValueError: without samples, or if only some samples have an annotated frame.
    """
    samples = [item for item in items if isinstance(item, VideoSample)]
    if not samples:
        raise ValueError("samples=[]: a batch needs at least one")
    counts = [len(sample.sentences) for sample in samples]
    return VideoBatch(
        clips=pad_clips([sample.frames for sample in samples]),
        sentences=tuple(sentence for sample in samples for sentence in sample.sentences),
        clip_of_sentence=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
        targets=_collate_targets(samples),
        meta=tuple(meta for sample in samples for meta in sample.meta),
        annotated_frame=_collate_annotated_frames(samples),
        skipped=tuple(item for item in items if isinstance(item, SkippedSample)),
    )


def pad_clips(clips: Sequence[Tensor]) -> ByteClips:
    """Zero-pads clips (time, 3, height, width) at the end, the bottom and the right to one shape."""
    time, height, width = (max(clip.shape[axis] for clip in clips) for axis in (0, 2, 3))
    frames = torch.zeros(len(clips), time, 3, height, width, dtype=torch.uint8)
    is_padding = torch.ones(len(clips), time, height, width, dtype=torch.bool)
    for i, clip in enumerate(clips):
        t, _, h, w = clip.shape
        frames[i, :t, :, :h, :w] = clip
        is_padding[i, :t, :h, :w] = False
    sizes = tuple((clip.shape[2], clip.shape[3]) for clip in clips)
    return ByteClips(frames=frames, is_padding=is_padding, sizes_px=sizes)


def _collate_targets(samples: Sequence[VideoSample]) -> tuple[ClipTarget, ...]:
    time, height, width = (max(sample.frames.shape[axis] for sample in samples) for axis in (0, 2, 3))
    padded = []
    for sample in samples:
        # A target of an annotated frame has one time step, whatever the length of the clip.
        steps = 1 if sample.annotated_frame is not None else time
        padded += [_pad_target(target, steps, height, width) for target in sample.targets]
    return tuple(padded)


def _pad_target(target: ClipTarget, time: int, height: int, width: int) -> ClipTarget:
    t, h, w = target.masks.shape[1:]
    if (t, h, w) == (time, height, width):
        return target
    return replace(
        target,
        masks=F.pad(target.masks, (0, width - w, 0, height - h, 0, time - t)),
        boxes_cxcywh_norm=F.pad(target.boxes_cxcywh_norm, (0, 0, 0, time - t)),
        is_visible=F.pad(target.is_visible, (0, time - t)),
    )


def _collate_annotated_frames(samples: Sequence[VideoSample]) -> Tensor | None:
    frames = [sample.annotated_frame for sample in samples]
    if all(frame is None for frame in frames):
        return None
    if any(frame is None for frame in frames):
        raise ValueError(f"annotated_frame={frames}: all samples of a batch have one, or none has")
    return torch.tensor(frames)
