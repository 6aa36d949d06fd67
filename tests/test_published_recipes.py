"""The recipes against the table of published runs, as docs/recipes.md has it, and those of MeViS, which are ours."""

from dataclasses import dataclass

import pytest

from configs.loader import load_config
from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Row:
    """A published run.

    Attributes:
        rates: learning rates of visual encoder, text encoder (None where it is frozen) and the rest.
        batch: clips per GPU.
        epochs: of the run.
        drops: epochs after which the rates fall.
        factor: by which they fall.
        sides: shorter and longer side of the frames.
        frames: of a clip.
        flip: probability.
        new_class_head: whether classification starts anew.
    """

    rates: tuple[float, float | None, float]
    batch: int
    epochs: int
    drops: tuple[int, ...]
    factor: float
    sides: tuple[int, int] = (360, 640)
    frames: int = 8
    flip: float = 0.3085
    new_class_head: bool = False


ROWS = {
    "a2d_sentences_scratch": Row((5e-6, None, 5e-5), 2, 40, (15,), 0.2, (320, 576)),
    "a2d_sentences_finetune": Row((3e-6, None, 3e-5), 1, 20, (20,), 0.2, (320, 576), new_class_head=True),
    "ref_youtube_vos_scratch": Row((1e-5, None, 1e-4), 1, 30, (20,), 0.1),
    "ref_youtube_vos_finetune": Row((1e-5, 5e-6, 1e-4), 1, 20, (10,), 0.1, new_class_head=True),
    "refcoco_pretrain": Row((1e-5, 5e-6, 1e-4), 8, 30, (15, 20), 0.1, frames=1, flip=0.5),
    "ref_youtube_vos_joint": Row((1e-5, 5e-6, 1e-4), 1, 30, (20,), 0.1),
}
TRAINED_ON = {
    "a2d_sentences_scratch": ["a2d_sentences"],
    "a2d_sentences_finetune": ["a2d_sentences"],
    "ref_youtube_vos_scratch": ["ref_youtube_vos"],
    "ref_youtube_vos_finetune": ["ref_youtube_vos"],
    "refcoco_pretrain": ["refcoco", "refcoco+", "refcocog"],
    "ref_youtube_vos_joint": ["ref_youtube_vos", "refcoco", "refcoco+", "refcocog"],
}
EVALUATED = {
    "a2d_sentences_finetune": ["a2d_sentences/test"],
    "jhmdb_sentences_eval": ["jhmdb_sentences/test"],
    "ref_youtube_vos_finetune": ["ref_youtube_vos/valid"],
    "ref_davis17_eval": ["ref_davis17/valid"],
    "refcoco_pretrain": ["refcoco/val", "refcoco+/val", "refcocog/val"],
    "refcoco_eval": [
        *(f"{name}/{split}" for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")),
        "refcocog/val",
        "refcocog/test",
    ],
    "mevis": ["mevis/valid_u"],
    "mevis_v2": ["mevis/valid_u"],
}
LARGE = sorted(path.stem for path in (REPOSITORY / "configs").glob("*_swin_b.yaml"))


def recipe(name):
    return load_config(REPOSITORY / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_has_the_published_settings(name):
    config = recipe(name)
    (stage,) = config.training_stages()
    data, optim, text_encoder = stage.data, stage.optim, config.model.text_encoder
    assert ROWS[name] == Row(
        rates=(optim.lr_visual_encoder, None if text_encoder.frozen else optim.lr_text_encoder, optim.lr),
        batch=data.batch_size,
        epochs=stage.epochs,
        drops=optim.milestones,
        factor=optim.gamma,
        sides=(data.short_side, data.long_side),
        frames=data.num_frames,
        flip=data.flip_probability,
        new_class_head=not config.model.keep_class_head,
    )
    assert (optim.weight_decay, optim.max_grad_norm, optim.accumulate) == (1e-4, 0.1, 1)
    assert (config.model.num_classes, config.model.output_layer) == (1, "first")


@pytest.mark.parametrize("name", TRAINED_ON)
def test_a_recipe_trains_on_the_published_data(name):
    sets = recipe(name).data.sets
    assert [settings.label for settings in sets] == TRAINED_ON[name]
    for settings in sets:
        is_image = settings.dataset == "refcoco"
        assert settings.lower_case != is_image, "sentences of images stay as they are"
        assert getattr(settings, "pseudo_clips", False) == (is_image and name == "ref_youtube_vos_joint")


@pytest.mark.parametrize("name", EVALUATED)
def test_a_recipe_evaluates_the_published_splits(name):
    data = recipe(name).data
    assert [settings.eval_name for settings in data.evaluated] == EVALUATED[name]
    assert (data.eval_num_frames, data.max_eval_videos) == (36, 0)
    sides = (320, 576) if name.startswith(("a2d", "jhmdb")) else (360, 640)
    assert (data.short_side, data.long_side) == sides
    for settings in data.evaluated:
        assert settings.eval_as_written == (settings.dataset in ("ref_youtube_vos", "ref_davis17"))
        assert settings.lower_case == (settings.dataset != "refcoco")


def test_every_row_but_those_from_scratch_has_a_recipe_for_the_larger_encoder():
    small = {*ROWS, *EVALUATED} - {"a2d_sentences_scratch", "ref_youtube_vos_scratch"}
    assert set(LARGE) == {f"{name}_swin_b" for name in small}


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_of_the_larger_encoder_differs_in_nothing_else(name):
    small, large = recipe(name.removesuffix("_swin_b")), recipe(name)
    assert (small.model.visual_encoder.name, large.model.visual_encoder.name) == ("video-swin-t", "video-swin-b")
    assert large.output_dir.name == f"{small.output_dir.name}_swin_b"
    encoder = small.model.visual_encoder.model_copy(update={"name": "video-swin-b"})
    model = small.model.model_copy(update={"visual_encoder": encoder})
    assert large == small.model_copy(update={"model": model, "output_dir": large.output_dir})


@pytest.mark.parametrize("name", ["mevis", "mevis_v2"])
def test_the_recipes_of_mevis_see_motion_and_follow_it_through_windows(name):
    config = recipe(name)
    assert config.model.trajectory
    assert config.model.text_encoder.frozen
    assert (config.model.output_layer, config.data.eval_identity, config.data.window_overlap) == ("last", "matched", 4)
    clips, time = config.training_stages()
    assert (clips.trainable, time.trainable) == ((), ("object_cluster", "class_heads"))
    assert (clips.optim.lr, clips.optim.lr_visual_encoder) == (5e-5, 5e-6)
    assert (clips.epochs, clips.optim.milestones) == (2, (1,))
    assert time.data.num_frames > clips.data.num_frames
    for stage in (clips, time):
        assert stage.data.absent == "train"
        assert [settings.release for settings in stage.data.sets] == ["v2" if name == "mevis_v2" else "v1"]


def test_the_recipes_of_mevis_differ_in_the_release_alone():
    first, second = recipe("mevis"), recipe("mevis_v2")
    text = second.model_dump_json().replace('"release":"v2"', '"release":"v1"').replace("runs/mevis_v2", "runs/mevis")
    assert text == first.model_dump_json()
