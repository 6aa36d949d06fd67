"""RefCOCO, RefCOCO+ and RefCOCOg in both layouts, on tiny generated folders."""

import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.coco_masks import decode_mask, encode_segmentation, mask_area
from datasets.refcoco import RefCoco, read_plain_pickle
from tests.tiny_refcoco import (
    HEIGHT,
    SENTENCES,
    WIDTH,
    file_name,
    image_of,
    mask,
    polygon,
    run_lengths,
    write_instances_layout,
    write_refs_layout,
)

LAYOUTS = {"refs": write_refs_layout, "instances": write_instances_layout}


@pytest.fixture(params=LAYOUTS)
def root(request, tmp_path):
    return LAYOUTS[request.param](tmp_path / "data")


@pytest.fixture
def refs_root(tmp_path):
    return write_refs_layout(tmp_path / "data")


@pytest.fixture
def instances_root(tmp_path):
    return write_instances_layout(tmp_path / "data")


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def annotation_of(record, expression):
    """The annotation whose sentences contain this one."""
    image = int(record.name.removeprefix("COCO_train2014_"))
    (found,) = [
        annotation
        for annotation, sentences in SENTENCES.items()
        if image_of(annotation) == image and expression.sentence in [" ".join(s.lower().split()) for s in sentences]
    ]
    return found


# --- what both layouts have in common ---


def test_a_record_is_an_image_with_the_sentences_about_all_its_objects(root):
    videos = RefCoco(root, "train").videos
    assert [video.name for video in videos] == ["COCO_train2014_000000000901", "COCO_train2014_000000000902"]
    found = {video.name[-3:]: [(e.sentence, e.object_ids) for e in video.expressions] for video in videos}
    assert found["901"] == [("the red square on the left", (1,)), ("upper one", (1,)), ("lower square", (2,))]
    assert found["902"] == [("the big one", (1,)), ("square in the middle", (1,))]


def test_every_mask_is_that_of_its_sentence_to_the_pixel(root):
    for video in RefCoco(root, "train").videos:
        for expression in video.expressions:
            found = video.masks.read((0, 0), size=(HEIGHT, WIDTH), objects=expression.object_ids)
            assert found.shape == (1, 2, HEIGHT, WIDTH)
            expected = torch.from_numpy(mask(annotation_of(video, expression)))
            assert torch.equal(found[0, 0], expected)
            assert torch.equal(found[0, 1], expected)


def test_every_frame_is_its_image(root):
    (video,) = RefCoco(root, "val").videos
    frame = video.frames.read((0,))[0]
    with Image.open(root / "train2014" / file_name(903)) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert (frame.short() - expected.short()).abs().max() <= 2, "two decoders of JPEG may differ by rounding"
    assert video.frames.size() == (HEIGHT, WIDTH)


def test_training_records_say_that_objects_are_visible_in_their_only_frame(root):
    for video in RefCoco(root, "train").training_videos():
        assert video.visible == {number: frozenset({0}) for e in video.expressions for number in e.object_ids}


def test_sentences_are_cleaned_unless_they_shall_stay_raw(root):
    def first(**settings):
        return RefCoco(root, "train", **settings).videos[0].expressions[0].sentence

    assert first() == "the red square on the left"
    assert first(lower_case=False) == "the Red square on the left"
    assert first(raw_sentences=True) == "the Red  square on the left"


@pytest.mark.parametrize("inside", ["", "coco"])
def test_the_folder_around_coco_may_be_named_as_well(tmp_path, inside):
    write_instances_layout(tmp_path / inside)
    assert len(RefCoco(tmp_path, "train").videos) == 2


def test_images_where_the_refer_toolkit_keeps_them_are_found(refs_root):
    target = refs_root / "images" / "mscoco" / "images" / "train2014"
    target.parent.mkdir(parents=True)
    shutil.move(refs_root / "train2014", target)
    assert len(RefCoco(refs_root, "train").videos) == 2


# --- the layout of the REFER toolkit ---


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_every_age_are_read(tmp_path, protocol):
    write_refs_layout(tmp_path, protocol=protocol)
    assert len(RefCoco(tmp_path, "testA").videos) == 1


def test_the_byte_strings_of_python_2_are_read_as_text(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"(lp0\n(dp1\nS'split'\np2\nS'caf\\xe9'\np3\nsa.")
    assert read_plain_pickle(path) == [{"split": "café"}]


def test_a_pickle_that_would_run_code_is_refused(refs_root, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "done"),)

    (refs_root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p.*mkdir, and would run code"):
        RefCoco(refs_root, "train")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"no pickle at all", b"(lp0\n"])
