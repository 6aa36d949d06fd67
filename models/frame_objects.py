"""What the model finds in every frame on its own, and clips cut into parts of a few frames to find it in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.deformable_transformer import DecoderOutput
from models.outputs import TextFeatures, VideoFeatures
from models.trajectory import Trajectory

VALUES_AT_ONCE = 2**22
"""Of all levels: of a clip that has more, a CPU looks at some frames after the other."""


@dataclass(frozen=True, slots=True)
class FrameObjects:
    """What the model finds in every frame on its own.

    Attributes:
        decoded: objects and boxes of all decoder layers.
        mask_features: what the masks are drawn from.
        trajectory: the boxes of the last decoder layer over time.
    """

    decoded: DecoderOutput
    mask_features: Float[Tensor, "batch time channel height4 width4"]
    trajectory: Trajectory


def parts_of(video: VideoFeatures, text: TextFeatures) -> Iterator[tuple[VideoFeatures, TextFeatures]]:
    """Some frames of a clip after the other, with their sentence; all at once where they are few.

    Args:
        video: one entry per sentence.
        text: the sentences.
    """
    batch, num_frames = video.stride4.shape[:2]
    values_of_frame = sum(level[0, 0].numel() for level in video.levels)
    if batch * num_frames * values_of_frame <= VALUES_AT_ONCE:
        yield video, text
        return
    step = max(1, VALUES_AT_ONCE // values_of_frame)
    for sample in range(batch):
        own = slice(sample, sample + 1)
        words = TextFeatures(text.words[own], text.word_positions[own], text.is_padding[own], text.sentence[own])
        for start in range(0, num_frames, step):
            frames = own, slice(start, start + step)
            yield (
                replace(
                    video,
                    stride4=video.stride4[frames],
                    levels=tuple(level[frames] for level in video.levels),
                    positions=tuple(position[frames] for position in video.positions),
                    is_padding=tuple(mask[frames] for mask in video.is_padding),
                    sizes_px=video.sizes_px[own],
                ),
                words,
            )


def join_parts(
    parts: Sequence[tuple[DecoderOutput, Float[Tensor, "_ _ channel height4 width4"]]], batch: int
) -> tuple[DecoderOutput, Float[Tensor, "batch time channel height4 width4"]]:
    """What was found in the parts of `parts_of`, and the mask features, as of the whole clips.

    Args:
        parts: several, in their order.
        batch: number of sentences.
    """
    decoded, features = zip(*parts, strict=True)

    def joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
        """Axis `dim` is the batch, and time follows it."""
        together = torch.cat(list(tensors), dim=dim + 1)
        return together.unflatten(dim + 1, (batch, -1)).squeeze(dim)

    return (
        DecoderOutput(
            objects=joined([part.objects for part in decoded], 1),
            first_reference=joined([part.first_reference for part in decoded], 0),
            references=joined([part.references for part in decoded], 1),
        ),
        joined(features, 0),
    )
