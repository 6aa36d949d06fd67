import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from structures.clips import IMAGENET, ByteClips, normalise, one_clip


def every_byte():
    return torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256)


def test_normalising_is_that_of_the_published_code_to_the_bit():
    picture = Image.fromarray(every_byte()[0].permute(1, 2, 0).numpy())
    expected = functional.normalize(functional.to_tensor(picture), list(IMAGENET.mean), list(IMAGENET.std))
    assert torch.equal(normalise(every_byte())[0], expected)


@pytest.mark.parametrize("order", ["channels first", "channels last", "some frames", "one picture"])
def test_numbers_that_are_looked_up_are_those_that_are_computed_whatever_the_order_of_memory(order):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 4, 5, 7, 3), dtype=torch.uint8, generator=generator).movedim(-1, -3)
    frames = {
        "channels first": frames.contiguous(),
        "channels last": frames,
        "some frames": frames[:, 1:3],
        "one picture": frames[0, 0],
    }[order]
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET.mean, IMAGENET.std))
    assert torch.equal(normalise(frames), frames.float().div(255).sub(mean).div(std))


def test_normalised_padding_is_zero_and_the_bytes_stay():
    frames = torch.full((2, 2, 3, 4, 5), 51, dtype=torch.uint8)
    is_padding = torch.zeros(2, 2, 4, 5, dtype=torch.bool)
    is_padding[0, 1] = is_padding[1, :, 3:] = True
    clips = ByteClips(frames, is_padding, ((4, 5), (3, 5))).normalised()
    grey = (0.2 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    torch.testing.assert_close(clips.frames[0, 0, :, 0, 0], grey)
    assert (clips.frames[0, 1] == 0).all()
    assert (clips.frames[1, :, :, 3:] == 0).all()
    assert (clips.frames[1, :, :, :3] != 0).all()
    assert clips.is_padding is is_padding
    assert (frames == 51).all()


def test_one_clip_is_a_batch_without_padding():
    clips = one_clip(every_byte())
    assert clips.frames.shape == (1, 2, 3, 1, 256)
    assert clips.sizes_px == ((1, 256),)
    assert not clips.is_padding.any()
