import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.records import Expression
from loading.loaders import build_eval_dataset
from media.mask_png import write_index_png
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
        ({"exp": " \t"}, "expression 1: the sentence is empty"),
        ({"obj_id": "9"}, "object 9 is in no mask"),
        ({"obj_id": "x"}, "obj_id='x'"),
        ({"obj_id": "0"}, "obj_id='0'"),
        ({"obj_id": None}, "has no obj_id"),
    ],
)
def test_bad_expressions_are_named(root, change, message):
    change_expressions(root, "train", lambda videos: videos["long"]["expressions"]["1"].update(change))
    with pytest.raises(ValueError, match=message) as caught:
        make_clips(root)
    assert "video long" in str(caught.value)


def test_an_entry_without_frames_or_sentence_is_named(root):
    change_expressions(root, "train", lambda videos: videos["long"].pop("frames"))
    with pytest.raises(ValueError, match="video long"):
        make_clips(root)


def test_an_unknown_category_is_named(root):
    path = root / "train" / "meta.json"
    path.write_text(path.read_text().replace("zebra", "unicorn"))
    with pytest.raises(ValueError, match="unicorn"):
        make_clips(root, label_categories=True)
    make_clips(root)


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
