"""Checkpoints: what is in them, how they are written whole, which are kept, and how a run goes on from one."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from configs.schema import Config
from engine.provenance import git_revision, versions
from media.files import atomic_path
from structures.checkpoint_file import load_strictly, read_checkpoint_file, with_min_score

CHECKPOINT_FOLDER = "checkpoints"
LAST, BEST = "last.pt", "best.pt"
FORMAT = "soc-1"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: index of the stage to go on with.
        epoch: finished epochs of that stage.
        stage_step: finished steps of that stage.
        step: finished steps of the whole run.
        best_score: best main score of all validations; -1 before the first.
    """

    stage: int = 0
    epoch: int = 0
    stage_step: int = 0
    step: int = 0
    best_score: float = -1.0


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a step changes.

    Attributes:
        model: the bare model, not its DDP wrapper.
        optimizer: of the current stage.
        schedule: of the current stage.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    progress: Progress,
    *,
    random_states: list[dict[str, Any]],
    config: Config,
    is_best: bool,
    keep: int,
) -> Path:
    """Writes `step_<n>.pt`, makes it `last.pt` (and `best.pt`), and deletes all but the newest `keep` of the others.

    Args:
        folder: output folder of the run.
        state: model, optimiser and schedule.
        progress: where a resumed run goes on.
        random_states: one per process.
        config: the resolved configuration.
        is_best: whether the model just reached its best score.
        keep: how many of the numbered files remain.

    Returns:
        The numbered file.
    """
    content = {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "progress": asdict(progress),
        "random_states": random_states,
        "config": config.model_dump_json(),
        "git": git_revision(),
        "versions": versions(),
    }
    checkpoints = folder / CHECKPOINT_FOLDER
    path = checkpoints / f"step_{progress.step:08d}.pt"
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
    for name in (LAST, BEST) if is_best else (LAST,):
        with atomic_path(checkpoints / name) as temporary:
            shutil.copyfile(path, temporary)
    for old in sorted(checkpoints.glob("step_*.pt"))[:-keep]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours onto the CPU.

    Raises:
        ValueError: if the file is missing, unreadable, or not a checkpoint that training can go on from.
    """
    content = read_checkpoint_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint written by this project; train.resume needs one")
    return content


def store_min_score(path: Path, output: Path, stored: Mapping[str, Any]) -> None:
    """Writes a checkpoint with the score below which sentences are rejected; everything else in it stays as it is.

    Training that goes on from it saves checkpoints without: the score is that of these weights.

    Args:
        path: any checkpoint with a state dict.
        output: the file to write, whole or not at all; may be `path`.
        stored: `value`, and where it comes from.

    Raises:
        ValueError: if the file is missing or unreadable, or `output` cannot hold such an entry.
    """
    if output.suffix == ".safetensors":
        raise ValueError(f"{output}: a safetensors file holds tensors alone; name another file, like {output.stem}.pt")
    content = with_min_score(read_checkpoint_file(path), stored)
    with atomic_path(output) as temporary:
        torch.save(content, temporary)


def restore_model(content: dict[str, Any], model: nn.Module, *, path: Path) -> None:
    """Puts the weights of a checkpoint into the bare model.

    Raises:
        ValueError: if the checkpoint belongs to another architecture; with every parameter that does not fit.
    """
    load_strictly(model, content["model"], source=f"checkpoint {path}")


def restore_optimizer(content: dict[str, Any], state: TrainingState, *, path: Path) -> None:
    """Puts optimiser and schedule of a checkpoint into those of its stage.

    Raises:
        ValueError: if other parameters are trained now than when the checkpoint was written.
    """
    try:
        state.optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise ValueError(f"checkpoint {path} does not fit the optimiser: {error}") from error
    state.schedule.load_state_dict(content["schedule"])


def last_checkpoint(folder: Path) -> Path:
    """The file that a resumed run starts from."""
    return folder / CHECKPOINT_FOLDER / LAST
