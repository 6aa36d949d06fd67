"""Boxes of targets: those of the annotation, moved into the image, flipped and resized with it."""

from dataclasses import replace

import pytest
import torch

from loading.clips import ClipDataset
from loading.loaders import build_train_loader
from structures.boxes import cxcywh_to_xyxy
from tests.data_settings import data_config
from tests.tiny_refcoco import HEIGHT, WIDTH, annotation_file, annotations_of, change_json, problems_of, read

UPPER = "COCO_train2014_000000000901"


def set_boxes(root, boxes):
    """Gives annotations, by their number, other boxes."""

    def change(content):
        for annotation, box in boxes.items():
            for entry in annotations_of(content, annotation):
                entry["bbox"] = box

    change_json(annotation_file(root), change)


def target_boxes(root, **changes):
    """Of each sentence, the boxes of its target: left, top, right, bottom in pixels of the file."""
    fields = {"num_frames": 1, "short_side": HEIGHT, "long_side": WIDTH, "flip_probability": 0, "num_workers": 0}
    clips = build_train_loader(data_config("refcoco", root=root, **(fields | changes)), seed=0).dataset
    boxes = {}
    for sample in map(clips.__getitem__, range(len(clips))):
        corners = cxcywh_to_xyxy(sample.targets[0].boxes_cxcywh_norm[0])
        boxes[sample.sentences[0]] = (corners * torch.tensor([WIDTH, HEIGHT] * 2)).numpy()
    return boxes


def test_they_are_those_of_the_annotation_and_not_the_extents_of_masks(root):
    # rectangles of tests/tiny_refcoco.py: the last row and column are outside; extents of masks would be one less
    boxes = target_boxes(root)
    assert boxes["upper one"][0] == pytest.approx([6, 4, 30, 20], abs=1e-4)
    assert boxes["lower square"][0] == pytest.approx([8, 24, 28, 44], abs=1e-4)
    assert boxes["the big one"][0] == pytest.approx([20, 10, 50, 40], abs=1e-4)
    set_boxes(root, {11: [5.25, 3.5, 25.5, 17.25]})
    changed = target_boxes(root)
    assert changed["upper one"][0] == pytest.approx([5.25, 3.5, 30.75, 20.75], abs=1e-4)
    assert changed["lower square"][0] == pytest.approx(boxes["lower square"][0])


def test_they_are_mirrored_and_scaled_with_the_image(root):
    flipped = target_boxes(root, flip_probability=1, short_side=36, long_side=48)
    assert flipped["upper one"][0] == pytest.approx([WIDTH - 30, 4, WIDTH - 6, 20], abs=1e-4)


def test_their_corners_are_moved_to_the_border_of_the_image(root):
    set_boxes(root, {11: [-5, -3, 20, 10.5], 12: [50, 40, 30, 20]})
    boxes = target_boxes(root)
    assert boxes["upper one"][0] == pytest.approx([0, 0, 15, 7.5], abs=1e-4)
    assert boxes["lower square"][0] == pytest.approx([50, 40, WIDTH, HEIGHT], abs=1e-4)


def test_every_frame_of_a_repeated_image_has_the_same(root):
    boxes = target_boxes(root, num_frames=3)["upper one"]
    assert boxes == pytest.approx(torch.tensor([[6.0, 4, 30, 20]] * 3).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    "box",
    [[6.0, 4.0, 0.0, 16.0], [6.0, 4.0, 24.0, 0.0], [float(WIDTH), 4.0, 5.0, 5.0], [-9.0, 4.0, 9.0, 9.0]],
    ids=["no width", "no height", "right of the image", "left of the image"],
)
def test_objects_whose_box_has_no_area_in_the_image_are_named_and_not_trained_on(root, box):
    set_boxes(root, {11: box})
    contents = read(root, "train", for_training=True)
    detail = f"bbox={box} has no area in the image (expressions 0, 1)"
    assert problems_of(contents) == [("unseen", f"video {UPPER}, object 1", detail)]
    assert target_boxes(root).keys() == {"lower square", "the big one", "square in the middle"}
    assert problems_of(read(root, "train")) == [], "evaluation has a mask to score against"


def test_pseudo_clips_have_the_extents_of_their_masks(root):
    set_boxes(root, {11: [0.0, 0.0, 0.0, 0.0], 12: [1.0, 2.0, 3.0, 4.0]})
    boxes = target_boxes(root, num_frames=4, pseudo_clips=True)
    # one of the frames is the image itself
    assert min(abs(frame - [6, 4, 29, 19]).max() for frame in boxes["upper one"]) < 1e-3
    assert min(abs(frame - [8, 24, 27, 43]).max() for frame in boxes["lower square"]) < 1e-3


def test_several_objects_have_the_box_around_all(refs_root):
    (video, _) = read(refs_root, "train", for_training=True).videos
    both = replace(video.expressions[0], object_ids=(1, 2))
    fields = {"num_frames": 1, "short_side": HEIGHT, "long_side": WIDTH, "flip_probability": 0.0, "seed": 0}
    sample = ClipDataset([replace(video, expressions=(both,))], sentences_per_clip=1, **fields)[0]
    corners = cxcywh_to_xyxy(sample.targets[0].boxes_cxcywh_norm[0, 0]) * torch.tensor([WIDTH, HEIGHT] * 2)
    assert corners.tolist() == pytest.approx([6, 4, 30, 44], abs=1e-4)
