import json
import logging
import os

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datasets import a2d_sentences
from datasets.a2d_sentences import A2D_SENTENCES, PUBLISHED, A2DSentencesSettings
from datasets.definition import AnnotatedFrames
from datasets.listing import FolderListing
from datasets.problems import Problem
from evaluation.coco_ground_truth import coco_ground_truth
from loading.loaders import build_eval_dataset, build_train_loader
from tests.a2d.reading import (
    ANNOTATIONS,
    ROWS,
    VIDEOSET,
    edit,
    read,
    request_for,
    settings,
    sound_videos,
)
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, replace_masks, write_h5, write_tiny_a2d
from tests.video_files import read_whole_video


def test_videos_sentences_and_annotated_frames_are_those_of_the_files(root, tmp_path):
    a, b = sound_videos(root, "train", tmp_path)
    (t,) = sound_videos(root, "test", tmp_path)
    assert [(v.name, len(v.frame_names), v.annotated) for v in (a, b, t)] == [
        ("a", 3, {1}),
        ("b", 20, {0, 14}),
        ("t", 12, {0, 5, 11}),
    ]
    assert b.visible == {0: {0, 14}, 1: {14}}
    assert t.visible == {0: {0, 11}, 2: {0, 5}}
    assert [e.sentence for e in (*a.expressions, *b.expressions)] == [
        "a dog, running",
        "A man  on the Left ",
        "another man",
    ], "as they stand in the file"
    assert [(e.name, e.object_ids, e.sentence) for e in t.expressions] == [
        ("0", (0,), "a cat"),
        ("2", (2,), "the café's bird"),
    ]
    assert (b.frame_names[0], b.frame_names[-1]) == ("00001", "00020")


def test_masks_are_turned_and_absent_actors_have_none(root, tmp_path):
    (video,) = sound_videos(root, "test", tmp_path)
    assert video.frames.size() == (HEIGHT, WIDTH)
    masks = video.masks.read((0, 5), size=(HEIGHT, WIDTH), objects=(2, 0))
    assert np.array_equal(masks[0], [actor_mask(2, 1), actor_mask(2, 6)])
    assert np.array_equal(masks[1], [actor_mask(0, 1), np.zeros((HEIGHT, WIDTH))])
    with pytest.raises(ValueError, match="frame 2 is not annotated"):
        video.masks.read((1,), size=(HEIGHT, WIDTH), objects=(0,))
    with pytest.raises(ValueError, match=r"00001\.h5: mask of"):
        video.masks.read((0,), size=(WIDTH, HEIGHT), objects=(0,))


def test_more_masks_than_instances_are_no_matter_and_the_first_ones_count(own_root, tmp_path):
    path = own_root / ANNOTATIONS / "t" / "00001.h5"
    replace_masks(path, np.stack([actor_mask(0, 1), actor_mask(2, 1), actor_mask(3, 1)]))
    (video,) = sound_videos(own_root, "test", tmp_path)
    assert np.array_equal(masks_of(video, 0, (0, 2)), [actor_mask(0, 1), actor_mask(2, 1)])
    single = own_root / ANNOTATIONS / "t" / "00012.h5"
    replace_masks(single, np.stack([actor_mask(0, 12), actor_mask(1, 12)]))
    assert np.array_equal(masks_of(video, 11, (0,)), [actor_mask(0, 12)])


def test_of_an_instance_that_occurs_twice_the_first_mask_counts(own_root, tmp_path):
    path = own_root / ANNOTATIONS / "t" / "00001.h5"
    masks = [actor_mask(0, 1), actor_mask(3, 1), actor_mask(2, 1)]
    replace_masks(path, np.stack(masks), instances=(0, 0, 2))
    (video,) = sound_videos(own_root, "test", tmp_path)
    assert np.array_equal(masks_of(video, 0, (0, 2)), [actor_mask(0, 1), actor_mask(2, 1)])
    assert video.visible == {0: {0, 11}, 2: {0, 5}}


def masks_of(video, position, objects):
    return video.masks.read((position,), size=(HEIGHT, WIDTH), objects=objects)[:, 0]


