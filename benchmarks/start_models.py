"""Saved models with random weights, and a short video, for benchmarks of commands."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from configs.loader import load_config
from models.build import build_model_for_inference
from models.saved_model import save_model
from tools.shapes.text import write_text_encoder
from tools.shapes.writers.base import write_frame

ROBERTA_BASE = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
"""Sizes of the published text encoder; its tokenizer is a small one here, because vocabularies are not ours to copy."""

SENTENCES = ["the red circle", "a blue square that moves left"]
NUM_FRAMES = 8
FRAME_SIZE = (96, 160)


def write_video(folder: Path) -> Path:
    """Writes a folder with the frames of a short video of noise; returns it."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(NUM_FRAMES):
        write_frame(folder / f"{index:05d}.jpg", generator.integers(0, 256, (*FRAME_SIZE, 3), dtype=np.uint8))
    return folder


def write_model(folder: Path, recipe: str, text_encoder: Path, overrides: Sequence[str] = ()) -> Path:
    """Writes a saved model of a recipe with random weights that are the same every time; returns its folder.

    Args:
        folder: of the model.
        recipe: a file of `configs`.
        text_encoder: folder of its tokenizer and sizes.
        overrides: other settings.
    """
    settings = [f"model.text_encoder.path={text_encoder}", "model.text_encoder.frozen=false", "predict.min_score=0"]
    size = f"data.short_side={FRAME_SIZE[0]}", f"data.long_side={FRAME_SIZE[1]}"
    config = load_config(Path("configs") / recipe, [*settings, *size, *overrides])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(folder, build_model_for_inference(config), config)
    return folder


def write_models(folder: Path, *, only_small: bool = False) -> list[Path]:
    """Writes the saved models of `bench_start`: `small`, and `soc_t` with the sizes of the published one.

    Args:
        folder: in which they get folders of their own.
        only_small: leave out the second, of 700 MB.
    """
    small = folder / "text_encoder"
    write_text_encoder(small, SENTENCES)
    models = [write_model(folder / "small", "shapes.yaml", small)]
    if not only_small:
        large = write_base_text_encoder(folder / "text_encoder_base")
        models.append(write_model(folder / "soc_t", "base.yaml", large))
    return models


def write_base_text_encoder(folder: Path) -> Path:
    """Writes tokenizer and sizes of a text encoder as large as the published one; returns its folder."""
    write_text_encoder(folder, SENTENCES)
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8")) | ROBERTA_BASE
    (folder / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder
