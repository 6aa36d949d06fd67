"""Mask files that we write ourselves: other programs read the same pixels from them, and they are not larger."""

import cv2
import numpy as np
import pytest
from PIL import Image

from media.mask_png import DAVIS_PALETTE, read_index_png, write_binary_png, write_index_png

SHAPES = [(1, 1), (1, 9), (9, 1), (7, 13), (64, 80), (3, 300)]


def noise(shape, largest):
    return np.random.default_rng(0).integers(0, largest + 1, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_black_and_white_masks_are_read_back_by_pillow_opencv_and_us(tmp_path, shape):
    path = tmp_path / "mask.png"
    for mask in (noise(shape, 1) > 0, np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)):
        write_binary_png(path, mask)
        expected = np.where(mask, 255, 0)
        with Image.open(path) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.array(image), expected)
        with Image.open(path) as image:
            image.verify()  # the checksums of all parts
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), expected)
        np.testing.assert_array_equal(read_index_png(path), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_object_ids_are_read_back_with_the_colours_of_davis(tmp_path, shape):
    path = tmp_path / "mask.png"
    ids = noise(shape, 255)
    write_index_png(path, ids)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette() == list(DAVIS_PALETTE)
        np.testing.assert_array_equal(np.array(image), ids)
    with Image.open(path) as image:
        image.verify()
    np.testing.assert_array_equal(read_index_png(path), ids)
    red_green_blue = np.array(DAVIS_PALETTE, dtype=np.uint8).reshape(256, 3)[ids]
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), red_green_blue)


def test_masks_of_any_order_of_memory_are_written(tmp_path):
    mask = noise((12, 20), 1) > 0
    write_binary_png(tmp_path / "turned.png", mask.T)
    write_index_png(tmp_path / "part.png", noise((12, 20), 9)[::2, 3:])
    np.testing.assert_array_equal(read_index_png(tmp_path / "turned.png"), np.where(mask.T, 255, 0))
    np.testing.assert_array_equal(read_index_png(tmp_path / "part.png"), noise((12, 20), 9)[::2, 3:])


def test_files_are_as_small_as_those_of_pillow(tmp_path):
    canvas = np.zeros((360, 640), dtype=np.uint8)
    for number in range(1, 5):
        cv2.ellipse(canvas, (130 * number, 170), (90, 40 * number), 20 * number, 0, 360, number, -1)
    image = Image.fromarray(canvas)
    image.putpalette(list(DAVIS_PALETTE))
    image.save(tmp_path / "ids.png")
    Image.fromarray((canvas > 0) * np.uint8(255)).save(tmp_path / "mask.png")
    pillow = {name: (tmp_path / name).stat().st_size for name in ("ids.png", "mask.png")}
    write_index_png(tmp_path / "ids.png", canvas)
    write_binary_png(tmp_path / "mask.png", canvas > 0)
    assert (tmp_path / "ids.png").stat().st_size < 1.05 * pillow["ids.png"]
    assert (tmp_path / "mask.png").stat().st_size < pillow["mask.png"]
