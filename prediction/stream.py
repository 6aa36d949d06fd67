"""The one place where the model sees a video of one's own: window by window, in memory that does not grow.

A window is answered as soon as its last frame is there; what is kept of it are the frames that it shares with the next
one, and by which objects are followed (`models.identity`).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from configs.schema import Config
from loading.frames import as_clip, resize_frames
from loading.text import clean_sentence
from media.video import Frame
from models.answers import Answer, Answers
from models.build import resolve_min_score
from models.identity import QueryChoice
from models.inference import encode_sentences, segment_clip
from models.outputs import TextFeatures
from models.postprocess import resize_logits
from models.soc import SOC

REMEMBERED_FRAMES = 300
"""With `matched`: frames of the past that the choice among objects goes by, ten seconds or so, see `QueryChoice`."""


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How the model looks at a video.

    Attributes:
        short_side: pixels of the shorter side of what the model sees.
        long_side: limit of the longer side, in pixels.
        window_frames: frames of a window at most: the first answer comes after so many. 0: the whole video is one
            window, all of it in memory.
        identity: `matched`: objects are followed from window to window; `independent`: each window chooses anew, as
            published.
        overlap: with `matched`: frames that a window shares with the one before; less where windows are as short. With
            windows of one frame, neighbouring frames are compared.
        threshold: probability above which a pixel belongs to an object, between 0 and 1.
        min_score: a sentence whose best query has a lower score in a window is rejected there; 0 rejects none.
        sentence_group: sentences that are segmented at a time (memory).
        lower_case: whether the model reads sentences in lower case.

    Raises:
        ValueError: a number is out of its range.
    """

    short_side: int = 360
    long_side: int = 640
    window_frames: int = 36
    identity: str = "matched"
    overlap: int = 4
    threshold: float = 0.5
    min_score: float = 0.0
    sentence_group: int = 2
    lower_case: bool = True

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side", "overlap", "sentence_group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.window_frames < 0:
            raise ValueError(f"window_frames={self.window_frames} must be 0 (no limit) or more")
        if self.identity not in ("matched", "independent"):
            raise ValueError(f"identity={self.identity!r} must be 'matched' or 'independent'")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} must lie between 0 and 1")

    @classmethod
    def of_config(cls, config: Config) -> "PredictionSettings":
        """As configured; the score of rejection is that of the checkpoint, where the configuration names none.

        Raises:
            ValueError: the checkpoint cannot be read.
        """
        predict, data = config.predict, config.data
        short_side = predict.size or data.short_side
        return cls(
            short_side=short_side,
            long_side=round(data.long_side * short_side / data.short_side),
            window_frames=data.eval_num_frames,
            identity=predict.identity,
            overlap=data.eval_overlap,
            threshold=predict.threshold,
            min_score=resolve_min_score(config),
            sentence_group=data.eval_sentences,
            lower_case=data.sets[0].lower_case,
        )

    @property
    def shared_frames(self) -> int:
        """Frames that a window shares with the one before."""
        if self.identity == "independent":
            return 0
        return min(self.overlap, self.window_frames - 1) if self.window_frames else self.overlap


