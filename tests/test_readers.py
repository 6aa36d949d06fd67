from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.readers import ImageFrames, KeptFrames, PngMaskFolders, PngMasks
from loading.frames import as_clip
from media.images import image_size, read_rgb
from media.mask_png import write_binary_png, write_index_png

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def picture():
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def as_pillow_reads(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_every_kind_of_image_is_read_as_pillow_reads_it(tmp_path, picture, mode, suffix):
    if (suffix == ".jpg") == (mode in ("RGBA", "LA", "P", "1")) and mode not in ("RGB", "L"):
        pytest.skip("the format has no such images")
    path = tmp_path / f"frame{suffix}"
    picture.convert(mode).save(path)
    frame = read_rgb(path)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, as_pillow_reads(path))


def test_a_progressive_jpeg_is_read_as_pillow_reads_it(tmp_path, picture):
    picture.save(tmp_path / "frame.jpg", progressive=True)
    np.testing.assert_array_equal(read_rgb(tmp_path / "frame.jpg"), as_pillow_reads(tmp_path / "frame.jpg"))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_images_are_named(tmp_path, picture, suffix, share):
    path = tmp_path / f"frame{suffix}"
    picture.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"frame\{suffix}: not a readable image"):
        read_rgb(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_that_is_damaged_inside_is_named_or_read(tmp_path, picture, suffix):
    path = tmp_path / f"frame{suffix}"
    picture.save(path)
    content = path.read_bytes()
    generator, messages = np.random.default_rng(0), []
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_rgb(path).ndim == 3
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert messages


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_truncated_masks_are_named(tmp_path, share):
    reader = PngMasks(tmp_path, ("00000",))
    write_index_png(reader.path(0), np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8))
    data = reader.path(0).read_bytes()
    reader.path(0).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"00000\.png: not a readable image"):
        reader.read((0,), size=(HEIGHT, WIDTH), objects=(1,))


def test_a_repeated_frame_is_read_once(tmp_path, picture, monkeypatch):
    reader = ImageFrames(tmp_path, ("a", "b"))
    for name, angle in (("a", 0), ("b", 180)):
        picture.rotate(angle).save(tmp_path / f"{name}.jpg")
    read = []
    monkeypatch.setattr("datasets.readers.read_rgb", lambda path: read.append(path.stem) or read_rgb(path))
    frames = reader.read((1, 0, 1))
    assert read == ["b", "a"]
    np.testing.assert_array_equal(frames, [as_pillow_reads(tmp_path / f"{name}.jpg") for name in "bab"])
    assert reader.size() == image_size(tmp_path / "a.jpg") == (HEIGHT, WIDTH)


def test_a_clip_is_time_channel_height_width_and_the_channels_of_a_pixel_lie_side_by_side():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    clip = as_clip(images)
    np.testing.assert_array_equal(clip.numpy(), images.transpose(0, 3, 1, 2))
    assert clip.is_contiguous(memory_format=torch.channels_last)


def test_masks_are_object_time_height_width_and_only_of_the_objects_that_are_asked_for(tmp_path):
    reader = PngMasks(tmp_path, ("a", "b"))
    maps = np.random.default_rng(0).integers(0, 4, (2, 5, 7), dtype=np.uint8)
    for position in (0, 1):
        write_index_png(reader.path(position), maps[position])
    masks = reader.read((1, 0, 1), size=(5, 7), objects=(3, 1))
    np.testing.assert_array_equal(masks, [maps[[1, 0, 1]] == 3, maps[[1, 0, 1]] == 1])


def test_masks_of_a_folder_per_object_come_in_the_order_that_is_asked_for(tmp_path):
    drawn = np.zeros((2, 2, 3, 4), dtype=bool)  # object, time, height, width
    drawn[0, 0, 1, 2] = drawn[0, 1, 2, 0] = drawn[1, 0, 1, 2] = drawn[1, 1, 0, :] = True
    for number, masks in enumerate(drawn):
        for name, mask in zip("ab", masks, strict=True):
            write_binary_png(tmp_path / str(number) / f"{name}.png", mask)
    reader = PngMaskFolders({7: tmp_path / "0", 9: tmp_path / "1"}, ("a", "b"))
    np.testing.assert_array_equal(reader.read([1, 0], size=(3, 4), objects=[9, 7]), drawn[::-1, ::-1])
    with pytest.raises(ValueError, match=r"0/a\.png: mask of .height, width. \(3, 4\), but its frame has \(3, 5\)"):
        reader.read([0], size=(3, 5), objects=[7])


class CountingFrames:
    """Frames of one colour each, and which of them were decoded."""

    def __init__(self):
        self.decoded = []

    def read(self, positions):
        self.decoded += positions
        return np.stack([np.full((2, 3, 3), position, dtype=np.uint8) for position in positions])

    def size(self):
        return (2, 3)

    def path(self, position):
        return Path(f"{position}.png")


def test_kept_frames_are_decoded_once_as_long_as_there_is_room():
    source = CountingFrames()
    kept = KeptFrames(source, most_bytes=3 * 2 * 3 * 3)
    for positions in ([4, 7, 4], [7, 4], [9, 4], [5], [5, 9]):
        assert kept.read(positions)[:, 0, 0, 0].tolist() == positions
    assert source.decoded == [4, 7, 9, 5, 5]  # three frames have room


def test_what_is_done_to_a_frame_does_not_reach_the_kept_one():
    kept = KeptFrames(CountingFrames())
    kept.read([4])[...] = 0
    assert kept.read([4])[0, 0, 0, 0] == 4
