"""RefCOCO, RefCOCO+ and RefCOCOg in both layouts, on tiny generated folders: what is read, and the settings."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from configs.schema import DataConfig
from datasets.counts import Counts
from datasets.refcoco import PUBLISHED, REFCOCO, RefcocoSettings
from datasets.table import DATASETS
from loading.loaders import build_eval_dataset, training_videos
from tests.data_settings import data_config
from tests.tiny_refcoco import (
    HEIGHT,
    SENTENCES,
    TRAIN_SENTENCES,
    WIDTH,
    annotation_file,
    annotations_of,
    box,
    change_json,
    change_pickle,
    file_name,
    image_of,
    mask,
    read,
    request_of,
    sentences_by_image,
    sound_videos,
    write_instances_layout,
    write_refs_layout,
)

# --- what is read ---


def test_a_record_is_an_image_with_the_sentences_about_all_its_objects(root):
    videos = sound_videos(root, "train")
    assert [video.name for video in videos] == ["COCO_train2014_000000000901", "COCO_train2014_000000000902"]
    assert [video.frame_names for video in videos] == [(video.name,) for video in videos]
    found = {video.name[-3:]: [(e.sentence, e.object_ids) for e in video.expressions] for video in videos}
    assert found["901"] == [("the Red  square on the left", (1,)), ("upper one", (1,)), ("lower square", (2,))]
    assert found["902"] == [("the big one", (1,)), ("square in the middle", (1,))]
    assert [e.name for video in videos for e in video.expressions] == ["0", "1", "2", "3", "4"]


def test_images_are_sorted_by_name_whatever_the_order_of_the_file(refs_root):
    change_pickle(refs_root / "refcoco" / "refs(unc).p", lambda content: content.reverse())
    videos = sound_videos(refs_root, "train")
    assert sentences_by_image(videos) == TRAIN_SENTENCES | {
        "901": [TRAIN_SENTENCES["901"][2], *TRAIN_SENTENCES["901"][:2]]
    }
    assert [video.name[-3:] for video in videos] == ["901", "902"]


def test_sentences_about_one_mask_are_about_one_object_with_the_first_box(instances_root):
    def move(content):
        annotations_of(content, 11)[1]["bbox"] = [0.0, 0.0, 9.0, 9.0]

    change_json(annotation_file(instances_root), move)
    assert sound_videos(instances_root, "train")[0].boxes_xywh_px == {1: tuple(box(11)), 2: tuple(box(12))}


def annotation_of(record, expression):
    """The annotation whose sentences contain this one."""
    image = int(record.name.removeprefix("COCO_train2014_"))
    (found,) = [
        annotation
        for annotation, sentences in SENTENCES.items()
        if image_of(annotation) == image and expression.sentence in sentences
    ]
    return found


def test_every_mask_is_that_of_its_sentence_to_the_pixel(root):
    for video in sound_videos(root, "train"):
        for expression in video.expressions:
            found = video.masks.read((0, 0), size=(HEIGHT, WIDTH), objects=expression.object_ids)
            assert found.shape == (1, 2, HEIGHT, WIDTH)
            expected = mask(annotation_of(video, expression))
            assert np.array_equal(found[0, 0], expected)
            assert np.array_equal(found[0, 1], expected)


def test_every_box_is_the_annotated_one_of_its_object(root):
    def shift(content):
        for annotation in (11, 12, 13):
            for entry in annotations_of(content, annotation):
                entry["bbox"] = [number + annotation / 100 for number in entry["bbox"]]

    change_json(annotation_file(root), shift)
    for video in sound_videos(root, "train"):
        assert set(video.boxes_xywh_px) == set(video.object_ids)
        for expression in video.expressions:
            annotation = annotation_of(video, expression)
            expected = [number + annotation / 100 for number in box(annotation)]
            assert list(video.boxes_xywh_px[expression.object_ids[0]]) == pytest.approx(expected)


def test_without_an_annotated_box_the_mask_has_one(root):
    def drop(content):
        for entry in annotations_of(content, 12):
            del entry["bbox"]

    change_json(annotation_file(root), drop)
    video = sound_videos(root, "train")[0]
    assert video.boxes_xywh_px == {1: tuple(box(11)), 2: tuple(box(12))}


def test_every_frame_is_its_image(root):
    (video,) = sound_videos(root, "val")
    frame = video.frames.read((0,))[0]
    with Image.open(root / "train2014" / file_name(903)) as image:
        expected = np.array(image)
    assert np.abs(frame.astype(int) - expected).max() <= 2, "two decoders of JPEG may differ by rounding"
    assert video.frames.size() == (HEIGHT, WIDTH)


def test_training_records_say_that_objects_are_visible_in_their_only_frame(root):
    for video in sound_videos(root, "train", for_training=True):
        assert video.visible == {number: frozenset({0}) for e in video.expressions for number in e.object_ids}


@pytest.mark.parametrize("for_training", [False, True])
@pytest.mark.parametrize("pseudo_clips", [False, True])
def test_only_training_makes_pseudo_clips_and_only_if_asked_to(root, for_training, pseudo_clips):
    videos = sound_videos(root, "train", for_training=for_training, pseudo_clips=pseudo_clips)
    assert [video.is_pseudo_clip for video in videos] == [for_training and pseudo_clips] * 2


def test_training_and_evaluation_read_the_same_sentences_of_the_same_images(root):
    trained, evaluated = (sound_videos(root, "train", for_training=is_training) for is_training in (True, False))
    assert sentences_by_image(trained) == sentences_by_image(evaluated) == TRAIN_SENTENCES
    assert [video.frames for video in trained] == [video.frames for video in evaluated]
    assert [video.masks for video in trained] == [video.masks for video in evaluated]


def test_sentences_are_cleaned_unless_they_shall_stay_as_written(root):
    def first(**settings):
        data = data_config("refcoco", root=root, eval_split="train", **settings)
        return [
            videos[0].expressions[0].sentence for videos in (training_videos(data), build_eval_dataset(data).videos)
        ]

    assert first() == ["the red square on the left"] * 2
    assert first(lower_case=False) == ["the Red square on the left"] * 2
    assert first(eval_as_written=True) == ["the red square on the left", "the Red  square on the left"]


@pytest.mark.parametrize("inside", ["", "coco"])
def test_the_folder_around_coco_may_be_named_as_well(tmp_path, inside):
    write_instances_layout(tmp_path / inside)
    assert sentences_by_image(sound_videos(tmp_path, "train")) == TRAIN_SENTENCES


def test_images_where_the_refer_toolkit_keeps_them_are_found(refs_root):
    target = refs_root / "images" / "mscoco" / "images" / "train2014"
    target.parent.mkdir(parents=True)
    shutil.move(refs_root / "train2014", target)
    assert sentences_by_image(sound_videos(refs_root, "train")) == TRAIN_SENTENCES


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_every_age_are_read(tmp_path, protocol):
    write_refs_layout(tmp_path, protocol=protocol)
    assert sentences_by_image(sound_videos(tmp_path, "testA")) == {"904": ["a square"]}


def test_whose_splits_are_read_can_be_chosen(tmp_path):
    write_refs_layout(tmp_path, "refcocog", "umd")
    assert sentences_by_image(sound_videos(tmp_path, "train", variant="refcocog")) == TRAIN_SENTENCES
    assert sentences_by_image(sound_videos(tmp_path, "train", variant="refcocog", split_by="umd")) == TRAIN_SENTENCES
    with pytest.raises(ValueError, match=r"refs\(google\)\.p exists"):
        read(tmp_path, "train", variant="refcocog", split_by="google")


def test_both_layouts_say_the_same(tmp_path):
    def content(videos):
        return [
            (
                v.name,
                v.masks.tracks,
                v.boxes_xywh_px,
                v.visible,
                [(e.sentence, e.object_ids) for e in v.expressions],
            )
            for v in videos
        ]

    refs, instances = write_refs_layout(tmp_path / "refs"), write_instances_layout(tmp_path / "instances")
    for split in ("train", "val"):
        assert content(sound_videos(refs, split)) == content(sound_videos(instances, split))


def test_with_both_layouts_there_a_setting_decides(tmp_path):
    root = write_instances_layout(tmp_path / "data")
    shutil.copytree(write_refs_layout(tmp_path / "other") / "refcoco", root / "refcoco", dirs_exist_ok=True)
    (root / "refcoco" / "instances_refcoco_train.json").write_text("{}")
    assert sentences_by_image(sound_videos(root, "train", split_by="unc")) == TRAIN_SENTENCES
    assert len(sound_videos(root, "testA")) == 1, "there is no instances_refcoco_testA.json"
    with pytest.raises(ValueError, match=r"instances_refcoco_train.json: the key 'images' is missing"):
        read(root, "train")


def test_a_polygon_that_reaches_outside_the_picture_is_cut_at_its_edge(root):
    outside = [[-20.0, -20.0, 30.0, -20.0, 30.0, 20.0, -20.0, 20.0]]
    change_json(annotation_file(root), lambda content: content["annotations"][0].update(segmentation=outside))
    video = sound_videos(root, "train")[0]
    found = video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))[0, 0]
    assert found[:20, :30].all()
    assert found.sum() == 20 * 30


def test_grey_and_cmyk_images_are_read_as_rgb(root):
    path = root / "train2014" / file_name(903)
    for mode in ("L", "CMYK"):
        with Image.open(path) as image:
            converted = image.convert(mode)
        converted.save(path)
        assert sound_videos(root, "val")[0].frames.read((0,)).shape == (1, HEIGHT, WIDTH, 3)


def test_reading_writes_nothing_into_the_folder(tmp_path):
    root = write_refs_layout(tmp_path)
    before = sorted(root.rglob("*"))
    sound_videos(root, "train", for_training=True)
    assert sorted(root.rglob("*")) == before


# --- settings ---


def test_settings_name_the_set_and_a_division_that_papers_do_not_use():
    labels = {
        ("refcoco", ""): "refcoco",
        ("refcoco", "unc"): "refcoco",
        ("refcoco", "google"): "refcoco (google)",
        ("refcoco+", ""): "refcoco+",
        ("refcocog", "umd"): "refcocog",
        ("refcocog", "google"): "refcocog (google)",
    }
    for (variant, split_by), label in labels.items():
        settings = RefcocoSettings.model_validate({"variant": variant, "split_by": split_by})
        assert settings.label == label
        assert (label in PUBLISHED) == (split_by != "google"), "published counts are those of the usual division"


def test_settings_that_are_wrong_name_what_there_is():
    with pytest.raises(ValidationError, match=r"split_by='unc': refcocog is divided by umd or google"):
        data_config("refcoco", variant="refcocog", split_by="unc")
    with pytest.raises(ValidationError, match=r"split_by='google': refcoco\+ is divided by unc"):
        data_config("refcoco", variant="refcoco+", split_by="google")
    with pytest.raises(ValidationError, match=r"'refcoco', 'refcoco\+' or 'refcocog'"):
        data_config("refcoco", variant="refcoco-plus")


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"refcoco"}))
@pytest.mark.parametrize("key", ["variant", "split_by", "pseudo_clips"])
def test_keys_of_refcoco_are_refused_by_the_other_sets(dataset, key):
    with pytest.raises(ValidationError, match=key):
        DataConfig.model_validate({"sets": [{"dataset": dataset, key: RefcocoSettings.model_fields[key].default}]})


@pytest.mark.parametrize("keys", [{"label_categories": True}, {"sequences": ("a",)}])
def test_keys_of_other_sets_are_refused(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        DataConfig.model_validate({"sets": [{"dataset": "refcoco", **keys}]})


def test_it_is_the_val_split_that_is_evaluated(root):
    (video,) = build_eval_dataset(data_config("refcoco", root=root))
    assert video.record.name == "COCO_train2014_000000000903"


# --- what there is, and how much ---


def test_the_sets_in_a_folder_are_found_with_their_splits(tmp_path):
    assert REFCOCO.find(tmp_path) == []
    write_instances_layout(tmp_path)
    write_refs_layout(tmp_path / "coco", "refcocog", "umd")
    found = {item.settings.label: item.splits for item in REFCOCO.find(tmp_path)}
    assert found == {"refcoco": ("train", "val"), "refcocog": ("train", "val")}, "RefCOCOg has no testA"
    (tmp_path / "coco" / "refcocog" / "refs(umd).p").write_bytes(b"damaged")
    assert REFCOCO.find(tmp_path)[1].splits == ("train",), "reading it says what is wrong"


def test_references_are_looked_at_where_no_file_of_a_split_is(refs_root):
    (found,) = REFCOCO.find(refs_root)
    assert (found.settings, found.splits) == (RefcocoSettings(), ("train", "val", "testA"))


def test_images_and_sentences_are_counted(root):
    assert REFCOCO.count(sound_videos(root, "train")) == Counts(images=2, expressions=5)
    assert REFCOCO.count(()) == Counts()


def test_images_are_shared_with_other_sets(root, tmp_path):
    assert list(REFCOCO.shared_folders(request_of(root, "train"))) == [root / "train2014"]
    assert list(REFCOCO.shared_folders(request_of(tmp_path / "empty", "train"))) == []


TOTALS = {
    "refcoco": Counts(images=19994, objects=50000, expressions=142210),
    "refcoco+": Counts(images=19992, objects=49856, expressions=141564),
    "refcocog": Counts(images=25799, objects=49822, expressions=95010),
}
"""For all splits together: those of the shared statistics; RefCOCOg is not confirmed."""


@pytest.mark.parametrize("variant", TOTALS)
def test_the_published_splits_add_up_to_the_published_totals(variant):
    for name, value in TOTALS[variant].as_dict().items():
        assert sum(getattr(counts, name) for counts in PUBLISHED[variant].values()) == value


@pytest.mark.real_data
def test_the_published_counts_are_those_of_the_shared_statistics(shared_dir):
    facts = json.loads((shared_dir / "data" / "stats" / "statistics.json").read_text())
    for name in ("refcoco", "refcoco+"):
        fact = facts[f"{name}_unc"]
        assert TOTALS[name] == Counts(images=fact["images"], objects=fact["refs"], expressions=fact["expressions"])
        for split, images in fact.get("images_by_split", {}).items():
            assert PUBLISHED[name][split].images == images
    refcoco = PUBLISHED["refcoco"]
    assert (refcoco["train"].objects, refcoco["val"].objects) == (facts["refcoco_unc"]["train"], 3811)
    tests = refcoco["testA"].objects + refcoco["testB"].objects
    assert tests == facts["refcoco_unc"]["test(A+B)"]
