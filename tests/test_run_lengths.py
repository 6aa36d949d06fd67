"""Run lengths against pycocotools, and what is damaged about them."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as mask_utils

from datasets.index_file import Place, validate
from datasets.readers import MaskReader, SizeMismatchError
from datasets.run_lengths import (
    RunLengthMasks,
    RunLengths,
    Track,
    decode_mask,
    encode_segmentation,
    mask_area,
    mask_box,
    pack_track,
    read_runs,
)

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the type checker does

PATIENT = settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
"""The machine may be busy; and explaining a failure would trace every line of NumPy."""

SIDE = st.integers(1, 40)
MASKS = st.tuples(SIDE, SIDE).flatmap(lambda size: arrays.arrays(np.bool_, size))

HEIGHT, WIDTH = 6, 9
SIZE = (HEIGHT, WIDTH)


def encode(mask):
    """Compressed run lengths by pycocotools."""
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def runs_of(mask):
    """Run lengths column by column, background first, counted one pixel after the other."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def rectangle(top, left, bottom, right, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# --- what pycocotools writes is read ---


@PATIENT
@given(MASKS)
def test_a_mask_comes_back_as_it_was(mask):
    counts = encode(mask)
    assert read_runs(counts).tolist() == runs_of(mask)
    found = decode_mask(counts, size=mask.shape)
    assert found.dtype == bool
    assert found.flags.c_contiguous
    assert np.array_equal(found, mask)
    assert np.array_equal(found, mask_utils.decode({"size": list(mask.shape), "counts": counts}).astype(bool))


@PATIENT
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.booleans())
def test_long_runs_and_large_differences_come_back(runs, starts_with_object):
    """Runs of several bytes; a run that is shorter than the one before the last is written as a negative number."""
    runs = [0, *runs] if starts_with_object else runs
    height = sum(runs)
    counts = mask_utils.frPyObjects({"size": [height, 1], "counts": runs}, height, 1)["counts"]
    assert read_runs(counts).tolist() == runs
    values = [index % 2 == 1 for index, run in enumerate(runs) for _ in range(run)]
    assert decode_mask(counts, size=(height, 1))[:, 0].tolist() == values


@pytest.mark.parametrize(
    ("counts", "runs"),
    [
        (b"", []),
        (b"0", [0]),
        (b"?", [15]),
        (b"@", [-16]),
        (b"O", [-1]),
        (b"`0", [16]),
        (b"PP1", [1 << 10]),
        (b"52", [5, 2]),
        (b"521", [5, 2, 1]),
        (b"5213", [5, 2, 1, 5]),
        (b"521O", [5, 2, 1, 1]),
        (b"5231O", [5, 2, 3, 3, 2]),
    ],
)
def test_numbers_are_read_by_the_book(counts, runs):
    """Five bits per byte, lowest first; the sign is bit 4 of the last byte; from the fourth number on differences."""
    assert read_runs(counts).tolist() == runs


def test_the_longest_run_of_32_bits_is_read():
    counts = mask_utils.frPyObjects({"size": [2**31 - 1, 1], "counts": [2**31 - 1]}, 2**31 - 1, 1)["counts"]
    assert len(counts) == 7
    assert read_runs(counts).tolist() == [2**31 - 1]


def test_an_empty_and_a_full_mask_are_read():
    assert not decode_mask(encode(np.zeros(SIZE)), size=SIZE).any()
    assert decode_mask(encode(np.ones(SIZE)), size=SIZE).all()


@PATIENT
@given(MASKS)
def test_area_and_box_are_those_of_the_pixels(mask):
    counts = encode(mask)
    assert mask_area(counts, size=mask.shape) == mask.sum()
    rows, columns = np.nonzero(mask)
    expected = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        left, top = columns.min(), rows.min()
        expected = (left, top, columns.max() - left + 1, rows.max() - top + 1)
    assert mask_box(counts, size=mask.shape) == expected


