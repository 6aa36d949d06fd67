"""Whatever is drawn, masks, boxes, frames and words stay aligned: frames are painted from the masks and must match."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from datasets.records import Expression, VideoRecord
from loading.clips import ClipDataset, make_targets, read_clip
from loading.frames import as_clip, resize_frames, resized_size
from loading.sampling import SampleKey, centred_window, consecutive_windows, random_window
from loading.transforms import flip_left_right, random_flip_left_right, resize
from structures.boxes import cxcywh_to_xyxy, mask_extents_xyxy

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the type checker does

PATIENT = settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
"""The machine may be busy; and explaining a failure would trace every line of torch."""

SIDE = st.integers(8, 40)
INSIDE, OUTSIDE = 250, 5
"""Brightness of a painted object, and of everything else."""


class PaintedFrames:
    """Channel c of a frame is bright where object c + 1 is."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks  # (object, time, height, width)

    def read(self, positions):
        chosen = self.masks[:, list(positions)]
        frames = np.full((len(positions), *chosen.shape[2:], 3), OUTSIDE, dtype=np.uint8)
        frames[..., : len(chosen)][np.moveaxis(chosen, 0, -1)] = INSIDE
        return frames

    def size(self):
        return tuple(self.masks.shape[2:])

    def path(self, position):
        raise NotImplementedError(f"frame {position} is painted, not read")


class PaintedMasks:
    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks

    def read(self, positions, *, size, objects):
        assert size == tuple(self.masks.shape[2:])
        return self.masks[[number - 1 for number in objects]][:, list(positions)]


@st.composite
def painted_videos(draw):
    """A video with one to three rectangles, which may overlap and be missing from any frame but at least one."""
    height, width, length = draw(SIDE), draw(SIDE), draw(st.integers(1, 6))
    masks = np.zeros((draw(st.integers(1, 3)), length, height, width), dtype=bool)
    for mask in masks:
        shown = draw(st.sets(st.integers(0, length - 1), min_size=1))
        for position in shown:
            top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            bottom, right = draw(st.integers(top, height - 1)), draw(st.integers(left, width - 1))
            mask[position, top : bottom + 1, left : right + 1] = True
    numbers = range(1, len(masks) + 1)
    meant = draw(st.lists(st.sets(st.sampled_from(numbers), min_size=1), min_size=1, max_size=3))
    return VideoRecord(
        name="painted",
        frame_names=tuple(map(str, range(length))),
        frames=PaintedFrames(masks),
        masks=PaintedMasks(masks),
        expressions=tuple(
            Expression(str(i), "the thing on the left", tuple(sorted(ids))) for i, ids in enumerate(meant)
        ),
        visible={n: frozenset(np.flatnonzero(masks[n - 1].any(axis=(1, 2))).tolist()) for n in numbers},
    )


@st.composite
def samples(draw):
    """A data set of one video with drawn settings, and one of its samples."""
    video = draw(painted_videos())
    if draw(st.booleans()):
        seen = frozenset[int]().union(*video.visible.values())
        video = replace(video, annotated=seen)
    clips = ClipDataset(
        [video],
        num_frames=draw(st.integers(1, 5)),
        frame_sampling=draw(st.sampled_from(["windows", "random"])),
        supervised_frames=draw(st.sampled_from(["all", "one"])),
        sentences_per_clip=draw(st.integers(1, 3)),
        short_side=draw(st.integers(6, 60)),
        long_side=draw(st.integers(60, 90)),
        flip_probability=draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=draw(st.integers(0, 99)),
    )
    return video, clips, SampleKey(draw(st.integers(0, len(clips) - 1)), draw(st.integers(0, 9)))


def is_flipped(sample):
    """What the words say."""
    (sentence,) = set(sample.sentences)
    return {"the thing on the left": False, "the thing on the right": True}[sentence]


@PATIENT
@given(samples())
def test_every_sample_shows_its_objects_where_masks_and_boxes_say(drawn):
    video, clips, key = drawn
    sample = clips[key]
    height, width = sample.frames.shape[2:]
    assert (height, width) == resized_size(*video.frames.size(), short_side=clips.short_side, long_side=clips.long_side)
    window = [int(name) for name in sample.meta[0].frame_names]
    assert len(window) == len(sample.frames) == clips.num_frames
    shown = range(len(window)) if sample.annotated_frame is None else [sample.annotated_frame]
    for meta, target in zip(sample.meta, sample.targets, strict=True):
        assert target.masks.shape == (1, len(shown), height, width)
        (objects,) = [e.object_ids for e in video.expressions if e.name == meta.expression]
        original = torch.from_numpy(video.masks.masks[[number - 1 for number in objects]].any(axis=0))
        if is_flipped(sample):
            original = original.flip(-1)
        for step, place in enumerate(shown):
            truth, mask = original[window[place]], target.masks[0, step]
            # the mask is the nearest pixel of the original one
            rows = (torch.arange(height) * (truth.shape[0] / height)).long().clamp(max=truth.shape[0] - 1)
            columns = (torch.arange(width) * (truth.shape[1] / width)).long().clamp(max=truth.shape[1] - 1)
            assert torch.equal(mask, truth[rows][:, columns])
            assert target.is_visible[0, step] == mask.any()  # a tiny object may vanish when the picture shrinks
            check_box(target.boxes_cxcywh_norm[0, step], truth, mask)
            scale = height / truth.shape[0]
            if scale >= 1:  # a shrunk picture blurs what its mask is sampled from
                check_paint(sample.frames[place], mask, [number - 1 for number in objects], scale)
    frames = as_clip(video.frames.read(window))
    frames = frames.flip(-1) if is_flipped(sample) else frames
    expected = resize_frames(frames, short_side=clips.short_side, long_side=clips.long_side)
    assert torch.equal(sample.frames, expected)


