import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.mask import encode

from datasets.definition import SplitRequest
from datasets.records import Expression
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS, RefYoutubeVosSettings
from datasets.run_lengths import RunLengthMasks
from loading.loaders import build_eval_dataset
from media.mask_png import write_binary_png, write_index_png
from tests.tiny_clips import change_expressions, make_clips, make_config, where
from tests.tiny_ref_youtube_vos import (
    HEIGHT,
    WIDTH,
    object_map,
    write_expressions,
    write_tiny_data,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def test_evaluation_goes_video_by_video(root):
    videos = build_eval_dataset(make_config(root))
    assert [video.record.name for video in videos] == ["v_a", "v_b"]
    video, record = videos[0], videos[0].record
    assert record.expressions == (
        Expression("0", "a square", (1,), "appearance"),
        Expression("1", "a square that leaves", (2,), "motion"),
    )
    assert video.original_size == (HEIGHT, WIDTH)
    paths = [record.frames.path(i) for i in range(5)]
    assert [path.name for path in paths] == [f"{name}.jpg" for name in record.frame_names]
    assert video.load_frames(1, 3).shape == (2, 3, HEIGHT, WIDTH)
    assert torch.equal(video.load_frames(1, 3), video.load_frames()[1:3])
    assert video.load_frames(3, 99).shape[0] == 2
    masks = video.load_masks(record.expressions[1])
    expected = [object_map({2: range(2)}, frame) == 2 for frame in range(5)]
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(video.load_masks(record.expressions[1], (3, 1)), [expected[3], expected[1]])
    with pytest.raises(ValueError, match="it has 5"):
        video.load_frames(5, 9)
    assert len(build_eval_dataset(make_config(root, max_eval_videos=1))) == 1


def test_videos_with_secret_objects_have_no_masks(root):
    def hide(videos):
        for video in videos.values():
            for expression in video["expressions"].values():
                del expression["obj_id"]

    change_expressions(root, "valid", hide)
    video = build_eval_dataset(make_config(root))[0]
    assert video.record.object_ids == ()
    assert video.load_masks(video.record.expressions[0]) is None


def hide_objects(root):
    """Takes obj_id from the file of valid, as published; returns a copy that has it."""
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    copy = root / "with_objects.json"
    copy.write_text(path.read_text())

    def hide(videos):
        for video in videos.values():
            for expression in video["expressions"].values():
                del expression["obj_id"]

    change_expressions(root, "valid", hide)
    return copy


def test_objects_of_valid_can_come_from_another_file(root):
    before = [video.record for video in build_eval_dataset(make_config(root))]
    copy = hide_objects(root)
    videos = build_eval_dataset(make_config(root, valid_objects=copy))
    assert [video.record for video in videos] == before
    assert videos.can_be_scored
    copy.unlink()
    make_clips(root, valid_objects=copy)  # training does not read it
    with pytest.raises(ValueError, match=r"with_objects\.json: no such file"):
        build_eval_dataset(make_config(root, valid_objects=copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda videos: videos.pop("v_b"), r"with_objects\.json: videos\.v_b\.expressions\.0: has no obj_id"),
        (
            lambda videos: videos["v_a"]["expressions"]["1"].pop("obj_id"),
            r"json: videos\.v_a.*1: the key 'obj_id' is miss",
        ),
        (
            lambda videos: videos["v_a"]["expressions"]["1"].update(exp="a dog"),
            "1.exp: got 'a dog', expected 'a square that",
        ),
        (
            lambda videos: videos["v_a"]["expressions"]["1"].update(obj_id=0),
            "1.obj_id: got 0, expected a pixel value",
        ),
    ],
)
def test_objects_that_the_other_file_lacks_are_an_error(root, change, message):
    copy = hide_objects(root)
    content = json.loads(copy.read_text())
    change(content["videos"])
    copy.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        build_eval_dataset(make_config(root, valid_objects=copy))


def empty_obj_id(*names):
    """Makes these expressions of all valid videos mean nothing, and all of video v_b."""

    def change(videos):
        for video, content in videos.items():
            for name, expression in content["expressions"].items():
                if name in names or video == "v_b":
                    expression["obj_id"] = []

    return change


def test_an_empty_obj_id_says_that_a_sentence_means_nothing(root):
    change_expressions(root, "valid", empty_obj_id("1"))
    videos = build_eval_dataset(make_config(root))
    assert [video.record.expressions for video in videos] == [
        (
            Expression("0", "a square", (1,) if name == "v_a" else (), "appearance"),
            Expression("1", "a square that leaves", (), "motion"),
        )
        for name in ("v_a", "v_b")
    ]
    assert videos.can_be_scored
    change_expressions(root, "train", lambda content: content["long"]["expressions"]["1"].update(obj_id=[]))
    settings = RefYoutubeVosSettings(label_categories=True)
    contents = REF_YOUTUBE_VOS.read(SplitRequest(settings, root, "train", for_training=True))
    assert contents.videos[0].name == "long"
    assert [e.object_ids for e in contents.videos[0].expressions] == [(1,), (), (1,)]
    assert not contents.problems