@dataclass(frozen=True, slots=True)
class ObjectPrediction:
    """The answer to one sentence in the new frames of a window.

    Attributes:
        sentence: as the model reads it.
        is_found: whether the sentence was found; where not, it was rejected, and all masks are empty.
        window_score: of the chosen query in this window alone: what it was found or rejected by.
        query: the index of this query.
        frame_scores: probability in each frame that the query shows the object.
        boxes_xyxy_px: left, top, right and bottom in each frame, as predicted, clipped to the frame.
        mask_logits: before the sigmoid, at stride 4 of what the model saw, on the device of the model; drawn whether
            the sentence is found or not. Made larger (`logits`), they have smooth edges at any size.
        size: (height, width) of the frames.
        logit_threshold: above which a pixel belongs to the object.
    """

    sentence: str
    is_found: bool
    window_score: float
    query: int
    frame_scores: Float[np.ndarray, " time"]
    boxes_xyxy_px: Float[np.ndarray, "time 4"]
    mask_logits: Float[Tensor, "time height4 width4"]
    size: tuple[int, int]
    logit_threshold: float = 0.0

    @property
    def masks(self) -> Bool[np.ndarray, "time height width"]:
        """Of all frames, at their size; computed anew each time, because those of many sentences fill the memory."""
        return np.stack([self.mask(position) for position in range(len(self.mask_logits))])

    def mask(self, position: int) -> Bool[np.ndarray, "height width"]:
        """Of one of the frames, at its size."""
        if not self.is_found:
            return np.zeros(self.size, dtype=bool)
        return (self._resized(position, self.size) > self.logit_threshold).cpu().numpy()

    def logits(self, position: int, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
        """Of one of the frames at any (height, width), minus infinity where the sentence was rejected.

        What is above `logit_threshold` belongs to the object.
        """
        if not self.is_found:
            return np.full(size, -np.inf, dtype=np.float32)
        return self._resized(position, size).cpu().numpy()

    def _resized(self, position: int, size: tuple[int, int]) -> Float[Tensor, "height width"]:
        return resize_logits(self.mask_logits[position][None], size)[0]


@dataclass(frozen=True, slots=True)
class WindowPrediction:
    """What is new in a window.

    Attributes:
        frames: that no window before has answered.
        objects: one for each sentence, in their order.
    """

    frames: tuple[Frame, ...]
    objects: tuple[ObjectPrediction, ...]


class VideoPredictor:
    """Segments videos with one model.

    Args:
        model: SOC; it is moved to the device and put in evaluation mode.
        settings: how it looks at videos.
        device: where it runs.
    """

    def __init__(self, model: SOC, *, settings: PredictionSettings, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.settings = settings
        self.device = device
        self._only: tuple[tuple[str, ...], tuple[TextFeatures, ...]] | None = None

    def look_only_for(self, sentences: Sequence[str]) -> None:
        """Encodes the sentences, and frees the text encoder: of the published model three quarters of all weights.

        Args:
            sentences: the only ones that `stream` takes from now on.

        Raises:
            ValueError: there is no sentence, or one is empty.
        """
        cleaned = clean_sentences(sentences, lower_case=self.settings.lower_case)
        self._only = cleaned, self._encode(cleaned)
        del self.model.text_encoder

    def stream(self, frames: Iterable[Frame], sentences: Sequence[str]) -> Iterator[WindowPrediction]:
        """The answers about one video, window by window; each is given before a frame of the next is asked for.

        Args:
            frames: of one size, in order; they may never end.
            sentences: what to look for, one for each object.

        Raises:
            ValueError: there is no sentence, or one is empty.
        """
        cleaned = clean_sentences(sentences, lower_case=self.settings.lower_case)
        return self._stream(frames, cleaned)

    def _stream(self, frames: Iterable[Frame], sentences: Sequence[str]) -> Iterator[WindowPrediction]:
        texts = self._encode(sentences) if self._only is None else self._encoded_before(sentences)
        choice = QueryChoice(
            overlap=self.settings.shared_frames,
            follow=self.settings.identity == "matched",
            remembered_frames=REMEMBERED_FRAMES,
        )
        answering = Answers(choice=choice, min_score=self.settings.min_score, by_window=True)
        for window, num_old in in_windows(frames, self.settings.window_frames, overlap=self.settings.shared_frames):
            yield self._predict(window, num_old, sentences, texts, answering)
            del window  # not kept while the frames of the next one are read

    def _encoded_before(self, sentences: Sequence[str]) -> tuple[TextFeatures, ...]:
        assert self._only is not None
        known, texts = self._only
        if tuple(sentences) != known:
            raise ValueError(f"this predictor looks only for {list(known)}, got {list(sentences)}")
        return texts

    @torch.no_grad()
    def _encode(self, sentences: Sequence[str]) -> tuple[TextFeatures, ...]:
        return encode_sentences(self.model, sentences, group=self.settings.sentence_group, device=self.device)

    @torch.no_grad()
    def _predict(
        self,
        window: Sequence[Frame],
        num_old: int,
        sentences: Sequence[str],
        texts: Sequence[TextFeatures],
        answering: Answers,
    ) -> WindowPrediction:
        """The answers about one window, without its first `num_old` frames."""
        sides = {"short_side": self.settings.short_side, "long_side": self.settings.long_side}
        # one by one: a second copy of a window of large frames would not fit everywhere
        resized = torch.cat([resize_frames(as_clip(frame.pixels[None]), **sides) for frame in window])
        answers: list[Answer] = []
        for layer in segment_clip(self.model, resized, texts, device=self.device, choice=answering.choice):
            answers += [each.frames(num_old) for each in answering.of(layer, first_sentence=len(answers))]
        threshold = logit(self.settings.threshold)
        objects = [
            object_prediction(answer, sentence, size=window[0].size, logit_threshold=threshold)
            for answer, sentence in zip(answers, sentences, strict=True)
        ]
        return WindowPrediction(tuple(window[num_old:]), tuple(objects))


def object_prediction(
    answer: Answer, sentence: str, *, size: tuple[int, int], logit_threshold: float
) -> ObjectPrediction:
    """The answer to a sentence, in pixels of frames of this (height, width)."""
    best = answer.ranked[0]
    height, width = size
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum((best.boxes_xyxy_norm * limit).clamp(min=0), limit)
    return ObjectPrediction(
        sentence=sentence,
        is_found=answer.is_found,
        window_score=best.score,
        query=best.query,
        frame_scores=best.frame_scores.numpy(),
        boxes_xyxy_px=boxes.numpy(),
        mask_logits=best.mask_logits,
        size=size,
        logit_threshold=logit_threshold,
    )


def clean_sentences(sentences: Sequence[str], *, lower_case: bool) -> tuple[str, ...]:
    """The sentences as the model reads them.

    Raises:
        ValueError: if there is none, or one is empty.
    """
    if not sentences:
        raise ValueError("no sentence is given: say what to look for, one sentence for each object")
    cleaned = tuple(clean_sentence(text, lower_case=lower_case) for text in sentences)
    if "" in cleaned:
        raise ValueError(f"sentence {cleaned.index('') + 1} of {len(cleaned)} is empty")
    return cleaned


def in_windows(frames: Iterable[Frame], longest: int, *, overlap: int = 0) -> Iterator[tuple[list[Frame], int]]:
    """Consecutive windows, and how many of their frames the one before has shown already.

    No frame is asked for before it is needed, and none is kept but those that the next window shares.

    Args:
        frames: of the video.
        longest: frames of a window at most; 0: all in one.
        overlap: frames that neighbouring windows share, fewer than `longest`.
    """
    remaining = iter(frames)
    shared: list[Frame] = []
    while True:
        window = [*shared, *islice(remaining, longest - len(shared) if longest else None)]
        num_old = len(shared)
        if len(window) == num_old:
            return
        shared = window[-overlap:] if overlap else []
        yield window, num_old
        del window


def logit(probability: float) -> float:
    """The number whose sigmoid is `probability`."""
    return math.log(probability / (1 - probability))