# --- what is damaged is named ---


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"5/2", "with the byte 47"),
        (b"5p", "with the byte 112"),
        (b"52\xc3\xa9", "with the byte 195"),
        (b" 52", "with the byte 32"),
        (b"52`", "cut off in the middle of a number"),
        (b"o", "cut off in the middle of a number"),
        (b"5" + b"P" * 7 + b"0", "a number of 8 bytes"),
        (b"5" + b"P" * 30 + b"0", "a number of 31 bytes"),
    ],
)
def test_what_is_no_number_is_named(counts, message):
    with pytest.raises(ValueError, match=message):
        read_runs(counts)
    with pytest.raises(ValueError, match=message):
        decode_mask(counts, size=SIZE)
    with pytest.raises(ValueError, match=message):
        encode_segmentation({"size": list(SIZE), "counts": counts}, size=SIZE)


@pytest.mark.parametrize("byte", [*range(48), *range(48 + 64, 256)])
def test_every_impossible_byte_is_refused(byte):
    with pytest.raises(ValueError, match=f"with the byte {byte}$"):
        read_runs(b"5" + bytes([byte]) + b"2")


@pytest.mark.parametrize(
    ("runs", "total"),
    [([], 0), ([53], 53), ([55], 55), ([20, 10, 23], 53), ([20, 10, 25], 55), ([27, -1, 28], 54), ([-2, 56], 54)],
)
def test_runs_of_another_number_of_pixels_or_backwards_are_refused(runs, total):
    assert HEIGHT * WIDTH == 54
    message = f"run lengths of {total} pixels for an image of 54"
    counts = b"".join(map(to_bytes, runs))
    assert read_runs(counts).tolist() == runs
    with pytest.raises(ValueError, match=message):
        decode_mask(counts, size=SIZE)
    for own in (runs, counts, counts.decode("ascii")):
        with pytest.raises(ValueError, match=message):
            encode_segmentation({"size": list(SIZE), "counts": own}, size=SIZE)


def to_bytes(number):
    """One of the first three numbers of compressed run lengths."""
    result, more = [], True
    while more:
        bits, number = number & 0x1F, number >> 5
        more = number != (-1 if bits & 0x10 else 0)
        result.append(48 + (bits | (0x20 if more else 0)))
    return bytes(result)


@PATIENT
@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused_and_never_read_beyond_the_mask(counts):
    """pycocotools would return whatever its memory held."""
    try:
        mask = decode_mask(counts, size=SIZE)
    except ValueError:
        return
    runs = read_runs(counts)
    assert runs.sum() == mask.size
    assert mask.sum() == runs[1::2].sum()


# --- segmentations as COCO stores them ---


@PATIENT
@given(MASKS)
def test_all_kinds_of_run_lengths_give_the_same_mask(mask):
    counts = encode(mask)
    stored = [runs_of(mask), counts, counts.decode("ascii")]
    for own in stored:
        assert encode_segmentation({"size": list(mask.shape), "counts": own}, size=mask.shape) == counts


