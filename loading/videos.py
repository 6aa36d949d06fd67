"""Whole videos to evaluate; their images are read when asked for, a window at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from datasets.readers import ObjectMapReader
from datasets.records import VideoRecord


@dataclass(frozen=True)
class EvalVideo:
    """A whole video to evaluate; its images are read only when asked for, a window at a time.

    Attributes:
        video: its name.
        frame_names: what files written for its frames are called.
        sentences: all sentences about it.
        expressions: their identifiers.
        kinds: their tags, empty where the data has none.
        object_ids: the objects that each sentence means; None where that is secret.
        original_size: (height, width) of the frames on disk, in pixels.
        record: where all this comes from.
    """

    video: str
    frame_names: tuple[str, ...]
    sentences: tuple[str, ...]
    expressions: tuple[str, ...]
    kinds: tuple[str, ...]
    object_ids: tuple[tuple[int, ...], ...] | None
    original_size: tuple[int, int]
    record: VideoRecord

    def load_frames(self, start: int = 0, stop: int | None = None) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames [start, stop) in [0, 255]; to the end without `stop`."""
        positions = range(len(self.frame_names))[start:stop]
        if not positions:
            raise ValueError(f"frames [{start}, {stop}) of video {self.video}: it has {len(self.frame_names)}")
        return self.record.frames.read(positions)

    def load_masks(self, object_ids: Sequence[int]) -> Bool[Tensor, "time height width"] | None:
        """Where any of the objects is in every frame; None where the masks are secret.

        Object maps of the video stay in memory as long as this object does.
        """
        if self.record.masks is None:
            return None
        if self.object_maps is not None:
            masks = [self.object_maps == number for number in object_ids]
            return torch.stack(masks).any(dim=0) if len(masks) > 1 else masks[0]
        positions = range(len(self.frame_names))
        return self.record.masks.read(positions, size=self.original_size, objects=tuple(object_ids)).any(dim=0)

    @cached_property
    def object_maps(self) -> UInt8[Tensor, "time height width"] | None:
        """Object ids at each pixel of every frame; None where the masks are secret or may overlap."""
        masks = self.record.masks
        if not isinstance(masks, ObjectMapReader):
            return None
        return masks.read_map(range(len(self.frame_names)), size=self.original_size)


class EvalDataset(Dataset[EvalVideo]):
    """The videos of a split, one item each.

    Args:
        videos: in the order of evaluation.
        max_videos: only the first so many; 0: all.
    """

    def __init__(self, videos: Sequence[VideoRecord], *, max_videos: int = 0) -> None:
        self.videos = tuple(videos[:max_videos] if max_videos else videos)

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[EvalVideo]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EvalVideo:
        record = self.videos[index]
        ids = tuple(expression.object_ids for expression in record.expressions)
        if any(ids) and not all(ids):
            raise ValueError(f"video {record.name}: some expressions have an object, others do not")
        return EvalVideo(
            video=record.name,
            frame_names=record.frame_names,
            sentences=tuple(expression.sentence for expression in record.expressions),
            expressions=tuple(expression.name for expression in record.expressions),
            kinds=tuple(expression.kind for expression in record.expressions),
            object_ids=ids if any(ids) else None,
            original_size=record.frames.size(),
            record=record,
        )
