"""Which query of a window is which query of the window before: the identity of objects in long videos.

The published inference cuts long videos into windows that know nothing of each other, so that the object of a sentence
may change from one to the next. Here neighbouring windows share frames; their queries are assigned to each other so
that masks agree there, and embeddings of the object cluster are similar. The best track of a sentence is the one with
the highest mean score over all frames so far. Nothing is kept but the shared frames: memory does not grow.
"""

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from models.outputs import LayerOutput
from models.postprocess import trajectory_scores

SIMILARITY_WEIGHT = 0.5
"""Weight of the similarity of embeddings (0 to 1) beside the overlap of masks (0 to 1), by which queries are matched:
overlap decides where there are masks, similarity where there are none."""


class QueryChoice:
    """Ranks the queries for each sentence about a video, window by window.

    Args:
        overlap: frames that neighbouring windows share; 0: windows are independent of each other, as published.
    """

    def __init__(self, *, overlap: int) -> None:
        self.overlap = overlap
        self._tracks: dict[int, QueryTracks] = {}

    def rank(
        self, layer: LayerOutput, *, first_sentence: int = 0
    ) -> tuple[Int[Tensor, "batch query"], Float[Tensor, "batch query"]]:
        """Queries of each sentence, best first, and their scores.

        Args:
            layer: predictions for some of the sentences about the next window.
            first_sentence: index of the first of them.
        """
        if not self.overlap:
            # stable: of equal scores the first query, as argmax has it
            scores, queries = trajectory_scores(layer.class_logits).sort(dim=-1, descending=True, stable=True)
            return queries, scores
        ranked = []
        for sample in range(len(layer.class_logits)):
            tracks = self._tracks.setdefault(first_sentence + sample, QueryTracks(self.overlap))
            ranked.append(tracks.follow(layer, sample))
        return torch.stack([queries for queries, _ in ranked]), torch.stack([scores for _, scores in ranked])


class QueryTracks:
    """The queries for one sentence, followed from window to window.

    Args:
        overlap: frames that neighbouring windows share.
    """

    def __init__(self, overlap: int) -> None:
        self.overlap = overlap
        self._last: tuple[Bool[Tensor, "time track height4 width4"], Float[Tensor, "track dim"]] | None = None
        self._score_sum: Float[Tensor, " track"] = torch.zeros(())
        self._num_frames = 0

    def follow(self, layer: LayerOutput, sample: int) -> tuple[Int[Tensor, " track"], Float[Tensor, " track"]]:
        """Takes the next window.

        Args:
            layer: predictions for it; its first `overlap` frames are the last ones of the window before.
            sample: index of the sentence among those of `layer`.

        Returns:
            Queries of this window in the order of their tracks' scores, best first, and these scores: means over all
            frames so far (those of overlaps count twice).
        """
        masks = layer.mask_logits[sample] > 0  # (time, query, height4, width4)
        embeddings = functional.normalize(layer.cluster[sample].float(), dim=-1)
        scores = trajectory_scores(layer.class_logits[sample : sample + 1].float())[0]
        query_of_track = torch.arange(len(scores), device=scores.device)
        if self._last is not None:
            query_of_track = match_queries(*self._last, masks[: self.overlap], embeddings)
        self._score_sum = self._score_sum.to(scores) + len(masks) * scores[query_of_track]
        self._num_frames += len(masks)
        self._last = masks[-self.overlap :, query_of_track], embeddings[query_of_track]
        means = self._score_sum / self._num_frames
        ranking = means.argsort(descending=True, stable=True)
        return query_of_track[ranking], means[ranking]


def match_queries(
    masks: Bool[Tensor, "time track height4 width4"],
    embeddings: Float[Tensor, "track dim"],
    other_masks: Bool[Tensor, "time query height4 width4"],
    other_embeddings: Float[Tensor, "query dim"],
) -> Int[Tensor, " track"]:
    """The query of a window that continues each track, each query once.

    Args:
        masks: of the tracks, in the frames that both windows have.
        embeddings: of the tracks, of length one.
        other_masks: of the queries, in the same frames.
        other_embeddings: of the queries, of length one.
    """
    pixels = masks.transpose(0, 1).flatten(1).float()  # (track, time*height4*width4)
    other_pixels = other_masks.transpose(0, 1).flatten(1).float()  # (query, time*height4*width4)
    intersection = pixels @ other_pixels.T
    union = pixels.sum(dim=1)[:, None] + other_pixels.sum(dim=1) - intersection
    overlap = intersection / union.clamp(min=1)
    similarity = (embeddings @ other_embeddings.T + 1) / 2
    affinity = (overlap + SIMILARITY_WEIGHT * similarity).cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(affinity, maximize=True)[1]).to(masks.device)
