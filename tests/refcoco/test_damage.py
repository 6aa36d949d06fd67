"""What can be wrong with a folder of RefCOCO: all of it is named, and the rest is read."""

import os
import pickle
import shutil

import pytest

from datasets.problems import require_usable
from datasets.readers import SizeMismatchError
from datasets.refcoco_files import read_plain_pickle
from loading.loaders import build_train_loader
from tests.data_settings import data_config
from tests.tiny_refcoco import (
    HEIGHT,
    TRAIN_SENTENCES,
    WIDTH,
    annotation_file,
    annotations_of,
    change_json,
    change_pickle,
    file_name,
    mask,
    problems_of,
    read,
    sentences_by_image,
    sound_videos,
    write_instances_layout,
)

# --- the layout of the REFER toolkit ---


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
        read(refs_root, "train")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"no pickle at all", b"(lp0\n"])
def test_a_damaged_pickle_is_named(refs_root, content):
    (refs_root / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: not a readable pickle"):
        read(refs_root, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "got {'a': 1}, expected a list of references"),
        ([3], "no reference is of split 'train'; there are none that can be read"),
        ([], "no reference is of split 'train'; there are none that can be read"),
    ],
)
def test_a_pickle_of_something_else_is_explained(refs_root, content, message):
    (refs_root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p: {message}"):
        read(refs_root, "train")


def test_references_that_cannot_be_used_are_all_named(refs_root):
    path, bad = refs_root / "refcoco" / "refs(unc).p", {"split": "train"}
    pointed = {"ann_id": 11, "image_id": 901}

    def add(content):
        content += [7, {"ref_id": 50}, bad, bad | pointed | {"ref_id": 51}, bad | pointed | {"sentences": 3}]
        content.append(bad | pointed | {"ref_id": 52, "sentences": []})
        content.append(bad | {"ref_id": 53, "ann_id": [11], "image_id": 901, "sentences": []})
        content.append(bad | pointed | {"ref_id": 54, "sentences": [{"sent": "no name"}, {"sent_id": 90}, "text"]})

    change_pickle(path, add)
    contents = read(refs_root, "train")
    assert problems_of(contents) == [
        ("expressions", str(path), detail)
        for detail in (
            "reference 7: got 7, expected a mapping",
            "reference 50: the key 'split' is missing, got {'ref_id': 50}",
            "reference without id: the key 'ann_id' is missing, got {'split': 'train'}",
            "reference 51: the key 'sentences' is missing, got "
            "{'ann_id': 11, 'image_id': 901, 'ref_id': 51, 'split': 'train'}",
            "reference without id.sentences: got 3, expected a list",
            "reference 52.sentences: got [], expected at least one sentence",
            "reference 53.ann_id: got [11], expected a whole number or a text",
            f"image {file_name(901)}, sentence without id: the key 'sent_id' is missing, got {{'sent': 'no name'}}",
            f"image {file_name(901)}, sentence 90: the key 'sent' is missing, got {{'sent_id': 90}}",
            f"image {file_name(901)}, sentence 'text': got 'text', expected a mapping",
        )
    ]
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES, "what can be used is read"


def test_ids_without_annotation_or_image_are_all_named(refs_root):
    file = refs_root / "refcoco" / "instances.json"

    def drop(content):
        content["annotations"] = [a for a in content["annotations"] if a["id"] != 12]
        content["images"] = [image for image in content["images"] if image["id"] != 902]

    change_json(file, drop)
    contents = read(refs_root, "train")
    path = str(refs_root / "refcoco" / "refs(unc).p")
    assert problems_of(contents) == [
        ("objects", path, f"reference 1: ann_id 12 is not in {file}; are the two files of the same data set?"),
        ("objects", path, f"reference 2: image_id 902 is not in {file}; are the two files of the same data set?"),
    ]
    assert sentences_by_image(contents.videos) == {"901": TRAIN_SENTENCES["901"][:2]}
    assert sentences_by_image(sound_videos(refs_root, "val")) == {"903": ["right square"]}, (
        "other splits do not need them"
    )


def test_bad_images_and_annotations_are_all_named(refs_root):
    file = refs_root / "refcoco" / "instances.json"

    def spoil(content):
        content["images"][0].pop("file_name")
        content["images"][1]["height"] = 0
        content["annotations"] += [3, {"image_id": 901}]
        content["images"].append("text")

    change_json(file, spoil)
    contents = read(refs_root, "train")
    assert problems_of(contents) == [
        ("expressions", str(file), detail)
        for detail in (
            "annotation 3: got 3, expected a mapping",
            "annotation without id: the key 'id' is missing, got {'image_id': 901}",
            "image 'text': got 'text', expected a mapping",
            "image 901: the key 'file_name' is missing, got {'height': 48, 'id': 901, 'width': 64}",
            "image 902.height: got 0, expected at least one pixel",
        )
    ]
    assert contents.videos == ()


def test_ids_of_annotations_and_images_that_occur_twice_are_noted_and_the_first_is_read(refs_root):
    file = refs_root / "refcoco" / "instances.json"

    def repeat(content):
        content["annotations"].append(content["annotations"][2] | {"segmentation": []})
        content["images"].append(content["images"][0] | {"file_name": "another.jpg"})

    change_json(file, repeat)
    contents = read(refs_root, "train")
    assert problems_of(contents) == [
        ("duplicates", str(file), "annotation 13 occurs more than once; the first one is read"),
        ("duplicates", str(file), "image 901 occurs more than once; the first one is read"),
    ]
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES
    assert contents.videos[1].masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))[0, 0].sum() == mask(13).sum()


