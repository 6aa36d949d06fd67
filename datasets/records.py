"""What is known about a video before any of its images is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from datasets.readers import FrameReader, MaskReader


@dataclass(frozen=True, slots=True)
class Expression:
    """One sentence about a video.

    Attributes:
        name: its identifier within the video.
        sentence: cleaned, not empty.
        object_ids: the objects that are meant, together: one in most data sets, several in MeViS; empty where that
            is secret. Their ids are what the mask reader of the video understands.
        kind: tag of the sentence, empty where the data has none.
        label: class of the object.
    """

    name: str
    sentence: str
    object_ids: tuple[int, ...] = ()
    kind: str = ""
    label: int = 0


@runtime_checkable
class ClipExpansion(Protocol):
    """Turns a single annotated image into a clip (pseudo-videos of RefCOCO)."""

    def __call__(
        self,
        frame: UInt8[Tensor, "1 3 height width"],
        masks: Bool[Tensor, "target 1 height width"],
        *,
        num_frames: int,
        generator: torch.Generator,
    ) -> tuple[UInt8[Tensor, "time 3 height width"], Bool[Tensor, "target time height width"]]:
        """Frames and masks of a clip of `num_frames` frames; all that is random about it comes from `generator`."""


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """What is known about a video before any of its images is read.

    Attributes:
        name: of its folder or file; with the names of its expressions it identifies a sentence.
        frame_names: what files written for these frames are called, in order of time.
        frames: reads the pixels.
        masks: reads the masks; None where there are none.
        expressions: in the order of the file.
        visible: positions of the frames in which each object has a pixel; only filled in for training.
        annotated: positions of the only frames with masks; None where all have some. A training sample is then a
            sentence and one such frame that shows its object, in the middle of its clip.
        expand: makes a clip of the only frame of this record.
    """

    name: str
    frame_names: tuple[str, ...]
    frames: FrameReader
    masks: MaskReader | None
    expressions: tuple[Expression, ...]
    visible: Mapping[int, frozenset[int]] = field(default_factory=dict)
    annotated: frozenset[int] | None = None
    expand: ClipExpansion | None = None
