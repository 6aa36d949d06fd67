import dataclasses
import json
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets.ref_youtube_vos as format_module
import datasets.visibility as visibility_module
from configs.schema import DataConfig
from datasets.base import ClipDataset
from datasets.categories import CATEGORIES, CATEGORY_INDEX
from datasets.loaders import build_eval_dataset, build_train_loader
from datasets.ref_youtube_vos import RefYoutubeVos
from datasets.sampling import EpochSampler, Visit, consecutive_windows, draw, random_window
from structures.masks_io import write_index_png
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


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def make_config(root, **changes):
    fields = {
        "root": root,
        "num_frames": 4,
        "short_side": HEIGHT,
        "long_side": WIDTH,
        "flip_probability": 0.0,
        "num_workers": 0,
    }
    return DataConfig(**(fields | changes))


def make_clips(root, **changes):
    return build_train_loader(make_config(root, **changes), seed=0).dataset


def change_expressions(root, split, change):
    path = root / "meta_expressions" / split / "meta_expressions.json"
    content = json.loads(path.read_text())
    change(content["videos"])
    path.write_text(json.dumps(content))


def where(sample):
    return [(meta.video, meta.expression, meta.frame_names) for meta in sample.meta]


def set_epoch(loader, epoch):
    loader.sampler.set_epoch(epoch)


# --- sampling ---


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (8, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (10, [(0, 1, 2, 3), (4, 5, 6, 7), (6, 7, 8, 9)]),
        (4, [(0, 1, 2, 3)]),
        (5, [(0, 1, 2, 3), (1, 2, 3, 4)]),
        (2, [(0, 1, 1, 1)]),
    ],
)
def test_windows_are_consecutive_and_the_last_one_is_always_full(length, expected):
    assert list(consecutive_windows(length, 4)) == expected


def test_windows_of_one_frame_are_all_frames():
    assert consecutive_windows(3, 1) == ((0,), (1,), (2,))


def test_random_windows_cover_exactly_the_starts_at_which_something_is_visible():
    generator = torch.Generator().manual_seed(0)
    drawn = {random_window(10, 3, visible={4}, generator=generator) for _ in range(200)}
    assert drawn == {(2, 3, 4), (3, 4, 5), (4, 5, 6)}
    assert random_window(2, 3, visible={0}, generator=generator) == (0, 1, 1)
    assert {random_window(6, 1, visible={1, 5}, generator=generator) for _ in range(50)} == {(1,), (5,)}
    with pytest.raises(ValueError, match="visible"):
        random_window(4, 2, visible=set(), generator=generator)


def test_drawing_takes_different_items_and_all_if_there_are_too_few():
    generator = torch.Generator().manual_seed(0)
    assert sorted(draw("abc", 5, generator)) == ["a", "b", "c"]
    assert all(len(set(draw("abcdef", 3, generator))) == 3 for _ in range(20))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_a_pass_without_leaving_anything_out(world_size):
    samplers = [EpochSampler(10, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}
    assert {visit.sample for share in shares for visit in share} == set(range(10))
    assert sum(map(len, shares)) < 10 + world_size


def test_the_order_follows_from_seed_and_epoch():
    sampler = EpochSampler(20, seed=3)
    first = list(sampler)
    assert first == list(EpochSampler(20, seed=3))
    sampler.set_epoch(1)
    second = list(sampler)
    assert [visit.sample for visit in second] != [visit.sample for visit in first]
    assert {visit.epoch for visit in second} == {1}
    assert [visit.sample for visit in EpochSampler(4, shuffle=False)] == [0, 1, 2, 3]


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"num_samples": 3, "rank": 2, "world_size": 2}])
def test_a_sampler_refuses_what_it_cannot_share(arguments):
    with pytest.raises(ValueError):
        EpochSampler(**arguments)


# --- training clips ---


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
    assert sample.frames.dtype == torch.float32
    assert target.is_visible.tolist() == [[False, False, True, True]]
    for step, frame in enumerate((6, 7, 8, 9)):
        expected = object_map({2: (8, 9)}, frame) == 2
        assert np.array_equal(target.masks[0, step].numpy(), expected)
    assert (target.boxes_cxcywh_norm[0, :2] == 0).all()
    top, left = object_corner(2, 9)
    far = OBJECT_SIZE - 1  # the far edge is the last pixel
    expected_box = [(left + far / 2) / WIDTH, (top + far / 2) / HEIGHT, far / WIDTH, far / HEIGHT]
    torch.testing.assert_close(target.boxes_cxcywh_norm[0, 3], torch.tensor(expected_box))
    meta = sample.meta[0]
    assert (meta.kind, meta.object_id, meta.original_size) == ("motion", 2, (HEIGHT, WIDTH))