def test_sentence_ids_that_occur_twice_in_an_image_are_noted_and_the_first_is_read(refs_root):
    path = refs_root / "refcoco" / "refs(unc).p"

    def repeat(content):
        content[1]["sentences"].append({"sent_id": 0, "sent": "another"})  # of the same image, another object
        content[2]["sentences"].append({"sent_id": 0, "sent": "of another image"})

    change_pickle(path, repeat)
    contents = read(refs_root, "train")
    assert problems_of(contents) == [
        ("duplicates", str(path), f"image {file_name(901)}, sentence 0 occurs more than once; the first one is read")
    ]
    assert sentences_by_image(contents.videos) == {
        "901": TRAIN_SENTENCES["901"],
        "902": [*TRAIN_SENTENCES["902"], "of another image"],
    }
    require_usable(contents.problems, for_training=False)


def test_an_image_about_which_nothing_can_be_used_is_left_out(refs_root):
    path = refs_root / "refcoco" / "refs(unc).p"
    change_pickle(path, lambda content: content[4]["sentences"][0].update(sent=""))
    contents = read(refs_root, "testA")
    assert problems_of(contents) == [
        (
            "expressions",
            str(path),
            f"image {file_name(904)}, sentence 6.sent: got '', expected a text that is not empty",
        )
    ]
    assert contents.videos == ()


def test_an_unknown_split_lists_those_that_exist(refs_root):
    with pytest.raises(ValueError, match=r"no reference is of split 'valid'; there are testA, train, val$"):
        read(refs_root, "valid")


# --- the layout with a file per split ---


def test_a_missing_file_of_a_split_names_the_splits_that_exist(instances_root):
    with pytest.raises(ValueError, match=r"split 'testA' of refcoco: .* files for the splits train, val$"):
        read(instances_root, "testA")


def test_image_entries_without_annotation_or_with_two_are_all_named(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"

    def change(content):
        content["annotations"].append(content["annotations"][0])
        del content["annotations"][3]

    change_json(path, change)
    contents = read(instances_root, "train")
    assert problems_of(contents) == [
        ("expressions", str(path), "image 0: it has 2 annotations; one per sentence is expected"),
        ("objects", str(path), f"image 3 ({file_name(902)}) has no annotation"),
    ]
    assert sentences_by_image(contents.videos) == {"901": TRAIN_SENTENCES["901"][1:], "902": TRAIN_SENTENCES["902"][1:]}


@pytest.mark.parametrize("key", ["caption", "height", "file_name", "id"])
def test_a_missing_key_is_named(instances_root, key):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"
    change_json(path, lambda content: content["images"][1].pop(key))
    contents = read(instances_root, "train")
    entry = "without id" if key == "id" else "1"
    ((kind, name, detail),) = problems_of(contents)
    assert (kind, name) == ("expressions", str(path))
    assert detail.startswith(f"image {entry}: the key {key!r} is missing, got {{")
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES | {
        "901": [TRAIN_SENTENCES["901"][0], TRAIN_SENTENCES["901"][2]]
    }
    with pytest.raises(ValueError, match=rf"instances_refcoco_train.json: image {entry}: .*'{key}'"):
        require_usable(contents.problems, for_training=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": "tall"}, "image 0.height: got 'tall', expected a whole number"),
        ({"width": 0}, "image 0.width: got 0, expected at least one pixel"),
        ({"height": float("inf")}, "image 0.height: got inf, expected a whole number"),
        ({"file_name": 3}, "image 0.file_name: got 3, expected a text"),
        ({"caption": None}, "image 0.caption: got None, expected a text"),
        ({"caption": " \r\n"}, "image 0.caption: got ' \\r\\n', expected a text that is not empty"),
        ({"id": [0]}, "image [0].id: got [0], expected a whole number or a text"),
    ],
)
def test_a_bad_value_is_named(instances_root, change, message):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"
    change_json(path, lambda content: content["images"][0].update(change))
    contents = read(instances_root, "train")
    ((kind, name, detail),) = problems_of(contents)
    assert (kind, name) == ("expressions", str(path))
    assert message in detail
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES | {"901": TRAIN_SENTENCES["901"][1:]}


