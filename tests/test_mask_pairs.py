"""Counts of shared pixels and outlines, compiled and by NumPy, against the definition."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_region_boundary import plain_outline, plain_region_boundary
from metrics import mask_pairs, pair_library
from metrics.bit_masks import PairCounts
from metrics.mask_pairs import count_pairs
from metrics.region_boundary import SequenceMasks, region_and_boundary, score_semi_supervised

SIZES = [(1, 1), (1, 64), (64, 1), (9, 63), (30, 64), (31, 65), (50, 127), (40, 128), (60, 150)]


@pytest.fixture(params=["compiled", "NumPy"])
def way(request, monkeypatch):
    """Both ways to count."""
    if request.param == "NumPy":
        monkeypatch.setattr(mask_pairs, "count_mask_pairs", lambda: None)
    elif pair_library.count_mask_pairs() is None:
        pytest.skip("needs a C++ compiler")
    return request.param


def plain_counts(true, predicted, radius):
    """`PairCounts` of one pair of masks, pixel by pixel of the outlines."""
    outlines = [plain_outline(mask) for mask in (true, predicted)]
    points = [np.argwhere(outline) for outline in outlines]
    squared = ((points[0][:, None] - points[1][None]) ** 2).sum(axis=2)
    matched = [int((squared <= radius**2).any(axis=axis).sum()) for axis in (1, 0)]
    return (true.sum(), predicted.sum(), (true & predicted).sum(), len(points[0]), len(points[1]), *matched)


def large_objects(rng, height, width):
    """Object ids of ellipses and boxes about as large as the image; most are cut off by its edges."""
    ids = np.zeros((height, width), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    for number in rng.permutation(3) + 1:
        centre = rng.integers((height, width))
        extent = rng.integers(1, (height + 1, width + 1))
        distance = np.abs((y - centre[0]) / extent[0]), np.abs((x - centre[1]) / extent[1])
        ids[np.hypot(*distance) < 1 if rng.random() < 0.5 else np.maximum(*distance) < 0.7] = number
    return ids


def perturbed(rng, ids):
    """A prediction: the annotation moved by some pixels, with parts cut out, now and then nothing or everything."""
    ids = np.roll(ids, rng.integers(-4, 5, size=2), axis=(0, 1))
    top, left = rng.integers(ids.shape)
    ids[top : top + 5, left : left + 20] = rng.integers(4)
    return ids if rng.random() < 0.9 else np.full_like(ids, rng.integers(4))


@pytest.mark.parametrize("radius", [1, 2, 3, 8, 12])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_counts_are_those_of_the_definition(way, height, width, radius):
    rng = np.random.default_rng(height * 1000 + width)
    annotation = np.stack([large_objects(rng, height, width) for _ in range(4)])
    prediction = np.stack([perturbed(rng, ids) for ids in annotation])
    hidden = rng.random(annotation.shape) < 0.3
    hidden[0] = True
    for ignored in (None, hidden):
        counts = count_pairs(annotation, prediction, ignored, num_objects=3, radius=radius)
        shown = np.ones_like(hidden) if ignored is None else ~ignored
        for number in (1, 2, 3):
            for frame in range(4):
                masks = [(ids[frame] == number) & shown[frame] for ids in (annotation, prediction)]
                expected = plain_counts(*masks, radius)
                assert tuple(int(values[number - 1, frame]) for values in counts) == expected


@pytest.mark.parametrize("radius", [31, 63, 64, 65, 127, 130])
def test_outlines_match_within_the_radius_however_large_it_is(way, radius):
    """Pixels in the corners of the image and elsewhere, near and far from each other."""
    rng = np.random.default_rng(radius)
    masks = rng.random((6, 2, 150, 200)) < 0.0005
    masks[:, 0, 0, 0] = masks[::2, 1, -1, 199] = masks[:, 1, 20, 63] = masks[::3, 1, 100, 64] = True
    annotation, prediction = masks.astype(np.uint8).swapaxes(0, 1)
    counts = count_pairs(annotation, prediction, None, num_objects=1, radius=radius)
    for frame, (true, predicted) in enumerate(masks):
        assert tuple(int(values[0, frame]) for values in counts) == plain_counts(true, predicted, radius)


def test_an_object_that_fills_the_image_has_no_outline_at_its_edges(way):
    whole = np.ones((2, 480, 854), dtype=bool)
    part = whole.copy()
    part[0, :, 400:] = part[1, 200:] = False
    counts = count_pairs(whole.view(np.uint8), part.view(np.uint8), None, num_objects=1, radius=8)
    np.testing.assert_array_equal(counts.true_length, [[0, 0]])
    np.testing.assert_array_equal(counts.predicted_length, [[480, 854]])
    for frame, scores in enumerate(zip(*region_and_boundary(whole, part), strict=True)):
        assert scores == plain_region_boundary(whole[frame], part[frame])


def test_empty_masks_and_no_objects_have_counts_of_their_own(way):
    empty = np.zeros((3, 20, 70), dtype=np.uint8)
    full = empty.copy()
    full[:, 3:9, 60:70] = 1
    for images in ((empty, empty), (empty, full), (full, empty)):
        counts = count_pairs(*images, None, num_objects=1, radius=2)
        assert [int(values[0, 0]) for values in counts] == [
            int(n) for n in plain_counts(*(i[0] == 1 for i in images), 2)
        ]
    assert count_pairs(full, full, None, num_objects=0, radius=2).true_area.shape == (0, 3)
    assert count_pairs(full[:0], full[:0], None, num_objects=2, radius=2).true_area.shape == (2, 0)
    assert count_pairs(full[:, :0], full[:, :0], None, num_objects=2, radius=0).true_area.shape == (2, 3)


def test_images_that_do_not_lie_side_by_side_in_memory_are_read_right(way):
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 3, size=(2, 40, 60, 5), dtype=np.uint8)
    annotation, prediction = np.moveaxis(frames, -1, 1)
    expected = count_pairs(annotation.copy(), prediction.copy(), annotation == 2, num_objects=2, radius=2)
    counts = count_pairs(annotation, prediction, (frames[0] == 2).transpose(2, 0, 1), num_objects=2, radius=2)
    np.testing.assert_array_equal(np.stack(counts), np.stack(expected))


def test_both_ways_give_the_same_scores_to_the_bit(monkeypatch):
    if pair_library.count_mask_pairs() is None:
        pytest.skip("needs a C++ compiler")
    rng = np.random.default_rng(7)
    annotation = np.stack([large_objects(rng, 240, 427) for _ in range(9)])
    annotation[0, 0, :3] = (1, 2, 3)  # as many objects as there may be
    sequence = SequenceMasks("made-up", annotation, np.stack([perturbed(rng, ids) for ids in annotation]))
    compiled = score_semi_supervised(sequence)
    monkeypatch.setattr(mask_pairs, "count_mask_pairs", lambda: None)
    np.testing.assert_array_equal(score_semi_supervised(sequence), compiled)


def run_without_cache(tmp_path: Path, code: str, **variables: str) -> str:
    """What a process prints that finds no library."""
    environment = {**os.environ, "SOC_CACHE_DIR": str(tmp_path / "cache"), **variables}
    command = [sys.executable, "-c", f"import logging; logging.basicConfig(level=logging.INFO)\n{code}"]
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


CODE = """
import numpy as np
from metrics.pair_library import count_mask_pairs
from metrics.region_boundary import region_and_boundary
masks = np.eye(70, dtype=bool)[None]
for _ in range(2):
    print(*region_and_boundary(masks, masks), "NumPy" if count_mask_pairs() is None else "compiled")
