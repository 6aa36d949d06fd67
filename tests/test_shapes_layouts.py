"""Referring Shapes in the layouts of other data sets: the writers. Loaders: tests/test_formats.py."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from tools.make_shapes import main
from tools.shapes.clip import generate_clip
from tools.shapes.plurals import plural_sentences
from tools.shapes.polygons import mask_to_polygons
from tools.shapes.scene import COLOURS, DIRECTIONS, SHAPES, make_canvas
from tools.shapes.writer import LAYOUTS, make_shapes

SMALL = {"seed": 2, "num_train": 2, "num_valid": 1, "num_frames": 4, "size": (64, 96), "num_workers": 1}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    roots = {}
    for layout in LAYOUTS:
        roots[layout] = tmp_path_factory.mktemp(layout) / "set"
        make_shapes(roots[layout], layout=layout, **SMALL)
    return roots


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_seed_gives_the_same_bytes(roots, tmp_path, layout):
    make_shapes(tmp_path / "again", layout=layout, **SMALL)
    assert digest(tmp_path / "again") == digest(roots[layout])


def test_only_the_layout_of_the_quick_start_has_no_truth_beside_it(roots):
    assert [layout for layout, root in roots.items() if not (root / "truth").is_dir()] == ["ref_youtube_vos"]


def test_counts_are_given_for_the_splits_that_loaders_read(roots):
    counts = {layout: json.loads((root / "statistics.json").read_text())["counts"] for layout, root in roots.items()}
    assert {
        layout: {split: numbers.get("videos") for split, numbers in own.items()} for layout, own in counts.items()
    } == {
        "ref_youtube_vos": {"train": 2, "valid": 1},
        "a2d": {"train": 2, "test": 1},
        "jhmdb": {"test": 1},
        "davis": {"train": 2, "valid": 1},
        "refcoco": {"train": None, "val": None},
        "mevis": {"train": 2, "valid_u": 1, "valid": 1},
        "mevis_v2": {"train": 2, "valid_u": 1, "valid": 1},
    }
    assert counts["refcoco"] == {"train": {"images": 2}, "val": {"images": 1}}
    assert counts["mevis"]["train"]["frames"] == 2 * 4
    assert counts["jhmdb"]["test"]["expressions"] == 1


def test_polygons_are_exact_with_holes_and_corners_that_touch():
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width = generator.integers(1, 10, size=2).tolist()
        mask = generator.random((height, width)) < generator.uniform(0, 1.1)
        polygons = mask_to_polygons(mask)
        assert all(len(polygon) >= 8 for polygon in polygons)
        decoded = np.zeros_like(mask)
        if polygons:
            decoded = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width)))
        assert (decoded == mask).all()


def test_sentences_about_several_objects_are_true_of_these_and_of_no_other():
    canvas = make_canvas((64, 96), 12)
    directions = 0
    texts = set()
    for index in range(60):
        clip = generate_clip("train", index, seed=6, canvas=canvas)
        for sentence in plural_sentences(clip.facts):
            texts.add(sentence.text)
            assert len(sentence.indices) >= 2
            words = sentence.text.split()
            if {*words} & {"large", "small"}:
                continue  # the sizes are not compared here
            for i, (shape, colour) in enumerate(zip(clip.facts.shapes, clip.facts.colours, strict=True)):
                is_named = {*words} & {*COLOURS} <= {colour} and any(
                    word in ("shapes", f"{shape}s", f"{shape}es") for word in words
                )
                assert is_named or i not in sentence.indices
                if sentence.kind == "appearance":
                    assert is_named == (i in sentence.indices)
                moving = next((d for d in DIRECTIONS if "moving" in words and words[-1] == d), None)
                if moving and is_named:
                    directions += 1
                    centres = clip.scene.actors[i].centres
                    along = (centres[-1] - centres[0]) @ np.array(DIRECTIONS[moving])
                    assert (along > 7) == (i in sentence.indices)  # others drift by up to 7 pixels
    assert directions > 10
    assert any(text.endswith(f"{shape}s") for text in texts for shape in SHAPES)
    assert "the crosss" not in " ".join(texts)


def test_mevis_has_sentences_about_one_and_about_several_objects(roots):
    videos = json.loads((roots["mevis"] / "train" / "meta_expressions.json").read_text())["videos"]
    counts = {len(e["anno_id"]) for video in videos.values() for e in video["expressions"].values()}
    assert 1 in counts
    assert max(counts) > 1
    secret = json.loads((roots["mevis"] / "valid" / "meta_expressions.json").read_text())["videos"]
    assert {key for video in secret.values() for e in video["expressions"].values() for key in e} == {"exp"}
    assert not (roots["mevis"] / "valid" / "mask_dict.json").exists()


def test_the_second_mevis_has_the_sentences_of_the_first_and_some_that_mean_nothing(roots):
    for split, first_name, second_name in (
        ("train", "meta_expressions.json", "meta_expressions_v2.json"),
        ("valid_u", "meta_expressions.json", "meta_expressions_v2.json"),
        ("valid", "meta_expressions.json", "meta_expressions_v2_release.json"),
    ):
        first = json.loads((roots["mevis"] / split / first_name).read_text())["videos"]
        second = json.loads((roots["mevis_v2"] / split / second_name).read_text())["videos"]
        assert list(first) == list(second)
        for video, content in first.items():
            everything = second[video]["expressions"]
            added = [everything[name] for name in everything.keys() - content["expressions"].keys()]
            assert {name: everything[name] for name in content["expressions"]} == content["expressions"]
            assert added
            for entry in added:
                assert split == "valid" or entry["obj_id"] == entry["anno_id"] == []
                assert split != "valid" or set(entry) == {"exp"}


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_refcoco_has_the_keys_that_the_conversion_of_references_reads_and_writes(roots, name):
    folder = roots["refcoco"] / "coco" / name
    instances = json.loads((folder / "instances.json").read_text())
    assert set(instances) == {"info", "licenses", "images", "annotations", "categories"}
    assert {image["license"] for image in instances["images"]} == {entry["id"] for entry in instances["licenses"]}
    annotations = {entry["id"]: entry for entry in instances["annotations"]}
    for split in ("train", "val"):
        converted = json.loads((folder / f"instances_{name}_{split}.json").read_text())
        for key in ("info", "licenses", "categories"):
            assert converted[key] == instances[key]
        numbers = list(range(1, len(converted["images"]) + 1))
        assert [image["id"] for image in converted["images"]] == numbers
        assert [entry["image_id"] for entry in converted["annotations"]] == numbers
        for image, entry in zip(converted["images"], converted["annotations"], strict=True):
            assert set(image) == {"file_name", "height", "width", "original_id", "id", "caption", "dataset_name"}
            original = annotations[entry["original_id"]]
            assert (entry["bbox"], original["image_id"]) == (original["bbox"], image["original_id"])


def test_a_single_actor_has_a_mask_without_its_axis_as_matlab_writes_it(roots):
    shapes = set()
    for path in roots["a2d"].rglob("*.h5"):
        with h5py.File(path) as file:
            count = len(file["instance"])
            shapes.add(len(file["reMask"].shape))
            assert file["reMask"].shape == ((96, 64) if count == 1 else (count, 96, 64))
            assert file["reBBox"].shape == (4, count)
    assert shapes == {2, 3}


def test_the_text_files_of_the_annotators_agree_with_the_prepared_file(roots):
    root = roots["davis"]
    prepared = [
        json.loads((root / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]
        for split in ("train", "valid")
    ]
    expressions = [
        (video, e["obj_id"], e["exp"])
        for videos in prepared
        for video, content in videos.items()
        for e in content["expressions"].values()
    ]
    texts = root / "davis_text_annotations"
    names = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
    for slot, name in enumerate(names):
        lines = (texts / f"Davis17_{name}.txt").read_text(encoding="latin-1").splitlines()
        assert lines == [f'{video} {number} "{sentence}"' for video, number, sentence in expressions[slot::4]]


def test_an_mp4_needs_whole_blocks(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--format", "a2d", "--size", "72x108"]) == 2
    assert "multiples of 16" in capsys.readouterr().err
