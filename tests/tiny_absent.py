"""A tiny MeViS in which some sentences mean nothing, and an evaluation of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Config
from evaluation.journal import read_videos
from evaluation.report import EntryScore
from media.mask_png import read_index_png
from tests.tiny_mevis import change, write_tiny_mevis
from tests.tiny_run import tiny_config, with_busy_weights
from tools.shapes.text import write_text_encoder

ABSENT = {
    "3": "the elephant", "4": "a square that is not there at all", "5": "nobody", "6": "the left circle grows",
}  # fmt: skip


def write_tiny_absent(root: Path) -> Path:
    """Three sentences of video "one" have a target, four have none; all in split `train`."""
    root.mkdir(parents=True)
    write_tiny_mevis(root)

    def add(content: Any) -> None:
        own = content["videos"]["one"]["expressions"]
        own |= {name: {"exp": text, "obj_id": [], "anno_id": []} for name, text in ABSENT.items()}

    change(root / "train" / "meta_expressions.json", add)
    sentences = [*ABSENT.values(), "sentence 0 1 2"]
    write_text_encoder(root / "text_encoder", sentences, vocab_size=300)
    return root


def absent_config(root: Path, output: Path, **sections: Any) -> Config:
    """An evaluation of that split in windows of three and two frames, by weights that draw something."""
    data = {"dataset": "mevis", "eval_split": "train"} | sections.pop("data", {})
    return with_busy_weights(tiny_config(root, output, data=data, **sections))


def with_threshold(config: Config, min_score: float | None, output: Path) -> Config:
    """The same with another threshold and output folder."""
    settings = config.predict.model_copy(update={"min_score": min_score})
    return config.model_copy(update={"predict": settings, "output_dir": output})


def entries_of(folder: Path) -> dict[str, EntryScore]:
    """Of the only video, by expression."""
    (entries,) = read_videos(folder, EntryScore).values()
    return {entry.expression: entry for entry in entries}


def written_masks(folder: Path) -> dict[str, np.ndarray]:
    """The masks of the only video as (time, height, width), by expression."""
    return {
        path.name: np.stack([read_index_png(file) > 0 for file in sorted(path.iterdir())])
        for path in sorted((folder / "Annotations" / "one").iterdir())
    }


def results_of(folder: Path) -> dict[str, Any]:
    """Content of `results.json`."""
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content