def test_a_mask_of_another_size_than_its_frame_keeps_it_as_the_original_one(own_root, tmp_path, caplog):
    """As published: what is predicted is resized to the size of the mask, which is also that of the ground truth."""
    half = actor_mask(2, 6)[::2, ::2]
    replace_masks(own_root / ANNOTATIONS / "t" / "00006.h5", half)
    caplog.set_level(logging.INFO)
    (video,) = build_eval_dataset(settings(own_root, tmp_path))
    lines = [record.getMessage() for record in caplog.records if "of another size" in record.getMessage()]
    assert lines == [
        f"{own_root}: 1 files of test have masks of another size than their frame, such as {ANNOTATIONS}/t/00006.h5"
    ]
    assert [video.size_of(position) for position in (0, 5, 11)] == [
        (HEIGHT, WIDTH),
        (HEIGHT // 2, WIDTH // 2),
        (HEIGHT, WIDTH),
    ]
    assert video.original_size == (HEIGHT, WIDTH)
    cat, bird = video.record.expressions
    assert np.array_equal(video.load_masks(bird, (5,)), half[None])
    assert np.array_equal(video.load_masks(cat, (0,)), actor_mask(0, 1)[None])
    truth = coco_ground_truth([video.record], names_instances=True)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    assert sizes["v_t_f_6_i_2"] == (HEIGHT // 2, WIDTH // 2)
    assert sizes["v_t_f_1_i_2"] == (HEIGHT, WIDTH)
    found = next(annotation for annotation in truth["annotations"] if annotation["image_id"] == "v_t_f_6_i_2")
    assert np.array_equal(coco_mask.decode(found["segmentation"]), half)
    assert found["area"] == half.sum()


@pytest.mark.parametrize(("short_side", "long_side"), [(HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)])
def test_a_mask_of_another_size_than_its_frame_is_resized_to_it_in_training(own_root, tmp_path, short_side, long_side):
    """In one step to the size of the resized frame, nearest as always; the box is that of the mask, as a share."""
    half = actor_mask(1, 15)[::2, ::2]
    replace_masks(own_root / ANNOTATIONS / "b" / "00015.h5", np.stack([half, half]))
    data = settings(own_root, tmp_path, num_workers=0, short_side=short_side, long_side=long_side, flip_probability=0.0)
    batch = next(b for b in build_train_loader(data, seed=0) if b.sentences == ("another man",))
    assert batch.clips.frames.shape[-2:] == (short_side, long_side)
    factor = 2 * short_side // HEIGHT
    expected = half.repeat(factor, axis=0).repeat(factor, axis=1)
    (target,) = batch.targets
    assert np.array_equal(target.masks[0, 0].numpy(), expected)
    rows, columns = np.flatnonzero(half.any(axis=1)), np.flatnonzero(half.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    height, width = half.shape
    box = [(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
    assert target.boxes_cxcywh_norm[0, 0].tolist() == pytest.approx(box, abs=1e-6)


def test_a_training_clip_has_its_annotated_frame_in_the_middle(root, tmp_path):
    data = settings(root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH, flip_probability=0.0)
    batches = list(build_train_loader(data, seed=0))
    samples = {(b.meta[0].video, b.meta[0].expression, b.meta[0].frame_names): b for b in batches}
    assert {(video, name, frames[4]) for video, name, frames in samples} == {
        ("a", "0", "00002"),
        ("b", "0", "00001"),
        ("b", "0", "00015"),
        ("b", "1", "00015"),
    }
    window = tuple(f"{number:05d}" for number in range(11, 19))
    batch = samples["b", "1", window]
    whole = read_whole_video(root / "Release" / "clips320H" / "b.mp4")
    assert np.array_equal(batch.clips.frames[0].numpy(), whole[10:18].transpose(0, 3, 1, 2))
    assert batch.annotated_frame.tolist() == [4]
    assert np.array_equal(batch.targets[0].masks[0].numpy(), [actor_mask(1, 15)])
    clamped = next(frames for video, _, frames in samples if video == "a")
    assert clamped == ("00001",) * 3 + ("00001", "00002", "00003", "00003", "00003")


def test_the_other_name_of_the_clips_folder_is_found(tmp_path):
    root = write_tiny_a2d(tmp_path / "data", clips="CLIPS320")
    request = request_for(root, "test", tmp_path)
    contents = A2D_SENTENCES.read(request)
    assert contents.videos[0].frames.num_frames == 12
    assert list(A2D_SENTENCES.shared_folders(request)) == [root / "Release" / "CLIPS320"]
    assert list(A2D_SENTENCES.notes(request, contents, FolderListing())) == []


def test_sentences_are_cleaned_for_training_and_evaluation_unless_asked_otherwise(root, tmp_path):
    data = settings(root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH, flip_probability=0.0)
    in_training = {text for batch in build_train_loader(data, seed=0) for text in batch.sentences}
    assert in_training == {"a man on the left", "another man", "a dog, running"}
    evaluated = settings(root, tmp_path, eval_split="train")
    as_written = settings(root, tmp_path, eval_split="train", eval_as_written=True)
    for data, sentence in ((evaluated, "a man on the left"), (as_written, "A man  on the Left ")):
        assert [v.record.name for v in build_eval_dataset(data)] == ["a", "b"]
        assert build_eval_dataset(data)[1].record.expressions[0].sentence == sentence


def test_the_test_split_is_evaluated_by_default(root, tmp_path):
    assert [video.record.name for video in build_eval_dataset(settings(root, tmp_path))] == ["t"]
    assert A2D_SENTENCES.protocol == AnnotatedFrames(names_instances=True)
    assert A2D_SENTENCES.can_train


def test_files_are_examined_once_and_again_when_one_has_changed(own_root, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    first = read(own_root, "test", cache)
    examined = []
    real = a2d_sentences.read_annotation
    monkeypatch.setattr(a2d_sentences, "read_annotation", lambda path: examined.append(path.name) or real(path))
    assert read(own_root, "test", cache) == first
    assert not examined
    folder = own_root / "text_annotations" / "a2d_annotation_with_instances" / "t"
    write_h5(folder / "00003.h5", (0,), [actor_mask(0, 3)])
    with caplog.at_level(logging.INFO):
        changed = read(own_root, "test", cache)
    assert "a2d_sentences_test.json is stale" in caplog.text
    assert len(examined) == 4
    assert changed.videos[0].visible[0] == {0, 2, 11}
    assert changed.fingerprint != first.fingerprint
    content = json.loads((cache / "a2d_sentences_test.json").read_text())
    (cache / "a2d_sentences_test.json").write_text(json.dumps(content)[:-5])
    assert read(own_root, "test", cache) == changed
    assert len(examined) == 8
    assert not list(own_root.rglob("*.json"))


def test_the_fingerprint_changes_with_lists_clips_and_annotations_but_not_with_the_folder(own_root, tmp_path):
    annotation = "text_annotations/a2d_annotation_with_instances/t/00006.h5"
    prints = [read(own_root, "test", tmp_path).fingerprint]
    for name in (ROWS, VIDEOSET, "Release/clips320H/t.mp4", annotation):
        os.utime(own_root / name, ns=(0, 0))
        prints.append(read(own_root, "test", tmp_path).fingerprint)
    assert len(set(prints)) == 5
    os.utime(own_root / "Release" / "clips320H" / "a.mp4", ns=(0, 0))  # of the other split
    moved = own_root.rename(tmp_path / "moved")
    assert read(moved, "test", tmp_path).fingerprint == prints[-1]


def test_frames_are_counted_in_the_clip_and_not_in_the_list(own_root, tmp_path):
    edit(own_root / VIDEOSET, ",12,3,1\n", ",20,3,1\n")
    folder = own_root / "text_annotations" / "a2d_annotation_with_instances" / "t"
    (folder / "00012.h5").rename(folder / "00018.h5")
    (problem,) = read(own_root, "test", tmp_path).problems
    assert problem == Problem("unreadable", str(folder / "00018.h5"), "frame 00018 is not one of the 12 of the clip")


def test_it_is_recognised_by_either_list(own_root, tmp_path):
    (found,) = A2D_SENTENCES.find(own_root)
    assert (found.settings, found.splits) == (A2DSentencesSettings(), ("train", "test"))
    (own_root / VIDEOSET).unlink()
    assert A2D_SENTENCES.find(own_root) == [found]
    (own_root / ROWS).unlink()
    assert A2D_SENTENCES.find(own_root) == []
    assert A2D_SENTENCES.find(tmp_path) == []


def test_the_splits_add_up_to_the_published_lists():
    splits = PUBLISHED["a2d_sentences"].values()
    assert sum(counts.expressions for counts in splits) == 6655 - 1, "one row cannot be used"
    assert sum(counts.videos for counts in splits) == 3782 - 28, "28 videos have no sentence"


def test_counts_are_those_of_the_videos(root, tmp_path):
    counts = A2D_SENTENCES.count(sound_videos(root, "train", tmp_path))
    assert counts.as_dict() == {"videos": 2, "objects": 3, "expressions": 3, "frames": 23}
