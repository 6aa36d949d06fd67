"""Samples of a data set (`VideoSample`) and batches of the training loop (`VideoBatch`).

A sample is one clip with one or more sentences about it: the visual encoder does not depend on the
sentence, so sentences about the same clip share its cost.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from structures.clips import ByteClips


@dataclass(frozen=True, slots=True)
class SentenceMeta:
    """Origin of a sentence and its clip.

    Attributes:
        video: its name.
        expression: identifier of the sentence within its video.
        frame_names: of the frames of the clip, in order.
    """

    video: str
    expression: str
    frame_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClipTarget:
    """The target for one sentence; frames as in the clip (or its annotated frame).

    A sentence that means nothing in its video is absent: its target has no instance.

    Attributes:
        masks: of every annotated instance; all False where it is not visible.
        boxes_cxcywh_norm: centre, width and height divided by the unpadded frame; zeros where not visible.
        is_visible: True where the instance has at least one pixel.
        labels: class index of each instance (0 where the data has no classes).
        referred: index of the instance that the sentence refers to; None if it is absent.
    """

    masks: Bool[Tensor, "object time height width"]
    boxes_cxcywh_norm: Float[Tensor, "object time 4"]
    is_visible: Bool[Tensor, "object time"]
    labels: Int[Tensor, " object"]
    referred: int | None = 0

    @property
    def is_absent(self) -> bool:
        """Whether the sentence refers to nothing."""
        return self.referred is None

    def to(self, device: torch.device | str) -> "ClipTarget":
        """The same target on another device."""
        return replace(
            self,
            masks=self.masks.to(device, non_blocking=True),
            boxes_cxcywh_norm=self.boxes_cxcywh_norm.to(device, non_blocking=True),
            is_visible=self.is_visible.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "ClipTarget":
        """The same target in memory from which copies to a GPU need not wait."""
        return replace(
            self,
            masks=self.masks.pin_memory(),
            boxes_cxcywh_norm=self.boxes_cxcywh_norm.pin_memory(),
            is_visible=self.is_visible.pin_memory(),
            labels=self.labels.pin_memory(),
        )


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A training sample that could not be read and was left out.

    Attributes:
        video: its name.
        expressions: identifiers of its sentences.
        reason: what was wrong, with the path of the file.
    """

    video: str
    expressions: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class FailedBatch:
    """A batch that a loader worker could not read, in the place of the batch.

    PyTorch hands an error of a worker over with the whole traceback as its message; this is the message alone.

    Attributes:
        message: what was wrong.
    """

    message: str


@dataclass(frozen=True, slots=True)
class VideoSample:
    """One clip and the sentences about it.

    Attributes:
        frames: RGB in [0, 255]; normalised on the device.
        sentences: at least one.
        targets: one per sentence.
        meta: one per sentence.
        annotated_frame: the only frame with an annotation (A2D, JHMDB); None when all have one.
    """

    frames: UInt8[Tensor, "time 3 height width"]
    sentences: tuple[str, ...]
    targets: tuple[ClipTarget, ...]
    meta: tuple[SentenceMeta, ...]
    annotated_frame: int | None = None


@dataclass(frozen=True, slots=True)
class VideoBatch:
    """Several samples, padded: `clip` counts clips, `sentence` counts sentences.

    Attributes:
        clips: the frames; the model takes `clips.normalised(model.normalisation)`.
        sentences: all sentences of all clips, clip by clip.
        clip_of_sentence: index of the clip that each sentence is about; always on the CPU.
        targets: one per sentence, masks padded to the shape of `clips`.
        meta: one per sentence.
        annotated_frame: per clip, the only frame that is segmented; None when all frames are.
        skipped: samples of this batch that could not be read.
    """

    clips: ByteClips
    sentences: tuple[str, ...]
    clip_of_sentence: Int[Tensor, " sentence"]
    targets: tuple[ClipTarget, ...]
    meta: tuple[SentenceMeta, ...]
    annotated_frame: Int[Tensor, " clip"] | None = None
    skipped: tuple[SkippedSample, ...] = ()

    def to(self, device: torch.device | str) -> "VideoBatch":
        """The same batch on another device, apart from `clip_of_sentence`; one move per tensor."""
        return replace(
            self,
            clips=self.clips.to(device),
            targets=tuple(target.to(device) for target in self.targets),
            annotated_frame=None
            if self.annotated_frame is None
            else self.annotated_frame.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "VideoBatch":
        """The same batch in memory from which copies to a GPU need not wait; the data loader calls this."""
        return replace(
            self,
            clips=self.clips.pin_memory(),
            targets=tuple(target.pin_memory() for target in self.targets),
            annotated_frame=None if self.annotated_frame is None else self.annotated_frame.pin_memory(),
        )
