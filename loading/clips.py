"""Training clips: windows of frames with sentences about objects that occur in them, resized, flipped, with targets."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.records import Expression, VideoRecord
from loading.sampling import (
    Visit,
    centred_window,
    consecutive_windows,
    draw,
    random_index,
    random_window,
    visit_generator,
)
from loading.transforms import AnnotatedClip, annotate_clip, random_flip_left_right, resize
from structures.boxes import xyxy_to_cxcywh
from structures.samples import ClipTarget, SentenceMeta, SkippedSample, VideoSample

logger = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 32
"""Samples tried after a batch of which nothing can be read; more are no accident."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A training sample: a video, the expressions to draw from, and its place in the video.

    Attributes:
        video: the video.
        expressions: to draw from.
        window: positions of the frames of its clip, unless they are drawn.
        annotated: position of the frame that is supervised, where only some frames have masks.
    """

    video: VideoRecord
    expressions: tuple[Expression, ...]
    window: tuple[int, ...]
    annotated: int | None = None


class ClipDataset(Dataset[VideoSample]):
    """Training clips of `num_frames` frames, each with sentences about objects that occur in it.

    With `sentences_per_clip` 1 every pair of sentence and window is a sample (as published); otherwise every window
    is, with up to that many of its sentences, drawn anew at each visit. Windows are consecutive; with `random`
    sampling there are as many samples, but each visit draws the start of its window anew.

    Args:
        videos: with `visible` filled in and an object for every expression.
        num_frames: frames of a clip.
        frame_sampling: "windows" or "random".
        supervised_frames: "all", or "one" drawn at random at each visit, with the sentences whose object it shows.
        sentences_per_clip: most sentences of a sample.
        short_side: pixels of the shorter side after resizing.
        long_side: limit of the longer side, in pixels.
        flip_probability: of a left-right flip.
        seed: of everything that is drawn; mixed with epoch and index of a visit.
        skips_errors: batches leave out samples that cannot be read, and say so, instead of raising.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of the configuration
        self,
        videos: Sequence[VideoRecord],
        *,
        num_frames: int,
        frame_sampling: str = "windows",
        supervised_frames: str = "all",
        sentences_per_clip: int = 1,
        short_side: int,
        long_side: int,
        flip_probability: float = 0.0,
        seed: int = 0,
        skips_errors: bool = False,
    ) -> None:
        if frame_sampling not in ("windows", "random"):
            raise ValueError(f"frame_sampling={frame_sampling!r} must be 'windows' or 'random'")
        if supervised_frames not in ("all", "one"):
            raise ValueError(f"supervised_frames={supervised_frames!r} must be 'all' or 'one'")
        self.num_frames = num_frames
        self.random_windows = frame_sampling == "random"
        self.supervises_one_frame = supervised_frames == "one"
        self.sentences_per_clip = sentences_per_clip
        self.short_side = short_side
        self.long_side = long_side
        self.flip_probability = flip_probability
        self.seed = seed
        self.skips_errors = skips_errors
        self.entries = [entry for video in videos for entry in self._entries_of(video)]
        if not self.entries:
            raise ValueError(f"none of the {len(videos)} videos shows an object that a sentence is about")
        logger.info("%d training samples from %d videos", len(self.entries), len(videos))

    def _entries_of(self, video: VideoRecord) -> list[_Entry]:
        length = len(video.frame_names)
        if video.expand is not None:
            if length != 1:
                raise ValueError(f"video {video.name} has {length} frames; only a single image is expanded to a clip")
            places: list[tuple[tuple[int, ...], int | None]] = [((0,) * self.num_frames, None)]
        elif video.annotated is not None:
            places = [(centred_window(i, length, self.num_frames), i) for i in sorted(video.annotated)]
        else:
            places = [(window, None) for window in consecutive_windows(length, self.num_frames)]
        entries = []
        for window, annotated in places:
            shown = window if annotated is None else (annotated,)
            visible = _expressions_in(video.expressions, video, shown)
            if self.sentences_per_clip == 1:
                entries += [_Entry(video, (expression,), window, annotated) for expression in visible]
            elif visible:
                entries.append(_Entry(video, video.expressions, window, annotated))
        return entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitems__(self, visits: Sequence[Visit]) -> list[VideoSample | SkippedSample]:
        """The samples of a batch; the data loader calls this.

        With `skips_errors`, what cannot be read is replaced by a note. Only where nothing of the batch is left, the
        samples after its last one stand in, because all processes must make the same number of steps.

        Raises:
            ValueError: a sample cannot be read; with `skips_errors`, too many in a row.
        """
        if not self.skips_errors:
            return [self[visit] for visit in visits]
        found = [self._try(visit) for visit in visits]
        visit = visits[-1]
        while not any(isinstance(item, VideoSample) for item in found):
            if len(found) >= len(visits) + MOST_SKIPPED_IN_A_ROW:
                reasons = "\n".join(item.reason for item in found[:3] if isinstance(item, SkippedSample))
                raise ValueError(f"{len(found)} samples in a row cannot be read, the first ones because of\n{reasons}")
            visit = Visit((visit.sample + 1) % len(self.entries), visit.epoch)
            found.append(self._try(visit))
        return found

    def _try(self, visit: Visit) -> VideoSample | SkippedSample:
        try:
            return self[visit]
        except (ValueError, OSError) as error:
            entry = self.entries[visit.sample]
            return SkippedSample(entry.video.name, tuple(e.name for e in entry.expressions), str(error))

    def __getitem__(self, visit: Visit | int) -> VideoSample:
        if isinstance(visit, int):
            visit = Visit(sample=visit, epoch=0)
        entry = self.entries[visit.sample]
        generator = visit_generator(self.seed, visit)
        window, supervised = self._window(entry, generator)
        shown = window if supervised is None else (window[supervised],)
        expressions = _expressions_in(entry.expressions, entry.video, shown)
        if self.sentences_per_clip > 1:
            expressions = draw(expressions, self.sentences_per_clip, generator)
        clip = self._read(entry.video, window, supervised, expressions, generator)
        original_size = (clip.frames.shape[-2], clip.frames.shape[-1])
        clip = resize(clip, short_side=self.short_side, long_side=self.long_side)
        clip = random_flip_left_right(clip, probability=self.flip_probability, generator=generator)
        return VideoSample(
            frames=clip.frames.as_subclass(Tensor),
            sentences=clip.sentences,
            targets=make_targets(clip, expressions),
            meta=tuple(_meta(entry.video, expression, window, original_size) for expression in expressions),
            annotated_frame=supervised,
        )

    def _window(self, entry: _Entry, generator: torch.Generator) -> tuple[tuple[int, ...], int | None]:
        """Positions of the frames, and the place among them of the one to supervise; None for all."""
        video, window = entry.video, entry.window
        length = len(video.frame_names)
        if entry.annotated is not None:
            # The frame may repeat at the end of the video, so its place cannot be looked up in the window.
            place = random_index(self.num_frames, generator) if self.random_windows else self.num_frames // 2
            return centred_window(entry.annotated, length, self.num_frames, place=place), place
        visible = _visible_to_any(video, entry.expressions)
        if self.random_windows and video.expand is None:
            window = random_window(length, self.num_frames, visible=visible, generator=generator)
        if not self.supervises_one_frame:
            return window, None
        places = [place for place, position in enumerate(window) if position in visible]
        return window, places[random_index(len(places), generator)]

    def _read(
        self,
        video: VideoRecord,
        window: tuple[int, ...],
        supervised: int | None,
        expressions: Sequence[Expression],
        generator: torch.Generator,
    ) -> AnnotatedClip:
        if video.expand is None:
            annotated = window if supervised is None else (window[supervised],)
            return read_clip(video, window, expressions, annotated=annotated)
        image = read_clip(video, (0,), expressions)
        frames, masks = video.expand(
            image.frames.as_subclass(Tensor),
            image.masks.as_subclass(Tensor).bool(),
            num_frames=self.num_frames,
            generator=generator,
        )
        if supervised is not None:
            masks = masks[:, supervised : supervised + 1]
        return annotate_clip(frames, masks, sentences=image.sentences)


