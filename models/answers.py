"""The answer to a sentence in a window of a video: the masks of its best query, or none where the sentence is rejected.

The only place where sentences are rejected; evaluation, validation and prediction all come here. The decision is made
window by window, by the score that the query is chosen by (`models.identity`); for videos of one's own, which may be
long, by the score of that query in the window alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from models.identity import QueryChoice
from models.outputs import Predictions
from models.postprocess import ClipPrediction, Size, chunks_of_frames, merge_objects, predictions_of
from structures.transfer import fetch


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about one sentence in one window.

    Attributes:
        ranked: the best queries, best first, with the masks that they draw, whether the sentence is rejected or not.
        scores: by which they were chosen: the mean over the window, or with identity over all frames so far.
        is_found: whether the score of the best query reaches the threshold; the answer is an empty mask where it does
            not.
    """

    ranked: tuple[ClipPrediction, ...]
    scores: tuple[float, ...]
    is_found: bool

    def masks_at(self, size: Size, *, logit_threshold: float = 0.0) -> Bool[Tensor, "time height width"]:
        """Masks at (height, width), on the CPU; see `ClipPrediction.masks_at`."""
        if self.is_found:
            return self.ranked[0].masks_at(size, logit_threshold=logit_threshold)
        return torch.zeros(len(self.ranked[0].mask_logits), *size, dtype=torch.bool)

    def start_masks(self, size: Size) -> Callable[[], Bool[Tensor, "time height width"]]:
        """Gives what gives the masks at (height, width), in whatever thread; see `ClipPrediction.start_masks`."""
        return self.ranked[0].start_masks(size) if self.is_found else partial(self.masks_at, size)

    def logits_at(self, size: Size) -> Float[Tensor, "time height width"]:
        """Mask logits at (height, width), on the device of the model; minus infinity where the sentence is rejected."""
        if self.is_found:
            return self.ranked[0].logits_at(size)
        logits = self.ranked[0].mask_logits
        return logits.new_full((len(logits), *size), -torch.inf)

    def frames(self, start: int, stop: int | None = None) -> "Answer":
        """The same for frames [start, stop) alone."""
        return replace(self, ranked=tuple(prediction.frames(start, stop) for prediction in self.ranked))


def start_merged(answers: Sequence[Answer], size: Size) -> Callable[[], UInt8[Tensor, "time height width"]]:
    """Gives what gives the masks of several sentences about a window as one index map, see `merge_objects`.

    Only some frames at a time are held as numbers; when the work is done, see `ClipPrediction.start_masks`.
    """
    logits = answers[0].ranked[0].mask_logits

    def merged() -> UInt8[Tensor, "time height width"]:
        index_maps = torch.empty(len(logits), *size, dtype=torch.uint8, device=logits.device)
        for frames in chunks_of_frames(logits, size, maps=len(answers) + 2):
            parts = [answer.frames(frames.start, frames.stop).logits_at(size) for answer in answers]
            index_maps[frames] = merge_objects(parts)
        return index_maps

    return merged if logits.device.type == "cpu" else fetch(merged())


class Answers:
    """The answers to the sentences about a video, window by window.

    Args:
        choice: how queries are followed from window to window, if they are.
        min_score: a sentence whose best query has a lower score is rejected; 0 rejects none, as published.
        num_ranked: queries per sentence that are looked at, the best one included.
        by_window: the decision is by the score in the window alone, although objects are followed: so it is noticed at
            once when one comes into view, or leaves.

    Attributes:
        choice: follows the queries; `models.inference.segment_clip` takes it.
    """

    def __init__(
        self,
        *,
        choice: QueryChoice,
        min_score: float,
        num_ranked: int = 1,
        by_window: bool = False,
    ) -> None:
        self.choice = choice
        self._min_score, self._num_ranked = min_score, num_ranked
        self._by_window = by_window

    def of(self, layer: Predictions, *, first_sentence: int = 0) -> Iterator[Answer]:
        """One answer for each sentence of `layer`.

        Args:
            layer: predictions for some of the sentences about the next window.
            first_sentence: index of the first of them.
        """
        queries, scores = self.choice.rank(layer, first_sentence=first_sentence)
        by_rank = [predictions_of(layer, of_rank) for of_rank in queries[:, : self._num_ranked].unbind(dim=1)]
        for ranked, own in zip(zip(*by_rank, strict=True), scores[:, : self._num_ranked].tolist(), strict=True):
            deciding = ranked[0].score if self._by_window else own[0]
            # `not <`, so that 0 rejects nothing, not even a score that is no number
            yield Answer(ranked, tuple(own), is_found=not deciding < self._min_score)
