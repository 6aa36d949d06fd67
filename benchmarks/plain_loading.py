"""A training sample made the plain way, step by step, as the published code is described to make it.

Frames one by one: Pillow decodes, Pillow resizes, then numbers, then normalised numbers. Masks one by one: all the
values of the file are listed to see whether the object is there, its box is measured, and it is resized as numbers.
A file with the categories of the whole data set is parsed for every sample.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from datasets.readers import PngMasks
from datasets.records import Expression, VideoRecord
from loading.frames import resized_size
from media.video_seek import VideoFileFrames
from structures.clips import IMAGENET


@dataclass(frozen=True)
class PlainSample:
    """Frames (time, 3, height, width), normalised; masks (time, height, width); boxes (time, 4) as in `ClipTarget`."""

    frames: Tensor
    masks: Tensor
    boxes: Tensor


def read_sample(
    video: VideoRecord,
    expression: Expression,
    window: Sequence[int],
    annotated: Sequence[int],
    *,
    short_side: int,
    long_side: int,
    metadata: Path | None,
) -> PlainSample:
    """The sample for one sentence, not flipped."""
    if metadata is not None:
        json.loads(metadata.read_text())["videos"]
    pictures = _pictures(video, window)
    height, width = pictures[0].height, pictures[0].width
    size = resized_size(height, width, short_side=short_side, long_side=long_side)
    frames = []
    for picture in pictures:
        numbers = functional.to_tensor(functional.resize(picture, list(size)))
        frames.append(functional.normalize(numbers, list(IMAGENET.mean), list(IMAGENET.std)))
    masks, boxes = [], []
    for position in annotated:
        mask = _mask(video, expression, position, (height, width))
        boxes.append(_box(mask))
        numbers = torch.from_numpy(mask.astype(np.float32))[None, None]
        masks.append(F.interpolate(numbers, size, mode="nearest")[0, 0] > 0.5)
    corners = torch.tensor(boxes) / torch.tensor([width, height, width, height])
    centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    return PlainSample(torch.stack(frames), torch.stack(masks), centres)


def _pictures(video: VideoRecord, window: Sequence[int]) -> list[Image.Image]:
    if isinstance(video.frames, VideoFileFrames):
        with av.open(str(video.frames.path(0))) as container:
            every = [frame.to_image() for frame in container.decode(video=0)]
        return [every[position] for position in window]
    return [Image.open(video.frames.path(position)).convert("RGB") for position in window]


def _mask(video: VideoRecord, expression: Expression, position: int, size: tuple[int, int]) -> np.ndarray:
    if isinstance(video.masks, PngMasks):
        values = np.array(Image.open(video.masks.path(position)))
        (number,) = expression.known_ids
        return values == number if number in np.unique(values) else np.zeros(size, dtype=bool)
    assert video.masks is not None  # it is a training video
    return video.masks.read((position,), size=size, objects=expression.known_ids)[:, 0].max(axis=0)


def _box(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0.0] * 4
    return [float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])]
