"""Random variation of training samples: which sentences, in which words, at which scale and in which light.

All of it is off by default. What is off draws no random number, so that everything else stays as it was.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from datasets.absent_words import is_function_word, says_no_more
from datasets.records import Expression, VideoRecord
from loading.frames import resized_size
from loading.sampling import random_index, sample_without_replacement
from loading.transforms import AnnotatedClip, resize_to
from structures.boxes import mask_extents_xyxy

KEPT_SHARE = 0.5
"""A crop keeps at least this share of the pixels of each object."""

CROP_TRIES = 10
"""Random places that are tried for a crop; then the clip stays whole."""


@dataclass(frozen=True, slots=True)
class Variation:
    """How training samples vary.

    Attributes:
        word_dropout: probability of leaving out each word of a sentence.
        scale: smallest and greatest zoom; above 1 a random part of the frames fills the picture, below 1 the picture
            is smaller.
        colour: greatest change of brightness, contrast and saturation, as a share. Hue stays, because sentences name
            colours.
    """

    word_dropout: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0

    def sentences(
        self, expressions: Sequence[Expression], video: VideoRecord, generator: torch.Generator
    ) -> tuple[str, ...]:
        """The sentences of a clip with synonyms in place of words, and without some words.

        A sentence always keeps a word that says something. One that is cut so short that a sentence about other objects
        has all of its words ("the dog" from "the black dog", beside "the white dog") stays whole; so does an absent
        one that could then be about some object.
        """
        varied = []
        for expression in expressions:
            sentence = expression.sentence
            if self.word_dropout:
                others = [e.sentence for e in video.expressions if e.known_ids and e.known_ids != expression.known_ids]
                shorter = without_words(sentence, self.word_dropout, generator)
                as_usual = without_synonyms(shorter, video.synonyms)
                is_ambiguous = any(says_no_more(as_usual, without_synonyms(o, video.synonyms)) for o in others)
                sentence = sentence if is_ambiguous else shorter
            varied.append(with_synonyms(sentence, video.synonyms, generator))
        return tuple(varied)

    def resized(
        self, clip: AnnotatedClip, *, short_side: int, long_side: int, generator: torch.Generator
    ) -> AnnotatedClip:
        """The clip at the size of `resized_size`, zoomed if that is on."""
        height, width = clip.frames.shape[-2:]
        usual = resized_size(height, width, short_side=short_side, long_side=long_side)
        if self.scale == (1.0, 1.0):
            return resize_to(clip, usual)
        zoom = _uniform(*self.scale, generator)
        zoomed = resize_to(clip, (max(1, round(zoom * usual[0])), max(1, round(zoom * usual[1]))))
        if zoom <= 1:
            return zoomed
        masks = zoomed.masks.as_subclass(Tensor).bool()
        pixels = masks.sum(dim=(1, 2, 3))
        for _ in range(CROP_TRIES):
            top = random_index(masks.shape[-2] - usual[0] + 1, generator)
            left = random_index(masks.shape[-1] - usual[1] + 1, generator)
            kept = masks[..., top : top + usual[0], left : left + usual[1]]
            if (kept.sum(dim=(1, 2, 3)) >= KEPT_SHARE * pixels).all():
                return _cropped(zoomed, top, left, usual)
        return resize_to(clip, usual)

    def coloured(self, clip: AnnotatedClip, generator: torch.Generator) -> AnnotatedClip:
        """The clip in another light, the same for all of its frames."""
        if not self.colour:
            return clip
        frames = clip.frames
        for adjust in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
            frames = adjust(frames, _uniform(1 - self.colour, 1 + self.colour, generator))
        return replace(clip, frames=frames)


def draw_sentences(
    expressions: Sequence[Expression], count: int, *, absent_share: float | None, generator: torch.Generator
) -> list[Expression]:
    """Up to `count` of the sentences that fit a clip, chosen at random.

    Args:
        expressions: those that fit.
        count: most sentences.
        absent_share: share of `count` that absent ones have, rounded up or down at random, if there are so many of
            both; None: all sentences are drawn alike. Each absent one is drawn from a kind chosen at random, so that a
            few near misses are not lost among many words.
        generator: of everything random.
    """
    if absent_share is None:
        return sample_without_replacement(expressions, count, generator)
    absent = [expression for expression in expressions if expression.is_absent]
    present = [expression for expression in expressions if not expression.is_absent]
    share = absent_share * count
    num_absent = int(share) + int(float(torch.rand((), generator=generator)) < share - int(share))
    if not present:  # a clip needs a sentence
        num_absent = max(1, num_absent)
    if not absent:
        num_absent = 0
    return [
        *sample_without_replacement(present, count - num_absent, generator),
        *_by_kind(absent, num_absent, generator),
    ]


def with_synonyms(sentence: str, synonyms: Mapping[str, Collection[str]], generator: torch.Generator) -> str:
    """The sentence with each word or phrase that has synonyms replaced by one of them, or left, all equally likely."""
    present = [word for word in sorted(synonyms, key=len, reverse=True) if _as_words(word).search(sentence)]
    if not present:
        return sentence
    pattern = re.compile("|".join(_as_words(word).pattern for word in present), re.IGNORECASE)
    choices = {word.lower(): (None, *synonyms[word]) for word in present}

    def choose(match: re.Match[str]) -> str:
        options = choices[match.group().lower()]
        return options[random_index(len(options), generator)] or match.group()

    return pattern.sub(choose, sentence)


def without_synonyms(sentence: str, synonyms: Mapping[str, Collection[str]]) -> str:
    """The sentence with each synonym replaced by the word that it stands for, so that sentences can be compared."""
    word_of = {other.lower(): word for word, others in synonyms.items() for other in others}
    present = [other for other in sorted(word_of, key=len, reverse=True) if _as_words(other).search(sentence)]
    if not present:
        return sentence
    pattern = re.compile("|".join(_as_words(other).pattern for other in present), re.IGNORECASE)
    return pattern.sub(lambda match: word_of[match.group().lower()], sentence)


def without_words(sentence: str, probability: float, generator: torch.Generator) -> str:
    """The sentence without some of its words, but with one that says something.

    Args:
        sentence: words separated by blanks.
        probability: of leaving out each word.
        generator: of everything random.
    """
    words = sentence.split()
    telling = [index for index, word in enumerate(words) if not is_function_word(word)]
    kept = (torch.rand(len(words), generator=generator) >= probability).tolist()
    if not telling:
        return sentence
    if not any(kept[index] for index in telling):
        kept[telling[random_index(len(telling), generator)]] = True
    return " ".join(word for word, is_kept in zip(words, kept, strict=True) if is_kept)


def _by_kind(expressions: Sequence[Expression], count: int, generator: torch.Generator) -> list[Expression]:
    """Up to `count` of them: a random kind first, then one of it."""
    remaining: dict[str, list[Expression]] = {}
    for expression in expressions:
        remaining.setdefault(expression.kind, []).append(expression)
    chosen: list[Expression] = []
    while remaining and len(chosen) < count:
        kind = list(remaining)[random_index(len(remaining), generator)]
        own = remaining[kind]
        chosen.append(own.pop(random_index(len(own), generator)))
        if not own:
            del remaining[kind]
    return chosen


def _cropped(clip: AnnotatedClip, top: int, left: int, size: tuple[int, int]) -> AnnotatedClip:
    """A part of the clip; boxes are the extents of the masks in it."""
    masks = functional.crop(clip.masks, top, left, *size)
    boxes = mask_extents_xyxy(masks.as_subclass(Tensor).bool())
    return replace(
        clip,
        frames=functional.crop(clip.frames, top, left, *size),
        masks=masks,
        boxes_xyxy_px=tv_tensors.BoundingBoxes(
            boxes.flatten(0, 1),  # (target*time, 4)
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=size,
        ),
    )


def _as_words(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
