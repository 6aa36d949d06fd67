import dataclasses

import pytest
import torch

from loading.collate import collate
from structures.samples import ClipTarget, SentenceMeta, VideoSample


def make_sample(time, height, width, sentences=("a",), *, annotated_frame=None):
    steps = time if annotated_frame is None else 1
    target = ClipTarget(
        masks=torch.ones(1, steps, height, width, dtype=torch.bool),
        boxes_cxcywh_norm=torch.full((1, steps, 4), 0.5),
        is_visible=torch.ones(1, steps, dtype=torch.bool),
        labels=torch.tensor([0]),
    )
    meta = SentenceMeta(video="v", expression="0", frame_names=("0",) * time)
    return VideoSample(
        frames=torch.ones(time, 3, height, width, dtype=torch.uint8),
        sentences=tuple(sentences),
        targets=(target,) * len(sentences),
        meta=(meta,) * len(sentences),
        annotated_frame=annotated_frame,
    )


def test_clips_are_padded_at_the_end_the_bottom_and_the_right():
    batch = collate([make_sample(2, 4, 6), make_sample(3, 5, 4)])
    assert batch.clips.frames.shape == (2, 3, 3, 5, 6)
    assert batch.clips.sizes_px == ((4, 6), (5, 4))
    expected = torch.ones(2, 3, 5, 6, dtype=torch.bool)
    expected[0, :2, :4, :6] = False
    expected[1, :3, :5, :4] = False
    assert torch.equal(batch.clips.is_padding, expected)
    assert torch.equal(batch.clips.frames, (~expected).byte()[:, :, None].expand(-1, -1, 3, -1, -1))


def test_targets_are_padded_like_the_clips():
    batch = collate([make_sample(2, 4, 6), make_sample(3, 5, 4)])
    for target, is_padding in zip(batch.targets, batch.clips.is_padding, strict=True):
        assert torch.equal(target.masks[0], ~is_padding)
    assert batch.targets[0].is_visible.tolist() == [[True, True, False]]
    assert batch.targets[0].boxes_cxcywh_norm[0, :, 0].tolist() == [0.5, 0.5, 0.0]


def test_sentences_are_lined_up_clip_by_clip():
    batch = collate([make_sample(2, 4, 4, "ab"), make_sample(2, 4, 4, "c"), make_sample(2, 4, 4, "def")])
    assert batch.sentences == tuple("abcdef")
    assert batch.clip_of_sentence.tolist() == [0, 0, 1, 2, 2, 2]
    assert len(batch.targets) == len(batch.meta) == 6
    assert batch.annotated_frame is None


def test_a_target_of_an_annotated_frame_keeps_its_single_step():
    batch = collate([make_sample(3, 4, 6, annotated_frame=1), make_sample(3, 5, 4, annotated_frame=2)])
    assert batch.annotated_frame is not None
    assert batch.annotated_frame.tolist() == [1, 2]
    assert [tuple(target.masks.shape) for target in batch.targets] == [(1, 1, 5, 6)] * 2


def test_mixing_samples_with_and_without_an_annotated_frame_is_an_error():
    with pytest.raises(ValueError, match="annotated_frame"):
        collate([make_sample(2, 4, 4), dataclasses.replace(make_sample(2, 4, 4), annotated_frame=0)])
    with pytest.raises(ValueError, match="at least one"):
        collate([])
