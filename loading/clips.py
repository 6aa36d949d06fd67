"""Training clips: windows of frames with sentences about what they show or do not show, with targets."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from datasets.readers import mask_size
from datasets.records import Expression, VideoRecord
from loading.frames import as_clip
from loading.pseudo_clips import PseudoClips
from loading.sampling import (
    SampleKey,
    centred_window,
    consecutive_windows,
    random_index,
    random_window,
    sample_generator,
)
from loading.transforms import AnnotatedClip, annotate_clip, random_flip_left_right
from loading.variation import Variation, draw_sentences
from structures.boxes import xywh_to_xyxy_inside, xyxy_to_cxcywh
from structures.samples import ClipTarget, FailedBatch, SentenceMeta, SkippedSample, VideoSample

logger = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 32
"""Samples tried after a batch of which nothing can be read, before this is an error."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """A training sample: a video, its expressions, and which frames.

    Attributes:
        video: the video.
        expressions: candidates for the sentences of the clip.
        window: positions of the frames of its clip; not used where the window is random.
        annotated: position of the frame that is supervised, where only some frames have masks.
    """

    video: VideoRecord
    expressions: tuple[Expression, ...]
    window: tuple[int, ...]
    annotated: int | None = None


class ClipDataset(Dataset[VideoSample]):
    """Training clips of `num_frames` frames, each with sentences about objects that occur in it.

    A sentence that means nothing in its video (an absent one) is a sentence of every window; its target has no object.

    With `sentences_per_clip` 1 every pair of sentence and window is a sample (as published); otherwise every window
    is, with up to that many of its sentences, chosen anew in each epoch. Windows are consecutive; with `random`
    sampling there are as many samples, but the start of a window is random in each epoch.

    Args:
        videos: with `visible` filled in; what each sentence means is known.
        num_frames: frames of a clip.
        frame_sampling: "windows" or "random".
        supervised_frames: "all", or "one" chosen at random in each epoch, with the sentences whose object it shows and
            with absent ones. It shows an object wherever the window does.
        absent: "train" on absent sentences, or "leave_out".
        sentences_per_clip: most sentences of a sample.
        short_side: pixels of the shorter side after resizing.
        long_side: limit of the longer side, in pixels.
        flip_probability: of a left-right flip.
        seed: of everything random; combined with epoch and index of the sample.
        skips_errors: samples that cannot be read are left out of the batch and reported in it, instead of raising.
        pseudo_clips: makes moving clips of the images whose record has `is_pseudo_clip`.
        absent_share: of the sentences of a clip, see `draw_sentences`; only where a clip has several.
        variation: of sentences, scale and colours.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of the configuration
        self,
        videos: Sequence[VideoRecord],
        *,
        num_frames: int,
        frame_sampling: Literal["windows", "random"] = "windows",
        supervised_frames: Literal["all", "one"] = "all",
        absent: Literal["train", "leave_out"] = "train",
        sentences_per_clip: int,
        short_side: int,
        long_side: int,
        flip_probability: float,
        seed: int,
        skips_errors: bool = False,
        pseudo_clips: PseudoClips = PseudoClips(),
        absent_share: float | None = None,
        variation: Variation = Variation(),
    ) -> None:
        self.num_frames = num_frames
        self.random_windows = frame_sampling == "random"
        self.supervises_one_frame = supervised_frames == "one"
        self.sentences_per_clip = sentences_per_clip
        self.short_side = short_side
        self.long_side = long_side
        self.flip_probability = flip_probability
        self.seed = seed
        self.skips_errors = skips_errors
        self.pseudo_clips = pseudo_clips
        self.absent_share = absent_share
        self.variation = variation
        self.samples = [sample for video in _trained_on(videos, absent=absent) for sample in self._samples_of(video)]
        if not self.samples:
            raise ValueError(f"none of the {len(videos)} videos shows an object that a sentence is about")
        logger.info("%d training samples from %d videos", len(self.samples), len(videos))

    def _samples_of(self, video: VideoRecord) -> list[_Sample]:
        length = len(video.frame_names)
        if video.is_pseudo_clip:
            if length != 1:
                raise ValueError(f"video {video.name} has {length} frames; only a single image becomes a pseudo-clip")
            windows: list[tuple[tuple[int, ...], int | None]] = [((0,) * self.num_frames, None)]
        elif video.annotated is not None:
            windows = [(centred_window(i, length, self.num_frames), i) for i in sorted(video.annotated)]
        else:
            windows = [(window, None) for window in consecutive_windows(length, self.num_frames)]
        samples = []
        for window, annotated in windows:
            shown = window if annotated is None else (annotated,)
            candidates = _expressions_in(video.expressions, video, shown)
            if self.sentences_per_clip == 1:
                samples += [_Sample(video, (expression,), window, annotated) for expression in candidates]
            elif candidates:
                samples.append(_Sample(video, video.expressions, window, annotated))
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[VideoSample | SkippedSample] | FailedBatch:
        """The samples of a batch; the data loader calls this.

        With `skips_errors`, a sample that cannot be read is replaced by a `SkippedSample`. If none of the batch can be
        read, the samples after its last one are tried, because all processes must make the same number of steps.

        Raises:
            ValueError: a sample cannot be read; with `skips_errors`, too many in a row. A loader worker returns the
                message instead.
        """
        try:
            return self._samples(keys)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            return FailedBatch(str(error))

    def _samples(self, keys: Sequence[SampleKey]) -> list[VideoSample | SkippedSample]:
        """See `__getitems__`."""
        if not self.skips_errors:
            return [self[key] for key in keys]
        items = [self._try(key) for key in keys]
        key = keys[-1]
        while not any(isinstance(item, VideoSample) for item in items):
            if len(items) >= len(keys) + MOST_SKIPPED_IN_A_ROW:
                reasons = "\n".join(item.reason for item in items[:3] if isinstance(item, SkippedSample))
                raise ValueError(f"{len(items)} samples in a row cannot be read, the first ones because of\n{reasons}")
            key = SampleKey((key.sample + 1) % len(self.samples), key.epoch)
            items.append(self._try(key))
        return items

    def _try(self, key: SampleKey) -> VideoSample | SkippedSample:
        try:
            return self[key]
        except (ValueError, OSError) as error:
            sample = self.samples[key.sample]
            return SkippedSample(sample.video.name, tuple(e.name for e in sample.expressions), str(error))

    def __getitem__(self, key: SampleKey | int) -> VideoSample:
        if isinstance(key, int):
            key = SampleKey(sample=key, epoch=0)
        sample = self.samples[key.sample]
        video = sample.video
        generator = sample_generator(self.seed, key)
        window, supervised = self._window(sample, generator)
        shown = window if supervised is None else (window[supervised],)
        expressions = _expressions_in(sample.expressions, video, shown)
        if self.sentences_per_clip > 1:
            expressions = draw_sentences(
                expressions, self.sentences_per_clip, absent_share=self.absent_share, generator=generator
            )
        clip = self._read(video, window, supervised, expressions, generator)
        clip = replace(clip, sentences=self.variation.sentences(expressions, video, generator))
        # In the published order: the nearest pixels of a mirrored mask are others than the mirrored nearest pixels.
        clip = random_flip_left_right(clip, probability=self.flip_probability, generator=generator)
        clip = self.variation.resized(clip, short_side=self.short_side, long_side=self.long_side, generator=generator)
        clip = self.variation.coloured(clip, generator)
        frame_names = tuple(video.frame_names[position] for position in window)
        return VideoSample(
            frames=clip.frames.as_subclass(Tensor),
            sentences=clip.sentences,
            targets=make_targets(clip, expressions),
            meta=tuple(SentenceMeta(video.name, expression.name, frame_names) for expression in expressions),
            annotated_frame=supervised,
        )

    def _window(self, sample: _Sample, generator: torch.Generator) -> tuple[tuple[int, ...], int | None]:
        """Positions of the frames, and the index among them of the one to supervise; None for all."""
        video, window = sample.video, sample.window
        length = len(video.frame_names)
        if sample.annotated is not None:
            # The frame may repeat at the end of the video, so its index cannot be looked up in the window.
            index = random_index(self.num_frames, generator) if self.random_windows else self.num_frames // 2
            return centred_window(sample.annotated, length, self.num_frames, index=index), index
        visible = _visible_to_any(video, sample.expressions)
        if self.random_windows and not video.is_pseudo_clip:
            has_absent = any(expression.is_absent for expression in sample.expressions)
            allowed = range(length) if has_absent else visible
            window = random_window(length, self.num_frames, visible=allowed, generator=generator)
        if not self.supervises_one_frame:
            return window, None
        indices = [index for index, position in enumerate(window) if position in visible]
        indices = indices or list(range(len(window)))  # no object is shown: the sentences of this clip are absent
        return window, indices[random_index(len(indices), generator)]

    def _read(
        self,
        video: VideoRecord,
        window: tuple[int, ...],
        supervised: int | None,
        expressions: Sequence[Expression],
        generator: torch.Generator,
    ) -> AnnotatedClip:
        if not video.is_pseudo_clip:
            annotated = window if supervised is None else (window[supervised],)
            return read_clip(video, window, expressions, annotated=annotated)
        image = read_clip(video, (0,), expressions)
        frames, masks = self.pseudo_clips(
            image.frames.as_subclass(Tensor),
            image.masks.as_subclass(Tensor).bool(),
            num_frames=self.num_frames,
            generator=generator,
        )
        if supervised is not None:
            masks = masks[:, supervised : supervised + 1]
        return annotate_clip(frames, masks, sentences=image.sentences)


