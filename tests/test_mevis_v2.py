"""The second release of MeViS: sentences that mean nothing in their video."""

import json
import shutil

import pytest

from datasets.definition import SplitRequest
from datasets.mevis import MEVIS, MevisSettings
from loading.loaders import build_eval_dataset, build_train_loader
from tests.tiny_mevis import (
    change,
    config,
    problems_of,
    read,
    write,
    write_tiny_mevis,
)


@pytest.fixture
def root(tmp_path):
    return write_tiny_mevis(tmp_path)


@pytest.fixture
def second(root):
    """Beside the first release; two of the four sentences mean nothing in the video."""
    for split, name in (("train", "meta_expressions_v2.json"), ("valid", "meta_expressions_v2_release.json")):
        content = json.loads((root / split / "meta_expressions.json").read_text())
        own = content["videos"]["one"]["expressions"]
        more = {"3": {"exp": "The elephant", "obj_id": [], "anno_id": []}, "4": {"exp": "A bird", "anno_id": []}}
        kept = {"0": own["0"], "2": own["2"], **more}
        if split == "valid":
            kept = {name: {"exp": entry["exp"]} for name, entry in kept.items()}
        content["videos"]["one"]["expressions"] = kept
        write(root / split / name, content)
    return root


def objects_of(contents):
    (video,) = contents.videos
    return {e.name: e.object_ids for e in video.expressions}


def test_sentences_that_mean_nothing_are_told_from_secret_ones(second, caplog):
    with caplog.at_level("INFO"):
        contents = read(second)
    assert contents.problems == ()
    assert objects_of(contents) == {"0": (7,), "2": (7, 9), "3": (), "4": ()}
    assert [(e.is_absent, e.is_secret) for e in contents.videos[0].expressions] == [(False, False)] * 2 + [
        (True, False)
    ] * 2
    assert objects_of(read(second, "valid")) == dict.fromkeys("0234")
    assert contents.label == read(second, "valid").label == "mevis v2"
    path = second / "train" / "meta_expressions_v2.json"
    assert f"MeViS v2, split train: sentences of {path}" in caplog.messages


def test_a_release_can_be_asked_for(second, caplog):
    def read_release(release):
        with caplog.at_level("INFO"):
            return MEVIS.read(SplitRequest(MevisSettings(release=release), second, "train"))

    first = read_release("v1")
    assert (first.label, objects_of(first)) == ("mevis v1", {"0": (7,), "1": (9,), "2": (7, 9)})
    assert f"MeViS v1, split train: sentences of {second / 'train' / 'meta_expressions.json'}" in caplog.messages
    assert objects_of(read_release("v2")) == objects_of(read_release("auto")) == objects_of(read(second))
    (second / "train" / "meta_expressions_v2.json").unlink()
    assert objects_of(read_release("auto")) == objects_of(first)
    message = r"release=v2: .*train has neither meta_expressions_v2\.json nor .*release=v1 reads it"
    with pytest.raises(ValueError, match=message):
        read_release("v2")


def test_the_second_release_is_known_by_its_sentences_where_its_file_was_renamed(second):
    folder = second / "train"
    (folder / "meta_expressions_v2.json").rename(folder / "meta_expressions.json")
    contents = read(second)
    assert (contents.label, objects_of(contents)["3"]) == ("mevis v2", ())


def test_both_releases_in_a_folder_are_found(second):
    assert [(found.settings.release, found.splits) for found in MEVIS.find(second)] == [
        ("v1", ("train", "valid")),
        ("v2", ("train", "valid")),
    ]


def test_a_video_about_which_no_sentence_is_true_is_read_without_masks(second):
    def leave_absent(content):
        expressions = content["videos"]["one"]["expressions"]
        for name in "02":
            expressions.pop(name)

    change(second / "train" / "meta_expressions_v2.json", leave_absent)
    (second / "train" / "mask_dict.json").unlink()
    assert objects_of(read(second)) == {"3": (), "4": ()}


def test_objects_without_masks_are_no_absent_target(second):
    path = second / "train" / "meta_expressions_v2.json"
    change(path, lambda content: content["videos"]["one"]["expressions"]["3"].update(obj_id=[1]))
    contents = read(second)
    detail = "videos.one.expressions.3: anno_id is empty, although obj_id=[1] names an object"
    assert problems_of(contents) == [("expressions", str(path), detail)]
    assert list(objects_of(contents)) == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("absent", "expected", "what"),
    [
        ("train", {"0": 0, "2": 0, "3": None, "4": None}, "their targets have no object"),
        ("leave_out", {"0": 0, "2": 0}, "they are left out (data.absent)"),
    ],
)
def test_sentences_that_mean_nothing_are_trained_on_or_left_out(second, caplog, absent, expected, what):
    with caplog.at_level("INFO"):
        clips = build_train_loader(config(second, sentences_per_clip=4, absent=absent), seed=0).dataset
    samples = [clips[index] for index in range(len(clips))]
    trained = {m.expression: t.referred for s in samples for m, t in zip(s.meta, s.targets, strict=True)}
    assert trained == expected
    assert f"2 of 4 sentences mean nothing in their video: {what}" in caplog.messages


def test_sentences_that_mean_nothing_are_scored_against_empty_masks_and_counted_in_the_log(second, caplog):
    with caplog.at_level("INFO"):
        (video,) = build_eval_dataset(config(second))
    annotated = {e.name: bool(video.load_masks(e).any()) for e in video.record.expressions}
    assert annotated == {"0": True, "2": True, "3": False, "4": False}
    counted = "2 of 4 sentences mean nothing in their video: they count for N-acc, not for J&F"
    assert f"mevis/train: mevis v2; {counted}" in caplog.messages


def test_a_split_can_be_scored_although_no_sentence_about_one_video_is_true(second):
    def absent_twin(content):
        twin = json.loads(json.dumps(content["videos"]["one"]))
        twin["expressions"] = {"0": {"exp": "The elephant", "obj_id": [], "anno_id": []}}
        content["videos"]["two"] = twin

    change(second / "train" / "meta_expressions_v2.json", absent_twin)
    shutil.copytree(second / "train" / "JPEGImages" / "one", second / "train" / "JPEGImages" / "two")
    dataset = build_eval_dataset(config(second))
    assert [video.object_ids for video in dataset.videos] == [(7, 9), ()]
    assert dataset.can_be_scored
    assert not build_eval_dataset(config(second, eval_split="valid")).can_be_scored
