import json

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from benchmarks.bench_region_boundary import (
    generated_sequence,
    plain_region_boundary,
    plain_semi_supervised,
    plain_unsupervised,
)
from metrics import region_boundary
from metrics.bit_masks import BitMasks, Packer, dilate
from metrics.region_boundary import (
    SequenceMasks,
    frame_statistics,
    region_and_boundary,
    score_semi_supervised,
    score_sequences,
    score_unsupervised,
)
from tools.score_davis import load_sequences, read_sequence_names

SIZES = [(1, 1), (1, 70), (70, 1), (5, 63), (7, 64), (9, 65), (40, 128), (33, 127), (130, 200)]


def random_blobs(rng, height, width, density=0.5):
    """Irregular masks that touch the edges of the image, at several scales."""
    cell = int(rng.integers(1, 9))
    coarse = rng.random((height // cell + 1, width // cell + 1)) < density
    return np.kron(coarse, np.ones((cell, cell), dtype=bool))[:height, :width]


def sequence_of(annotation, prediction):
    return SequenceMasks("made-up", np.asarray(annotation, dtype=np.uint8), np.asarray(prediction, dtype=np.uint8))


def masks_of_all_kinds(rng, height, width):
    """Blobs, noise, nothing, everything, single pixels in the corners and elsewhere, lines along the edges."""
    masks = [random_blobs(rng, height, width, density) for density in (0.02, 0.3, 0.7)]
    masks += [rng.random((height, width)) < density for density in (0.01, 0.5, 0.99)]
    masks += [np.zeros((height, width), dtype=bool), np.ones((height, width), dtype=bool)]
    inner = (int(rng.integers(height)), int(rng.integers(width)))
    for position in ((0, 0), (0, -1), (-1, 0), (-1, -1), inner, 0, -1, np.s_[:, 0], np.s_[:, -1], np.s_[:, 63:64]):
        mask = np.zeros((height, width), dtype=bool)
        mask[position] = True
        masks.append(mask)
    return np.stack(masks)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_scores_equal_the_definition_to_the_bit_whatever_the_size(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    masks = masks_of_all_kinds(rng, height, width)
    pairs = [(i, j) for i in range(len(masks)) for j in range(len(masks))]
    expected = [plain_region_boundary(masks[i], masks[j]) for i, j in pairs]
    for order in (np.arange(len(pairs)), rng.permutation(len(pairs))):  # frames are cropped together
        region, boundary = region_and_boundary(*masks[[pairs[index] for index in order]].swapaxes(0, 1))
        assert list(zip(region, boundary, strict=True)) == [expected[index] for index in order]
    for (i, j), scores in list(zip(pairs, expected, strict=True))[::7]:
        assert region_and_boundary(masks[i][None], masks[j][None]) == scores


@pytest.mark.parametrize("pixels", [1, 3 * 2 * 70 * 90])
def test_scores_do_not_depend_on_how_many_frames_are_processed_together(pixels, monkeypatch):
    rng = np.random.default_rng(8)
    masks = masks_of_all_kinds(rng, 70, 90)
    annotation, prediction = masks, masks[rng.permutation(len(masks))]
    expected = region_and_boundary(annotation, prediction)
    monkeypatch.setattr(region_boundary, "CHUNK_PIXELS", pixels)
    np.testing.assert_array_equal(region_and_boundary(annotation, prediction), expected)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels_agree(size):
    empty = np.zeros((2, *size), dtype=bool)
    np.testing.assert_array_equal(region_and_boundary(empty, empty), np.ones((2, 2)))


@pytest.mark.parametrize("radius", [1, 3, 8, 63, 64, 71])
def test_dilation_reaches_all_pixels_within_the_radius_and_no_other(radius):
    mask = np.zeros((90, 150), dtype=bool)
    points = [(0, 0), (3, 149), (45, 64), (89, 70)]
    for y, x in points:
        mask[y, x] = True
    room = ((0, radius), (0, 42 + 128))  # see `dilate`
    words = np.packbits(np.pad(mask, room), axis=1, bitorder="little").view("<u8")
    y, x = np.mgrid[:90, :150]
    expected = np.any([(y - row) ** 2 + (x - column) ** 2 <= radius**2 for row, column in points], axis=0)
    near = np.unpackbits(dilate(words[None], radius)[0].view(np.uint8), axis=1, bitorder="little")[:90, :150]
    np.testing.assert_array_equal(near.astype(bool), expected)


def test_masks_dilated_together_do_not_touch_each_other():
    rng = np.random.default_rng(5)
    masks, packer, size = masks_of_all_kinds(rng, 30, 70), Packer(30, 70), {"height": 30, "width": 70, "radius": 4}
    rows = [packer.pack(mask, True) for mask in masks]
    together = BitMasks.from_rows(rows, (len(rows),), **size)
    np.testing.assert_array_equal(together.areas, masks.sum(axis=(1, 2)))
    for index, own in enumerate(rows):
        for other in range(len(rows)):
            pair = BitMasks.from_rows([own, rows[other]], (2,), **size)
            assert together.outline_lengths[index] == pair.outline_lengths[0]
            near = [bits.outlines[i] & bits.near_outlines[j] for bits, i, j in ((together, other, index), (pair, 1, 0))]
            assert np.bitwise_count(near[0]).sum() == np.bitwise_count(near[1]).sum()


def test_empty_masks_have_the_scores_of_the_definition():
    empty, full = np.zeros((1, 20, 30), dtype=bool), np.zeros((1, 20, 30), dtype=bool)
    full[:, 5:10, 5:10] = True
    assert region_and_boundary(empty, empty) == (1, 1)
    assert region_and_boundary(empty, full) == (0, 0)
    assert region_and_boundary(full, empty) == (0, 0)
    assert region_and_boundary(full, full) == (1, 1)


def test_void_pixels_do_not_count():
    rng = np.random.default_rng(1)
    annotation, prediction = random_blobs(rng, 40, 60)[None], random_blobs(rng, 40, 60)[None]
    void = annotation ^ prediction
    assert region_and_boundary(annotation, prediction, void) == (1, 1)
    assert region_and_boundary(annotation, prediction, np.ones_like(void)) == (1, 1)
    without_corner = np.zeros_like(void)
    without_corner[:, :20, :30] = True
    region, boundary = region_and_boundary(annotation, prediction, without_corner)
    kept = ~without_corner
    assert (region[0], boundary[0]) == pytest.approx(
        plain_region_boundary((annotation & kept)[0], (prediction & kept)[0])
    )


def test_scoring_leaves_its_input_alone():
    annotation, prediction = np.ones((2, 8, 8), dtype=bool), np.ones((2, 8, 8), dtype=bool)
    void = np.ones((2, 8, 8), dtype=bool)
    region_and_boundary(annotation, prediction, void)
    assert annotation.all()
    assert prediction.all()


def test_statistics_are_mean_recall_and_decay():
    values = np.array([1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1])
    mean, recall, decay = frame_statistics(values)
    assert mean == pytest.approx(0.525)
    assert recall == 3 / 8  # strictly above one half
    assert decay == pytest.approx(np.mean([1.0, 0.9, 0.8]) - np.mean([0.3, 0.2, 0.1]))
    assert frame_statistics(np.array([0.7])).decay == 0


def test_decay_of_long_videos_wraps_like_the_toolkit():
    values = np.arange(400.0)
    # edges 0, 100, 200, 299, 399 in 8 bits: 0, 100, 200, 43, 143
    assert frame_statistics(values).decay == pytest.approx(values[:101].mean() - values[43:144].mean())
    assert np.isnan(frame_statistics(np.arange(300.0)).decay)
    assert np.isfinite(frame_statistics(np.arange(256.0)).decay)


def test_protocols_equal_plain_loops():
    sequence = generated_sequence(num_objects=3, num_frames=4)
    for ours, plain in ((score_semi_supervised, plain_semi_supervised), (score_unsupervised, plain_unsupervised)):
        np.testing.assert_allclose(ours(sequence), plain(sequence), rtol=0, atol=1e-14)


def test_unsupervised_protocol_does_not_care_about_the_numbering_of_predictions():
    sequence = generated_sequence(num_objects=3, num_frames=3)
    renumbered = sequence_of(sequence.annotation, np.array([0, 3, 7, 1], dtype=np.uint8)[sequence.prediction])
    first, second = score_sequences([sequence], "unsupervised"), score_sequences([renumbered], "unsupervised")
    assert first.mean == pytest.approx(second.mean, abs=1e-12)


def test_objects_are_those_of_the_first_frame_without_void():
    annotation = np.zeros((4, 30, 40))
    annotation[:, 5:15, 5:15] = 2
    annotation[:, 15, 5:15] = 255
    annotation[1:, 20:25, 20:25] = 3
    scores = score_sequences([sequence_of(annotation, annotation == 2)], "unsupervised")
    assert [score.name for score in scores.objects] == ["made-up_1", "made-up_2"]
    assert scores.objects[0].region.mean == 1


def test_sequences_without_objects_are_left_out_and_nothing_at_all_is_an_error():
    annotation = np.zeros((4, 30, 40))
    with pytest.raises(ValueError, match="nothing to score"):
        score_sequences([sequence_of(annotation, annotation)], "unsupervised")


@pytest.mark.parametrize(("task", "index", "message"), [("unsupervised", 21, "20"), ("semi-supervised", 2, "only 1")])
def test_too_many_predicted_objects_are_an_error(task, index, message):
    annotation = np.ones((4, 30, 40))
    with pytest.raises(ValueError, match=message):
        score_sequences([sequence_of(annotation, np.full_like(annotation, index))], task)


def test_wrong_shapes_tasks_and_lengths_are_errors():
    masks = np.ones((4, 30, 40))
    mismatch = (ValueError, TypeCheckError)  # the shape checker of the tests comes first
    with pytest.raises(mismatch):
        score_sequences([sequence_of(masks, np.ones((4, 30, 41)))], "unsupervised")
    with pytest.raises(ValueError, match="at least 3"):
        score_sequences([sequence_of(masks[:2], masks[:2])], "semi-supervised")
    with pytest.raises(mismatch):
        region_and_boundary(np.ones((1, 2, 3), dtype=bool), np.ones((1, 2, 4), dtype=bool))
    with pytest.raises(mismatch):
        region_and_boundary(*np.ones((2, 1, 2, 3), dtype=bool), np.ones((1, 2, 4), dtype=bool))
    with pytest.raises(ValueError, match="at least one frame"):
        frame_statistics(np.zeros(0))


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["davis_mini", "davis_multi"])
@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_official_scores_are_reproduced(folder, task, shared_dir):
    root = shared_dir / "data" / folder
    names = read_sequence_names(root / "DAVIS", "val", "2017")
    scores = score_sequences(load_sequences(root / "DAVIS", root / "results", names, task), task).as_dict()
    expected = json.loads((root / "expected.json").read_text())[task]
    assert scores["global"] == pytest.approx(expected["global"], abs=1e-9)
    assert list(scores["per_object"]) == list(expected["per_object"])
    for name, figures in expected["per_object"].items():
        assert scores["per_object"][name] == pytest.approx(figures, abs=1e-9)