def test_sentences_are_cleaned(root):
    assert make_clips(root)[0].sentences == ("the square on the left",)
    assert make_clips(root, lower_case=False)[0].sentences == ("The square on the Left",)


def test_a_resized_sample_has_boxes_of_the_original_masks(root):
    small, large = make_clips(root)[0], make_clips(root, short_side=2 * HEIGHT, long_side=2 * WIDTH)[0]
    assert large.frames.shape == (4, 3, 2 * HEIGHT, 2 * WIDTH)
    assert large.targets[0].masks.shape == (1, 4, 2 * HEIGHT, 2 * WIDTH)
    torch.testing.assert_close(large.targets[0].boxes_cxcywh_norm, small.targets[0].boxes_cxcywh_norm)
    assert large.meta[0].original_size == (HEIGHT, WIDTH)


def test_a_flipped_sample_is_the_mirror_image_with_mirrored_words(root):
    plain, flipped = make_clips(root)[0], make_clips(root, flip_probability=1.0)[0]
    assert flipped.sentences == ("the square on the right",)
    torch.testing.assert_close(flipped.frames, plain.frames.flip(-1))
    assert torch.equal(flipped.targets[0].masks, plain.targets[0].masks.flip(-1))
    box, mirrored = plain.targets[0].boxes_cxcywh_norm, flipped.targets[0].boxes_cxcywh_norm
    torch.testing.assert_close(mirrored[..., 0], 1 - box[..., 0])
    torch.testing.assert_close(mirrored[..., 1:], box[..., 1:])


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
            sample = clips[Visit(i, epoch)]
            assert sample.targets[0].is_visible.any()
            seen.add(where(sample)[0])
    starts = {names[0] for video, expression, names in seen if (video, expression) == ("long", "1")}
    assert starts == {"00025", "00030"}
    starts = {names[0] for video, expression, names in seen if (video, expression) == ("long", "0")}
    assert starts == {f"{5 * i:05d}" for i in range(7)}


def test_a_visit_is_reproducible_and_independent_of_global_generators(root):
    clips = make_clips(root, frame_sampling="random", sentences_per_clip=2, flip_probability=0.5)
    torch.manual_seed(0)
    first = clips[Visit(0, 5)]
    torch.manual_seed(1)
    second = clips[Visit(0, 5)]
    assert where(first) == where(second)
    assert torch.equal(first.frames, second.frames)


def test_several_sentences_share_a_clip_and_all_are_visible_in_it(root):
    clips = make_clips(root, sentences_per_clip=2)
    assert len(clips) == 4
    assert [len(clips[i].sentences) for i in range(4)] == [2, 2, 2, 2]
    drawn = set()
    for epoch in range(20):
        sample = clips[Visit(2, epoch)]
        assert all(target.is_visible.any() for target in sample.targets)
        assert len({meta.expression for meta in sample.meta}) == 2
        for meta, target in zip(sample.meta, sample.targets, strict=True):
            frame = int(meta.frame_names[3]) // 5
            expected = object_map({1: range(10), 2: (8, 9)}, frame) == meta.object_id
            assert np.array_equal(target.masks[0, 3].numpy(), expected)
        drawn |= {meta.expression for meta in sample.meta}
    assert drawn == {"0", "1", "2"}
    assert all(meta.object_id == 1 for meta in clips[0].meta)
    assert len(make_clips(root, sentences_per_clip=8)[2].sentences) == 3


def test_single_frames_are_drawn_where_the_object_is_visible(root):
    clips = make_clips(root, num_frames=1, frame_sampling="random")
    assert all(clips[Visit(i, epoch)].targets[0].is_visible.all() for i in range(len(clips)) for epoch in range(3))
    assert len(clips) == (10 + 2 + 10) + 3 * 3


def test_labels_are_the_categories_of_meta_json_if_asked_for(root):
    clips = make_clips(root, num_classes_from_categories=True)
    for i in range(len(clips)):
        assert clips[i].targets[0].labels.tolist() == [{1: 2, 2: 64}[clips[i].meta[0].object_id]]
    assert make_clips(root)[0].targets[0].labels.tolist() == [0]


def test_there_are_65_categories_in_alphabetical_order():
    assert len(CATEGORIES) == 65
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert (CATEGORY_INDEX["airplane"], CATEGORY_INDEX["person"], CATEGORY_INDEX["zebra"]) == (0, 42, 64)


def test_files_with_indices_are_not_read_again_for_samples(root, monkeypatch):
    clips = make_clips(root)
    monkeypatch.setattr(json, "loads", None)
    monkeypatch.setattr(format_module, "visible_objects", None)
    assert len(clips[0].sentences) == 1


# --- which objects are visible ---


