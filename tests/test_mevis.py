"""MeViS beyond what tests/test_formats.py compares with the generator's truth: what can be wrong with the files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

from configs.schema import DataConfig
from datasets.readers import SizeMismatchError
from loading.loaders import build_eval_dataset, build_train_loader, open_split

HEIGHT, WIDTH, NUM_FRAMES = 24, 40, 5


def square(left):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[4:12, left : left + 8] = 1
    return mask


def run_lengths(mask):
    encoded = mask_utils.encode(mask)
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@pytest.fixture
def root(tmp_path):
    """Video "one": object 7 on the left in all frames, 9 overlaps it in frames 2 to 4."""
    frames = [f"{i:05d}" for i in range(NUM_FRAMES)]
    for split in ("train", "valid"):
        folder = tmp_path / split / "JPEGImages" / "one"
        folder.mkdir(parents=True)
        for i, name in enumerate(frames):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i, dtype=np.uint8)).save(folder / f"{name}.jpg")
    sentences = {"0": [7], "1": [9], "2": [7, 9]}
    expressions = {k: {"exp": f"Sentence {k}", "obj_id": [0], "anno_id": ids} for k, ids in sentences.items()}
    write(tmp_path / "train" / "meta_expressions.json", {"videos": {"one": make_video(frames, expressions)}})
    secret = {name: {"exp": entry["exp"]} for name, entry in expressions.items()}
    write(tmp_path / "valid" / "meta_expressions.json", {"videos": {"one": make_video(frames, secret)}})
    masks = {
        "7": [run_lengths(square(2))] * NUM_FRAMES,
        "9": [None, None] + [run_lengths(square(6))] * 3,
    }
    write(tmp_path / "train" / "mask_dict.json", masks)
    return tmp_path


def make_video(frames, expressions):
    return {"vid_id": 0, "frames": frames, "expressions": expressions}


def write(path, content):
    path.write_text(json.dumps(content))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    write(path, content)


def settings(root, **changes):
    fields = {"num_frames": 2, "short_side": HEIGHT, "long_side": WIDTH, "flip_probability": 0, "num_workers": 0}
    return DataConfig(dataset="mevis", root=root, eval_split="train", **(fields | changes))


def test_a_sentence_about_several_objects_means_their_union(root):
    clips = build_train_loader(settings(root), seed=0).dataset
    samples = {(s.meta[0].expression, s.meta[0].frame_names[0]): s for s in map(clips.__getitem__, range(len(clips)))}
    first, last = samples["2", "00000"].targets[0], samples["2", "00003"].targets[0]
    assert torch.equal(first.masks[0, 0], torch.from_numpy(square(2) > 0))
    assert torch.equal(last.masks[0, 1], torch.from_numpy((square(2) | square(6)) > 0))
    assert samples["2", "00003"].meta[0].object_ids == (7, 9)
    assert ("1", "00000") not in samples, "object 9 is not there yet"
    assert samples["1", "00002"].targets[0].is_visible.all()


def test_sentences_of_one_clip_with_common_objects_keep_their_own_masks(root):
    sample = build_train_loader(settings(root, sentences_per_clip=3), seed=0).dataset[1]
    areas = {
        meta.expression: int(target.masks[0, 0].sum()) for meta, target in zip(sample.meta, sample.targets, strict=True)
    }
    assert areas == {"0": 64, "1": 64, "2": 64 + 64 - 32}


def test_evaluation_takes_the_union_and_secret_splits_have_no_masks(root):
    video = build_eval_dataset(settings(root))[0]
    assert video.object_ids == ((7,), (9,), (7, 9))
    assert video.object_maps is None
    assert video.load_masks((7, 9)).flatten(1).sum(dim=1).tolist() == [64, 64, 96, 96, 96]
    secret = build_eval_dataset(settings(root).model_copy(update={"eval_split": "valid"}))[0]
    assert secret.object_ids is None
    assert secret.load_masks((7,)) is None
    with pytest.raises(ValueError, match="cannot be trained on"):
        open_split(settings(root), "valid").training_videos()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda masks: masks.pop("9"), r"anno_id 9 \(video one, expression 1\) is missing"),
        (lambda masks: masks["9"].pop(), r"anno_id 9 .* has masks for 4 frames, the video has 5"),
        (lambda masks: masks["7"][0].update(size=[1, 2]), "different sizes"),
        (lambda masks: masks["7"][0].pop("counts"), "mask_dict.json: not a readable file"),
        (lambda masks: masks["7"][0].update(counts="Q"), "cut off"),
    ],
)
def test_bad_masks_are_named(root, edit, message):
    change(root / "train" / "mask_dict.json", edit)
    with pytest.raises(ValueError, match=message):
        open_split(settings(root), "train")


def test_masks_that_do_not_fit_their_frame_are_named(root):
    clips = build_train_loader(settings(root), seed=0).dataset
    for path in (root / "train" / "JPEGImages" / "one").iterdir():
        Image.new("RGB", (WIDTH, HEIGHT + 2)).save(path)
    with pytest.raises(SizeMismatchError, match="anno_id 7, frame 0"):
        clips[0]


def test_run_lengths_of_too_few_pixels_are_named(root):
    change(root / "train" / "mask_dict.json", lambda masks: masks["7"][0].update(counts="52"))
    with pytest.raises(ValueError, match=r"anno_id 7, frame 0: run lengths of 7 pixels"):
        build_train_loader(settings(root), seed=0).dataset[0]


@pytest.mark.parametrize("anno_id", [[], ["x"], [-1]])
def test_bad_objects_are_named(root, anno_id):
    path = root / "train" / "meta_expressions.json"
    change(path, lambda content: content["videos"]["one"]["expressions"]["1"].update(anno_id=anno_id))
    with pytest.raises(ValueError, match="video one, expression 1: anno_id="):
        open_split(settings(root), "train")


def test_missing_files_are_named(root):
    (root / "train" / "mask_dict.json").unlink()
    with pytest.raises(ValueError, match=r"mask_dict\.json: no such file"):
        open_split(settings(root), "train")
    (root / "valid" / "JPEGImages" / "one").rename(root / "valid" / "JPEGImages" / "two")
    with pytest.raises(ValueError, match="folders of 1 videos are missing: one"):
        open_split(settings(root), "valid")