def test_a_damaged_pickle_is_named(refs_root, content):
    (refs_root / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: not a readable pickle"):
        RefCoco(refs_root, "train")


@pytest.mark.parametrize("content", [{"a": 1}, [3], [{"split": "train"}], [{"split": "train", "sentences": 3}]])
def test_a_pickle_of_something_else_is_explained(refs_root, content):
    (refs_root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: "):
        RefCoco(refs_root, "train")


def test_an_annotation_id_without_annotation_is_named(refs_root):
    def drop(content):
        content["annotations"] = [a for a in content["annotations"] if a["id"] != 13]

    change_json(refs_root / "refcoco" / "instances.json", drop)
    with pytest.raises(ValueError, match=r"reference 2: ann_id 13 is not in .*same data set"):
        RefCoco(refs_root, "train")
    assert len(RefCoco(refs_root, "val").videos) == 1, "other splits do not need it"


def test_an_image_id_without_image_is_named(refs_root):
    change_json(refs_root / "refcoco" / "instances.json", lambda content: content["images"].pop(0))
    with pytest.raises(ValueError, match=r"image_id 901 is not in"):
        RefCoco(refs_root, "train")


def test_an_unknown_split_lists_those_that_exist(refs_root):
    with pytest.raises(ValueError, match=r"no reference is of split 'valid'; there are testA, train, val"):
        RefCoco(refs_root, "valid")


def test_whose_splits_are_read_can_be_chosen(tmp_path):
    write_refs_layout(tmp_path, "refcocog", "umd")
    assert len(RefCoco(tmp_path, "train", name="refcocog").videos) == 2
    with pytest.raises(ValueError, match=r"refs\(google\)\.p exists"):
        RefCoco(tmp_path, "train", name="refcocog", split_by="google")
    with pytest.raises(ValueError, match=r"split_by='unc': refcocog is divided by umd or google"):
        RefCoco(tmp_path, "train", name="refcocog", split_by="unc")
    with pytest.raises(ValueError, match=r"name='refcoco-plus' must be one of refcoco, "):
        RefCoco(tmp_path, "train", name="refcoco-plus")


def test_both_layouts_say_the_same(tmp_path):
    def content(videos):
        return [(v.name, v.masks.counts, [(e.sentence, e.object_ids) for e in v.expressions]) for v in videos]

    refs, instances = write_refs_layout(tmp_path / "refs"), write_instances_layout(tmp_path / "instances")
    for split in ("train", "val"):
        assert content(RefCoco(refs, split).videos) == content(RefCoco(instances, split).videos)


def test_with_both_layouts_there_a_setting_decides(tmp_path):
    root = write_instances_layout(tmp_path / "data")
    shutil.copytree(write_refs_layout(tmp_path / "other") / "refcoco", root / "refcoco", dirs_exist_ok=True)
    (root / "refcoco" / "instances_refcoco_train.json").write_text("{}")
    assert len(RefCoco(root, "train", split_by="unc").videos) == 2
    assert len(RefCoco(root, "testA").videos) == 1, "there is no instances_refcoco_testA.json"
    with pytest.raises(ValueError, match=r"instances_refcoco_train.json: expected lists"):
        RefCoco(root, "train")


# --- the layout with a file per split ---


def test_a_missing_file_of_a_split_names_the_splits_that_exist(instances_root):
    with pytest.raises(ValueError, match=r"split 'testA' of refcoco: .* files for the splits train, val$"):
        RefCoco(instances_root, "testA")


def test_an_image_entry_without_annotation_or_with_two_is_named(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"
    change_json(path, lambda content: content["annotations"].append(content["annotations"][0]))
    with pytest.raises(ValueError, match=r"image entry 0 has two annotations"):
        RefCoco(instances_root, "train")
    change_json(path, lambda content: content["annotations"].clear())
    with pytest.raises(ValueError, match=r"image entry 0 .* has no annotation"):
        RefCoco(instances_root, "train")


@pytest.mark.parametrize("key", ["caption", "height", "file_name", "id"])
def test_a_missing_key_is_named(instances_root, key):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"
    change_json(path, lambda content: content["images"][1].pop(key))
    with pytest.raises(ValueError, match=rf"instances_refcoco_train.json: image .*'{key}'"):
        RefCoco(instances_root, "train")


def test_an_id_that_stands_there_twice_is_named(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"

    def repeat(content):
        content["images"].append(content["images"][0] | {"caption": "another"})

    change_json(path, repeat)
    with pytest.raises(ValueError, match=r"000000000901.jpg: the sentence ids 0 stand there twice"):
        RefCoco(instances_root, "train")


# --- damage that both layouts may have ---


def annotation_file(root):
    path = root / "refcoco" / "instances.json"
    return path if path.exists() else root / "refcoco" / "instances_refcoco_train.json"


def test_missing_images_are_counted_and_named(root):
    (root / "train2014" / file_name(902)).unlink()
    with pytest.raises(ValueError, match=r"1 of the 2 images .* missing: COCO_train2014_000000000902.jpg"):
        RefCoco(root, "train")


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder: .*refcoco or .*coco/refcoco"):
        RefCoco(tmp_path, "train")
    write_instances_layout(tmp_path)
    shutil.rmtree(tmp_path / "train2014")
    with pytest.raises(ValueError, match=r"no such folder: .*train2014"):
        RefCoco(tmp_path, "train")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', '{"images": 3, "annotations": []}'])
def test_a_damaged_file_of_annotations_is_named(root, content):
    annotation_file(root).write_text(content)
    with pytest.raises(ValueError, match=r"instances.*json: "):
        RefCoco(root, "train")


def test_a_sentence_without_words_is_named(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"
    change_json(path, lambda content: content["images"][0].update(caption=" \r\n"))
    with pytest.raises(ValueError, match=r"sentence 0: the sentence is empty"):
        RefCoco(instances_root, "train")


@pytest.mark.parametrize("segmentation", [[], [[]], [[1.0, 2.0, 3.0, 4.0]], [[-9.0, -9.0, -5.0, -9.0, -5.0, -5.0]]])
def test_an_object_without_any_pixel_is_left_out_of_training_with_a_warning(root, caplog, segmentation):
    def empty(content):
        for annotation in content["annotations"]:
            if annotation["bbox"][:2] == [8.0, 24.0]:
                annotation["segmentation"] = segmentation

    change_json(annotation_file(root), empty)
    source = RefCoco(root, "train")
    assert [e.sentence for e in source.videos[0].expressions][2] == "lower square"
    with caplog.at_level(logging.WARNING):
        videos = source.training_videos()
    assert "1 sentences are left out" in caplog.text
    assert "'lower square'" in caplog.text
    assert [e.sentence for e in videos[0].expressions] == ["the red square on the left", "upper one"]
    assert set(videos[0].visible) == {1}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "type NoneType: expected polygons or run lengths"),
        ("polygon", "type str"),
        ([[1.0, 2.0, 3.0]], "not a list of x, y"),
        ([[1.0, 2.0, 3.0, "4", 5.0, None]], "not a list of x, y"),
        ([3.0, 4.0], "not a list of x, y"),
        ({"size": [HEIGHT, 5], "counts": [1]}, "run lengths for an image of"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "run lengths of 3 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1, -1]}, "run lengths of"),
        ({"size": [HEIGHT, WIDTH], "counts": "abc"}, "run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "né"}, "run lengths"),
        ({"size": [HEIGHT, WIDTH]}, "compressed text or a list"),
        ({}, "run lengths for an image of"),
    ],
)
def test_a_damaged_segmentation_names_its_annotation(root, segmentation, message):
    change_json(annotation_file(root), lambda content: content["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(ValueError, match=rf"annotation (11|0): .*{message}"):
        RefCoco(root, "train")


def test_a_polygon_that_reaches_outside_the_picture_is_cut_at_its_edge(root):
    outside = [[-20.0, -20.0, 30.0, -20.0, 30.0, 20.0, -20.0, 20.0]]
    change_json(annotation_file(root), lambda content: content["annotations"][0].update(segmentation=outside))
    video = RefCoco(root, "train").videos[0]
    found = video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))[0, 0]
    assert found[:20, :30].all()
    assert found.sum() == 20 * 30


def test_an_image_of_another_size_than_annotated_is_named_when_it_is_read(root):
    video = RefCoco(root, "train").videos[0]
    with pytest.raises(ValueError, match=r"annotated at \(height, width\) \(48, 64\), but the image has \(64, 48\)"):
        video.masks.read((0,), size=(WIDTH, HEIGHT), objects=(1,))


def test_grey_and_cmyk_images_are_read_as_rgb(root):
    path = root / "train2014" / file_name(903)
    for mode in ("L", "CMYK"):
        with Image.open(path) as image:
            converted = image.convert(mode)
        converted.save(path)
        assert RefCoco(root, "val").videos[0].frames.read((0,)).shape == (1, 3, HEIGHT, WIDTH)


def test_a_truncated_image_is_named(root):
    path = root / "train2014" / file_name(903)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"000000000903.jpg"):
        RefCoco(root, "val").videos[0].frames.read((0,))


# --- segmentations ---


def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask():
    size = (HEIGHT, WIDTH)
    from_polygon = encode_segmentation(polygon(13), size=size)
    from_runs = encode_segmentation(run_lengths(13), size=size)
    compressed = {"size": list(size), "counts": from_polygon.decode("ascii")}
    assert from_polygon == from_runs == encode_segmentation(compressed, size=size)
    assert np.array_equal(decode_mask(from_polygon, size=size).astype(bool), mask(13))
    assert mask_area(from_polygon, size=size) == mask(13).sum()


def test_several_polygons_of_an_object_are_united():
    size = (HEIGHT, WIDTH)
    both = encode_segmentation(polygon(11) + polygon(12), size=size)
    assert np.array_equal(decode_mask(both, size=size).astype(bool), mask(11) | mask(12))


def test_reading_writes_nothing_into_the_folder(tmp_path):
    root = write_refs_layout(tmp_path)
    before = sorted(root.rglob("*"))
    RefCoco(root, "train").training_videos()
    assert sorted(root.rglob("*")) == before