def test_a_video_about_which_no_sentence_is_true_needs_no_run_lengths(root):
    change_expressions(root, "valid", empty_obj_id("1"))
    shutil.rmtree(root / "valid" / "Annotations")
    encoded = encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), dtype=np.uint8)))
    track = [{"size": encoded["size"], "counts": encoded["counts"].decode()}] * 5
    (root / "valid" / "masks" / "v_a").mkdir(parents=True)
    (root / "valid" / "masks" / "v_a" / "1.json").write_text(json.dumps({"7": track}))
    videos = build_eval_dataset(make_config(root))
    assert videos.can_be_scored
    assert [video.record.object_ids for video in videos] == [(1,), ()]
    assert isinstance(videos[1].record.masks, RunLengthMasks)


def test_an_expression_that_means_nothing_needs_no_folder_of_masks(root):
    masks = root / "valid" / "Annotations"
    hide_objects(root)
    change_expressions(root, "valid", lambda videos: [v["expressions"]["0"].update(obj_id=[]) for v in videos.values()])
    shutil.rmtree(masks)
    own = np.zeros((HEIGHT, WIDTH), dtype=bool)
    own[3:9, 5:20] = True
    for video in ("v_a", "v_b"):
        for frame in range(5):
            write_binary_png(masks / video / "1" / f"{5 * frame:05d}.png", own)
    video = build_eval_dataset(make_config(root))[0]
    first, second = video.record.expressions
    assert first.is_absent
    assert not second.is_absent
    assert (video.load_masks(second) == own).all()


def test_masks_of_valid_can_be_a_folder_per_expression(root, caplog):
    masks = root / "valid" / "Annotations"
    expected = {
        v.record.name: [v.load_masks(e) for e in v.record.expressions] for v in build_eval_dataset(make_config(root))
    }
    hide_objects(root)
    shutil.rmtree(masks)
    for video, of_expressions in expected.items():
        for number, mask in enumerate(of_expressions):
            for frame in range(5):
                write_binary_png(masks / video / str(number) / f"{5 * frame:05d}.png", mask[frame])
    videos = build_eval_dataset(make_config(root))
    assert videos.can_be_scored
    for video in videos:
        for expression, mask in zip(video.record.expressions, expected[video.record.name], strict=True):
            np.testing.assert_array_equal(video.load_masks(expression), mask)
    assert "not used" not in caplog.text
    shutil.rmtree(masks / "v_b" / "1")
    last = build_eval_dataset(make_config(root))[1]
    with pytest.raises(ValueError, match=r"v_b/1/00000\.png: no such mask file"):
        last.load_masks(last.record.expressions[1])
    shutil.rmtree(masks / "v_b")
    with pytest.raises(
        ValueError, match="video v_b: its expressions do not name their objects, although those of others do"
    ):
        build_eval_dataset(make_config(root))


def test_masks_of_valid_can_be_run_lengths_in_a_file_per_object(root):
    expected = {
        v.record.name: [v.load_masks(e) for e in v.record.expressions] for v in build_eval_dataset(make_config(root))
    }
    shutil.rmtree(root / "valid" / "Annotations")
    for video, of_expressions in expected.items():
        for number, masks in enumerate(of_expressions, start=1):
            encoded = [encode(np.asfortranarray(mask, dtype=np.uint8)) if mask.any() else None for mask in masks]
            texts = [m and {"size": m["size"], "counts": m["counts"].decode()} for m in encoded]
            path = root / "valid" / "masks" / video / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"7": texts}))
    assert "null" in (root / "valid" / "masks" / "v_a" / "2.json").read_text(), "object 2 leaves"
    videos = build_eval_dataset(make_config(root))
    assert videos.can_be_scored
    for video in videos:
        for expression, mask in zip(video.record.expressions, expected[video.record.name], strict=True):
            np.testing.assert_array_equal(video.load_masks(expression), mask)
    path.write_text(json.dumps({"7": texts[:-1]}))
    with pytest.raises(ValueError, match=r"v_b/2\.json: masks for 4 frames, the video has 5"):
        build_eval_dataset(make_config(root))
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"v_b/2\.json: got 0 keys, expected one"):
        build_eval_dataset(make_config(root))
    path.unlink()
    with pytest.raises(ValueError, match=r"v_b/2\.json: no such file of run lengths"):
        build_eval_dataset(make_config(root))


def test_masks_without_objects_and_objects_without_masks_are_said(root, caplog):
    copy = hide_objects(root)
    assert not build_eval_dataset(make_config(root)).can_be_scored
    assert "valid/Annotations is not used: no expression has an obj_id" in caplog.text
    shutil.rmtree(root / "valid" / "Annotations")
    with pytest.raises(ValueError, match="valid/Annotations: no such folder of masks"):
        build_eval_dataset(make_config(root, valid_objects=copy))


def test_valid_leaves_out_test_videos(root):
    write_expressions(root, "test", {"v_a": {"frames": ["00000"], "expressions": {"0": {"exp": "x"}}}})
    assert [video.record.name for video in build_eval_dataset(make_config(root))] == ["v_b"]


