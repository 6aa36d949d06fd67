"""The model's parameters as the optimiser gets them: groups, rates and order, by which checkpoints store its state."""

import json
from pathlib import Path

import pytest

from configs.schema import OptimConfig
from engine.optim import build_optimizer, learning_rates
from models.soc import SOC
from tests.tiny_model import tiny_soc

RATES = {"lr": 1.0, "lr_visual_encoder": 0.1, "lr_text_encoder": 0.01}


@pytest.fixture(scope="module")
def model() -> SOC:
    return tiny_soc()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_groups_and_their_order_are_those_of_older_checkpoints(model: SOC, repository: Path, optimizer: str):
    recorded = json.loads((repository / "tests" / "recorded" / "optimizer_groups.json").read_text())[optimizer]
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    built = build_optimizer(model.parameter_groups(**RATES), OptimConfig.model_validate({"optimizer": optimizer}))
    groups = {group["name"]: [name_of[parameter] for parameter in group["params"]] for group in built.param_groups}
    assert list(groups) == list(recorded)
    for name, members in recorded.items():
        assert groups[name] == members, name


def test_encoders_have_rates_of_their_own(model: SOC):
    built = build_optimizer(model.parameter_groups(**RATES), OptimConfig(optimizer="muon", muon_lr_factor=2.0))
    assert learning_rates(built) == {
        "rest_matrices": 2.0,
        "visual_encoder_matrices": 0.2,
        "text_encoder_matrices": 0.02,
        "rest": 1.0,
        "visual_encoder": 0.1,
        "text_encoder": 0.01,
    }


def test_what_is_frozen_is_in_no_group():
    model = tiny_soc(frozen=True)
    model.visual_encoder.patch_embed.requires_grad_(requires_grad=False)
    groups = {group.name: set(group.parameters) for group in model.parameter_groups(**RATES)}
    assert list(groups) == ["rest", "visual_encoder"]
    assert set().union(*groups.values()) == {p for p in model.parameters() if p.requires_grad}
    assert set(model.visual_encoder.stages.parameters()) <= groups["visual_encoder"]
