"""Pseudo-clips: images that become clips."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loading.pseudo_clips import PseudoClips, add_brightness, motion_blur
from loading.transforms import annotate_clip

BRIGHT = 100  # between background and object, whatever the brightness adds


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def image_with_object(height, width, top, left, bottom, right):
    """An image that shows the object as white on black, and its mask."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., top:bottom, left:right] = True
    return (mask.to(torch.uint8) * 255).expand(1, 3, -1, -1).contiguous(), mask


@st.composite
def scenes(draw):
    height, width = draw(st.integers(24, 64)), draw(st.integers(24, 64))
    top, left = draw(st.integers(0, height - 8)), draw(st.integers(0, width - 8))
    bottom, right = draw(st.integers(top + 8, height)), draw(st.integers(left + 8, width))
    return image_with_object(height, width, top, left, bottom, right)


def far_from_borders(masks, reach):
    """Pixels that are more than `reach` pixels from the border of a mask and of the picture."""
    as_float = masks.float()[:, None]
    grown = torch.nn.functional.max_pool2d(as_float, 2 * reach + 1, stride=1)
    shrunk = -torch.nn.functional.max_pool2d(-as_float, 2 * reach + 1, stride=1)
    return torch.nn.functional.pad((grown == shrunk)[:, 0], [reach] * 4)  # False beside the border of the picture


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.booleans())
def test_frame_mask_and_box_stay_aligned_under_every_draw(scene, seed, blurred):
    image, mask = scene
    make = PseudoClips(blur_probability=1.0 if blurred else 0.0)
    frames, masks = make(image, mask, num_frames=4, generator=seeded(seed))
    shown = frames[:, 0] > BRIGHT
    # Interpolation mixes object and background in the pixels of the border, which may lie just outside the picture; a
    # blur does so in half its length beside it.
    inner = far_from_borders(masks[0], reach=6 if blurred else 1)
    assert torch.equal(shown[inner], masks[0][inner])
    clip = annotate_clip(frames, masks, sentences=("it",))
    for box, frame_mask in zip(clip.boxes_xyxy_px.tolist(), masks[0], strict=True):
        rows, columns = np.nonzero(frame_mask.numpy())
        expected = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0, 0, 0, 0]
        assert box == expected


@settings(max_examples=20, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_one_frame_is_the_image_itself(scene, seed):
    image, mask = scene
    frames, masks = PseudoClips()(image, mask, num_frames=8, generator=seeded(seed))
    assert frames.shape == (8, 3, *image.shape[-2:])
    assert masks.shape == (1, 8, *image.shape[-2:])
    same = [torch.equal(frame, image[0]) and torch.equal(masks[0, i], mask[0, 0]) for i, frame in enumerate(frames)]
    assert any(same)


def test_the_place_of_the_image_itself_is_drawn():
    image, mask = image_with_object(32, 40, 8, 8, 24, 24)
    places = set()
    for seed in range(40):
        frames, _ = PseudoClips()(image, mask, num_frames=4, generator=seeded(seed))
        places |= {i for i, frame in enumerate(frames) if torch.equal(frame, image[0])}
    assert places == {0, 1, 2, 3}


def test_the_same_seed_gives_the_same_clip_and_another_seed_another():
    image, mask = image_with_object(32, 40, 8, 8, 24, 24)
    make = PseudoClips()
    first, second, other = (make(image, mask, num_frames=8, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_the_global_generator_is_neither_read_nor_moved():
    image, mask = image_with_object(32, 40, 8, 8, 24, 24)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    PseudoClips()(image, mask, num_frames=8, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_object_that_leaves_the_picture_has_an_empty_mask_there():
    image, mask = image_with_object(48, 64, 0, 0, 3, 3)
    _, masks = PseudoClips()(image, mask, num_frames=8, generator=seeded(0))
    shown = masks[0].flatten(1).any(dim=1)
    assert shown.any(), "the image itself shows it"
    assert not shown.all(), "a small object in the corner leaves when the picture turns by up to 20 degrees"


def test_several_objects_move_together():
    image, mask = image_with_object(48, 64, 10, 10, 30, 30)
    masks = torch.cat([mask, mask, ~mask])
    _, moved = PseudoClips()(image, masks, num_frames=8, generator=seeded(3))
    assert torch.equal(moved[0], moved[1])
    assert not (moved[0] & moved[2]).any()


def test_a_single_frame_is_the_image():
    image, mask = image_with_object(16, 16, 4, 4, 12, 12)
    frames, masks = PseudoClips()(image, mask, num_frames=1, generator=seeded(0))
    assert torch.equal(frames, image)
    assert torch.equal(masks, mask)


def test_nothing_moves_where_all_ranges_are_zero():
    image, mask = image_with_object(20, 30, 4, 4, 12, 12)
    still = PseudoClips(brightness=0.0, perspective=0.0, shift=0.0, rotation_degrees=0.0, blur_probability=0.0)
    frames, masks = still(image, mask, num_frames=3, generator=seeded(0))
    assert torch.equal(frames, image.expand(3, -1, -1, -1))
    assert torch.equal(masks, mask.expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("levels", "expected"), [(40.4, [40, 140, 255]), (-40.4, [0, 60, 210])])
def test_brightness_is_added_and_stays_in_range(levels, expected):
    image = torch.tensor([0, 100, 250], dtype=torch.uint8).reshape(1, 1, 3).expand(3, -1, -1)
    assert add_brightness(image, levels)[0, 0].tolist() == expected


@pytest.mark.parametrize("angle", [0.0, 45.0, 90.0, 137.0])
def test_motion_blur_smears_along_a_line_and_does_not_move_the_picture(angle):
    image = torch.zeros(3, 31, 31, dtype=torch.uint8)
    image[:, 15, 15] = 252
    blurred = motion_blur(image, length=9, angle_degrees=angle)[0].double()
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    total = blurred.sum()
    assert 0.9 * 252 <= total <= 1.1 * 252, "a blur keeps the light, up to rounding"
    assert (blurred * x).sum() / total == pytest.approx(15, abs=0.1)
    assert (blurred * y).sum() / total == pytest.approx(15, abs=0.1)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along = (x - 15) * cos + (15 - y) * sin  # rows count downwards
    across = (x - 15) * sin - (15 - y) * cos
    assert (along**2 * blurred).sum() / total > 4
    assert (across**2 * blurred).sum() / total < 1


def test_a_blur_of_an_even_picture_changes_nothing():
    image = torch.full((3, 12, 20), 77, dtype=torch.uint8)
    assert torch.equal(motion_blur(image, length=11, angle_degrees=30.0), image)


def test_brightness_goes_up_as_far_as_down():
    frame, mask = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    only_brightness = PseudoClips(
        brightness=40.0, perspective=0.0, shift=0.0, rotation_degrees=0.0, blur_probability=0.0
    )
    frames, _ = only_brightness(frame, mask, num_frames=200, generator=seeded(0))
    changes = frames[:, 0, 4, 4].int() - 128
    assert -40 <= changes.min() < -35
    assert 35 < changes.max() <= 40
    assert abs(float(changes.float().mean())) < 8