def _trained_on(videos: Sequence[VideoRecord], *, absent: Literal["train", "leave_out"]) -> Sequence[VideoRecord]:
    """The videos with the sentences to train on; the number of absent ones goes to the log."""
    total = sum(len(video.expressions) for video in videos)
    num_absent = sum(expression.is_absent for video in videos for expression in video.expressions)
    if num_absent:
        what = "their targets have no object" if absent == "train" else "they are left out (data.absent)"
        logger.info("%d of %d sentences mean nothing in their video: %s", num_absent, total, what)
    if absent == "train":
        return videos
    return [replace(v, expressions=tuple(e for e in v.expressions if not e.is_absent)) for v in videos]


def read_clip(
    video: VideoRecord,
    positions: Sequence[int],
    expressions: Sequence[Expression],
    *,
    annotated: Sequence[int] | None = None,
) -> AnnotatedClip:
    """Frames, and masks and boxes of the referred objects, each at the size on disk.

    Boxes are those of the annotation where the video has them, otherwise the extents of the masks.

    Args:
        video: with masks, unless all expressions are absent.
        positions: of the frames.
        expressions: those that refer to the same objects share a mask, in the order of `object_groups`; absent ones
            have none.
        annotated: positions of the masks; None for those of the frames.

    Raises:
        ValueError: an object does not occur in these frames, although `video.visible` lists it.
    """
    groups = object_groups(expressions)
    if annotated is None:
        annotated = positions
    frames = as_clip(video.frames.read(positions))
    height, width = frames.shape[-2:]
    sentences = tuple(expression.sentence for expression in expressions)
    if not groups:
        nothing = torch.zeros(0, len(annotated), height, width, dtype=torch.bool)
        return annotate_clip(frames, nothing, sentences=sentences)
    if video.masks is None:
        raise ValueError(f"video {video.name} has no masks; it cannot be trained on")
    objects = tuple(dict.fromkeys(number for group in groups for number in group))
    size = mask_size(video.masks, annotated[0], frame_size=(height, width))
    masks = torch.from_numpy(video.masks.read(annotated, size=size, objects=objects))
    parts = [masks[[objects.index(number) for number in group]] for group in groups]
    union = torch.stack([part[0] if len(part) == 1 else part.any(dim=0) for part in parts])
    for group, mask in zip(groups, union, strict=True):
        if not mask.view(torch.uint8).amax():  # any() takes 20 times as long
            raise ValueError(
                f"objects {list(group)} do not occur in frames {[video.frame_names[p] for p in annotated]} of video "
                f"{video.name}: have the masks changed since the list of visible objects was made? Delete that list."
            )
    boxes = _annotated_boxes(video, groups, height=height, width=width, num_frames=len(annotated))
    return annotate_clip(frames, union, sentences=sentences, boxes_xyxy_px=boxes)


