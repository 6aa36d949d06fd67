"""Encoders by name through the whole program: train, evaluate and predict from the command line."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import main
from configs.loader import dump_config
from engine.checkpoint import CHECKPOINT_FOLDER, LAST
from engine.logging import METRICS_FILE
from models.timm_encoder import TimmEncoder
from structures.checkpoint_file import read_state_dict
from structures.clips import ByteClips
from tests.tiny_run import SENTENCES, read_metrics, tiny_config, write_tiny_root

ENCODER = "test_convnext"  # normalises with 0.5, not as ImageNet is


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with a small encoder of timm, frozen, whose weights lie in the folder of encoders."""
    monkeypatch.setenv("SOC_ENCODERS", str(tmp_path / "encoders"))
    (tmp_path / "encoders" / ENCODER).mkdir(parents=True)
    save_file(timm.create_model(ENCODER).state_dict(), tmp_path / "encoders" / ENCODER / "model.safetensors")
    visual = {"name": f"timm/{ENCODER}", "weights": f"{{encoders}}/{ENCODER}", "frozen": True}
    text = {"path": "{data.root}/text_encoder", "frozen": False, "pooling": "mean"}
    config = tiny_config(
        write_tiny_root(tmp_path / "data"),
        tmp_path / "run",
        model={"visual_encoder": visual, "text_encoder": text, "trajectory": True, "output_layer": "last"},
        stages=({"epochs": 1, "max_steps": 3},),
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The bytes of each batch, and what the encoder gets of them."""
    pairs: list[tuple[Tensor, Tensor]] = []
    normalised, forward = ByteClips.normalised, TimmEncoder.forward

    def remember_bytes(clips, *settings):
        pairs.append((clips.frames, torch.empty(0)))
        return normalised(clips, *settings)

    def remember_frames(encoder, frames):
        pairs[-1] = (pairs[-1][0], frames)
        return forward(encoder, frames)

    monkeypatch.setattr(ByteClips, "normalised", remember_bytes)
    monkeypatch.setattr(TimmEncoder, "forward", remember_frames)
    return pairs


def require_normalised_by_half(seen: list[tuple[Tensor, Tensor]]) -> None:
    assert seen
    for pixels, frames in seen:
        torch.testing.assert_close(frames, pixels.float() / 127.5 - 1, rtol=0, atol=1e-5)
    seen.clear()


def test_a_frozen_encoder_of_timm_trains_evaluates_and_predicts(tmp_path: Path, recipe: Path, seen):
    assert main.main(["train", "--config", str(recipe)]) == 0
    require_normalised_by_half(seen)
    steps = [line for line in read_metrics(tmp_path / "run" / METRICS_FILE) if line["event"] == "train"]
    assert set(steps[0]["lr"]) == {"rest", "text_encoder"}
    checkpoint = tmp_path / "run" / CHECKPOINT_FOLDER / LAST

    overrides = [f"model.weights={checkpoint}", "model.visual_encoder.weights=null"]
    evaluation = tmp_path / "evaluation"
    assert main.main(["eval", "--config", str(recipe), f"output_dir={evaluation}", *overrides]) == 0
    require_normalised_by_half(seen)
    assert (evaluation / "results.json").is_file()

    video = next(path.parent for path in (tmp_path / "data").rglob("*.jpg"))
    arguments = ["--video", str(video), "--sentence", SENTENCES[0], "--output", str(tmp_path / "prediction")]
    assert main.main(["predict", "--config", str(recipe), *arguments, *overrides]) == 0
    require_normalised_by_half(seen)
    assert json.loads((tmp_path / "prediction" / "prediction.json").read_text())["objects"][0]["sentence"]


def test_training_leaves_a_frozen_encoder_as_its_file_has_it(tmp_path: Path, recipe: Path):
    assert main.main(["train", "--config", str(recipe), "stages.0.max_steps=1"]) == 0
    state = torch.load(tmp_path / "run" / CHECKPOINT_FOLDER / LAST, weights_only=True)["model"]
    encoder = TimmEncoder(ENCODER)
    encoder.load_pretrained(
        {
            name.removeprefix("visual_encoder.network."): tensor
            for name, tensor in state.items()
            if name.startswith("visual_encoder.network.")
        }
    )
    written = TimmEncoder(ENCODER)
    written.load_pretrained(read_state_dict(tmp_path / "encoders" / ENCODER / "model.safetensors"))
    for name, tensor in written.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name


def test_a_misspelt_encoder_is_an_error_of_the_command_line(recipe: Path, capsys: pytest.CaptureFixture):
    assert main.main(["train", "--config", str(recipe), "model.visual_encoder.name=timm/test_convnet"]) == 2
    assert "timm/test_convnet: timm" in capsys.readouterr().err
    assert main.main(["train", "--config", str(recipe), "model.visual_encoder.name=resnet"]) == 2
    assert "model.visual_encoder.name: no visual encoder 'resnet'; there are" in capsys.readouterr().err
