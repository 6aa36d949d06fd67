"""AdamW, alone or beside Muon, with one learning rate per group of parameters, its schedule, and clipping.

AdamW is one kernel for all parameters of a group: alone, its loop over some hundred tensors is 4,000 launches of a GPU.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from configs.schema import OptimConfig
from structures.parameters import ParameterGroup


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
        self.adamw = AdamW(others, weight_decay=weight_decay, fused=True)
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


def build_optimizer(groups: Sequence[ParameterGroup], config: OptimConfig) -> Optimizer:
    """AdamW for all groups, or Muon for their hidden matrices and AdamW for the rest.

    A group keeps its name and order. What Muon takes of it is a group of its own, named `<group>_matrices`.

    Raises:
        ValueError: if nothing is trainable.
    """
    by_muon, by_adamw = [], []
    for group in groups:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter, is_hidden_matrix in zip(group.parameters, group.is_hidden_matrix, strict=True):
            is_small = not config.muon_max_size or parameter.numel() <= config.muon_max_size
            suits_muon = config.optimizer == "muon" and is_hidden_matrix and is_small
            (matrices if suits_muon else others).append(parameter)
        if matrices:
            rate = group.lr * config.muon_lr_factor
            by_muon.append({"name": f"{group.name}_matrices", "params": matrices, "lr": rate})
        if others:
            by_adamw.append({"name": group.name, "params": others, "lr": group.lr})
    if not by_muon and not by_adamw:
        raise ValueError("the model has no trainable parameter")
    if by_muon:
        return MuonWithAdamW(by_muon, by_adamw, weight_decay=config.weight_decay)
    return AdamW(by_adamw, weight_decay=config.weight_decay, fused=True)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
    """Scales all gradients so that their global L2 norm is at most `max_norm`; returns the norm of before.

    As `nn.utils.clip_grad_norm_`, which knows no 0. On a CPU and on CUDA PyTorch takes a few operators on lists of
    tensors, elsewhere one for each tensor; the norm stays on the device, so nobody waits.

    Args:
        parameters: those without a gradient are left out.
        max_norm: 0 scales nothing.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in with_gradient if parameter.grad is not None])
    if max_norm:
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return norm


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
        config: name of the schedule, milestones in epochs, warm-up in steps.
        num_steps: steps that the stage really runs.
        steps_per_epoch: steps in one pass of the data.
    """
    return LambdaLR(optimizer, learning_rate_factor(config, num_steps=num_steps, steps_per_epoch=steps_per_epoch))


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rate of each group, by name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