def check_box(box, truth, mask):
    """The box spans the original mask, as a share of the picture; zeros for what is not there."""
    if not mask.any():
        assert (box == 0).all()
        return
    height, width = truth.shape
    left, top, right, bottom = mask_extents_xyxy(truth).tolist()
    low, high = cxcywh_to_xyxy(box).reshape(2, 2)
    # A flip mirrors w - x, and the far edge is the last pixel: the box of a mirrored picture starts a pixel later.
    assert (high - low).tolist() == pytest.approx([(right - left) / width, (bottom - top) / height], abs=1e-5)
    assert low.tolist() == pytest.approx([left / width, top / height], abs=1.0 / width + 1e-5)


def check_paint(frame, mask, channels, scale):
    """Deep inside an object a channel of it is bright, far outside all of them are dark."""
    bright = (frame[channels] > (INSIDE + OUTSIDE) // 2).any(dim=0)
    reach = math.ceil(scale)
    around = 2 * reach + 1
    grown = torch.nn.functional.max_pool2d(mask[None].float(), around, 1, reach)[0].bool()
    shrunk = ~torch.nn.functional.max_pool2d((~mask)[None].float(), around, 1, reach)[0].bool()
    assert not (bright & ~grown).any()
    assert not (shrunk & ~bright).any()


@PATIENT
@given(painted_videos(), st.integers(6, 60), st.integers(60, 90))
def test_flipping_twice_changes_nothing_and_commutes_with_targets(video, short_side, long_side):
    positions = range(len(video.frame_names))
    clip = resize(read_clip(video, positions, video.expressions), short_side=short_side, long_side=long_side)
    again = flip_left_right(flip_left_right(clip))
    assert torch.equal(again.frames.as_subclass(Tensor), clip.frames.as_subclass(Tensor))
    assert torch.equal(again.masks.as_subclass(Tensor), clip.masks.as_subclass(Tensor))
    torch.testing.assert_close(again.boxes_xyxy_px.as_subclass(Tensor), clip.boxes_xyxy_px.as_subclass(Tensor))
    assert again.sentences == clip.sentences
    mirrored = make_targets(flip_left_right(clip), video.expressions)
    for target, other in zip(make_targets(clip, video.expressions), mirrored, strict=True):
        assert torch.equal(target.masks.flip(-1), other.masks)
        assert torch.equal(target.is_visible, other.is_visible)
        seen = target.is_visible
        torch.testing.assert_close(1 - target.boxes_cxcywh_norm[seen][:, 0], other.boxes_cxcywh_norm[seen][:, 0])
        torch.testing.assert_close(target.boxes_cxcywh_norm[seen][:, 1:], other.boxes_cxcywh_norm[seen][:, 1:])


@PATIENT
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 800), st.integers(1, 1400))
def test_resized_sizes_keep_the_shape_and_their_limits(height, width, short_side, long_side):
    low, high = min(height, width), max(height, width)
    new = resized_size(height, width, short_side=short_side, long_side=long_side)
    if high / low * short_side <= long_side:
        assert min(new) == short_side
    else:
        assert max(new) <= long_side + high / low, "the short side is rounded to whole pixels"
    assert new[0] <= new[1] if height <= width else new[1] <= new[0]


@PATIENT
@given(st.integers(1, 60), st.integers(1, 12), st.data())
def test_windows_have_their_length_stay_in_the_video_and_hold_what_they_should(length, num_frames, data):
    windows = consecutive_windows(length, num_frames)
    assert {position for window in windows for position in window} == set(range(length))
    position = data.draw(st.integers(0, length - 1))
    index = data.draw(st.integers(0, num_frames - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    drawn = random_window(length, num_frames, visible={position}, generator=generator)
    assert position in drawn
    centred = centred_window(position, length, num_frames, index=index)
    assert centred[index] == position
    for window in (*windows, drawn, centred):
        assert len(window) == num_frames
        assert all(later - sooner in (0, 1) for sooner, later in pairwise(window))
        assert 0 <= window[0] <= window[-1] < length


@PATIENT
@given(st.floats(0, 1), st.integers(0, 2**31))
def test_a_flip_is_drawn_from_the_generator_alone(probability, seed):
    masks = np.ones((1, 1, 8, 8), dtype=bool)
    video = VideoRecord("v", ("0",), PaintedFrames(masks), PaintedMasks(masks), (Expression("0", "left", (1,)),))
    clip = read_clip(video, (0,), video.expressions)
    flips = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(seed)
        flips.append(random_flip_left_right(clip, probability=probability, generator=generator) is not clip)
        torch.rand(3)
    assert flips[0] == flips[1] == (torch.rand((), generator=torch.Generator().manual_seed(seed)).item() < probability)