"""


def test_scores_need_no_compiler_and_the_log_says_so_once(tmp_path):
    (tmp_path / "empty").mkdir()
    said = run_without_cache(tmp_path, CODE, PATH=str(tmp_path / "empty"), CXX="")
    assert said.count("[1.] [1.] NumPy") == 2
    assert said.count("computed by NumPy") == 1
    assert "no C++ compiler found: install g++ or set CXX" in said


def test_a_compiler_that_fails_leaves_nothing_in_the_cache(tmp_path):
    said = run_without_cache(tmp_path, CODE, CXX="false")
    assert said.count("[1.] [1.] NumPy") == 2
    assert "cannot be compiled or loaded" in said
    assert not list((tmp_path / "cache").iterdir())


def test_a_library_is_compiled_once(tmp_path):
    if pair_library.count_mask_pairs() is None:
        pytest.skip("needs a C++ compiler")
    said = run_without_cache(tmp_path, CODE)
    assert said.count("[1.] [1.] compiled") == 2
    assert said.count("compiling mask_pairs.cpp") == 1
    (library,) = (tmp_path / "cache").iterdir()
    assert run_without_cache(tmp_path, CODE, CXX="false").count("[1.] [1.] compiled") == 2
    library.write_bytes(b"no library")
    assert "cannot be compiled or loaded" in run_without_cache(tmp_path, CODE)


def test_a_variable_switches_it_off(tmp_path):
    said = run_without_cache(tmp_path, CODE, SOC_COMPILED_METRICS="0")
    assert said.count("NumPy") == 2
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="SOC_COMPILED_METRICS='yes': expected 1"):
        pair_library.is_wanted({"SOC_COMPILED_METRICS": "yes"})


def test_the_order_of_counts_is_that_of_the_library():
    assert PairCounts._fields == (
        *("true_area", "predicted_area", "intersection"),
        *("true_length", "predicted_length", "true_matched", "predicted_matched"),
    )
