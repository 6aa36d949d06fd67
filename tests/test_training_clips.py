import dataclasses
import json

import numpy as np
import pytest
import torch

import datasets.ref_youtube_vos as format_module
from datasets.ref_youtube_vos import CATEGORIES
from loading.clips import ClipDataset
from loading.frames import resize_frames
from loading.loaders import build_train_loader, training_videos
from loading.pseudo_clips import PseudoClips
from loading.sampling import SampleKey
from tests.tiny_clips import change_expressions, make_clips, make_config, where
from tests.tiny_ref_youtube_vos import (
    HEIGHT,
    OBJECT_SIZE,
    WIDTH,
    object_corner,
    object_map,
    write_expressions,
    write_tiny_data,
    write_video,
)

OBJECT_OF = {"0": 1, "1": 2, "2": 1}
"""Of each expression of the tiny data."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def test_every_pair_of_sentence_and_window_with_its_object_is_a_sample(root):
    clips = make_clips(root)
    found = [where(clips[i])[0] for i in range(len(clips))]
    windows: dict[str, list[list[int]]] = {name: [] for name in "012"}
    for video, expression, names in found:
        if video == "long":
            windows[expression].append([int(name) // 5 for name in names])
    assert windows["0"] == windows["2"] == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert windows["1"] == [[6, 7, 8, 9]]
    assert [entry for entry in found if entry[0] == "short"] == [
        ("short", name, ("00000", "00005", "00010", "00010")) for name in "012"
    ]


def test_a_sample_holds_the_frames_masks_and_boxes_of_its_window(root):
    clips = make_clips(root)
    sample = next(clips[i] for i in range(len(clips)) if where(clips[i])[0][:2] == ("long", "1"))
    (target,) = sample.targets
    assert sample.sentences == ("a square moving right",)
    assert sample.frames.shape == (4, 3, HEIGHT, WIDTH)
    assert sample.frames.dtype == torch.uint8
    assert target.is_visible.tolist() == [[False, False, True, True]]
    for step, frame in enumerate((6, 7, 8, 9)):
        expected = object_map({2: (8, 9)}, frame) == 2
        assert np.array_equal(target.masks[0, step].numpy(), expected)
    assert (target.boxes_cxcywh_norm[0, :2] == 0).all()
    top, left = object_corner(2, 9)
    far = OBJECT_SIZE - 1  # the far edge is the last pixel
    expected_box = [(left + far / 2) / WIDTH, (top + far / 2) / HEIGHT, far / WIDTH, far / HEIGHT]
    torch.testing.assert_close(target.boxes_cxcywh_norm[0, 3], torch.tensor(expected_box))


def test_sentences_are_cleaned(root):
    assert make_clips(root)[0].sentences == ("the square on the left",)
    assert make_clips(root, lower_case=False)[0].sentences == ("The square on the Left",)


def test_a_resized_sample_has_boxes_of_the_original_masks(root):
    small, large = make_clips(root)[0], make_clips(root, short_side=2 * HEIGHT, long_side=2 * WIDTH)[0]
    assert large.frames.shape == (4, 3, 2 * HEIGHT, 2 * WIDTH)
    assert large.targets[0].masks.shape == (1, 4, 2 * HEIGHT, 2 * WIDTH)
    torch.testing.assert_close(large.targets[0].boxes_cxcywh_norm, small.targets[0].boxes_cxcywh_norm)


def test_a_flipped_sample_is_the_mirror_image_with_mirrored_words(root):
    plain, flipped = make_clips(root)[0], make_clips(root, flip_probability=1.0)[0]
    assert flipped.sentences == ("the square on the right",)
    torch.testing.assert_close(flipped.frames, plain.frames.flip(-1))
    assert torch.equal(flipped.targets[0].masks, plain.targets[0].masks.flip(-1))
    box, mirrored = plain.targets[0].boxes_cxcywh_norm, flipped.targets[0].boxes_cxcywh_norm
    torch.testing.assert_close(mirrored[..., 0], 1 - box[..., 0])
    torch.testing.assert_close(mirrored[..., 1:], box[..., 1:])


@pytest.mark.parametrize("width", [41, 40])
def test_a_clip_is_mirrored_before_it_is_resized(tmp_path, width):
    visible = {1: range(4), 2: range(4)}
    names = write_video(tmp_path, "train", "odd", num_frames=4, visible=visible, size=(HEIGHT, width))
    expressions = {str(number): {"exp": "a square", "obj_id": str(number)} for number in (1, 2)}
    write_expressions(tmp_path, "train", {"odd": {"frames": names, "expressions": expressions}})
    original = make_clips(tmp_path, short_side=HEIGHT, long_side=width)
    changed = make_clips(tmp_path, short_side=17, long_side=29, flip_probability=1.0)
    differs = False
    for index in range(len(original)):
        before, after = original[index], changed[index]
        size = (17, int(17 * width / HEIGHT))
        assert after.frames.shape[-2:] == size
        expected = nearest(before.targets[0].masks.flip(-1), size)
        assert torch.equal(after.targets[0].masks, expected)
        assert torch.equal(after.frames, resize_frames(before.frames.flip(-1), short_side=17, long_side=29))
        differs |= not torch.equal(nearest(before.targets[0].masks, size).flip(-1), expected)
        box = before.targets[0].boxes_cxcywh_norm
        torch.testing.assert_close(after.targets[0].boxes_cxcywh_norm[..., 0], 1 - box[..., 0])
        torch.testing.assert_close(after.targets[0].boxes_cxcywh_norm[..., 1:], box[..., 1:])
    assert differs, "the other order would give the same"


def nearest(masks, size):
    return torch.nn.functional.interpolate(masks.float(), size=size, mode="nearest").bool()


def test_invisible_boxes_stay_zero_after_a_flip(root):
    clips = make_clips(root, flip_probability=1.0)
    for i in range(len(clips)):
        target = clips[i].targets[0]
        assert (target.boxes_cxcywh_norm[~target.is_visible] == 0).all()


def test_random_sampling_changes_windows_with_the_epoch_and_always_shows_the_object(root):
    clips = make_clips(root, frame_sampling="random")
    assert len(clips) == len(make_clips(root))
    seen = set()
    for epoch in range(20):
        for i in range(len(clips)):
            sample = clips[SampleKey(i, epoch)]
            assert sample.targets[0].is_visible.any()
            seen.add(where(sample)[0])
    starts = {names[0] for video, expression, names in seen if (video, expression) == ("long", "1")}
    assert starts == {"00025", "00030"}
    starts = {names[0] for video, expression, names in seen if (video, expression) == ("long", "0")}
    assert starts == {f"{5 * i:05d}" for i in range(7)}


def test_a_visit_is_reproducible_and_independent_of_global_generators(root):
    clips = make_clips(root, frame_sampling="random", sentences_per_clip=2, flip_probability=0.5)
    torch.manual_seed(0)
    first = clips[SampleKey(0, 5)]
    torch.manual_seed(1)
    second = clips[SampleKey(0, 5)]
    assert where(first) == where(second)
    assert torch.equal(first.frames, second.frames)


def test_several_sentences_share_a_clip_and_all_are_visible_in_it(root):
    clips = make_clips(root, sentences_per_clip=2)
    assert len(clips) == 4
    assert [len(clips[i].sentences) for i in range(4)] == [2, 2, 2, 2]
    drawn = set()
    for epoch in range(20):
        sample = clips[SampleKey(2, epoch)]
        assert all(target.is_visible.any() for target in sample.targets)
        assert len({meta.expression for meta in sample.meta}) == 2
        for meta, target in zip(sample.meta, sample.targets, strict=True):
            frame = int(meta.frame_names[3]) // 5
            expected = object_map({1: range(10), 2: (8, 9)}, frame) == OBJECT_OF[meta.expression]
            assert np.array_equal(target.masks[0, 3].numpy(), expected)
        drawn |= {meta.expression for meta in sample.meta}
    assert drawn == {"0", "1", "2"}
    assert {OBJECT_OF[meta.expression] for meta in clips[0].meta} == {1}
    assert len(make_clips(root, sentences_per_clip=8)[2].sentences) == 3


def test_single_frames_are_drawn_where_the_object_is_visible(root):
    clips = make_clips(root, num_frames=1, frame_sampling="random")
    assert all(clips[SampleKey(i, epoch)].targets[0].is_visible.all() for i in range(len(clips)) for epoch in range(3))
    assert len(clips) == (10 + 2 + 10) + 3 * 3


def test_labels_are_the_categories_of_meta_json_if_asked_for(root):
    clips = make_clips(root, label_categories=True)
    for i in range(len(clips)):
        assert clips[i].targets[0].labels.tolist() == [{1: 2, 2: 64}[OBJECT_OF[clips[i].meta[0].expression]]]
    assert make_clips(root)[0].targets[0].labels.tolist() == [0]


def test_there_are_65_categories_in_alphabetical_order():
    assert len(CATEGORIES) == 65
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert [CATEGORIES.index(name) for name in ("airplane", "person", "zebra")] == [0, 42, 64]


def test_files_with_indices_are_not_read_again_for_samples(root, monkeypatch):
    clips = make_clips(root)
    monkeypatch.setattr(json, "loads", None)
    monkeypatch.setattr(format_module, "records_with_visibility", None)
    assert len(clips[0].sentences) == 1


def test_videos_without_any_visible_object_are_an_error(tmp_path):
    names = write_video(tmp_path, "train", "empty", num_frames=3, visible={1: (2,)})
    entry = {"frames": names[:2], "expressions": {"0": {"exp": "x", "obj_id": "1"}}}
    write_expressions(tmp_path, "train", {"empty": entry})
    (tmp_path / "train" / "meta.json").write_text(json.dumps({"videos": {"empty": {"objects": {"1": {}}}}}))
    with pytest.raises(ValueError, match="none of the 1 videos"):
        make_clips(tmp_path)


def test_records_are_frozen(root):
    record = training_videos(make_config(root))[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"


def test_one_supervised_frame_comes_with_the_whole_clip_and_its_own_target(root):
    loader = build_train_loader(make_config(root, num_frames=3, supervised_frames="one", batch_size=2), seed=0)
    for batch in loader:
        assert batch.clips.frames.shape[1] == 3
        assert all(0 <= frame < 3 for frame in batch.annotated_frame.tolist())
        for target in batch.targets:
            assert target.masks.shape[1] == 1
            assert target.is_visible.all(), "the frame shows the object of every sentence"


def test_training_on_kinds_that_no_sentence_has_is_an_error(root):
    with pytest.raises(ValueError, match="telepathy"):
        build_train_loader(make_config(root, kinds=("telepathy",)), seed=0)


def test_training_on_chosen_kinds_leaves_the_other_sentences_out(root):
    videos = json.loads((root / "meta_expressions/train/meta_expressions.json").read_text())["videos"]
    chosen = next(iter(next(iter(videos.values()))["expressions"]))

    def tag(content):
        for video in content.values():
            for name, expression in video["expressions"].items():
                expression["kind"] = "motion" if name == chosen else "place"

    change_expressions(root, "train", tag)
    clips = make_clips(root, kinds=("motion",))
    found = {(meta.video, meta.expression) for i in range(len(clips)) for meta in clips[i].meta}
    assert found == {("long", chosen), ("short", chosen)}
    assert {e.kind for sample in clips.samples for e in sample.video.expressions} == {"motion"}


# --- pseudo-clips of images ---

STILL = PseudoClips(brightness=0.0, perspective=0.0, shift=0.0, rotation_degrees=0.0, blur_probability=0.0)


@pytest.fixture
def image(tmp_path):
    """An image with three sentences about two objects, as a record of one frame."""
    names = write_video(tmp_path, "train", "image", num_frames=1, visible={1: (0,), 2: (0,)})
    expressions = {name: {"exp": f"object {number}", "obj_id": str(number)} for name, number in OBJECT_OF.items()}
    write_expressions(tmp_path, "train", {"image": {"frames": names, "expressions": expressions}})
    (video,) = training_videos(make_config(tmp_path))
    return dataclasses.replace(video, is_pseudo_clip=True)


def pseudo_clips(image, **changes):
    fields = {"num_frames": 4, "short_side": HEIGHT, "long_side": WIDTH, "seed": 0}
    return ClipDataset([image], **(fields | {"sentences_per_clip": 1, "flip_probability": 0.0} | changes))


def test_only_images_that_ask_for_it_become_pseudo_clips(image):
    moving = pseudo_clips(image)[0]
    assert len({frame.numpy().tobytes() for frame in moving.frames}) == 4
    still = pseudo_clips(dataclasses.replace(image, is_pseudo_clip=False))[0]
    assert len({frame.numpy().tobytes() for frame in still.frames}) == 1
    assert any(torch.equal(frame, still.frames[0]) for frame in moving.frames), "one frame is the image itself"


def test_pseudo_clips_are_made_as_they_are_told(image):
    still = pseudo_clips(dataclasses.replace(image, is_pseudo_clip=False))[1]
    told = pseudo_clips(image, pseudo_clips=STILL)[1]
    assert torch.equal(told.frames, still.frames)
    assert torch.equal(told.targets[0].masks, still.targets[0].masks)
    assert np.array_equal(told.targets[0].masks[0, 0].numpy(), object_map({1: (0,), 2: (0,)}, 0) == 2)


@pytest.mark.parametrize("frame_sampling", ["windows", "random"])
def test_every_sentence_of_an_image_is_a_sample_of_its_only_frame(image, frame_sampling):
    clips = pseudo_clips(image, frame_sampling=frame_sampling)
    assert [where(clips[i]) for i in range(len(clips))] == [[("image", name, ("00000",) * 4)] for name in "012"]
    together = pseudo_clips(image, frame_sampling=frame_sampling, sentences_per_clip=3)
    assert len(together) == 1
    assert {meta.expression for meta in together[0].meta} == {"0", "1", "2"}
    for meta, target in zip(together[0].meta, together[0].targets, strict=True):
        alone = pseudo_clips(image, pseudo_clips=STILL)[int(meta.expression)].targets[0]
        assert any(torch.equal(mask, alone.masks[0, 0]) for mask in target.masks[0]), "one frame is the image itself"


def test_one_frame_of_a_pseudo_clip_is_supervised_if_asked_for(image):
    shifted = dataclasses.replace(STILL, shift=0.3)
    whole, one = (pseudo_clips(image, supervised_frames=which, pseudo_clips=shifted) for which in ("all", "one"))
    drawn = set()
    for epoch in range(20):
        sample = one[SampleKey(0, epoch)]
        assert sample.frames.shape == (4, 3, HEIGHT, WIDTH)
        assert sample.targets[0].masks.shape == (1, 1, HEIGHT, WIDTH)
        drawn.add(sample.annotated_frame)
        rows, columns = torch.nonzero(sample.targets[0].masks[0, 0], as_tuple=True)
        if len(rows) == OBJECT_SIZE**2:  # it may leave the picture
            red = sample.frames[sample.annotated_frame, 0, rows, columns].float().mean()
            assert red > 45, "object 1 has a red of 60, nothing else but object 2 has any"
    assert drawn == {0, 1, 2, 3}
    assert whole[0].annotated_frame is None


def test_a_video_of_several_frames_is_no_image(root):
    video = dataclasses.replace(training_videos(make_config(root))[0], is_pseudo_clip=True)
    with pytest.raises(ValueError, match="video long has 10 frames; only a single image becomes a pseudo-clip"):
        pseudo_clips(video)
