"""Random numbers: seeds, and states that a checkpoint can hold. NumPy's global generator is not used here."""

import random
from typing import Any

import torch


def seed_everything(seed: int) -> None:
    """Seeds Python and PyTorch (all devices)."""
    random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all generators of this process, in types that `torch.load(weights_only=True)` accepts."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets the generators to a state that `random_state` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