def read_clip(
    video: VideoRecord,
    positions: Sequence[int],
    expressions: Sequence[Expression],
    *,
    annotated: Sequence[int] | None = None,
) -> AnnotatedClip:
    """Frames, masks and boxes of what the expressions mean, as they are on disk.

    Args:
        video: with masks.
        positions: of the frames.
        expressions: those that mean the same objects share a mask, in the order of `meanings`.
        annotated: positions of the masks; None for those of the frames.

    Raises:
        ValueError: an object does not occur in these frames, although `video.visible` says so.
    """
    if video.masks is None:
        raise ValueError(f"video {video.name} has no masks; it cannot be trained on")
    if annotated is None:
        annotated = positions
    frames = video.frames.read(positions)
    objects = tuple(dict.fromkeys(number for e in expressions for number in e.object_ids))
    found = video.masks.read(annotated, size=(frames.shape[-2], frames.shape[-1]), objects=objects)
    masks = [found[[objects.index(number) for number in meaning]] for meaning in meanings(expressions)]
    union = torch.stack([several[0] if len(several) == 1 else several.any(dim=0) for several in masks])
    for meaning, mask in zip(meanings(expressions), union, strict=True):
        if not mask.view(torch.uint8).amax():  # any() takes 20 times as long
            raise ValueError(
                f"objects {list(meaning)} do not occur in frames {[video.frame_names[p] for p in annotated]} of video "
                f"{video.name}: have the masks changed since the list of visible objects was made? Delete that list."
            )
    return annotate_clip(frames, union, sentences=tuple(e.sentence for e in expressions))