def test_masks_are_read_once_and_the_result_is_kept_beside_the_data(root, monkeypatch):
    before = make_clips(root)
    kept = root / "train" / visibility_module.FILE_NAME
    assert kept.exists()
    assert [path.name for path in (root / "train").iterdir() if path.name.startswith(".")] == []
    with monkeypatch.context() as patched:
        patched.setattr(visibility_module, "read_index_png", None)
        after = make_clips(root)
    assert [where(before[i]) for i in range(len(before))] == [where(after[i]) for i in range(len(after))]


def test_the_list_of_visible_objects_is_made_anew_for_other_expressions_or_if_damaged(root):
    make_clips(root)
    kept = root / "train" / visibility_module.FILE_NAME
    first = json.loads(kept.read_text())
    change_expressions(root, "train", lambda videos: videos.pop("short"))
    make_clips(root)
    second = json.loads(kept.read_text())
    assert first["key"] != second["key"]
    assert set(second["videos"]) == {"long"}
    kept.write_text("{")
    make_clips(root)
    assert json.loads(kept.read_text()) == second


def test_the_list_of_visible_objects_goes_to_the_cache_folder_if_the_data_cannot_be_written(root, monkeypatch):
    real = tempfile.mkstemp

    def refuse(**arguments):
        if str(arguments["dir"]) == str(root / "train"):
            raise PermissionError
        return real(**arguments)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    make_clips(root)
    assert not (root / "train" / visibility_module.FILE_NAME).exists()
    assert len(list(visibility_module.user_cache_folder().iterdir())) == 1
    monkeypatch.setattr(visibility_module, "read_index_png", None)
    make_clips(root)


def test_an_object_that_vanished_from_the_masks_is_reported(root):
    clips = make_clips(root)
    for path in (root / "train" / "Annotations" / "long").iterdir():
        write_index_png(path, np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    with pytest.raises(ValueError, match="video long"):
        clips[0]


# --- batches ---


def test_the_loader_yields_batches_and_a_new_order_per_epoch(root):
    loader = build_train_loader(make_config(root, batch_size=4), seed=1)
    orders = []
    for epoch in (0, 0, 1):
        set_epoch(loader, epoch)
        batches = list(loader)
        assert [len(batch.clips.sizes_px) for batch in batches] == [4, 4, 2]
        orders.append([where(batch) for batch in batches])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_workers_change_nothing_but_the_speed(root):
    settings = {
        "batch_size": 2, "sentences_per_clip": 3, "frame_sampling": "random", "flip_probability": 0.5
    }  # fmt: skip
    for alone, helped in zip(
        build_train_loader(make_config(root, **settings), seed=1),
        build_train_loader(make_config(root, num_workers=2, **settings), seed=1),
        strict=True,
    ):
        assert where(alone) == where(helped)
        assert alone.sentences == helped.sentences
        assert torch.equal(alone.clips.frames, helped.clips.frames)
        assert torch.equal(alone.targets[0].masks, helped.targets[0].masks)


def test_workers_keep_few_files_open(root):
    loader = build_train_loader(make_config(root, num_workers=1, sentences_per_clip=3, batch_size=4), seed=1)
    loader.timeout = 20  # seconds; without descriptors the loader would wait for ever
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as file:  # its number says how many are open now
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, file.fileno() + 40), hard))
    try:
        kept = []
        for epoch in range(6):
            set_epoch(loader, epoch)
            kept += list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(len(batch.targets) for batch in kept) == 6 * 10