@PATIENT
@given(st.integers(2, 30), st.integers(2, 30), st.data())
def test_a_polygon_around_whole_pixels_covers_them_in_the_order_of_x_and_y(height, width, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    counts = encode_segmentation([corners(top, left, bottom, right)], size=(height, width))
    expected = rectangle(top, left, bottom, right, size=(height, width))
    assert np.array_equal(decode_mask(counts, size=(height, width)), expected)


def corners(top, left, bottom, right):
    return [float(number) for number in (left, top, right, top, right, bottom, left, bottom)]


def test_several_polygons_of_an_object_are_united():
    polygons = [corners(0, 0, 3, 4), corners(2, 3, 5, 8), [1.0, 1.0]]
    expected = rectangle(0, 0, 3, 4) | rectangle(2, 3, 5, 8)
    assert np.array_equal(decode_mask(encode_segmentation(polygons, size=SIZE), size=SIZE), expected)


def test_a_triangle_is_a_polygon():
    counts = encode_segmentation([[0.0, 0.0, 6.0, 0.0, 0.0, 6.0]], size=SIZE)
    mask = decode_mask(counts, size=SIZE)
    assert mask_area(counts, size=SIZE) == pytest.approx(6 * 6 / 2, abs=6)
    assert mask[0, 0]
    assert not mask[5, 5]


def test_a_polygon_is_cut_at_the_edge_of_the_picture():
    counts = encode_segmentation([corners(-20, -20, 4, 5)], size=SIZE)
    assert np.array_equal(decode_mask(counts, size=SIZE), rectangle(0, 0, 4, 5))


@pytest.mark.parametrize("segmentation", [[], [[]], [[1.0, 2.0, 3.0, 4.0]], [corners(-9, -9, -5, -5)]])
def test_what_has_no_three_corners_in_the_picture_is_an_empty_mask(segmentation):
    counts = encode_segmentation(segmentation, size=SIZE)
    assert mask_area(counts, size=SIZE) == 0
    assert not decode_mask(counts, size=SIZE).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "type NoneType: expected polygons or run lengths"),
        ("polygon", "type str"),
        (b"52", "type bytes"),
        (7, "type int"),
        ([[1.0, 2.0, 3.0]], "not a list of x, y"),
        ([[1.0, 2.0, 3.0, "x", 5.0, None]], "not a list of x, y"),
        ([[1.0, 2.0, 3.0, float("nan"), 5.0, 6.0]], "not a list of x, y"),
        ([[1.0, 2.0, 3.0, float("inf"), 5.0, 6.0]], "not a list of x, y"),
        ([[1.0, 2.0, 3.0, 10**400, 5.0, 6.0]], "not a list of x, y"),
        ([3.0, 4.0], "not a list of x, y"),
        ([["1", "2", "3", "4", "5", "6"]], "not a list of x, y"),
        ([[[0, 0, 1, 1, 2, 2]]], "not a list of x, y"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], r"the corner x=1e\+09, y=0, far outside of its image of 9 x 6 pixels"),
        ([[0, 0, 1e8, 0, 1e8, 1e8]], r"the corner x=1e\+08, y=0, far outside"),
        ([corners(0, 0, 3, 3), [1, 1, 5, 5, 1, -1e7]], r"the corner x=1, y=-1e\+07, .*at most 1000 outside"),
        ([[0, 0, 5, 0, 5, 1007]], "the corner x=5, y=1007, far outside"),
        ([[0, 0, 1e300, 0]], "far outside"),
        (
            {"size": [HEIGHT, 5], "counts": [1]},
            r"run lengths for an image of \(height, width\) \[6, 5\], but .* \(6, 9\)",
        ),
        ({"size": [WIDTH, HEIGHT], "counts": [54]}, r"run lengths for an image of \(height, width\) \[9, 6\]"),
        ({"size": 54, "counts": [54]}, "run lengths for an image of"),
        ({"counts": [54]}, "run lengths for an image of"),
        ({"size": [HEIGHT, WIDTH]}, "compressed text or a list"),
        ({"size": [HEIGHT, WIDTH], "counts": [54.0]}, "compressed text or a list"),
        ({"size": [HEIGHT, WIDTH], "counts": [54 + 10**30, -(10**30)]}, "compressed text or a list"),
        ({"size": [HEIGHT, WIDTH], "counts": {"54": 1}}, "compressed text or a list"),
        ({"size": [HEIGHT, WIDTH], "counts": "né"}, "with the byte 195"),
    ],
)
def test_a_segmentation_that_is_none_is_explained(segmentation, message):
    with pytest.raises(ValueError, match=message):
        encode_segmentation(segmentation, size=SIZE)


def test_corners_near_the_picture_are_cut_at_its_edge():
    counts = encode_segmentation([[-900, -900, 900, -900, 900, 900, -900, 900]], size=SIZE)
    assert decode_mask(counts, size=SIZE).all()
    large = (600, 3000)
    assert mask_area(encode_segmentation([corners(0, -2900, 3, 3)], size=large), size=large) == 9
    with pytest.raises(ValueError, match="at most 3000 outside"):
        encode_segmentation([corners(0, -3100, 3, 3)], size=large)


@pytest.mark.parametrize("segmentation", [[], [corners(0, 0, 3, 3)], {"size": [100000, 100000], "counts": [10**10]}])
def test_an_image_that_claims_gigapixels_has_no_mask(segmentation):
    with pytest.raises(ValueError, match=r"claims 100000 x 100000 pixels .*SOC_MAX_MEGAPIXELS=10000"):
        encode_segmentation(segmentation, size=(100000, 100000))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([0, 9], r"masks\.1\.size: got \[0, 9\], expected height and width"),
        ([-6, 9], r"masks\.1\.size: got \[-6, 9\], expected height and width"),
        ([10**5, 10**5], "claims 100000 x"),
    ],
)
def test_masks_of_an_impossible_size_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        pack_track(validate(RunLengths, [None, {"size": size, "counts": "0"}], Place(Path("x.json"), "masks")).root)


