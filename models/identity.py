"""Which query of a window is which query of the window before: the identity of objects in long videos.

The published inference cuts long videos into windows that know nothing of each other, so that the object of a sentence
may change from one to the next. Here neighbouring windows share frames; their queries are assigned to each other so
that masks agree there, and embeddings of the object cluster are similar. Where windows are too short to share frames,
the last frame of one is compared with the first of the next. The best track of a sentence is the one with the highest
mean score over all frames so far. What is kept are the shared frames, and a bounded number of boxes for
`models.trajectory`: memory does not grow.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.outputs import Predictions
from models.postprocess import trajectory_scores
from models.trajectory import Trajectory

SIMILARITY_WEIGHT = 0.5
"""Weight of the similarity of embeddings (0 to 1) beside the overlap of masks (0 to 1), by which queries are matched:
overlap decides where there are masks, similarity where there are none."""


LONGEST_HISTORY = 128
"""Boxes of a track that are kept; of a longer history every second box."""


class QueryChoice:
    """Ranks the queries for each sentence about a video, window by window.

    Args:
        overlap: frames that neighbouring windows share.
        follow: whether queries are followed from window to window; None: where windows share frames. False: windows
            are independent of each other, as published.
        remembered_frames: the frames before a window count as so many at most in the mean scores, so that in a stream
            without an end the choice can still change; 0: all count.
    """

    def __init__(self, *, overlap: int, follow: bool | None = None, remembered_frames: int = 0) -> None:
        self._overlap = overlap
        self._follow = overlap > 0 if follow is None else follow
        self._remembered_frames = remembered_frames
        self._tracks: dict[int, QueryTracks] = {}

    def continued(self, layer: Predictions, trajectory: Trajectory, *, first_sentence: int = 0) -> Trajectory | None:
        """The trajectories of the queries of the next window, with those of earlier windows in front.

        To be called before `rank`, for the same sentences, by models that see trajectories.

        Args:
            layer: predictions from this window alone, by which its queries are matched with those before.
            trajectory: of this window alone.
            first_sentence: index of the first sentence.

        Returns:
            None where there is no window before, or windows are independent.
        """
        if not self._follow:
            return None
        longer = [
            self._tracks_of(first_sentence + sample).continued(layer, trajectory, sample)
            for sample in range(len(layer.class_logits))
        ]
        boxes, times = (torch.stack(parts) for parts in zip(*longer, strict=True))
        if boxes.shape[1] == trajectory.boxes_cxcywh_norm.shape[1]:
            return None
        return Trajectory(boxes, times, torch.full_like(trajectory.num_frames, boxes.shape[1]))

    def _tracks_of(self, sentence: int) -> "QueryTracks":
        return self._tracks.setdefault(sentence, QueryTracks(self._overlap, self._remembered_frames))

    def rank(
        self, layer: Predictions, *, first_sentence: int = 0
    ) -> tuple[Int[Tensor, "batch query"], Float[Tensor, "batch query"]]:
        """Queries of each sentence, best first, and their scores.

        Args:
            layer: predictions for some of the sentences about the next window.
            first_sentence: index of the first of them.
        """
        if not self._follow:
            # stable: of equal scores the first query, as argmax has it
            scores, queries = trajectory_scores(layer.class_logits).sort(dim=-1, descending=True, stable=True)
            return queries, scores
        ranked = []
        for sample in range(len(layer.class_logits)):
            ranked.append(self._tracks_of(first_sentence + sample).follow(layer, sample))
        return torch.stack([queries for queries, _ in ranked]), torch.stack([scores for _, scores in ranked])


class QueryTracks:
    """The queries for one sentence, followed from window to window.

    Args:
        overlap: frames that neighbouring windows share.
        remembered_frames: see `QueryChoice`.
    """

    def __init__(self, overlap: int, remembered_frames: int = 0) -> None:
        self._overlap = overlap
        self._num_compared = max(1, overlap)  # without shared frames: the last one with the first one
        self._remembered_frames = remembered_frames
        self._last: tuple[Bool[Tensor, "time track height4 width4"], Float[Tensor, "track dim"]] | None = None
        self._score_sum: Float[Tensor, " track"] = torch.zeros(())
        self._num_frames = 0
        self._query_of_track: Int[Tensor, " track"] | None = None
        self._history: tuple[Float[Tensor, "time track 4"], Int[Tensor, " time"]] | None = None
        self._window_start: Int[Tensor, ""] = torch.zeros((), dtype=torch.long)

    def continued(
        self, layer: Predictions, trajectory: Trajectory, sample: int
    ) -> tuple[Float[Tensor, "time query 4"], Int[Tensor, " time"]]:
        """Boxes of the queries of the next window, those of earlier windows in front, and their times.

        Args:
            layer: predictions from this window alone; its queries are matched once, here.
            trajectory: of this window alone.
            sample: index of the sentence among those of both.
        """
        query_of_track = self._match(layer, sample)
        self._query_of_track = query_of_track
        boxes = trajectory.boxes_cxcywh_norm[sample][:, query_of_track]  # (time, track, 4)
        times = trajectory.times[sample]
        if self._history is not None:
            past_boxes, past_times = self._history
            boxes = torch.cat([past_boxes, boxes])
            times = torch.cat([past_times, times + self._window_start])
        # The next window starts with the last frames of this one, or behind them.
        num_past = max(0, len(boxes) - self._overlap)
        self._window_start = times[num_past] if num_past < len(times) else times[-1] + 1
        step = 2 if num_past > LONGEST_HISTORY else 1
        self._history = boxes[:num_past:step], times[:num_past:step]
        return boxes[:, query_of_track.argsort()], times

    def follow(self, layer: Predictions, sample: int) -> tuple[Int[Tensor, " track"], Float[Tensor, " track"]]:
        """Takes the next window.

        Args:
            layer: predictions for it; its first `overlap` frames are the last ones of the window before, if any.
            sample: index of the sentence among those of `layer`.

        Returns:
            Queries of this window in the order of their tracks' scores, best first, and these scores: means over all
            frames so far (those of overlaps count twice).
        """
        query_of_track = self._match(layer, sample) if self._query_of_track is None else self._query_of_track
        self._query_of_track = None
        num_frames = layer.class_logits.shape[1]
        scores = trajectory_scores(layer.class_logits[sample : sample + 1].float())[0]
        if 0 < self._remembered_frames < self._num_frames:
            self._score_sum = self._score_sum * (self._remembered_frames / self._num_frames)
            self._num_frames = self._remembered_frames
        self._score_sum = self._score_sum.to(scores) + num_frames * scores[query_of_track]
        self._num_frames += num_frames
        shared = layer.masks_in(sample, slice(-self._num_compared, None)) > 0
        self._last = shared[:, query_of_track], _embeddings(layer, sample)[query_of_track]
        means = self._score_sum / self._num_frames
        ranking = means.argsort(descending=True, stable=True)
        return query_of_track[ranking], means[ranking]

    def _match(self, layer: Predictions, sample: int) -> Int[Tensor, " track"]:
        """The query of this window for each track; in the first window each query starts a track."""
        embeddings = _embeddings(layer, sample)
        if self._last is None:
            return torch.arange(len(embeddings), device=embeddings.device)
        return match_queries(*self._last, layer.masks_in(sample, slice(self._num_compared)) > 0, embeddings)


def _embeddings(layer: Predictions, sample: int) -> Float[Tensor, "query dim"]:
    """Of each query, of length one."""
    return functional.normalize(layer.cluster[sample].float(), dim=-1)


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
    from scipy.optimize import linear_sum_assignment  # here, because the first window is answered without it

    return torch.from_numpy(linear_sum_assignment(affinity, maximize=True)[1]).to(masks.device)