def test_processes_see_different_samples(root):
    loaders = [build_train_loader(make_config(root), seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    seen = [[where(batch)[0] for batch in loader] for loader in loaders]
    assert [len(share) for share in seen] == [5, 5]
    assert set(seen[0]).isdisjoint(seen[1])


# --- evaluation ---


def test_evaluation_goes_video_by_video(root):
    videos = build_eval_dataset(make_config(root))
    assert [video.video for video in videos] == ["v_a", "v_b"]
    video = videos[0]
    assert video.sentences == ("a square", "a square that leaves")
    assert (video.expressions, video.kinds, video.object_ids) == (("0", "1"), ("appearance", "motion"), (1, 2))
    assert video.original_size == (HEIGHT, WIDTH)
    assert [path.name for path in video.frame_paths] == [f"{name}.jpg" for name in video.frame_names]
    assert video.load_frames(1, 3).shape == (2, 3, HEIGHT, WIDTH)
    assert torch.equal(video.load_frames(1, 3), video.load_frames()[1:3])
    assert video.load_frames(3, 99).shape[0] == 2
    masks = video.load_masks(2)
    assert masks is not None
    assert masks.flatten(1).sum(dim=1).tolist() == [OBJECT_SIZE**2] * 2 + [0] * 3
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
    assert video.object_ids is None
    assert video.load_masks(1) is None


def test_valid_leaves_out_test_videos(root):
    write_expressions(root, "test", {"v_a": {"frames": ["00000"], "expressions": {"0": {"exp": "x"}}}})
    assert [video.video for video in build_eval_dataset(make_config(root))] == ["v_b"]


def test_frames_can_be_palette_or_grey_images(root):
    path = root / "valid" / "JPEGImages" / "v_a" / "00000.jpg"
    with Image.open(path) as image:
        image.convert("L").save(path)
    assert build_eval_dataset(make_config(root))[0].load_frames(0, 1).shape == (1, 3, HEIGHT, WIDTH)


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
        make_clips(root, num_classes_from_categories=True)
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
    with pytest.raises(ValueError, match="different sizes"):
        clips[0]


def test_videos_without_any_visible_object_are_an_error(tmp_path):
    names = write_video(tmp_path, "train", "empty", num_frames=3, visible={1: (2,)})
    entry = {"frames": names[:2], "expressions": {"0": {"exp": "x", "obj_id": "1"}}}
    write_expressions(tmp_path, "train", {"empty": entry})
    (tmp_path / "train" / "meta.json").write_text(json.dumps({"videos": {"empty": {"objects": {"1": {}}}}}))
    with pytest.raises(ValueError, match="none of the 1 videos"):
        make_clips(tmp_path)


def test_clips_refuse_an_unknown_sampling(root):
    videos = RefYoutubeVos(root, "train").training_videos()
    with pytest.raises(ValueError, match="sometimes"):
        ClipDataset(videos, num_frames=2, frame_sampling="sometimes", short_side=HEIGHT, long_side=WIDTH)


def test_records_are_frozen(root):
    record = RefYoutubeVos(root, "train").videos[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "other"


# --- the real expression files ---


@pytest.mark.real_data
def test_the_real_valid_split_is_valid_minus_test(shared_dir, tmp_path):
    source = shared_dir / "data" / "refer_ytvos"
    videos = json.loads((source / "meta_expressions_valid_and_test.json").read_text())["videos"]
    valid: dict[str, tuple[list[str], dict[str, str]]] = {}
    for video, frames, expression in json.loads((source / "valid_samples_metadata.json").read_text()):
        valid.setdefault(video, (frames, {}))[1][expression["exp_id"]] = expression["exp"]
    write_expressions(tmp_path, "valid", videos)
    write_expressions(tmp_path, "test", {name: content for name, content in videos.items() if name not in valid})
    for name in videos:
        (tmp_path / "valid" / "JPEGImages" / name).mkdir(parents=True)
    found = RefYoutubeVos(tmp_path, "valid").videos
    assert len(videos) == 507
    assert len(found) == 202
    assert [video.name for video in found] == sorted(valid)
    for video in found:
        frames, sentences = valid[video.name]
        assert list(video.frame_names) == frames
        assert {e.name: e.sentence for e in video.expressions} == {
            name: " ".join(sentence.lower().split()) for name, sentence in sentences.items()
        }
        assert all(expression.object_id is None for expression in video.expressions)
    with pytest.raises(ValueError, match="has no obj_id"):
        write_empty_masks_and_train(tmp_path)


def write_empty_masks_and_train(root):
    videos = RefYoutubeVos(root, "valid").videos
    for video in videos:
        (root / "valid" / "Annotations" / video.name).mkdir(parents=True)
        for name in video.frame_names:
            write_index_png(root / "valid" / "Annotations" / video.name / f"{name}.png", np.zeros((2, 2), np.uint8))
    RefYoutubeVos(root, "valid").training_videos()


@pytest.mark.real_data
def test_the_real_train_excerpt_is_read(shared_dir, tmp_path):
    content = json.loads((shared_dir / "data" / "refer_ytvos" / "train_excerpt.json").read_text())
    write_expressions(tmp_path, "train", content["videos"])
    visible = {number: range(4) for number in range(1, 6)}
    for video in content["videos"]:
        write_video(tmp_path, "train", video, num_frames=4, visible=visible, size=(40, 40))
    clips = make_clips(tmp_path)
    assert len(clips) == 7
    assert [clips[i].meta[0].object_id for i in range(7)] == [1, 1, 2, 2, 3, 4, 5]


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
    assert {meta.kind for i in range(len(clips)) for meta in clips[i].meta} == {"motion"}


def test_evaluation_reads_the_sentences_as_they_stand_in_the_file(root):
    def shout(content):
        for video in content.values():
            for expression in video["expressions"].values():
                expression["exp"] = expression["exp"].upper()

    change_expressions(root, "valid", shout)
    raw = [s for video in build_eval_dataset(make_config(root)) for s in video.sentences]
    cleaned = [s for video in build_eval_dataset(make_config(root, eval_raw_sentences=False)) for s in video.sentences]
    assert all(sentence.isupper() for sentence in raw)
    assert [sentence.lower() for sentence in raw] == cleaned
