"""For every recipe: a sample is the same in training, without flips, as in evaluation, or the recipe says why not.

And the recipe that needs a GPU, with small frames on a CPU.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.loader import load_config
from datasets.table import DATASETS
from engine.logging import METRICS_FILE
from loading import loaders
from loading.frames import resize_frames
from tests.conftest import REPOSITORY
from tests.tiny_labels import write_frames, write_pngs
from tests.tiny_run import read_metrics
from tools.shapes.writer import make_shapes
from train import fit

LAYOUTS = {
    "ref_youtube_vos": "ref_youtube_vos",
    "ref_davis17": "davis",
    "a2d_sentences": "a2d",
    "jhmdb_sentences": "jhmdb",
    "refcoco": "refcoco",
    "mevis": "mevis",
    "labelled_videos": "own",
}
"""Data set -> layout of the generator; "own" is that of `tests.tiny_labels`."""

RECIPES = sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The generated set in a layout, made once."""
    made = {}

    def make(layout):
        if layout not in made:
            root = tmp_path_factory.mktemp(layout) / "set"
            if layout == "own":
                for name in ("one", "two"):
                    write_frames(root / name / "frames")
                    write_pngs(root / name / "labels", sentences={"1": ["The brown dog"], "2": ["the grey cat"]})
                made[layout] = root
                return root
            make_shapes(
                root, layout=layout, seed=5, num_train=2, num_valid=2, num_frames=4, size=(64, 96),
                num_workers=1,
            )  # fmt: skip
            made[layout] = root
        return made[layout]

    return make


def layout_of(settings):
    return "mevis_v2" if getattr(settings, "release", "") == "v2" else LAYOUTS[settings.dataset]


def test_every_data_set_has_a_generated_layout():
    assert set(LAYOUTS) == set(DATASETS)


@pytest.fixture
def shouting(monkeypatch):
    """Every file says its sentences in capitals, with odd blanks."""
    original = loaders.read_split

    def read_split(*arguments, **keywords):
        contents = original(*arguments, **keywords)
        videos = tuple(
            replace(v, expressions=tuple(replace(e, sentence=f" {e.sentence.upper()}  !") for e in v.expressions))
            for v in contents.videos
        )
        return replace(contents, videos=videos)

    monkeypatch.setattr(loaders, "read_split", read_split)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_and_evaluation_show_the_model_the_same(recipe, roots, tmp_path, shouting):
    config = load_config(REPOSITORY / "configs" / recipe)
    settings = config.data.sets[0]
    if not DATASETS[settings.dataset].can_train:
        pytest.skip("the data set is evaluated only")
    # only where and which videos is changed, so that both read the same ones
    elsewhere = {"root": Path(), "train_split": settings.eval_split, "sequences": (), "expressions": None}
    known = {key: value for key, value in elsewhere.items() if key in type(settings).model_fields}
    data = config.training_stages()[-1].data
    data = data.model_copy(
        update={
            "sets": (settings.model_copy(update=known),),
            "root": roots(layout_of(settings)),
            "cache": tmp_path,
            "kinds": (),
            "num_frames": 1,
            "sentences_per_clip": 1,
            "flip_probability": 0.0,
            "absent_share": None,
            "word_dropout": 0.0,
            "scale_jitter": (1.0, 1.0),
            "colour_jitter": 0.0,
            # absent words are others in evaluation, on purpose
            "absent": "leave_out" if settings.dataset == "labelled_videos" else data.absent,
        }
    )
    clips = loaders.build_train_loader(data, seed=0).dataset
    videos = {video.record.name: video for video in loaders.build_eval_dataset(data)}
    differ = 0
    for i in range(len(clips)):
        sample = clips[i]
        (meta,) = sample.meta
        video = videos[meta.video]
        position = video.record.frame_names.index(meta.frame_names[0])
        frames = video.load_frames(position, position + 1)
        frames = resize_frames(frames, short_side=data.short_side, long_side=data.long_side)
        assert torch.equal(frames, sample.frames), meta
        expression = next(e for e in video.record.expressions if e.name == meta.expression)
        assert "!" in expression.sentence
        differ += sample.sentences != (expression.sentence,)
    assert len(clips) > 2
    if differ:
        reasons = [line for line in lines_with_bases(recipe) if "eval_as_written: true" in line and "#" in line]
        assert reasons, f"{recipe} evaluates other sentences than it trains on and does not say why"
        assert differ == len(clips)
    assert bool(differ) == settings.eval_as_written


def lines_with_bases(recipe):
    """Lines of a recipe and of the files it is based on."""
    lines = (REPOSITORY / "configs" / recipe).read_text(encoding="utf-8").splitlines()
    bases = [line.partition(":")[2].strip() for line in lines if line.startswith("base:")]
    return lines + [line for base in bases for line in lines_with_bases(base)]


@pytest.mark.slow
def test_the_recipe_for_a_gpu_trains_every_stage(tmp_path):
    """Smaller frames and batches, a step each; the model and the length of the clips are those of the recipe."""
    make_shapes(
        tmp_path / "data", seed=1, num_train=3, num_valid=1, num_frames=24, size=(64, 96), absent_share=0.2,
        num_workers=1,
    )  # fmt: skip
    names = ("images", "clips", "time")
    steps = [f"stages.{i}.{key}" for i in range(len(names)) for key in ("max_steps=1", "data.batch_size=1")]
    small = ["data.short_side=32", "data.long_side=48", "data.num_workers=0", "train.log_every=1", "device=cpu"]
    where = [f"data.root={tmp_path / 'data'}", f"data.cache={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    fit(load_config(REPOSITORY / "configs" / "shapes_gpu.yaml", [*steps, *small, *where]))
    lines = [line for line in read_metrics(tmp_path / "out" / METRICS_FILE) if line["event"] == "train"]
    assert [line["stage"] for line in lines] == list(names)
    images, clips, time = (
        torch.load(tmp_path / "out" / "checkpoints" / name, weights_only=True)["model"]
        for name in sorted(path.name for path in (tmp_path / "out" / "checkpoints").glob("step*.pt"))
    )
    trained = {name for name in clips if not torch.equal(clips[name], time[name])}
    assert {name.split(".")[0] for name in trained} == {"object_cluster", "class_heads"}
    assert not torch.equal(
        images["visual_encoder.patch_embed.proj.weight"], clips["visual_encoder.patch_embed.proj.weight"]
    )
