"""The original text files of Ref-DAVIS17, and training on it; evaluation is in test_eval.py."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.davis_text import TEXT_FILES
from datasets.table import find_datasets
from loading.loaders import build_eval_dataset, build_train_loader
from media.mask_png import read_index_png
from tests.data_settings import data_config, read
from tests.tiny_davis import write_tiny_davis
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH
from tools.shapes.text import write_text_encoder


@pytest.fixture
def root(tmp_path):
    """The tiny videos "one" and "two", with the original files instead of the prepared one."""
    (tmp_path / "encoder").mkdir()
    write_text_encoder(tmp_path / "encoder" / "text_encoder", ["a square"], vocab_size=300)
    root = write_tiny_davis(tmp_path / "davis", text_encoder=tmp_path / "encoder" / "text_encoder")
    (root / "meta_expressions" / "valid" / "meta_expressions.json").unlink()
    for k, name in enumerate(TEXT_FILES):
        lines = [f'{video} {number} "A square {k}"' for video, number in (("one", 1), ("two", 1), ("two", 2))]
        write_lines(root, name, [*lines, 'elsewhere 1 "not in this split"'])
    return root


def write_lines(root, name, lines, *, encoding="utf-8", end="\n"):
    path = root / "davis_text_annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode(encoding))


def lines_of(root, name):
    return (root / "davis_text_annotations" / name).read_text().splitlines()


def settings(root, **changes):
    fields = {"num_frames": 2, "num_workers": 0, "eval_as_written": False}
    return data_config("ref_davis17", root=root, **(fields | changes))


def test_the_original_files_give_four_sentences_per_object(root):
    videos = list(build_eval_dataset(settings(root)))
    one, two = (video.record for video in videos)
    assert (one.name, two.name) == ("one", "two")
    assert [e.sentence for e in two.expressions] == [f"a square {k}" for k in range(4)] * 2
    assert [e.kind for e in two.expressions] == ["anno_0", "anno_1", "anno_2", "anno_3"] * 2
    assert [e.object_ids for e in two.expressions] == [(1,)] * 4 + [(2,)] * 4
    assert one.frame_names == tuple(f"{i:05d}" for i in range(5))


def test_sentences_are_evaluated_as_written_unless_asked_otherwise(root):
    (first, *_) = build_eval_dataset(data_config("ref_davis17", root=root))
    assert first.record.expressions[0].sentence == "A square 0"


def test_latin_1_windows_line_ends_and_misspelt_videos_are_understood(root):
    for kind in ("JPEGImages", "Annotations_unsupervised"):
        (root / kind / "480p" / "two").rename(root / kind / "480p" / "classic-car")
    (root / "ImageSets" / "2017" / "val.txt").write_bytes(b"one\r\nclassic-car\r\n")
    for name in TEXT_FILES:
        lines = [line.replace("two", "clasic-car").replace("square", "caf\u00e9") for line in lines_of(root, name)]
        is_second = "annot2" in name
        write_lines(root, name, lines, encoding="latin-1" if is_second else "utf-8-sig", end="\r\n")
    videos = list(build_eval_dataset(settings(root)))
    assert [video.record.name for video in videos] == ["classic-car", "one"]
    assert [e.sentence for e in videos[0].record.expressions[:4]] == [f"a caf\u00e9 {k}" for k in range(4)]


def test_a_folder_per_split_needs_no_list_of_videos(root):
    shutil.rmtree(root / "ImageSets")
    with pytest.raises(ValueError, match=r"val\.txt: no such file"):
        read(settings(root), "valid")
    (root / "valid").mkdir()
    for kind, name in (("JPEGImages", "JPEGImages"), ("Annotations_unsupervised", "Annotations")):
        (root / kind / "480p").rename(root / "valid" / name)
    assert [video.name for video in read(settings(root), "valid").videos] == ["one", "two"]


def test_a_missing_sentence_is_named_and_only_training_goes_on_without(root, caplog):
    (root / "ImageSets" / "2017" / "train.txt").write_text("one\ntwo\n")
    write_lines(root, TEXT_FILES[2], lines_of(root, TEXT_FILES[2])[:-2])
    with pytest.raises(ValueError, match=r"annot2\.txt: no sentence about object 2 of video two"):
        read(settings(root), "valid")
    with caplog.at_level(logging.WARNING):
        (_, two) = read(settings(root), "train", for_training=True).videos
    assert "no sentence about object 2 of video two" in caplog.text
    assert [expression.name for expression in two.expressions] == ["0", "1", "2", "3", "4", "5", "7"]
    assert two.expressions[-1].kind == "anno_3"
    assert set(two.visible) >= {1, 2}


def test_a_second_sentence_of_the_same_annotator_is_left_out_with_a_warning(root, caplog):
    write_lines(root, TEXT_FILES[0], [*lines_of(root, TEXT_FILES[0]), 'one 1 "another"', 'one 1 "A square 0"'])
    with caplog.at_level(logging.WARNING):
        source = read(settings(root), "valid")
    assert caplog.text.count("a second sentence") == 1
    assert source.videos[0].expressions[0].sentence == "A square 0"


def test_an_expression_too_few_in_the_prepared_file_is_named(root):
    shutil.rmtree(root / "davis_text_annotations")
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    entries = {str(k): {"exp": "a square", "obj_id": "1"} for k in range(3)}
    path.write_text(json.dumps({"videos": {"one": {"frames": ["00000"], "expressions": entries}}}))
    with pytest.raises(ValueError, match=r"videos\.one: 3 expressions, expected 4 per object"):
        read(settings(root), "valid")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], r"annot1\.txt:1: got 'one', expected <video> <object>"),
        (["one x square"], r"annot1\.txt:1"),
        (['two 1 "a"', 'two 2 "b"'], r"annot1\.txt: no sentence about object 1 of video one"),
    ],
)
def test_bad_lines_are_named(root, lines, message):
    write_lines(root, TEXT_FILES[0], lines)
    with pytest.raises(ValueError, match=message):
        read(settings(root), "valid")


def test_videos_and_files_that_are_missing_are_named(root):
    (root / "ImageSets" / "2017" / "val.txt").write_text("one\nthree\n")
    with pytest.raises(ValueError, match=r"480p/three/: no such folder of video three \(and 1 more"):
        read(settings(root), "valid")
    (root / "JPEGImages" / "480p" / "three").mkdir()
    with pytest.raises(ValueError, match="davis_text_annotations: no sentence about video three"):
        read(settings(root), "valid")
    (root / "davis_text_annotations" / TEXT_FILES[3]).unlink()
    with pytest.raises(ValueError, match=r"annot2_full_video\.txt: no such file"):
        read(settings(root), "valid")


def test_masks_are_read_once_for_training(root, monkeypatch):
    (root / "ImageSets" / "2017" / "train.txt").write_text("one\ntwo\n")
    first = build_train_loader(settings(root), seed=0)
    assert len(first.dataset) == 4 * 3 + 8 * 3
    monkeypatch.setattr("datasets.visibility.read_index_png", None)
    assert len(build_train_loader(settings(root), seed=0).dataset) == len(first.dataset)


def test_training_names_an_expression_whose_object_is_in_no_mask(root, caplog):
    (root / "ImageSets" / "2017" / "train.txt").write_text("one\ntwo\n")
    for name in TEXT_FILES:
        write_lines(root, name, [*lines_of(root, name), 'one 7 "a square that is not there"'])
    file = root / "davis_text_annotations"
    with pytest.raises(ValueError, match=rf"^{file}: video one, expression 4: object 7 is in no mask.*and 3 more"):
        read(settings(root), "train", for_training=True)


def test_an_evaluation_needs_the_masks_of_every_video_or_of_none(root):
    shutil.rmtree(root / "Annotations_unsupervised" / "480p" / "two")
    with pytest.raises(ValueError, match=r"^video two: no masks, although others have some \(1 of 2 videos"):
        build_eval_dataset(settings(root))
    shutil.rmtree(root / "Annotations_unsupervised" / "480p" / "one")
    assert len(build_eval_dataset(settings(root))) == 2


def test_masks_are_those_of_the_unsupervised_task_in_training_and_evaluation(root):
    """The other folder has one object in both videos."""
    (root / "ImageSets" / "2017" / "train.txt").write_text("one\ntwo\n")
    (one, two) = build_eval_dataset(settings(root))
    assert [np.unique(video.load_object_maps()).tolist() for video in (one, two)] == [[0, 1, 255], [0, 1, 2, 255]]
    (_, two) = read(settings(root), "train", for_training=True).videos
    assert two.visible.keys() >= {1, 2}
    expected = read_index_png(root / "Annotations_unsupervised" / "480p" / "two" / "00003.png") == 2
    assert expected.any()
    assert np.array_equal(two.masks.read((3,), size=(HEIGHT, WIDTH), objects=(2,))[0, 0], expected)


def test_masks_of_the_semi_supervised_task_alone_are_not_taken_for_the_others(root):
    """Then the masks that were moved below the split count, which the conversion of ReferFormer made."""
    for split in ("valid", "train"):
        (root / "ImageSets" / "2017" / f"{'val' if split == 'valid' else split}.txt").write_text("one\ntwo\n")
    (root / "Annotations_unsupervised").rename(root / "aside")
    for split, for_training in (("valid", False), ("train", True)):
        with pytest.raises(ValueError) as caught:
            read(settings(root), split, for_training=for_training)
        message = str(caught.value)
        assert message.startswith(f"{root}/Annotations_unsupervised/480p: no such folder; ")
        assert f"those of the semi-supervised task in {root}/Annotations/480p show other objects" in message
    assert [item.settings.dataset for item in find_datasets(root)] == ["ref_davis17"], "the check says so, too"
    (root / "valid").mkdir()
    (root / "aside" / "480p").rename(root / "valid" / "Annotations")
    (_, two) = build_eval_dataset(settings(root))
    assert np.unique(two.load_object_maps()).tolist() == [0, 1, 2, 255]


def test_masks_of_the_unsupervised_task_alone_are_enough(root):
    shutil.rmtree(root / "Annotations")
    assert len(build_eval_dataset(settings(root))) == 2
    assert [item.settings.dataset for item in find_datasets(root)] == ["ref_davis17"]


def test_a_folder_per_split_is_taken_for_davis_and_not_for_ref_youtube_vos(tmp_path):
    path = tmp_path / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "valid" / "JPEGImages").mkdir(parents=True)
    assert [item.settings.dataset for item in find_datasets(tmp_path)] == ["ref_youtube_vos"]
    (tmp_path / "valid" / "Annotations" / "blackswan").mkdir(parents=True)
    assert [item.settings.dataset for item in find_datasets(tmp_path)] == ["ref_davis17"]


@pytest.mark.real_data
def test_the_real_text_files_say_what_the_prepared_file_says(shared_dir, tmp_path):
    source = shared_dir / "data" / "ref_davis17"
    prepared = json.loads((source / "derived_meta_expressions_valid.json").read_text())["videos"]
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("\n".join(prepared))
    (tmp_path / "Annotations_unsupervised" / "480p").mkdir(parents=True)
    for video, content in prepared.items():
        make_empty_frames(tmp_path / "JPEGImages" / "480p" / video, content["frames"])
    texts = source / "derived_davis_text_annotations_val"
    videos = read(settings(tmp_path, expressions=texts), "valid").videos
    assert len(videos) == 30
    assert len({(video.name, e.object_ids) for video in videos for e in video.expressions}) == 61
    assert sum(len(video.expressions) for video in videos) == 244
    for video in videos:
        expected = prepared[video.name]
        assert list(video.frame_names) == expected["frames"]
        assert {e.name: (e.sentence, str(e.object_ids[0])) for e in video.expressions} == {
            name: (entry["exp"], entry["obj_id"]) for name, entry in expected["expressions"].items()
        }


def make_empty_frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.jpg").touch()