def test_an_image_entry_that_stands_there_twice_is_noted_and_the_first_is_read(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"

    def repeat(content):
        content["images"].append(content["images"][0] | {"caption": "another"})
        content["images"].append(content["images"][0] | {"caption": "another", "file_name": file_name(902)})

    change_json(path, repeat)
    contents = read(instances_root, "train")
    detail = "image 0 occurs more than once; the first one is read"
    assert problems_of(contents) == [("duplicates", str(path), detail)]
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES


# --- damage that both layouts may have ---


def test_everything_that_is_wrong_is_told_at_once(root):
    (root / "train2014" / file_name(902)).unlink()
    file = annotation_file(root)
    index = root / "refcoco" / "refs(unc).p"

    def empty(content):
        content["images"][1].update(caption=" ")

    if index.exists():
        change_pickle(index, lambda content: content[0]["sentences"][1].update(sent=" "))
        sentence, entry = (str(index), f"image {file_name(901)}, sentence 1.sent"), "annotation 12"
    else:
        change_json(file, empty)
        sentence, entry = (str(file), "image 1.caption"), "annotation 2"
    change_json(file, lambda content: annotations_of(content, 12)[0].update(segmentation=None))
    contents = read(root, "train")
    missing = str(root / "train2014" / file_name(902))
    assert problems_of(contents) == [
        ("expressions", sentence[0], f"{sentence[1]}: got ' ', expected a text that is not empty"),
        ("objects", str(file), f"{entry}: segmentation of type NoneType: expected polygons or run lengths"),
        ("missing", missing, "no such image; unpack train2014.zip of COCO completely"),
    ]
    assert sentences_by_image(contents.videos) == {"901": TRAIN_SENTENCES["901"][:1]}
    with pytest.raises(ValueError, match=r"a text that is not empty \(and 2 more; python -m tools.check_data"):
        require_usable(contents.problems, for_training=False)


def test_missing_images_are_all_named(root):
    images = [root / "train2014" / file_name(number) for number in (901, 902)]
    for path in images:
        path.unlink()
    contents = read(root, "train")
    detail = "no such image; unpack train2014.zip of COCO completely"
    assert problems_of(contents) == [("missing", str(path), detail) for path in images]
    assert contents.videos == ()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder: .*refcoco or .*coco/refcoco"):
        read(tmp_path, "train")
    write_instances_layout(tmp_path)
    shutil.rmtree(tmp_path / "train2014")
    with pytest.raises(ValueError, match=r"no such folder: .*train2014"):
        read(tmp_path, "train")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', '{"images": 3, "annotations": []}'])
def test_a_damaged_file_of_annotations_is_named(root, content):
    path = annotation_file(root)
    path.write_text(content)
    message = r"not JSON|got \[\], expected a|the key 'annotations' is|images: got 3, expected a list"
    with pytest.raises(ValueError, match=rf"{path.name}: ({message})"):
        read(root, "train")


def test_a_missing_file_of_annotations_is_named(refs_root):
    annotation_file(refs_root).unlink()
    with pytest.raises(ValueError, match=r"instances\.json: no such file"):
        read(refs_root, "train")


@pytest.mark.parametrize("segmentation", [[], [[]], [[1.0, 2.0, 3.0, 4.0]], [[-9.0, -9.0, -5.0, -9.0, -5.0, -5.0]]])
def test_expressions_about_an_object_without_any_pixel_are_noted_and_left_out_of_training(root, segmentation):
    def empty(content):
        for entry in annotations_of(content, 12):
            entry["segmentation"] = segmentation

    change_json(annotation_file(root), empty)
    for for_training in (True, False):
        contents = read(root, "train", for_training=for_training)
        detail = "no pixel in its mask (expressions 2)"
        assert problems_of(contents) == [("unseen", "video COCO_train2014_000000000901, object 2", detail)]
        require_usable(contents.problems, for_training=False)
        assert sentences_by_image(contents.videos) == TRAIN_SENTENCES, "evaluation scores them"
        assert contents.videos[0].visible == {1: {0}, 2: frozenset()}
    assert trained_on(root) == {"the red square on the left", "upper one", "the big one", "square in the middle"}
    assert trained_on(root, sentences_per_clip=3) == trained_on(root)


def trained_on(root, **settings):
    fields = {"num_frames": 1, "short_side": HEIGHT, "long_side": WIDTH, "num_workers": 0, "flip_probability": 0.0}
    clips = build_train_loader(data_config("refcoco", root=root, **(fields | settings)), seed=0).dataset
    return {sentence for index in range(len(clips)) for sentence in clips[index].sentences}


def test_an_image_without_any_object_to_be_seen_is_left_out_of_training(root):
    def empty(content):
        for entry in annotations_of(content, 13):
            entry["segmentation"] = []

    change_json(annotation_file(root), empty)
    name = "video COCO_train2014_000000000902, object 1"
    assert problems_of(read(root, "train")) == [("unseen", name, "no pixel in its mask (expressions 3, 4)")]
    assert trained_on(root) == {"the red square on the left", "upper one", "lower square"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": "polygon"}, "segmentation of type str: expected polygons or run lengths"),
        ({"segmentation": [[1.0, 2.0, 3.0]]}, "a polygon of the segmentation is not a list of x, y, x, y, ..."),
        ({"segmentation": {"size": [HEIGHT, 5], "counts": [1]}}, "run lengths for an image of (height, width) [48, 5]"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1, 2]}}, "run lengths of 3 pixels for an image of 3072"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "né"}}, "compressed run lengths with the byte 195"),
        ({"bbox": [1.0, 2.0, 3.0]}, "got [1.0, 2.0, 3.0], expected left, top, width and height in pixels"),
        ({"bbox": [1.0, 2.0, -3.0, 4.0]}, "got [1.0, 2.0, -3.0, 4.0], expected left, top"),
        ({"bbox": [1.0, 2.0, 3.0, -4.0]}, "got [1.0, 2.0, 3.0, -4.0], expected left, top"),
        ({"bbox": [1.0, 2.0, 3.0, None]}, "got None, expected a number"),
        ({"bbox": [1.0, 2.0, 3.0, float("nan")]}, "got nan, expected a finite number"),
        ({"bbox": 7}, "got 7, expected a list"),
    ],
)
def test_a_damaged_annotation_is_named_and_left_out(root, change, message):
    path = annotation_file(root)
    change_json(path, lambda content: content["annotations"][0].update(change))
    contents = read(root, "train")
    ((kind, name, detail),) = problems_of(contents)
    assert (kind, name) == ("objects", str(path))
    is_refs = path.name == "instances.json"
    where, _, rest = detail.partition(": ")
    assert where.startswith(f"annotation {11 if is_refs else 0}{'.bbox' if 'bbox' in change else ''}")
    assert rest.startswith(message)
    assert sentences_by_image(contents.videos) == TRAIN_SENTENCES | {
        "901": TRAIN_SENTENCES["901"][2 if is_refs else 1 :]
    }


