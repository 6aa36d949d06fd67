"""Clips of the tiny data set, as the configuration opens them."""

import json

from loading.loaders import build_train_loader
from tests.data_settings import data_config
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH


def make_config(root, **changes):
    fields = {
        "root": root,
        "num_frames": 4,
        "short_side": HEIGHT,
        "long_side": WIDTH,
        "flip_probability": 0.0,
        "num_workers": 0,
    }
    return data_config(**(fields | changes))


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
