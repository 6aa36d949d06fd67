"""Whole videos to evaluate; their images are read when asked for, a window at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from datasets.readers import ObjectMapReader, mask_size
from datasets.records import Expression, VideoRecord
from loading.frames import as_clip

MOST_MAPS_KEPT = 2
"""Windows of object maps that a video keeps: two may be scored at the same time."""


@dataclass(frozen=True)
class EvalVideo:
    """A whole video to evaluate; its frame size and the object maps that were read last are kept.

    Attributes:
        record: of the video; its expressions have the sentences that the model reads.
    """

    record: VideoRecord
    _last_maps: dict[tuple[int, ...], UInt8[np.ndarray, "time height width"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @cached_property
    def original_size(self) -> tuple[int, int]:
        """(height, width) of the frames on disk, in pixels."""
        return self.record.frames.size()

    def size_of(self, position: int) -> tuple[int, int]:
        """(height, width) at which a frame is scored: that of its masks, which is not always that of the frame."""
        masks = self.record.masks
        return self.original_size if masks is None else mask_size(masks, position, frame_size=self.original_size)

    def load_frames(self, start: int = 0, stop: int | None = None) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames [start, stop) in [0, 255]; to the end without `stop`."""
        positions = range(len(self.record.frame_names))[start:stop]
        if not positions:
            raise ValueError(
                f"frames [{start}, {stop}) of video {self.record.name}: it has {len(self.record.frame_names)}"
            )
        return as_clip(self.record.frames.read(positions))

    def load_masks(
        self, expression: Expression, positions: Sequence[int] | None = None
    ) -> Bool[np.ndarray, "time height width"] | None:
        """The union of the masks of an expression's objects.

        Empty masks for a sentence that means nothing in its video; None where masks or objects are secret.

        Args:
            expression: of this video.
            positions: of the frames; None: of all. Their masks are of one size, see `size_of`.
        """
        if expression.is_absent:
            num_frames = len(self.record.frame_names) if positions is None else len(positions)
            return np.zeros((num_frames, *self.original_size), dtype=bool)
        masks = self.record.masks
        if masks is None or expression.is_secret:
            return None
        object_maps = self.load_object_maps(positions)
        if object_maps is not None:
            return np.logical_or.reduce([object_maps == number for number in expression.known_ids])
        positions = range(len(self.record.frame_names)) if positions is None else positions
        masks_of_objects = masks.read(positions, size=self.size_of(positions[0]), objects=expression.known_ids)
        return np.logical_or.reduce(masks_of_objects)

    def load_object_maps(self, positions: Sequence[int] | None = None) -> UInt8[np.ndarray, "time height width"] | None:
        """Object ids at each pixel; None where the masks are secret or may overlap.

        The last ones are kept, because several sentences are scored against them; any thread may ask.

        Args:
            positions: of the frames; None: of all.
        """
        masks = self.record.masks
        if not isinstance(masks, ObjectMapReader):
            return None
        wanted = tuple(range(len(self.record.frame_names)) if positions is None else positions)
        with self._lock:
            if wanted not in self._last_maps:
                if len(self._last_maps) == MOST_MAPS_KEPT:
                    del self._last_maps[next(iter(self._last_maps))]
                self._last_maps[wanted] = masks.read_map(wanted, size=self.original_size)
            return self._last_maps[wanted]


class EvalDataset(Dataset[EvalVideo]):
    """The videos of a split, one item each.

    Args:
        videos: in the order of evaluation.
        max_videos: only the first so many; 0: all.
        label: under which the published sizes of the data set are known.
        note: which of several published choices these are, for reports.

    Raises:
        ValueError: masks are there, or objects are known, for some videos of the split only (`max_videos` or not),
            which would be scored without the others. Sentences that mean nothing go with either.
    """

    def __init__(self, videos: Sequence[VideoRecord], *, max_videos: int = 0, label: str = "", note: str = "") -> None:
        self.label, self.note = label, note
        self.videos = tuple(videos[:max_videos] if max_videos else videos)
        _require_uniform(videos)
        absent = sum(expression.is_absent for video in self.videos for expression in video.expressions)
        if absent:
            total = sum(len(video.expressions) for video in self.videos)
            counted = f"{absent} of {total} sentences mean nothing in their video: they count for N-acc, not for J&F"
            self.note = "; ".join(filter(None, (note, counted)))

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def can_be_scored(self) -> bool:
        """Whether objects and masks are known, of all videos or of none, see above; some sentence must mean one."""
        with_objects = [video for video in self.videos if video.object_ids]
        return bool(with_objects) and all(video.masks is not None for video in with_objects)

    def __iter__(self) -> Iterator[EvalVideo]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EvalVideo:
        return EvalVideo(self.videos[index])

    def digest(self) -> str:
        """SHA-256 of what is evaluated: videos, frames and sentences; pixels are not looked at."""
        digest = hashlib.sha256()
        for video in self.videos:
            shown = (video.name, video.frame_names, sorted(video.annotated or ()), video.expressions)
            digest.update(repr(shown).encode())
        return digest.hexdigest()


def _require_uniform(videos: Sequence[VideoRecord]) -> None:
    """Raises ValueError unless the objects of all or no expressions are known, and all or no videos have masks."""
    for video in videos:
        if video.object_ids and any(expression.is_secret for expression in video.expressions):
            detail = "some expressions name their objects, others do not; a sentence without an object is not scored"
            raise ValueError(f"video {video.name}: {detail}")
    without_objects = [video.name for video in videos if any(e.is_secret for e in video.expressions)]
    if without_objects and any(video.object_ids for video in videos):
        raise ValueError(
            f"video {without_objects[0]}: its expressions do not name their objects, although those of others do "
            f"({len(without_objects)} of {len(videos)} videos name none); a score must be over all videos or none"
        )
    with_objects = [video for video in videos if video.object_ids]  # the others need no masks
    without_masks = [video.name for video in with_objects if video.masks is None]
    if 0 < len(without_masks) < len(with_objects):
        raise ValueError(
            f"video {without_masks[0]}: no masks, although others have some ({len(without_masks)} of "
            f"{len(with_objects)} videos have none); a score must be over all videos or none"
        )