def test_frames_can_be_palette_or_grey_images(root):
    path = root / "valid" / "JPEGImages" / "v_a" / "00000.jpg"
    with Image.open(path) as image:
        image.convert("L").save(path)
    assert build_eval_dataset(make_config(root))[0].load_frames(0, 1).shape == (1, 3, HEIGHT, WIDTH)


def test_evaluation_reads_the_sentences_as_they_stand_in_the_file_where_the_recipe_says_so(root):
    def shout(content):
        for video in content.values():
            for expression in video["expressions"].values():
                expression["exp"] = expression["exp"].upper()

    change_expressions(root, "valid", shout)

    def sentences(**settings):
        return [e.sentence for v in build_eval_dataset(make_config(root, **settings)) for e in v.record.expressions]

    raw, cleaned = sentences(eval_as_written=True), sentences()
    assert all(sentence.isupper() for sentence in raw)
    assert [sentence.lower() for sentence in raw] == cleaned


# --- what a user can get wrong ---


def test_a_missing_root_is_explained(tmp_path):
    with pytest.raises(ValueError, match="SOC_DATA_ROOT"):
        build_eval_dataset(make_config(None))
    with pytest.raises(ValueError, match="nowhere"):
        build_eval_dataset(make_config(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"meta_expressions\.json: no such file"):
        build_eval_dataset(make_config(tmp_path))


def test_missing_video_folders_are_named(root):
    entry = {"frames": ["00000"], "expressions": {"0": {"exp": "x", "obj_id": "1"}}}
    change_expressions(root, "valid", lambda videos: videos.update(gone=entry))
    with pytest.raises(ValueError, match="gone"):
        build_eval_dataset(make_config(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp": " \t"}, r"1\.exp: got ' \\t', expected a text that is not empty"),
        ({"obj_id": "9"}, "object 9 is in no mask"),
        ({"obj_id": "x"}, r"1\.obj_id: got 'x', expected a pixel value from 1 to 255"),
        ({"obj_id": "0"}, r"1\.obj_id: got '0', expected"),
        ({"obj_id": ["1"]}, r"1\.obj_id: got \['1'\], expected a pixel value"),
        ({"obj_id": None}, "has no obj_id"),
    ],
)
def test_bad_expressions_are_named(root, change, message):
    change_expressions(root, "train", lambda videos: videos["long"]["expressions"]["1"].update(change))
    with pytest.raises(ValueError, match=message) as caught:
        make_clips(root)
    assert "long" in str(caught.value)


def test_an_entry_without_frames_or_sentence_is_named(root):
    change_expressions(root, "train", lambda videos: videos["long"].pop("frames"))
    with pytest.raises(ValueError, match=r"videos\.long: the key 'frames' is missing"):
        make_clips(root)


def test_an_unknown_category_is_named(root):
    path = root / "train" / "meta.json"
    path.write_text(path.read_text().replace("zebra", "unicorn"))
    with pytest.raises(ValueError, match="unicorn"):
        make_clips(root, label_categories=True)
    make_clips(root)


def test_evaluation_needs_no_categories(root):
    """The published valid split has no meta.json."""
    (root / "valid" / "meta.json").unlink(missing_ok=True)
    videos = build_eval_dataset(make_config(root, label_categories=True))
    assert [len(video.record.expressions) for video in videos] == [2, 2]


def test_an_object_known_to_meta_json_but_never_visible_has_no_samples(root):
    meta = json.loads((root / "train" / "meta.json").read_text())
    meta["videos"]["long"]["objects"]["9"] = {"category": "bear"}
    (root / "train" / "meta.json").write_text(json.dumps(meta))
    change_expressions(root, "train", lambda videos: videos["long"]["expressions"]["1"].update(obj_id="9"))
    assert ("long", "1") not in [where(sample)[0][:2] for sample in map(make_clips(root).__getitem__, range(9))]


def test_missing_and_damaged_images_are_named(root):
    clips = make_clips(root)
    folder = root / "train" / "JPEGImages" / "long"
    (folder / "00000.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"00000\.jpg: not a readable image"):
        clips[0]
    (folder / "00000.jpg").unlink()
    with pytest.raises(ValueError, match=r"00000\.jpg: no such frame"):
        clips[0]


def test_a_missing_mask_is_named(root):
    (root / "train" / "Annotations" / "long" / "00010.png").unlink()
    with pytest.raises(ValueError, match=r"00010\.png: no such mask"):
        make_clips(root)


def test_a_mask_of_another_size_than_its_frame_is_named(root):
    clips = make_clips(root)
    path = root / "train" / "Annotations" / "long" / "00005.png"
    write_index_png(path, np.ones((HEIGHT, WIDTH - 1), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"00005\.png: mask of"):
        clips[0]


def test_frames_of_different_sizes_in_a_video_are_reported(root):
    clips = make_clips(root)
    path = root / "train" / "JPEGImages" / "long" / "00005.jpg"
    Image.new("RGB", (WIDTH, HEIGHT - 2)).save(path)
    sizes = rf"frames of different sizes \[\({HEIGHT - 2}, {WIDTH}\), \({HEIGHT}, {WIDTH}\)\]"
    with pytest.raises(ValueError, match=sizes):
        clips[0]
