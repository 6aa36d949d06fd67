"""For every recipe: a sample is the same in training, without flips, as in evaluation, or the recipe says why not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.loader import load_config
from datasets.table import DATASETS
from loading import loaders
from loading.transforms import resize_frames
from tests.conftest import REPOSITORY
from tools.shapes.writer import make_shapes

LAYOUTS = {
    "ref_youtube_vos": "ref_youtube_vos",
    "ref_davis17": "davis",
    "a2d_sentences": "a2d",
    "jhmdb_sentences": "jhmdb",
    "refcoco": "refcoco",
    "mevis": "mevis",
}
"""Data set -> layout of the generator."""

RECIPES = sorted(path.name for path in (REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The generated set in a layout, made once."""
    made = {}

    def make(dataset):
        if dataset not in made:
            root = tmp_path_factory.mktemp(dataset) / "set"
            make_shapes(
                root, layout=LAYOUTS[dataset], seed=5, num_train=2, num_valid=2, num_frames=4, size=(64, 96),
                num_workers=1,
            )  # fmt: skip
            made[dataset] = root
        return made[dataset]

    return make


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
    data = config.training_stages()[-1].data.model_copy(
        update={
            "sets": (settings.model_copy(update=known),),
            "root": roots(settings.dataset),
            "cache": tmp_path,
            "kinds": (),
            "num_frames": 1,
            "sentences_per_clip": 1,
            "flip_probability": 0.0,
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
