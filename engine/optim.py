"""AdamW with one learning rate per part of the model, and its schedule."""

import math
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from configs.schema import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over what is trainable, in three groups by the first part of a parameter's name.

    Groups are named `rest`, `visual_encoder` and `text_encoder`; an empty one (a frozen encoder) is left out.

    Raises:
        ValueError: if nothing is trainable.
    """
    rates = {
        "rest": config.lr,
        "visual_encoder": config.lr_visual_encoder,
        "text_encoder": config.lr_text_encoder,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".", 1)[0]
            members[part if part in rates else "rest"].append(parameter)
    groups = [{"name": name, "params": members[name], "lr": rates[name]} for name in rates if members[name]]
    if not groups:
        raise ValueError("the model has no trainable parameter")
    return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


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


def build_schedule(optimizer: AdamW, config: OptimConfig, *, num_steps: int, steps_per_epoch: int) -> LambdaLR:
    """The schedule of one stage; to be advanced after every step.

    Args:
        optimizer: whose learning rates are the peaks.
        config: kind of schedule, milestones in epochs, warm-up in steps.
        num_steps: steps that the stage really runs.
        steps_per_epoch: steps in one pass of the data.
    """
    return LambdaLR(optimizer, learning_rate_factor(config, num_steps=num_steps, steps_per_epoch=steps_per_epoch))


def learning_rates(optimizer: AdamW) -> dict[str, float]:
    """The current learning rate of each group, by name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
