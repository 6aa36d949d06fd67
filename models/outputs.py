"""Inputs and outputs of the stages of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.parts import is_split
from structures.transfer import constant


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sentences as token ids of the text encoder, padded to one length.

    Attributes:
        ids: indices into the vocabulary, with the special tokens of the encoder (RoBERTa: `<s> ... </s>`).
        is_padding: True at padding tokens.
    """

    ids: Int[Tensor, "batch word"]
    is_padding: Bool[Tensor, "batch word"]

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on another device."""
        return Tokens(self.ids.to(device, non_blocking=True), self.is_padding.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Sentences after the text encoder and the projection to the model's width.

    Attributes:
        words: one feature per token.
        word_positions: sine position encoding of the tokens.
        is_padding: True at padding tokens.
        sentence: the whole sentence as the encoder pools it; initialises the queries of the object cluster.
    """

    words: Float[Tensor, "batch word dim"]
    word_positions: Float[Tensor, "batch word dim"]
    is_padding: Bool[Tensor, "batch word"]
    sentence: Float[Tensor, "batch dim"]


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """Clips after the visual encoder: all that does not depend on the sentence.

    Attributes:
        stride4: projected map, for the mask features.
        levels: projected maps, finest first (strides 8, 16, 32, 64).
        positions: 2-D sine position encoding of each level.
        is_padding: True where a pixel of a level lies in the padding.
        sizes_px: (height, width) of each clip before padding.
    """

    stride4: Float[Tensor, "batch time channel height4 width4"]
    levels: tuple[Float[Tensor, "batch time dim _ _"], ...]
    positions: tuple[Float[Tensor, "batch time dim _ _"], ...]
    is_padding: tuple[Bool[Tensor, "batch time _ _"], ...]
    sizes_px: tuple[tuple[int, int], ...]

    @property
    def num_frames(self) -> Int[Tensor, " batch"]:
        """Frames of each clip before padding."""
        return (~self.is_padding[-1].flatten(2).all(dim=2)).sum(dim=1)

    def for_sentences(self, clip_of_sentence: Int[Tensor, " sentence"]) -> "VideoFeatures":
        """The features of clip `clip_of_sentence[i]` at index i: sentences of one clip share its encoding.

        Args:
            clip_of_sentence: on the CPU, so that nothing waits for a GPU.
        """
        chosen = clip_of_sentence.tolist()
        if chosen == list(range(len(self.sizes_px))):
            return self
        if is_split(self.stride4) and len(set(chosen)) == 1:
            # Layers look at a few frames at a time: there is no need for as many copies as sentences.
            return self._chosen(lambda x: x[chosen[0]].expand(len(chosen), *x.shape[1:]), chosen)
        index = constant(tuple(chosen), dtype=torch.long, device=self.stride4.device)
        return self._chosen(lambda x: x[index], chosen)

    def _chosen(self, choose: Callable[[Tensor], Tensor], chosen: Sequence[int]) -> "VideoFeatures":
        return replace(
            self,
            stride4=choose(self.stride4),
            levels=tuple(choose(level) for level in self.levels),
            positions=tuple(choose(position) for position in self.positions),
            is_padding=tuple(choose(mask) for mask in self.is_padding),
            sizes_px=tuple(self.sizes_px[i] for i in chosen),
        )


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """Predictions of one decoder layer.

    Attributes:
        mask_logits: before the sigmoid, at stride 4 of the padded frame.
        class_logits: before the sigmoid; high where the query shows the referred object.
        boxes_cxcywh_norm: relative to the unpadded frame, in [0, 1].
        cluster: video-level embedding of each query, from the object cluster.
    """

    mask_logits: Float[Tensor, "batch time query height4 width4"]
    class_logits: Float[Tensor, "batch time query num_classes"]
    boxes_cxcywh_norm: Float[Tensor, "batch time query 4"]
    cluster: Float[Tensor, "batch query dim"]

    def masks_of(self, queries: Int[Tensor, " batch"]) -> Float[Tensor, "batch time height4 width4"]:
        """Mask logits of one query of each sample."""
        sample = torch.arange(len(queries), device=queries.device)
        return self.mask_logits[sample, :, queries]

    def masks_in(self, sample: int, frames: slice = slice(None)) -> Float[Tensor, "time query height4 width4"]:
        """Mask logits of all queries of a sample, in some of its frames."""
        return self.mask_logits[sample, frames]


@dataclass(frozen=True, slots=True)
class UndrawnOutput:
    """Predictions of the layer that is evaluated; only the masks that are asked for are drawn.

    Attributes:
        class_logits: see `LayerOutput`.
        boxes_cxcywh_norm: see `LayerOutput`.
        cluster: see `LayerOutput`.
        objects: embeddings that masks are drawn from.
        references_px: (x, y) of each query in pixels of the resized frame.
        features: mask features of each frame.
        mask_head: draws masks from these three.
        autocast: precision that the model ran in, in which masks are drawn, too; None without autocast.
    """

    class_logits: Float[Tensor, "batch time query num_classes"]
    boxes_cxcywh_norm: Float[Tensor, "batch time query 4"]
    cluster: Float[Tensor, "batch query dim"]
    objects: Float[Tensor, "batch time query dim"]
    references_px: Float[Tensor, "batch time query 2"]
    features: Float[Tensor, "batch time channel height4 width4"]
    mask_head: Callable[[Tensor, Tensor, Tensor], Tensor]
    autocast: torch.dtype | None

    def masks_of(self, queries: Int[Tensor, " batch"]) -> Float[Tensor, "batch time height4 width4"]:
        """Mask logits of one query of each sample."""
        sample = torch.arange(len(queries), device=queries.device)
        objects, references = self.objects[sample, :, queries], self.references_px[sample, :, queries]
        return self._draw(objects[:, :, None], references[:, :, None], self.features)[:, :, 0]

    def masks_in(self, sample: int, frames: slice = slice(None)) -> Float[Tensor, "time query height4 width4"]:
        """Mask logits of all queries of a sample, in some of its frames."""
        chosen = slice(sample, sample + 1), frames
        return self._draw(self.objects[chosen], self.references_px[chosen], self.features[chosen])[0]

    @torch.no_grad()
    def _draw(self, objects: Tensor, references_px: Tensor, features: Tensor) -> Tensor:
        with torch.autocast(objects.device.type, self.autocast, enabled=self.autocast is not None):
            masks = self.mask_head(objects, references_px, features)
        return masks.to(torch.promote_types(masks.dtype, torch.float32))


Predictions = LayerOutput | UndrawnOutput
"""What is chosen from."""


@dataclass(frozen=True, slots=True)
class SOCOutput:
    """Predictions for a batch.

    Attributes:
        layers: one entry per supervised decoder layer in training, exactly one in evaluation; the last is final.
        sentence: mean of the word features after attention to the video; aligned with `cluster` by the contrastive
            loss. None in evaluation, which does not use it.
    """

    layers: tuple[LayerOutput, ...]
    sentence: Float[Tensor, "batch dim"] | None

    @property
    def final(self) -> LayerOutput:
        """The predictions to evaluate."""
        return self.layers[-1]
