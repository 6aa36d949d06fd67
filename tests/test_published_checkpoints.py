"""A checkpoint with published names, however people wrap it, gives the same outputs; what cannot be read says why."""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.build import build_model, build_model_for_inference, load_weights
from models.checkpoint_names import soc_name
from models.outputs import LayerOutput
from models.soc import SOC
from structures.checkpoint_file import read_state_dict
from tests.tiny_model import tiny_clips, tiny_soc, tiny_tokens
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root

SPEC = "soc_video-swin-t_c1_text12"


@pytest.fixture(scope="module")
def published(repository: Path) -> dict[str, Tensor]:
    """The weights of a small model under their published names, with the tensors that the published file has twice."""
    names = json.loads((repository / "tests" / "parity" / "specs" / f"{SPEC}.json").read_text())["parameters"]
    by_ours = {soc_name(name): name for name in names if not name.startswith("transformer.decoder.bbox_embed.")}
    state = {by_ours[name]: tensor for name, tensor in tiny_soc(seed=1).state_dict().items()}
    state |= {f"transformer.decoder.{n}": tensor for n, tensor in state.items() if n.startswith("bbox_embed.")}
    state["text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    return state


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def profiled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    counts = {n: torch.zeros(1, dtype=torch.float64) for n in ("total_ops", "vlf.total_params", "total_params")}
    return state | counts


def as_the_published_trainer(state: dict[str, Tensor]) -> dict[str, Any]:
    """What its A2D trainer writes, with states of a real optimiser and schedule."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 5e-5}], weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[15], gamma=0.2)
    parameter.sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "epoch": 12,
        "total_epochs": 40,
        "model_state_dict": OrderedDict(state),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
        "grad_scaler_state_dict": torch.amp.GradScaler("cpu").state_dict(),
        "best_mAP": np.float64(0.504),
    }


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"epoch": 3, "model_state_dict": state},
    "state_dict": lambda state: {"meta": {"env": "x"}, "state_dict": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "with an average": lambda state: {"model": state, "model_ema": prefixed(state, "module.")},
    "under another key": lambda state: {"epoch": 3, "generator": state, "lr": 0.1},
    "net": lambda state: {"net": state},
    "module": lambda state: {"module": state, "optimizer": {"state": {"a": torch.ones(1)}}},
    "average alone": lambda state: {"epoch": 1, "model_ema": {"module": state}, "optimizer": {"state": {}}},
    "flat average alone": lambda state: {"ema_state_dict": prefixed(state, "module.")},
    "average of torch": lambda state: {"model": prefixed(state, "module.") | {"n_averaged": torch.tensor(3)}},
    "four keys deep": lambda state: {"a": {"model": {"module": {"state_dict": state}}}},
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "loops": {"a": {}}},
    "compiled part": lambda state: {name.replace(".", "._orig_mod.", 1): t for name, t in state.items()},
    "wrapped again and again": lambda state: prefixed(state, "module.module._orig_mod.module."),
    "DDP": lambda state: {"model_state_dict": prefixed(state, "module.")},
    "bare DDP": lambda state: prefixed(state, "module."),
    "compiled": lambda state: {"model": prefixed(state, "_orig_mod.")},
    "compiled in DDP": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "profiled": lambda state: {"model": profiled(state)},
    "profiled DDP": lambda state: {"model": prefixed(profiled(state), "module.")},
    "whole run": as_the_published_trainer,
    "whole run of DDP": lambda state: as_the_published_trainer(prefixed(state, "module.")),
}


@torch.no_grad()
def outputs(model: SOC) -> dict[str, Tensor]:
    final = model.eval()(tiny_clips(1), tiny_tokens(5)).final
    return {field.name: getattr(final, field.name) for field in fields(LayerOutput)}


def assert_weights_of_seed_1(path: Path, *, atol: float = 0.0) -> None:
    model = tiny_soc(seed=2)
    load_weights(model, path)
    for name, value in outputs(tiny_soc(seed=1)).items():
        torch.testing.assert_close(outputs(model)[name], value, rtol=0, atol=atol, msg=f"{name} differs")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_same_weights_give_the_same_outputs_however_wrapped(
    tmp_path: Path, published: dict[str, Tensor], wrapping: str
):
    torch.save(WRAPPINGS[wrapping](published), tmp_path / "file.pth.tar")
    assert_weights_of_seed_1(tmp_path / "file.pth.tar")


def test_an_average_is_not_taken_in_the_place_of_the_weights_and_either_is_said(
    tmp_path: Path, published: dict[str, Tensor], caplog
):
    other = {name: tensor + 1 for name, tensor in published.items()}
    torch.save({"model_ema": other, "model": published}, tmp_path / "both.pth")
    with caplog.at_level(logging.INFO):
        assert_weights_of_seed_1(tmp_path / "both.pth")
    assert "the weights below 'model' are read, not the averaged ones below 'model_ema'" in caplog.text
    torch.save({"ema": published}, tmp_path / "average.pth")
    with caplog.at_level(logging.INFO):
        assert_weights_of_seed_1(tmp_path / "average.pth")
    assert "the averaged weights below 'ema' are read; it holds no others" in caplog.text


def test_our_own_names_are_unwrapped_as_well(tmp_path: Path):
    state = profiled(tiny_soc(seed=1).state_dict())
    torch.save({"state_dict": prefixed(state, "module.")}, tmp_path / "ours.pth")
    assert_weights_of_seed_1(tmp_path / "ours.pth")


def test_files_of_old_torch_and_of_safetensors_are_read(tmp_path: Path, published: dict[str, Tensor]):
    torch.save({"model": published}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_weights_of_seed_1(tmp_path / "old.pth")
    save_file({n: tensor.clone() for n, tensor in prefixed(published, "module.").items()}, tmp_path / "x.safetensors")
    assert_weights_of_seed_1(tmp_path / "x.safetensors")


def test_half_precision_becomes_float32_and_is_said(tmp_path: Path, published: dict[str, Tensor], caplog):
    half = {n: tensor.half() if tensor.is_floating_point() else tensor for n, tensor in published.items()}
    torch.save({"model": half}, tmp_path / "half.pth")
    model = tiny_soc(seed=2)
    with caplog.at_level(logging.INFO):
        load_weights(model, tmp_path / "half.pth")
    dtypes = {tensor.dtype for tensor in read_state_dict(tmp_path / "half.pth").values()}
    assert dtypes == {torch.float32, torch.int64}
    assert f"{len(published) - 1} tensors are in half precision and are converted to float32" in caplog.text
    for name, tensor in tiny_soc(seed=1).state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(model.state_dict()[name], tensor.half().float(), rtol=0, atol=0)


def with_classes(state: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    return {
        n: t.repeat(num_classes, *[1] * (t.ndim - 1)) if n.startswith("class_embed.") else t for n, t in state.items()
    }


def test_a_class_head_of_another_size_is_dropped_when_asked_and_said(
    tmp_path: Path, published: dict[str, Tensor], caplog
):
    torch.save({"model_state_dict": with_classes(published, 65)}, tmp_path / "c65.pth")
    model = tiny_soc(seed=2)
    before = model.state_dict()["class_heads.1.weight"].clone()
    with caplog.at_level(logging.INFO):
        load_weights(model, tmp_path / "c65.pth", class_head="new")
    assert "is left out (65 classes in the file, 1 class in the model)" in caplog.text
    assert torch.equal(model.state_dict()["class_heads.1.weight"], before)
    expected = tiny_soc(seed=1).state_dict()["box_heads.1.layers.0.weight"]
    assert torch.equal(model.state_dict()["box_heads.1.layers.0.weight"], expected)


def test_a_class_head_that_fits_starts_anew_too_as_published(tmp_path: Path, published: dict[str, Tensor], caplog):
    torch.save(published, tmp_path / "c1.pth")
    model = tiny_soc(seed=2)
    before = model.state_dict()["class_heads.0.weight"].clone()
    with caplog.at_level(logging.INFO):
        load_weights(model, tmp_path / "c1.pth", class_head="new")
    assert torch.equal(model.state_dict()["class_heads.0.weight"], before)
    assert "is left out (1 class in the file, 1 class in the model)" in caplog.text


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (lambda state: with_classes(state, 65), "65 classes in the file, 1 class in the model"),
        (
            lambda state: {n: t.squeeze(0) if n.startswith("class_embed.") else t for n, t in state.items()},
            r"weights of shape \(32,\) in the file, 1 class in the model",
        ),
    ],
    ids=["65 classes", "squeezed"],
)
def test_a_class_head_of_another_size_is_an_error_that_names_both_settings(
    tmp_path: Path, published: dict[str, Tensor], change: Callable[[dict[str, Tensor]], dict[str, Tensor]], size: str
):
    torch.save({"model": change(published)}, tmp_path / "head.pth")
    model = tiny_soc(seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=size) as error:
        load_weights(model, tmp_path / "head.pth")
    assert "model.num_classes" in str(error.value)
    assert "model.keep_class_head=false" in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_another_encoder_is_an_error_that_names_its_setting(
    tmp_path: Path, published: dict[str, Tensor]
):
    torch.save({name: t for name, t in published.items() if ".layers.3." not in name}, tmp_path / "smaller.pth")
    with pytest.raises(ValueError, match=r"the visual encoders differ .*depths=\[1, 1, 2\]\) in the file") as error:
        load_weights(tiny_soc(), tmp_path / "smaller.pth")
    assert "model.visual_encoder.name (in the scripts, BACKBONE) must be that of the file" in str(error.value)
    assert "missing" not in str(error.value)


def test_a_kinetics_file_as_checkpoint_is_an_error_that_names_its_setting(tmp_path: Path):
    names = ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight")
    torch.save(
        {"state_dict": {f"backbone.{name}": torch.ones(8, 3, 2, 4, 4) for name in names}}, tmp_path / "kinetics.pth"
    )
    with pytest.raises(ValueError, match=r"is a Video-Swin of Kinetics .*; name it as model\.visual_encoder\.weights"):
        load_weights(tiny_soc(), tmp_path / "kinetics.pth")


def test_another_misfit_does_not_speak_of_the_class_head(tmp_path: Path, published: dict[str, Tensor]):
    torch.save(published | {"text_encoder.pooler.extra": torch.ones(2)}, tmp_path / "extra.pth")
    with pytest.raises(ValueError, match=r"unknown: text_encoder\.roberta\.pooler\.extra \(2,\)") as error:
        load_weights(tiny_soc(), tmp_path / "extra.pth")
    assert "class" not in str(error.value)
    assert "visual_encoder" not in str(error.value)


def test_inference_takes_the_class_head_although_training_would_start_it_anew(tmp_path: Path, caplog):
    root = write_tiny_root(tmp_path / "data")
    config = with_busy_weights(tiny_config(root, tmp_path / "out"))
    finetuning = config.model_copy(update={"model": config.model.model_copy(update={"keep_class_head": False})})
    expected = build_model_for_inference(config).state_dict()
    model = build_model_for_inference(finetuning).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.items())
    assert "class head" not in caplog.text
    trained = build_model(finetuning.model, data_root=root).state_dict()
    assert not torch.equal(trained["class_heads.0.weight"], expected["class_heads.0.weight"])
    more = finetuning.model_copy(update={"model": finetuning.model.model_copy(update={"num_classes": 65})})
    with caplog.at_level(logging.INFO):
        model = build_model_for_inference(more).state_dict()
    assert model["class_heads.0.weight"].shape[0] == 65
    assert torch.equal(model["transformer.level_embedding"], expected["transformer.level_embedding"])
    assert "is left out (1 class in the file, 65 classes in the model)" in caplog.text
    assert "the choice among queries is random" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s: {"epoch": 1, "optimizer": s},
            "holds no state dict (a mapping from names to tensors); it has 'epoch'",
        ),
        (lambda s: {"first": s, "second": s}, "holds several state dicts, below 'first', 'second'; save the one"),
        (lambda s: [1, 2], "but a list"),
        (lambda s: s | {"module.query_embed.weight": torch.ones(1)}, "holds query_embed.weight twice"),
    ],
    ids=["optimiser", "two", "list", "twice"],
)
def test_a_file_that_is_not_read_says_why(
    tmp_path: Path, published: dict[str, Tensor], make: Callable[[dict[str, Tensor]], Any], message: str
):
    torch.save(make(published), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_weights(tiny_soc(), tmp_path / "file.pth")
    assert str(tmp_path / "file.pth") in str(error.value)
    assert "\n" not in str(error.value)
