"""AdamW, alone or beside Muon, with one learning rate per part of the model, and its schedule."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from configs.schema import OptimConfig

# Matrices that do not map between hidden layers: tables, the first layer and the classifier.
_NOT_HIDDEN = ("embedding", "query_position", "position_bias_table", "patch_embed", "class_heads")


class MuonWithAdamW(Optimizer):
    """Muon for some parameters and AdamW for the others, as one optimiser.

    Args:
        matrices: groups for Muon; only matrices. Its steps are scaled to the size of AdamW's.
        others: groups for AdamW.
        weight_decay: of all.

    Source: Muon, https://kellerjordan.github.io/posts/muon; its scale is that of arXiv:2502.16982.
    """

    def __init__(
        self, matrices: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], *, weight_decay: float
    ) -> None:
        self.muon = Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others, weight_decay=weight_decay)
        # The groups are the same objects here and there: a schedule that changes a rate here changes it there.
        super().__init__(self.muon.param_groups + self.adamw.param_groups, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not used here
        """One step of both."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the states of both.

        Raises:
            ValueError: if the states are those of another optimiser, or of other parameters.
        """
        if set(state_dict) != {"muon", "adamw"}:
            raise ValueError(f"expected the states of muon and adamw, got {sorted(state_dict)}")
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self.muon.param_groups + self.adamw.param_groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser of what is trainable, in three groups by the first part of a parameter's name.

    Groups are named `rest`, `visual_encoder` and `text_encoder`; an empty one (a frozen encoder) is left out. Muon has
    the same three for the matrices between hidden layers, named `<group>_matrices`.

    Raises:
        ValueError: if nothing is trainable.
    """
    rates = {
        "rest": config.lr,
        "visual_encoder": config.lr_visual_encoder,
        "text_encoder": config.lr_text_encoder,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    matrices: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".", 1)[0]
            by_muon = config.optimizer == "muon" and _suits_muon(name, parameter, config.muon_max_size)
            (matrices if by_muon else members)[part if part in rates else "rest"].append(parameter)
    groups = [{"name": name, "params": members[name], "lr": rates[name]} for name in rates if members[name]]
    muon_groups = [
        {"name": f"{name}_matrices", "params": matrices[name], "lr": rates[name] * config.muon_lr_factor}
        for name in rates
        if matrices[name]
    ]
    if not groups and not muon_groups:
        raise ValueError("the model has no trainable parameter")
    if muon_groups:
        return MuonWithAdamW(muon_groups, groups, weight_decay=config.weight_decay)
    return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def _suits_muon(name: str, parameter: nn.Parameter, max_size: int) -> bool:
    is_hidden = parameter.ndim == 2 and not any(part in name for part in _NOT_HIDDEN)
    return is_hidden and (not max_size or parameter.numel() <= max_size)


def learning_rate_factor(config: OptimConfig, *, num_steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """What the peak learning rate is multiplied with, as a function of the number of finished steps of the stage."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "multistep":
            epoch = step // steps_per_epoch
            return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
        done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def build_schedule(optimizer: Optimizer, config: OptimConfig, *, num_steps: int, steps_per_epoch: int) -> LambdaLR:
    """The schedule of one stage; to be advanced after every step.

    Args:
        optimizer: whose learning rates are the peaks.
        config: kind of schedule, milestones in epochs, warm-up in steps.
        num_steps: steps that the stage really runs.
        steps_per_epoch: steps in one pass of the data.
    """
    return LambdaLR(optimizer, learning_rate_factor(config, num_steps=num_steps, steps_per_epoch=steps_per_epoch))


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rate of each group, by name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