# --- the masks of a video ---


def make_masks(**tracks):
    """A reader; `object_3=[mask, None]` is object 3 in two frames."""
    return RunLengthMasks(
        Path("folder/masks.json"),
        {
            int(name.removeprefix("object_")): Track(
                SIZE, b" ".join(b"" if mask is None else encode(mask) for mask in masks)
            )
            for name, masks in tracks.items()
        },
    )


def test_masks_are_read_by_object_and_frame_in_the_order_that_is_asked_for():
    first, second, third = rectangle(0, 1, 2, 8), rectangle(3, 0, 6, 2), rectangle(1, 1, 5, 3)
    masks = make_masks(object_7=[first, None, second], object_3=[None, third, first])
    assert isinstance(masks, MaskReader)
    found = masks.read((2, 1, 2, 0), size=SIZE, objects=(3, 7))
    nothing = np.zeros(SIZE, dtype=bool)
    expected = np.array([[first, third, first, nothing], [second, nothing, second, first]])
    assert found.dtype == bool
    assert np.array_equal(found, expected)
    assert masks.read((), size=SIZE, objects=(3,)).shape == (1, 0, *SIZE)


def test_the_first_axis_is_the_height():
    masks = make_masks(object_1=[rectangle(0, 0, 1, WIDTH)])
    found = masks.read((0,), size=SIZE, objects=(1,))[0, 0]
    assert found.shape == (HEIGHT, WIDTH)
    assert found[0].all()
    assert found.sum() == WIDTH
    with pytest.raises(SizeMismatchError):
        masks.read((0,), size=(WIDTH, HEIGHT), objects=(1,))


def test_a_mask_of_another_size_than_its_frame_names_object_and_frame():
    masks = make_masks(object_1=[None, rectangle(0, 0, 2, 2)], object_2=[rectangle(0, 0, 2, 2)] * 2)
    message = r"masks\.json: object 1, frame 1: mask of \(height, width\) \(6, 9\), but its frame has \(6, 8\)"
    with pytest.raises(SizeMismatchError, match=message):
        masks.read((0, 1), size=(HEIGHT, WIDTH - 1), objects=(1,))
    with pytest.raises(SizeMismatchError, match="object 2, frame 0"):
        masks.read((0, 1), size=(HEIGHT, WIDTH - 1), objects=(2, 1))
    empty = masks.read((0,), size=(HEIGHT, WIDTH - 1), objects=(1,))
    assert not empty.any(), "where the object is not seen there is no size to compare"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"52", "run lengths of 7 pixels for an image of 54"),
        (b"/", "with the byte 47"),
        (b"`", "cut off in the middle of a number"),
    ],
)
def test_damaged_run_lengths_name_object_and_frame(counts, message):
    good = encode(rectangle(0, 0, 2, 2))
    masks = RunLengthMasks(Path("masks.json"), {4: Track(SIZE, b" ".join((good, good, counts)))})
    with pytest.raises(ValueError, match=rf"masks\.json: object 4, frame 2: .*{message}"):
        masks.read((0, 2), size=SIZE, objects=(4,))
    assert masks.read((0, 1), size=SIZE, objects=(4,)).sum() == 8


def test_a_track_knows_where_its_object_has_a_pixel():
    masks = [None, rectangle(0, 0, 1, 1), np.zeros(SIZE, dtype=bool), rectangle(2, 2, 4, 4)]
    track = make_masks(object_1=masks).tracks[1]
    assert track.visible() == {1, 3}
    counts = track.of_frames()
    assert [bool(c) for c in counts] == [False, True, True, True]
    assert [decode_mask(c, size=SIZE).sum() for c in counts[1:]] == [1, 0, 4]
    assert Track(SIZE, b"").visible() == frozenset()


def test_a_reader_goes_to_worker_processes():
    masks = make_masks(object_1=[rectangle(0, 0, 2, 2)])
    again = pickle.loads(pickle.dumps(masks))
    assert again == masks
    assert np.array_equal(again.read((0,), size=SIZE, objects=(1,)), masks.read((0,), size=SIZE, objects=(1,)))


def test_compressed_run_lengths_never_contain_the_blank_that_separates_frames():
    assert all(b" " not in encode(rectangle(a, 0, b, WIDTH)) for a, b in itertools.combinations(range(HEIGHT + 1), 2))