def _annotated_boxes(
    video: VideoRecord, groups: Sequence[tuple[int, ...]], *, height: int, width: int, num_frames: int
) -> Float[Tensor, "target time 4"] | None:
    """Of each group of objects, the box around all of them within the image; None where there are no annotated boxes.

    Source: the published loader of RefCOCO, which moves the corners of `bbox` to the border of the image.
    """
    if not video.boxes_xywh_px:
        return None
    boxes = []
    for group in groups:
        annotated = torch.tensor([video.boxes_xywh_px[number] for number in group], dtype=torch.float32)
        corners = xywh_to_xyxy_inside(annotated, height=height, width=width)
        boxes.append(torch.cat([corners[:, :2].amin(dim=0), corners[:, 2:].amax(dim=0)]))
    return torch.stack(boxes)[:, None].expand(-1, num_frames, -1)


def object_groups(expressions: Sequence[Expression]) -> tuple[tuple[int, ...], ...]:
    """The different (groups of) objects that the expressions refer to, in order of first mention.

    Absent expressions have none.
    """
    return tuple(dict.fromkeys(expression.known_ids for expression in expressions if not expression.is_absent))


def make_targets(clip: AnnotatedClip, expressions: Sequence[Expression]) -> tuple[ClipTarget, ...]:
    """One target per expression; those that refer to the same objects share a mask, absent ones have no object."""
    height, width = clip.frames.shape[-2:]
    masks = clip.masks.as_subclass(Tensor)  # (target, time, height, width)
    visible = masks.flatten(2).amax(dim=2).bool()  # (target, time); any() takes 20 times as long
    boxes = clip.boxes_xyxy_px.as_subclass(Tensor) / torch.tensor([width, height, width, height])
    boxes = xyxy_to_cxcywh(boxes).reshape(*visible.shape, 4)  # (target, time, 4)
    boxes = torch.where(visible[..., None], boxes, 0)
    groups = object_groups(expressions)
    targets = []
    for expression in expressions:
        first = 0 if expression.is_absent else groups.index(expression.known_ids)
        own = slice(first, first if expression.is_absent else first + 1)
        labels = [] if expression.is_absent else [expression.label]
        targets.append(
            ClipTarget(
                masks=masks[own].view(torch.bool),
                boxes_cxcywh_norm=boxes[own],
                is_visible=visible[own],
                labels=torch.tensor(labels, dtype=torch.long),
                referred=None if expression.is_absent else 0,
            )
        )
    return tuple(targets)


def _visible_frames(video: VideoRecord, expression: Expression) -> frozenset[int]:
    """Positions of the frames that show at least one of the referred objects; none for an absent expression.

    Raises:
        ValueError: its objects are secret.
    """
    if expression.is_secret:
        raise ValueError(f"video {video.name}, expression {expression.name}: its object is secret, training needs it")
    return frozenset[int]().union(*(video.visible.get(number, frozenset()) for number in expression.known_ids))


def _visible_to_any(video: VideoRecord, expressions: Sequence[Expression]) -> frozenset[int]:
    return frozenset[int]().union(*(_visible_frames(video, expression) for expression in expressions))


def _expressions_in(expressions: Sequence[Expression], video: VideoRecord, window: tuple[int, ...]) -> list[Expression]:
    """Those whose object occurs in at least one frame of the window, and absent ones."""
    return [e for e in expressions if e.is_absent or not _visible_frames(video, e).isdisjoint(window)]
