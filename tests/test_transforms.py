import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from loading.frames import bytes_resized, resize_frames, resized_size
from loading.transforms import annotate_clip, flip_left_right, random_flip_left_right, resize


def make_clip(height=20, width=32, time=2):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (time, 3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(2, time, height, width, dtype=torch.bool)
    masks[0, :, 4:10, 6:18] = True
    masks[1, 0, 12:16, 2:6] = True
    return annotate_clip(frames, masks, sentences=("the left one", "another"))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((720, 1280), (360, 640)),
        ((1280, 720), (640, 360)),
        ((480, 854), (360, 640)),
        ((480, 910), (338, 640)),
        ((480, 640), (360, 480)),
        ((500, 500), (360, 360)),
        ((360, 480), (360, 480)),
        ((180, 320), (360, 640)),
        ((5, 5000), (1, 1000)),
        ((3, 5000), (1, 640)),
        ((1, 5000), (1, 640)),
        ((5000, 1), (640, 1)),
        ((2, 100_000), (1, 640)),
    ],
)
def test_the_short_side_sets_the_size_unless_the_long_side_exceeds_its_limit(size, expected):
    assert resized_size(*size, short_side=360, long_side=640) == expected


def test_boxes_are_pixel_extents_of_the_original_mask_and_scale_with_the_frame():
    clip = make_clip()
    torch.testing.assert_close(
        torch.Tensor(clip.boxes_xyxy_px).reshape(2, 2, 4)[:, 0], torch.tensor([[6.0, 4, 17, 9], [2, 12, 5, 15]])
    )
    larger = resize(clip, short_side=30, long_side=100)
    assert larger.frames.shape == (2, 3, 30, 48)
    torch.testing.assert_close(torch.Tensor(larger.boxes_xyxy_px), torch.Tensor(clip.boxes_xyxy_px) * 1.5)


def test_resizing_keeps_masks_and_a_clip_of_the_right_size_is_not_touched():
    clip = make_clip()
    assert resize(clip, short_side=20, long_side=64) is clip
    larger = resize(clip, short_side=40, long_side=100)
    expected = clip.masks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(torch.Tensor(larger.masks), torch.Tensor(expected))


def test_resizing_frames_agrees_with_pillow():
    frame = make_clip(height=60, width=80, time=1).frames
    resized = resize_frames(torch.as_tensor(frame), short_side=30, long_side=100)
    pillow = Image.fromarray(frame[0].permute(1, 2, 0).numpy()).resize((40, 30), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)[None]
    # one of 255 levels: the two round differently
    torch.testing.assert_close(resized, expected, atol=1, rtol=0)


@pytest.mark.parametrize("time", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(17, 29), (31, 70), (60, 80), (1, 5)])
def test_resizing_frames_is_that_of_torchvision(time: int, channels_last: bool, size: tuple[int, int]):
    frames = torch.as_tensor(make_clip(height=40, width=53, time=time).frames)
    if channels_last:
        frames = frames.contiguous(memory_format=torch.channels_last)
    expected = functional.resize(frames, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(bytes_resized(frames, size), expected)


def test_where_bytes_are_slow_floats_are_resized_as_torchvision_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    frames = torch.as_tensor(make_clip(height=40, width=53).frames)
    resized = bytes_resized(frames, (17, 29))
    assert torch.equal(resized, functional.resize(frames, [17, 29], antialias=True))
    monkeypatch.undo()
    assert not torch.equal(resized, bytes_resized(frames, (17, 29))), "the two ways can be told apart"


def test_frames_of_the_right_size_are_not_touched():
    frames = torch.as_tensor(make_clip().frames)
    assert resize_frames(frames, short_side=20, long_side=64) is frames


def test_a_flip_mirrors_pixels_masks_and_boxes_and_swaps_words():
    clip = make_clip()
    flipped = flip_left_right(clip)
    assert torch.equal(torch.Tensor(flipped.frames), torch.Tensor(clip.frames).flip(-1))
    assert torch.equal(torch.Tensor(flipped.masks), torch.Tensor(clip.masks).flip(-1))
    assert torch.Tensor(flipped.boxes_xyxy_px)[0].tolist() == [32 - 17, 4, 32 - 6, 9]
    assert flipped.sentences == ("the right one", "another")
    assert clip.sentences == ("the left one", "another")


def test_the_share_of_flips_is_the_probability_and_follows_from_the_generator():
    clip = make_clip()

    def flips(seed):
        generator = torch.Generator().manual_seed(seed)
        return [random_flip_left_right(clip, probability=0.3085, generator=generator) is not clip for _ in range(500)]

    assert flips(1) == flips(1)
    assert flips(1) != flips(2)
    assert 0.25 < np.mean(flips(1)) < 0.37
    generator = torch.Generator().manual_seed(0)
    assert all(random_flip_left_right(clip, probability=0.0, generator=generator) is clip for _ in range(50))