def test_an_annotation_without_segmentation_is_named(root):
    path = annotation_file(root)
    change_json(path, lambda content: content["annotations"][0].pop("segmentation"))
    ((kind, name, detail),) = problems_of(read(root, "train"))
    assert (kind, name) == ("objects", str(path))
    assert "the key 'segmentation' is missing" in detail


def test_an_image_with_several_sizes_is_named(instances_root):
    path = instances_root / "refcoco" / "instances_refcoco_train.json"

    def change(content):
        content["images"][0].update(height=HEIGHT + 1)

    change_json(path, change)
    contents = read(instances_root, "train")
    detail = f"image {file_name(901)} has several sizes: [(48, 64), (49, 64)]"
    assert problems_of(contents) == [("mismatched", str(path), detail)]
    assert sentences_by_image(contents.videos) == {"902": TRAIN_SENTENCES["902"]}


def test_an_image_of_another_size_than_annotated_is_named_when_it_is_read(root):
    video = sound_videos(root, "train")[0]
    message = r"object 1, frame 0: mask of \(height, width\) \(48, 64\), but its frame has \(64, 48\)"
    with pytest.raises(SizeMismatchError, match=message):
        video.masks.read((0,), size=(WIDTH, HEIGHT), objects=(1,))


def test_a_truncated_image_is_named(root):
    path = root / "train2014" / file_name(903)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"000000000903.jpg"):
        sound_videos(root, "val")[0].frames.read((0,))
