"""Mixtures of data sets: what they contain, in which order, and what is drawn."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from configs.loader import load_config
from configs.schema import DataConfig
from loading.loaders import build_eval_dataset, build_train_loader, training_videos
from loading.sampling import SampleKey
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_refcoco import HEIGHT, WIDTH, write_instances_layout, write_refs_layout

IMAGES = {"dataset": "refcoco", "root": "coco"}
CLIPS = IMAGES | {"pseudo_clips": True}
VIDEOS = {"dataset": "ref_youtube_vos", "root": "videos"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    write_instances_layout(root / "coco")
    write_instances_layout(root / "coco", "refcoco+")
    write_refs_layout(root / "coco", "refcocog", "umd")
    write_tiny_data(root / "videos")
    return root


def make_config(root, sets, **changes):
    fields = {
        "root": root,
        "sets": tuple(sets),
        "num_frames": 4,
        "short_side": HEIGHT,
        "long_side": WIDTH,
        "num_workers": 0,
    }
    return DataConfig.model_validate(fields | changes)


def make_clips(root, sets, **changes):
    return build_train_loader(make_config(root, sets, **changes), seed=0).dataset


def sentences_of(clips):
    return [(sample.meta[0].video, sample.meta[0].expression) for sample in map(clips.__getitem__, range(len(clips)))]


def test_pretraining_sees_the_sentences_of_the_three_sets(root):
    sets = [IMAGES | {"variant": name} for name in ("refcoco", "refcoco+", "refcocog")]
    found = sentences_of(make_clips(root, sets, num_frames=1))
    assert len(found) == 3 * 5
    assert len(set(found)) == 3 * 5, "sets share images and numbers of sentences; their samples have different names"
    assert {video.split("/")[0] for video, _ in found} == {"refcoco", "refcoco+", "refcocog"}


def test_images_for_pretraining_are_clips_of_one_frame(root):
    clips = make_clips(root, [IMAGES], num_frames=1)
    for i in range(len(clips)):
        sample = clips[i]
        assert sample.frames.shape == (1, 3, HEIGHT, WIDTH)
        assert sample.targets[0].is_visible.tolist() == [[True]]
        assert sample.annotated_frame is None


def test_joint_training_mixes_videos_and_clips_made_of_images(root):
    clips = make_clips(root, [VIDEOS, CLIPS])
    alone = [len(make_clips(root, [one])) for one in (VIDEOS, CLIPS)]
    assert len(clips) == sum(alone)
    for i in (0, len(clips) - 1):
        assert clips[i].frames.shape[:2] == (4, 3)
    assert clips[0].meta[0].video.startswith("ref_youtube_vos/")
    moving = clips[len(clips) - 1]
    assert moving.meta[0].video.startswith("refcoco/")
    assert not torch.equal(moving.frames[0], moving.frames[1])


def test_without_pseudo_clips_the_image_repeats(root):
    clips = make_clips(root, [IMAGES], flip_probability=0.0)
    frames = clips[0].frames
    assert torch.equal(frames, frames[:1].expand(4, -1, -1, -1))


def test_a_pseudo_clip_is_drawn_anew_at_each_visit_and_follows_from_seed_and_epoch(root):
    clips = make_clips(root, [CLIPS], flip_probability=0.0)
    first, again, later = (clips[SampleKey(sample=0, epoch=epoch)].frames for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_masks_and_boxes_of_a_pseudo_clip_follow_its_frames(root):
    clips = make_clips(root, [CLIPS], num_frames=8)
    for i in range(len(clips)):
        sample = clips[i]
        (target,) = sample.targets
        assert target.masks.shape == (1, 8, HEIGHT, WIDTH)
        assert torch.equal(target.is_visible, target.masks.flatten(2).any(dim=2))
        assert target.is_visible.any(), "the image itself shows the object"
        assert (target.boxes_cxcywh_norm[~target.is_visible] == 0).all()
        for mask, box in zip(target.masks[0], target.boxes_cxcywh_norm[0], strict=True):
            if mask.any():
                rows, columns = torch.nonzero(mask, as_tuple=True)
                width = (columns.max() - columns.min()) / WIDTH
                assert box[2].item() == pytest.approx(width.item(), abs=1e-5)
                height = (rows.max() - rows.min()) / HEIGHT
                assert box[3].item() == pytest.approx(height.item(), abs=1e-5)


def test_a_set_that_repeats_is_seen_several_times_with_different_draws(root):
    once, twice = make_clips(root, [CLIPS]), make_clips(root, [CLIPS | {"repeat": 2}])
    assert len(twice) == 2 * len(once)
    first, second = twice[0], twice[len(once)]
    assert first.meta == second.meta
    assert not torch.equal(first.frames, second.frames)


def test_an_epoch_visits_all_sets_in_one_shuffled_order_shared_by_the_processes(root):
    def sample_order(rank, epoch):
        loader = build_train_loader(make_config(root, [VIDEOS, CLIPS]), seed=3, rank=rank, world_size=2)
        loader.sampler.set_epoch(epoch)
        return [key.sample for key in loader.sampler], len(loader.dataset)

    (left, total), (right, _) = sample_order(0, 0), sample_order(1, 0)
    assert set(left) | set(right) == set(range(total))
    assert len(left) == len(right) == (total + 1) // 2
    assert left != sorted(left)
    assert sample_order(0, 0)[0] == left
    assert sample_order(0, 1)[0] != left


def test_a_batch_of_videos_and_images_is_collated(root):
    loader = build_train_loader(make_config(root, [VIDEOS, CLIPS], batch_size=3, num_frames=2), seed=0)
    batches = list(loader)
    assert sum(len(batch.sentences) for batch in batches) == len(loader.dataset)
    assert len({meta.video.split("/")[0] for batch in batches for meta in batch.meta}) == 2


def test_evaluation_reads_the_first_set_with_its_own_split(root):
    config = make_config(root, [VIDEOS, IMAGES])
    assert [video.record.name for video in build_eval_dataset(config)] == ["v_a", "v_b"]
    config = make_config(root, [IMAGES, VIDEOS])
    assert [video.record.name for video in build_eval_dataset(config)] == ["COCO_train2014_000000000903"]
    config = make_config(root, [IMAGES | {"eval_split": "train"}, VIDEOS])
    assert [video.record.name[-3:] for video in build_eval_dataset(config)] == ["901", "902"]


def test_sets_follow_one_another_as_often_as_they_repeat_under_names_of_their_own(root):
    videos = training_videos(make_config(root, [IMAGES, VIDEOS | {"repeat": 2}]))
    own = [f"refcoco/COCO_train2014_{number:012d}" for number in (901, 902)]
    assert [video.name for video in videos] == own + ["ref_youtube_vos/long", "ref_youtube_vos/short"] * 2
    alone = training_videos(make_config(root, [IMAGES | {"repeat": 2}]))
    assert [video.name for video in alone] == [name.removeprefix("refcoco/") for name in own] * 2


def test_each_set_is_read_with_settings_of_its_own(root):
    sets = [
        IMAGES | {"lower_case": False},
        CLIPS | {"variant": "refcoco+", "train_split": "val"},
        IMAGES | {"variant": "refcocog", "train_split": "testA"},
    ]
    videos = training_videos(make_config(root, sets))
    found = [(v.name, v.is_pseudo_clip, [e.sentence for e in v.expressions]) for v in videos]
    assert found == [
        ("refcoco/COCO_train2014_000000000901", False, ["the Red square on the left", "upper one", "lower square"]),
        ("refcoco/COCO_train2014_000000000902", False, ["the big one", "square in the middle"]),
        ("refcoco+/COCO_train2014_000000000903", True, ["right square"]),
        ("refcocog/COCO_train2014_000000000904", False, ["a square"]),
    ]


def test_two_divisions_of_one_set_are_told_apart(root):
    write_refs_layout(root / "google", split_by="google")
    videos = training_videos(make_config(root, [IMAGES, IMAGES | {"root": "google", "split_by": "google"}]))
    assert [video.name.split("/")[0] for video in videos] == ["refcoco"] * 2 + ["refcoco (google)"] * 2


def test_what_is_wrong_with_a_set_says_with_which(root):
    with pytest.raises(ValueError, match=r"^data\.sets\.1: split 'testA' of refcoco"):
        training_videos(make_config(root, [VIDEOS, IMAGES | {"train_split": "testA"}]))
    with pytest.raises(ValueError, match=r"^data\.sets\.1\.root=nowhere: no such folder as .*nowhere \(data\.root="):
        training_videos(make_config(root, [IMAGES, VIDEOS | {"root": "nowhere"}]))
    with pytest.raises(ValueError, match=r"^data\.sets\.0\.root=nowhere: no such folder as .*nowhere"):
        training_videos(make_config(root, [VIDEOS | {"root": "nowhere"}]))
    with pytest.raises(ValueError, match=r"^data\.root=.*absent: no such folder$"):
        training_videos(make_config(root / "absent", [IMAGES, VIDEOS | {"root": "nowhere"}]))
    with pytest.raises(ValueError, match=r"^split 'testA' of refcoco"):
        training_videos(make_config(root, [IMAGES | {"train_split": "testA"}]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": ()}, "must name at least one data set"),
        ({"sets": (IMAGES | {"repeat": 0},)}, "greater than 0"),
        ({"sets": ({"dataset": "joint"},)}, "does not match any of the expected tags"),
        ({"sets": (VIDEOS | {"pseudo_clips": True},)}, r"sets\.0\.ref_youtube_vos\.pseudo_clips"),
        ({"sets": (IMAGES | {"label_categories": True},)}, r"sets\.0\.refcoco\.label_categories"),
        ({"sets": (VIDEOS, IMAGES | {"sequences": ["a"]})}, r"sets\.1\.refcoco\.sequences"),
        ({"variant": "refcoco+"}, "variant"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(settings)


def test_a_root_of_a_set_can_be_named_on_the_command_line(repository, root):
    """The recipe looks for the videos in a folder of another name, and for the images where they are."""
    overrides = [f"data.root={root}", f"data.sets.0.root={root / 'videos'}"]
    (stage,) = load_config(repository / "configs" / "ref_youtube_vos_joint.yaml", overrides).training_stages()
    assert [settings.root for settings in stage.data.sets] == [root / "videos", *[Path("coco")] * 3]
    labels = {video.name.split("/")[0] for video in training_videos(stage.data)}
    assert labels == {"ref_youtube_vos", "refcoco", "refcoco+", "refcocog"}
