"""Mixtures of data sets: what they contain, in which order, and what is drawn."""

import pytest
import torch

from configs.loader import load_config
from configs.schema import DataConfig
from datasets.joint import Joint, Part
from datasets.refcoco import RefCoco
from loading.loaders import build_eval_dataset, build_train_loader, open_split
from loading.sampling import Visit
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


def make_config(root, parts, **changes):
    fields = {
        "dataset": "joint",
        "root": root,
        "parts": tuple(parts),
        "num_frames": 4,
        "short_side": HEIGHT,
        "long_side": WIDTH,
        "num_workers": 0,
    }
    return DataConfig(**(fields | changes))


def make_clips(root, parts, **changes):
    return build_train_loader(make_config(root, parts, **changes), seed=0).dataset


def sentences_of(clips):
    return [(sample.meta[0].video, sample.meta[0].expression) for sample in map(clips.__getitem__, range(len(clips)))]


def test_pretraining_sees_the_sentences_of_the_three_sets(root):
    parts = [IMAGES | {"variant": name} for name in ("refcoco", "refcoco+", "refcocog")]
    found = sentences_of(make_clips(root, parts, num_frames=1))
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
    alone = [len(make_clips(root, [part])) for part in (VIDEOS, CLIPS)]
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
    first, again, later = (clips[Visit(sample=0, epoch=epoch)].frames for epoch in (0, 0, 1))
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


def test_a_part_that_repeats_is_seen_several_times_with_different_draws(root):
    once, twice = make_clips(root, [CLIPS]), make_clips(root, [CLIPS | {"repeat": 2}])
    assert len(twice) == 2 * len(once)
    first, second = twice[0], twice[len(once)]
    assert first.meta == second.meta
    assert not torch.equal(first.frames, second.frames)


def test_an_epoch_visits_all_parts_in_one_shuffled_order_shared_by_the_processes(root):
    def visits(rank, epoch):
        loader = build_train_loader(make_config(root, [VIDEOS, CLIPS]), seed=3, rank=rank, world_size=2)
        loader.sampler.set_epoch(epoch)
        return [visit.sample for visit in loader.sampler], len(loader.dataset)

    (left, total), (right, _) = visits(0, 0), visits(1, 0)
    assert set(left) | set(right) == set(range(total))
    assert len(left) == len(right) == (total + 1) // 2
    assert left != sorted(left)
    assert visits(0, 0)[0] == left
    assert visits(0, 1)[0] != left


def test_a_batch_of_videos_and_images_is_collated(root):
    loader = build_train_loader(make_config(root, [VIDEOS, CLIPS], batch_size=3, num_frames=2), seed=0)
    batches = list(loader)
    assert sum(len(batch.sentences) for batch in batches) == len(loader.dataset)
    assert len({meta.video.split("/")[0] for batch in batches for meta in batch.meta}) == 2


def test_evaluation_reads_the_first_part(root):
    config = make_config(root, [VIDEOS, IMAGES])
    assert [video.video for video in build_eval_dataset(config)] == ["v_a", "v_b"]
    config = make_config(root, [IMAGES, VIDEOS], eval_split="val")
    assert [video.video for video in build_eval_dataset(config)] == ["COCO_train2014_000000000903"]
    assert config.for_evaluation().dataset == "refcoco"


def test_a_mixture_of_opened_sources_needs_no_configuration(root):
    images = RefCoco(root / "coco", "train")
    joint = Joint([Part("a", images), Part("b", images, repeat=2)])
    assert [video.name[0] for video in joint.videos] == list("aabbbb")
    assert len(joint.training_videos()) == 6


def test_what_is_wrong_with_a_part_names_the_part(root):
    with pytest.raises(ValueError, match=r"data.parts.1: split 'testA' of refcoco"):
        open_split(make_config(root, [VIDEOS, IMAGES | {"split": "testA"}]), "train")
    with pytest.raises(ValueError, match=r"data.parts.0: data.root=.*nowhere: no such folder"):
        open_split(make_config(root, [VIDEOS | {"root": "nowhere"}]), "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "joint"}, "needs data.parts"),
        ({"dataset": "refcoco", "parts": (IMAGES,)}, "only read with data.dataset=joint"),
        ({"dataset": "joint", "parts": ({"dataset": "joint"},)}, "cannot be 'joint' itself"),
        ({"dataset": "joint", "parts": (VIDEOS | {"pseudo_clips": True},)}, "only read with dataset refcoco"),
        ({"variant": "refcoco+"}, "only read with dataset refcoco"),
        ({"dataset": "joint", "parts": (IMAGES | {"repeat": 0},)}, "greater than 0"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


@pytest.mark.parametrize("setting", [{"num_classes_from_categories": True}, {"sequences": ("a",)}])
def test_settings_that_refcoco_does_not_know_are_refused(root, setting):
    config = DataConfig(dataset="refcoco", root=root / "coco", **setting)
    with pytest.raises(ValueError, match=next(iter(setting))):
        open_split(config, "train")


def test_the_recipes_have_the_published_settings(repository):
    pretraining = load_config(repository / "configs" / "refcoco_pretrain.yaml")
    (stage,) = pretraining.training_stages()
    assert [part.variant for part in stage.data.parts] == ["refcoco", "refcoco+", "refcocog"]
    assert (stage.epochs, stage.optim.milestones, stage.data.batch_size, stage.data.num_frames) == (30, (15, 20), 8, 1)
    assert (stage.optim.lr, stage.optim.lr_visual_encoder, stage.optim.lr_text_encoder) == (1e-4, 1e-5, 5e-6)
    assert (stage.data.short_side, stage.data.long_side, stage.data.flip_probability) == (360, 640, 0.5)
    assert not pretraining.model.text_encoder.frozen
    (stage,) = load_config(repository / "configs" / "joint_ref_youtube_vos.yaml").training_stages()
    assert [part.dataset for part in stage.data.parts] == ["ref_youtube_vos", "refcoco", "refcoco", "refcoco"]
    assert [part.pseudo_clips for part in stage.data.parts] == [False, True, True, True]
    assert (stage.epochs, stage.optim.milestones, stage.data.batch_size, stage.data.num_frames) == (30, (20,), 1, 8)


def test_a_root_of_a_part_can_be_named_on_the_command_line(repository, tmp_path):
    config = load_config(
        repository / "configs" / "joint_ref_youtube_vos.yaml", ["data.root=DATA", f"data.parts.0.root={tmp_path}"]
    )
    (stage,) = config.training_stages()
    assert stage.data.of_part(stage.data.parts[0]).root == tmp_path
    assert str(stage.data.of_part(stage.data.parts[1]).root) == "DATA/coco"
