"""MeViS beyond what tests/test_formats.py compares with the generator's truth: what can be wrong with the files."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.definition import SplitRequest
from datasets.listing import FolderListing
from datasets.mevis import MEVIS, PUBLISHED, MevisSettings
from datasets.problems import require_usable
from datasets.readers import SizeMismatchError
from loading.loaders import build_eval_dataset, build_train_loader, training_videos
from tests.tiny_mevis import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    change,
    config,
    expressions_of,
    problems_of,
    read,
    square,
    write_tiny_mevis,
)


@pytest.fixture
def root(tmp_path):
    return write_tiny_mevis(tmp_path)


# --- what is read ---


@pytest.mark.parametrize("for_training", [False, True])
def test_a_split_is_read_as_it_stands_in_the_files(root, for_training):
    contents = read(root, for_training=for_training)
    assert contents.problems == ()
    (video,) = contents.videos
    assert [(e.name, e.sentence, e.object_ids) for e in video.expressions] == [
        ("0", "Sentence 0", (7,)),
        ("1", "Sentence 1", (9,)),
        ("2", "Sentence 2", (7, 9)),
    ]
    assert video.visible == {7: {0, 1, 2, 3, 4}, 9: {2, 3, 4}}
    assert video.annotated is None
    masks = video.masks.read((4, 0), size=(HEIGHT, WIDTH), objects=(9, 7))
    assert np.array_equal(masks, np.array([[square(6), 0 * square(6)], [square(2), square(2)]], dtype=bool))


def test_masks_belong_to_frames_in_the_order_of_the_file(root):
    path = root / "train" / "meta_expressions.json"
    change(path, lambda content: content["videos"]["one"]["frames"].reverse())
    (video,) = read(root).videos
    assert video.frame_names == ("00004", "00003", "00002", "00001", "00000")
    assert abs(int(video.frames.read((0,)).mean()) - 40 * 4) <= 2
    assert not video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(9,)).any(), "the first mask of 9 is null"


def test_videos_are_sorted_by_name(root):
    path = root / "train" / "meta_expressions.json"

    def add(content):
        content["videos"] |= dict.fromkeys(("two", "a_third"), content["videos"]["one"])

    change(path, add)
    for name in ("two", "a_third"):
        (root / "train" / "JPEGImages" / name).mkdir()
    assert list(expressions_of(read(root))) == ["a_third", "one", "two"]


def test_a_sentence_about_several_objects_means_their_union(root):
    clips = build_train_loader(config(root), seed=0).dataset
    samples = {(s.meta[0].expression, s.meta[0].frame_names[0]): s for s in map(clips.__getitem__, range(len(clips)))}
    first, last = samples["2", "00000"].targets[0], samples["2", "00003"].targets[0]
    assert torch.equal(first.masks[0, 0], torch.from_numpy(square(2) > 0))
    assert torch.equal(last.masks[0, 1], torch.from_numpy((square(2) | square(6)) > 0))
    assert ("1", "00000") not in samples, "object 9 is not there yet"
    assert samples["1", "00002"].targets[0].is_visible.all()


def test_sentences_of_one_clip_with_common_objects_keep_their_own_masks(root):
    sample = build_train_loader(config(root, sentences_per_clip=3), seed=0).dataset[1]
    areas = {
        meta.expression: int(target.masks[0, 0].sum()) for meta, target in zip(sample.meta, sample.targets, strict=True)
    }
    assert areas == {"0": 64, "1": 64, "2": 64 + 64 - 32}


def test_evaluation_takes_the_union(root):
    video = build_eval_dataset(config(root))[0]
    assert video.load_object_maps() is None
    areas = [video.load_masks(e).sum(axis=(1, 2)).tolist() for e in video.record.expressions]
    assert areas == [[64] * 5, [0, 0, 64, 64, 64], [64, 64, 96, 96, 96]]
    both = video.record.expressions[2]
    assert np.array_equal(video.load_masks(both)[3], (square(2) | square(6)) > 0)
    assert video.load_masks(both, (3, 0)).sum(axis=(1, 2)).tolist() == [96, 64]


def test_secret_splits_have_no_masks_and_cannot_be_trained_on(root):
    (video,) = build_eval_dataset(config(root, eval_split="valid"))
    assert [e.object_ids for e in video.record.expressions] == [None] * 3
    assert [video.load_masks(e) for e in video.record.expressions] == [None] * 3
    path = str(root / "valid" / "meta_expressions.json")
    contents = read(root, "valid", for_training=True)
    assert problems_of(contents) == [
        ("expressions", path, f"videos.one.expressions.{name}: has no anno_id; this split cannot be trained on")
        for name in "012"
    ]
    assert contents.videos == ()
    with pytest.raises(ValueError, match="cannot be trained on"):
        training_videos(config(root, train_split="valid"))


def test_the_split_with_masks_is_evaluated_unless_another_is_named():
    assert MevisSettings().eval_split == "valid_u"


# --- what can be wrong ---


@pytest.mark.parametrize(
    ("edit", "found", "usable"),
    [
        (
            lambda masks: masks.pop("9"),
            [
                ("objects", "anno_id 9 (video one, expression 1) is missing"),
                ("objects", "anno_id 9 (video one, expression 2) is missing"),
            ],
            ["0"],
        ),
        (
            lambda masks: masks["9"].pop(),
            [
                ("mismatched", f"anno_id 9 (video one, expression {e}) has masks for 4 frames, the video has 5 frames")
                for e in (1, 2)
            ],
            ["0"],
        ),
        (
            lambda masks: masks["7"][0].update(size=[1, 2]),
            [
                (
                    "objects",
                    "7: masks of one object with different sizes [(1, 2), (24, 40)]",
                ),
                ("objects", "anno_id 7 (video one, expression 0) is missing"),
                ("objects", "anno_id 7 (video one, expression 2) is missing"),
            ],
            ["1"],
        ),
        (
            lambda masks: masks["9"][4].pop("counts"),
            [
                ("objects", "9.4: the key 'counts' is missing, got {'size': [24, 40]}"),
                ("objects", "anno_id 9 (video one, expression 1) is missing"),
                ("objects", "anno_id 9 (video one, expression 2) is missing"),
            ],
            ["0"],
        ),
        (
            lambda masks: [masks["9"][4].update(counts="Q"), masks.pop("7")],
            [
                (
                    "objects",
                    "9: a run-length mask is cut off in the middle of a number",
                ),
                ("objects", "anno_id 7 (video one, expression 0) is missing"),
                ("objects", "anno_id 9 (video one, expression 1) is missing"),
                ("objects", "anno_id 7 (video one, expression 2) is missing"),
            ],
            None,
        ),
    ],
    ids=["missing", "too short", "different sizes", "no counts", "cut off"],
)
def test_bad_masks_are_all_named_and_their_expressions_left_out(root, edit, found, usable):
    path = root / "train" / "mask_dict.json"
    change(path, edit)
    contents = read(root)
    assert problems_of(contents) == [(kind, str(path), detail) for kind, detail in found]
    assert expressions_of(contents) == ({} if usable is None else {"one": usable})
    with pytest.raises(ValueError, match=r"mask_dict\.json: .*and \d more"):
        require_usable(contents.problems, for_training=False)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_file_of_masks_that_cannot_be_read_is_named(root, content):
    (root / "train" / "mask_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"mask_dict\.json: (not JSON: line 1|got \[1\], expected a mapping)"):
        read(root)


def test_masks_that_do_not_fit_their_frame_are_named(root):
    clips = build_train_loader(config(root), seed=0).dataset
    for path in (root / "train" / "JPEGImages" / "one").iterdir():
        Image.new("RGB", (WIDTH, HEIGHT + 2)).save(path)
    message = r"mask_dict\.json: object 7, frame 0: mask of \(height, width\) \(24, 40\), but its frame has \(26, 40\)"
    with pytest.raises(SizeMismatchError, match=message):
        clips[0]


def test_run_lengths_of_too_few_pixels_are_named(root):
    change(root / "train" / "mask_dict.json", lambda masks: masks["7"][0].update(counts="52"))
    with pytest.raises(ValueError, match=r"mask_dict\.json: object 7, frame 0: run lengths of 7 pixels for .* 960"):
        build_train_loader(config(root), seed=0).dataset[0]


@pytest.mark.parametrize("anno_id", [["x"], [-1], ["7"], "79", 7, [True], [7.0], {"7": 1}, "", {}, 0])
def test_bad_objects_are_all_named(root, anno_id):
    path = root / "train" / "meta_expressions.json"

    def spoil(content):
        for name in "12":
            content["videos"]["one"]["expressions"][name].update(anno_id=anno_id)

    change(path, spoil)
    contents = read(root)
    where = "anno_id.0" if isinstance(anno_id, list) else "anno_id"
    value = anno_id[0] if isinstance(anno_id, list) else anno_id
    for name, (kind, file, detail) in zip("12", problems_of(contents), strict=True):
        assert (kind, file) == ("expressions", str(path))
        assert detail.startswith(f"videos.one.expressions.{name}.{where}: got {value!r}, expected a ")
    assert expressions_of(contents) == {"one": ["0"]}


def test_problems_of_both_files_are_named_and_the_rest_is_read(root):
    change(root / "train" / "mask_dict.json", lambda masks: masks["9"].pop())
    path = root / "train" / "meta_expressions.json"

    def damage(content):
        content["videos"]["one"]["expressions"] |= {
            "3": {"exp": " ", "anno_id": [7]},
            "4": {"exp": "x", "anno_id": [8]},
        }

    change(path, damage)
    contents = read(root, for_training=True)
    assert expressions_of(contents) == {"one": ["0"]}
    assert [(problem.kind, problem.detail.partition(" (")[0]) for problem in contents.problems] == [
        ("expressions", "videos.one.expressions.3.exp: got ' ', expected a text that is not empty"),
        ("mismatched", "anno_id 9"),
        ("mismatched", "anno_id 9"),
        ("objects", "anno_id 8"),
    ]


def test_an_object_that_no_frame_shows_is_noted_and_not_trained_on(root):
    change(root / "train" / "mask_dict.json", lambda masks: masks.update({"9": [None] * NUM_FRAMES}))
    contents = read(root)
    assert problems_of(contents) == [("unseen", "video one, object 9", "no pixel in any mask (expressions 1, 2)")]
    assert expressions_of(contents) == {"one": ["0", "1", "2"]}
    clips = build_train_loader(config(root), seed=0).dataset
    assert {clips[i].meta[0].expression for i in range(len(clips))} == {"0", "2"}, "object 7 of sentence 2 is there"


def test_an_object_that_is_named_twice_counts_once(root):
    path = root / "train" / "meta_expressions.json"
    change(path, lambda content: content["videos"]["one"]["expressions"]["2"].update(anno_id=[9, 7, 9]))
    assert read(root).videos[0].expressions[2].object_ids == (9, 7)


def test_missing_files_are_named(root):
    (root / "train" / "mask_dict.json").unlink()
    with pytest.raises(ValueError, match=r"mask_dict\.json: no such file"):
        read(root)
    (root / "valid" / "JPEGImages" / "one").rename(root / "valid" / "JPEGImages" / "two")
    folder = root / "valid" / "JPEGImages" / "one"
    assert problems_of(read(root, "valid")) == [("missing", f"{folder}/", "no such folder of video one")]
    (root / "valid" / "meta_expressions.json").unlink()
    with pytest.raises(ValueError, match=r"valid/meta_expressions\.json: no such file"):
        read(root, "valid")


def test_what_nobody_needs_is_noted(root):
    request = SplitRequest(MevisSettings(), root, "train")
    contents = MEVIS.read(request)
    assert list(MEVIS.notes(request, contents, FolderListing())) == []
    (root / "train" / "JPEGImages" / "unknown").mkdir()
    notes = list(MEVIS.notes(request, contents, FolderListing()))
    assert [(note.kind, note.name) for note in notes] == [
        ("surplus", str(root / "train" / "JPEGImages" / "unknown")),
    ]


def test_an_expression_that_stands_there_twice_is_an_error(root):
    path = root / "train" / "meta_expressions.json"
    path.write_text(path.read_text().replace('"2": {', '"1": {'))
    with pytest.raises(ValueError, match=r"videos\.one\.expressions: the key '1' stands there twice, a duplicate"):
        read(root)


def test_masks_that_no_expression_names_are_an_error(root):
    path = root / "train" / "meta_expressions.json"

    def forget(content):
        for entry in content["videos"]["one"]["expressions"].values():
            del entry["anno_id"]

    change(path, forget)
    detail = "no expression has an anno_id, although mask_dict.json beside it has masks; expected a list of its keys"
    assert problems_of(read(root)) == [("expressions", str(path), detail)]


def test_the_splits_in_a_folder_are_found(root, tmp_path):
    (found,) = MEVIS.find(root)
    assert (found.settings, found.splits) == (MevisSettings(release="v1"), ("train", "valid"))
    assert MEVIS.find(tmp_path / "elsewhere") == []


def test_the_splits_of_each_release_have_their_published_sizes():
    sizes = {
        label: {split: (counts.videos, counts.expressions) for split, counts in splits.items()}
        for label, splits in PUBLISHED.items()
    }
    assert sizes == {
        "mevis v1": {"train": (1662, 23051), "valid_u": (50, 793), "valid": (140, 2236)},
        "mevis v2": {"train": (1662, 27502), "valid_u": (50, 907), "valid": (140, 2523)},
    }
