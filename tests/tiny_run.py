"""A configuration so small that training, evaluation and prediction take seconds, and data to go with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from models.build import build_model
from tests.data_settings import with_one_set
from tests.tiny_mevis import write_tiny_mevis
from tests.tiny_ref_youtube_vos import write_tiny_data
from tools.shapes.text import write_text_encoder

SENTENCES = [
    "the square on the left",
    "a square moving right",
    "the upper square",
    "a square",
    "a square that leaves",
]


def write_tiny_root(root: Path) -> Path:
    """Tiny data in the format of Ref-YouTube-VOS with a text encoder beside it."""
    root.mkdir(parents=True, exist_ok=True)
    write_tiny_data(root)
    write_text_encoder(root / "text_encoder", SENTENCES, vocab_size=300)
    return root


def write_absent_root(root: Path) -> Path:
    """Tiny data in the format of MeViS; of the sentences two thirds mean nothing, and all about video "two"."""
    root.mkdir(parents=True, exist_ok=True)
    write_tiny_mevis(root)
    folder = root / "train"
    shutil.copytree(folder / "JPEGImages" / "one", folder / "JPEGImages" / "two")
    content = json.loads((folder / "meta_expressions.json").read_text(encoding="utf-8"))
    frames = content["videos"]["one"]["frames"]
    objects: dict[str, tuple[list[int], ...]] = {"one": ([7], [9], []), "two": ([], [], [])}
    content["videos"] = {
        video: {
            "frames": frames,
            "expressions": {
                str(i): {"exp": SENTENCES[i], "obj_id": ids, "anno_id": ids} for i, ids in enumerate(objects[video])
            },
        }
        for video in objects
    }
    (folder / "meta_expressions_v2.json").write_text(json.dumps(content), encoding="utf-8")
    write_text_encoder(root / "text_encoder", SENTENCES, vocab_size=300)
    return root


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tiny_config(root: Path, output_dir: Path, **sections: object) -> Config:
    """One stage of two epochs; sections given as dicts are merged into it, one level deep."""
    values: dict[str, object] = {
        "model": {
            "visual_encoder": {
                "name": "video-swin",
                "embed_dim": 8,
                "depths": (1, 1, 1, 1),
                "num_heads": (1, 2, 2, 2),
                "window_size": (2, 3, 3),
            },
            "text_encoder": {"path": "{data.root}/text_encoder", "frozen": False},
            "dim": 16,
            "num_heads": 2,
            "num_queries": 3,
            "ffn_dim": 32,
            "num_encoder_layers": 1,
            "num_decoder_layers": 2,
            "num_cluster_layers": 1,
            "num_points": 2,
        },
        "data": {
            "root": root,
            "num_frames": 2,
            "short_side": 24,
            "long_side": 40,
            "batch_size": 2,
            "eval_num_frames": 3,
            "num_workers": 0,
        },
        "optim": {"lr": 1e-3, "lr_visual_encoder": 1e-3, "lr_text_encoder": 1e-3},
        "stages": (),
        "train": {"log_every": 2},
        "output_dir": output_dir,
        "device": "cpu",
    }
    for name, section in sections.items():
        base = values.get(name)
        values[name] = {**base, **section} if isinstance(base, dict) and isinstance(section, dict) else section
    data, optim = values["data"], values["optim"]
    stages = values["stages"] or ({"epochs": 2},)
    assert isinstance(data, dict)
    assert isinstance(optim, dict)
    assert isinstance(stages, tuple)
    values["stages"] = tuple(
        {
            **stage,
            "data": with_one_set(**{**data, **stage.get("data", {})}),
            "optim": {**optim, **stage.get("optim", {})},
        }
        for stage in stages
    )
    values["data"] = with_one_set(**data)
    return Config.model_validate(values)


def tiny_model_overrides(root: Path) -> list[str]:
    """Overrides that give any recipe the model and the frame size of `tiny_config`; the text encoder lies in `root`."""
    config = tiny_config(root, root / "run").model_dump(mode="json")
    model = config["model"]
    values = {f"model.{key}": value for key, value in model.items() if not isinstance(value, dict)}
    for section in ("visual_encoder", "text_encoder"):
        values |= {f"model.{section}.{key}": value for key, value in model[section].items()}
    values |= {f"data.{key}": config["data"][key] for key in ("short_side", "long_side")}
    values["model.text_encoder.path"] = str(root / "text_encoder")
    del values["model.weights"]
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def with_busy_weights(config: Config) -> Config:
    """Random weights draw no mask at all; noise on them makes masks that differ between sentences.

    The weights go to a file beside the output folder, and the model is built from there.
    """
    torch.manual_seed(0)
    model = build_model(config.model, data_root=config.data.root)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = config.output_dir.parent / "busy.pt"
    torch.save(model.state_dict(), path)
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": path})})