def meanings(expressions: Sequence[Expression]) -> tuple[tuple[int, ...], ...]:
    """The different (groups of) objects that the expressions mean, in order of first mention."""
    return tuple(dict.fromkeys(expression.object_ids for expression in expressions))


def make_targets(clip: AnnotatedClip, expressions: Sequence[Expression]) -> tuple[ClipTarget, ...]:
    """One target per expression; expressions with one meaning share its mask."""
    height, width = clip.frames.shape[-2:]
    masks = clip.masks.as_subclass(Tensor)  # (target, time, height, width)
    visible = masks.flatten(2).amax(dim=2).bool()  # (target, time); any() takes 20 times as long
    boxes = clip.boxes_xyxy_px.as_subclass(Tensor) / torch.tensor([width, height, width, height])
    boxes = xyxy_to_cxcywh(boxes).reshape(*visible.shape, 4)  # (target, time, 4)
    boxes = torch.where(visible[..., None], boxes, 0)
    order = meanings(expressions)
    targets = []
    for expression in expressions:
        place = order.index(expression.object_ids)
        targets.append(
            ClipTarget(
                masks=masks[place : place + 1].view(torch.bool),
                boxes_cxcywh_norm=boxes[place : place + 1],
                is_visible=visible[place : place + 1],
                labels=torch.tensor([expression.label]),
            )
        )
    return tuple(targets)


def _visible_frames(video: VideoRecord, expression: Expression) -> frozenset[int]:
    """Positions that show at least one of the objects that are meant."""
    if not expression.object_ids:
        raise ValueError(f"video {video.name}, expression {expression.name}: no object, training needs one")
    return frozenset[int]().union(*(video.visible.get(number, frozenset()) for number in expression.object_ids))


def _visible_to_any(video: VideoRecord, expressions: Sequence[Expression]) -> frozenset[int]:
    return frozenset[int]().union(*(_visible_frames(video, expression) for expression in expressions))


def _expressions_in(expressions: Sequence[Expression], video: VideoRecord, window: tuple[int, ...]) -> list[Expression]:
    """Those whose object occurs in at least one frame of the window."""
    return [e for e in expressions if not _visible_frames(video, e).isdisjoint(window)]


def _meta(
    video: VideoRecord, expression: Expression, window: tuple[int, ...], original_size: tuple[int, int]
) -> SentenceMeta:
    return SentenceMeta(
        video=video.name,
        expression=expression.name,
        kind=expression.kind,
        frame_names=tuple(video.frame_names[position] for position in window),
        original_size=original_size,
        object_ids=expression.object_ids,
    )
