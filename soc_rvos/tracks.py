"""The answer to a sentence over time, with masks as run lengths.

They take some hundred bytes each, and are decoded where they are looked at: of 1000 frames of 1920 x 1080 pixels and 4
sentences, masks as arrays would take 8 GB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as mask_utils

from datasets.run_lengths import decode_mask
from prediction.stream import ObjectPrediction


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The answer to one sentence, frame by frame.

    Attributes:
        sentence: as it was given.
        counts: the mask of each frame as compressed run lengths of COCO.
        scores: in each frame, the probability that the object is the one that the sentence means.
        boxes: left, top, right and bottom in pixels in each frame, as the model predicts them beside the mask.
        is_found: in each frame, whether the sentence was found in the window of the frame; where not, it was rejected,
            and the mask is empty.
    """

    sentence: str
    counts: tuple[bytes, ...]
    scores: Float[np.ndarray, " time"]
    boxes: Float[np.ndarray, "time 4"]
    is_found: Bool[np.ndarray, " time"]

    @classmethod
    def of(cls, answer: ObjectPrediction, sentence: str) -> "Track":
        """The answer in one window; masks are made and packed one by one."""
        num_frames = len(answer.frame_scores)
        return cls(
            sentence=sentence,
            counts=tuple(_pack(answer.mask(position)) for position in range(num_frames)),
            scores=answer.frame_scores,
            boxes=answer.boxes_xyxy_px,
            is_found=np.full(num_frames, answer.is_found),
        )


class Masks(Sequence[Any]):
    """Masks like a Boolean array (object, time, height, width), of which only what is looked at is decoded.

    `masks[0]` are all masks of the first sentence, `masks[0, 5]` is that of frame 5, `masks[:, 5]` are those of all
    sentences in frame 5, and `numpy.asarray(masks)` decodes everything.

    Args:
        tracks: one for each sentence.
        size: (height, width) of the frames.
    """

    dtype = np.dtype(bool)
    ndim = 4

    def __init__(self, tracks: Sequence[Track], size: tuple[int, int]) -> None:
        self._tracks, self._size = tracks, size
        self.shape = (len(tracks), len(tracks[0].counts), *size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """As of an array. The first two axes take a number, a slice, or one list or array of numbers or truth values.

        Raises:
            IndexError: there is no such object or frame, or the index is of another kind.
        """
        steps = index if isinstance(index, tuple) else (index,)
        if any(step is Ellipsis for step in steps):
            at = next(i for i, step in enumerate(steps) if step is Ellipsis)
            steps = (*steps[:at], *[slice(None)] * (self.ndim + 1 - len(steps)), *steps[at + 1 :])
        objects, times, *rest = (*steps, slice(None), slice(None))[: max(2, len(steps))]
        if objects is None or times is None:
            raise IndexError("masks take no new axes; numpy.asarray(masks) decodes all of them into an array that does")
        rows, columns = (np.arange(size)[step] for size, step in zip(self.shape[:2], (objects, times), strict=True))
        decoded = np.zeros((rows.size, columns.size, *self.shape[2:]), dtype=bool)
        for i, row in enumerate(np.atleast_1d(rows)):
            for j, column in enumerate(np.atleast_1d(columns)):
                decoded[i, j] = self._decode(int(row), int(column))
        found = decoded[0 if rows.ndim == 0 else slice(None)]
        found = found[0] if columns.ndim == 0 and rows.ndim == 0 else found[:, 0] if columns.ndim == 0 else found
        return found[(*[slice(None)] * (rows.ndim + columns.ndim), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        return f"Masks(shape={self.shape}, kept as run lengths)"

    def _decode(self, position: int, time: int) -> Bool[np.ndarray, "height width"]:
        return decode_mask(self._tracks[position].counts[time], size=self._size)


def _pack(mask: Bool[np.ndarray, "height width"]) -> bytes:
    counts: bytes = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts
