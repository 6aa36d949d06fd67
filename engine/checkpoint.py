"""Checkpoints: what is in them, how they are written whole, which are kept, and how a run goes on from one.

A checkpoint is written once, as `step_<n>.pt`; `last.pt` and `best.pt` are links to such files where the file system
has them. `validation.json` beside them says which checkpoint was validated last, and what the best score was: it is
written after `best.pt`, so a run that is interrupted during a validation repeats that alone.
"""

import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from configs.schema import Config
from engine.provenance import git_revision, versions
from media.files import atomic_path, write_json
from structures.checkpoint_file import load_strictly, read_checkpoint_file, require_numbers, with_min_score

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
LAST, BEST, VALIDATION = "last.pt", "best.pt", "validation.json"
FORMAT = "soc-1"
REPLACED = ".replaced"
"""Folder beside the checkpoints of a run that is overwritten, until it is deleted."""

ONE_LINE = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        stage: index of the stage.
        epoch: finished epochs of that stage.
        stage_step: finished steps of that stage.
        step: finished steps of the whole run.
        best_score: best main score of all validations; -1 before the first.
        steps_per_epoch: of that stage; 0 in checkpoints of earlier versions.
        clips_per_step: of all processes; 0 in checkpoints of earlier versions.
        is_validated_next: whether a validation comes before the next step.
    """

    stage: NonNegativeInt = 0
    epoch: NonNegativeInt = 0
    stage_step: NonNegativeInt = 0
    step: NonNegativeInt = 0
    best_score: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = -1.0
    steps_per_epoch: NonNegativeInt = 0
    clips_per_step: NonNegativeInt = 0
    is_validated_next: bool = False


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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that a run goes on from.

    Attributes:
        path: its file.
        content: what is in it, on the CPU.
        progress: how far the run has come; the best score counts a validation that came after the file.
        config: of the run that wrote it; None where this version does not understand it.
        is_validated_next: whether a validation comes before the next step.
    """

    path: Path
    content: dict[str, Any]
    progress: Progress
    config: Config | None
    is_validated_next: bool


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    progress: Progress,
    *,
    random_states: list[dict[str, Any]],
    windows: list[dict[str, Any]],
    config: Config,
    keep: int,
) -> Path:
    """Writes `step_<n>.pt`, makes it `last.pt`, and deletes all but the newest `keep` of the numbered files.

    Args:
        folder: output folder of the run.
        state: model, optimiser and schedule.
        progress: where a resumed run goes on.
        random_states: one per process.
        windows: of the log, one per process.
        config: the resolved configuration.
        keep: how many of the numbered files remain.

    Returns:
        The numbered file.

    Raises:
        OSError: it cannot be written; the checkpoints before it are as they were.
    """
    content = {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "progress": asdict(progress),
        "random_states": random_states,
        "windows": windows,
        "config": config.model_dump_json(),
        "git": git_revision(),
        "versions": versions(),
    }
    checkpoints = folder / CHECKPOINT_FOLDER
    path = checkpoints / f"step_{progress.step:08d}.pt"
    write_checkpoint_file(path, content)
    link(path, checkpoints / LAST)
    # A greater number is that of a run that went on from an earlier checkpoint than its newest.
    newest_first = [old for step, old in numbered_checkpoints(folder) if step <= progress.step]
    for _, old in numbered_checkpoints(folder):
        if old not in newest_first[:keep]:
            old.unlink()
    return path


def write_checkpoint_file(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of `torch.save`, whole or not at all.

    Raises:
        OSError: the disk is full or the file may not be so large, with the path.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer reports a write that failed as a RuntimeError of its own, and keeps the reason to itself.
        cause = error if isinstance(error, OSError) else _cause(error)
        if cause is None:
            raise
        # Without a number, so that nobody puts the general advice for it in the place of this one.
        raise OSError(
            f"{path}: the checkpoint cannot be written ({cause.strerror}); earlier ones are untouched. Make room, and "
            "start the same command with train.resume=true"
        ) from error


def _cause(error: BaseException) -> OSError | None:
    """The failed write behind an error of PyTorch's writer."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def link(path: Path, name: Path) -> None:
    """Makes `name` the same file as `path`; a copy where the file system has no links."""
    with atomic_path(name) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def make_best(folder: Path, path: Path) -> None:
    """Makes a checkpoint `best.pt`."""
    link(path, folder / CHECKPOINT_FOLDER / BEST)


def numbered_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of all `step_<n>.pt` of a run, newest first."""
    paths = (folder / CHECKPOINT_FOLDER).glob("step_*.pt")
    steps = ((path.stem.removeprefix("step_"), path) for path in paths)
    return sorted(((int(step), path) for step, path in steps if step.isdecimal()), reverse=True)


def note_validation(folder: Path, progress: Progress, *, is_best: bool) -> None:
    """Writes down that the checkpoint of this step has been validated; after `make_best`."""
    path = folder / CHECKPOINT_FOLDER / VALIDATION
    before = _read_validation(path)
    best_step = progress.step if is_best else before.get("best_step", progress.step)
    write_json(path, {"step": progress.step, "best_step": best_step, "best_score": progress.best_score})


def _read_validation(path: Path) -> dict[str, Any]:
    """What is known of the last validation; nothing where the file is not there or damaged: then it is repeated."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(noted, dict) and all(isinstance(noted.get(name), int) for name in ("step", "best_step"))
    return noted if whole and isinstance(noted.get("best_score"), float) else {}


def discard_checkpoints(folder: Path) -> None:
    """Deletes what a run that is overwritten left in the folder of checkpoints; files that are not ours stay.

    They disappear at once, by one renaming: a run that is killed while it overwrites another cannot go on with that.
    """
    checkpoints = folder / CHECKPOINT_FOLDER
    replaced = folder / f"{REPLACED}_{CHECKPOINT_FOLDER}"
    if checkpoints.is_dir():
        if replaced.exists():  # of a run that was killed while it did this
            _delete_ours(replaced, rescue_to=checkpoints)
        checkpoints.rename(replaced)
    if replaced.exists():
        _delete_ours(replaced, rescue_to=checkpoints)


def _delete_ours(replaced: Path, *, rescue_to: Path) -> None:
    for path in replaced.iterdir():
        is_ours = path.name in (LAST, BEST, VALIDATION) or path.match("step_*.pt") or _is_half_written(path)
        if not is_ours:
            rescue_to.mkdir(exist_ok=True)
            path.rename(rescue_to / path.name)
    shutil.rmtree(replaced)


def tidy_up(folder: Path, newest: Path) -> None:
    """Finishes what a killed run was doing: deletes what it was writing, and makes the newest checkpoint `last.pt`.

    Nobody else may write to the folder.
    """
    last = last_checkpoint(folder)
    if not (last.exists() and last.samefile(newest)):
        link(newest, last)
    for path in (folder / CHECKPOINT_FOLDER).iterdir():
        if _is_half_written(path):
            logger.info("removing %s, which an interrupted run left half written", path)
            path.unlink()


def _is_half_written(path: Path) -> bool:
    return any(path.match(f".{name}.*") for name in ("step_*", "last", "best", "validation"))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; what is damaged is skipped with a warning.

    Returns:
        None if the run has none.

    Raises:
        ValueError: if none is whole, or the newest whole one is none that training can go on from.
    """
    problems = []
    for path in _candidates(folder):
        try:
            content = read_checkpoint_file(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning("going on from %s, because newer checkpoints are damaged: %s", path, "; ".join(problems))
        return _checked(content, path)
    if problems:
        raise ValueError(
            f"no checkpoint can be gone on from: {'; '.join(problems)}; restore a copy, or start anew in another "
            "output_dir"
        )
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    """Files of checkpoints, newest first, each once."""
    seen: list[os.stat_result] = []
    checkpoints = folder / CHECKPOINT_FOLDER
    numbered = [path for _, path in numbered_checkpoints(folder)]
    for path in (*numbered, checkpoints / LAST, checkpoints / BEST):
        if path.is_file() and not any(os.path.samestat(path.stat(), other) for other in seen):
            seen.append(path.stat())
            yield path


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint of ours onto the CPU, and checks that everything is there that a run needs to go on.

    Raises:
        ValueError: if the file is missing, damaged, or not a checkpoint that training can go on from.
    """
    return _checked(read_checkpoint_file(path), path)


def _checked(content: Any, path: Path) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint written by this project; train.resume needs one")
    kinds = {"model": dict, "optimizer": dict, "schedule": dict, "progress": dict, "random_states": list}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            found = type(content[name]).__name__ if name in content else "nothing"
            raise ValueError(f"{path}: expected {name} to be a {kind.__name__}, found {found}; train.resume needs it")
    for name, tensor in content["model"].items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: model.{name} is a {type(tensor).__name__}, expected a tensor")
    require_numbers(content["model"], source=f"checkpoint {path}")
    for state in content["random_states"]:
        _check_random_state(state, path=path)
    progress = _read_progress(content["progress"], path=path)
    if not ({"state", "param_groups"} <= set(content["optimizer"]) or {"muon", "adamw"} <= set(content["optimizer"])):
        found = ", ".join(map(str, content["optimizer"])) or "nothing"
        raise ValueError(f"{path}: optimizer holds {found:.{ONE_LINE}}, which is no state of an optimiser")
    if not isinstance(content["schedule"].get("last_epoch"), int):
        raise ValueError(
            f"{path}: schedule.last_epoch={content['schedule'].get('last_epoch')!r:.{ONE_LINE}} is no step"
        )
    noted = _read_validation(path.parent / VALIDATION)
    if noted and noted["best_step"] <= progress.step <= noted["step"]:
        progress = Progress(**{**asdict(progress), "best_score": max(progress.best_score, noted["best_score"])})
    is_validated_next = progress.is_validated_next and noted.get("step") != progress.step
    return Checkpoint(path, content, progress, _read_config(content.get("config")), is_validated_next)


def _read_progress(values: dict[str, Any], *, path: Path) -> Progress:
    unknown = sorted(set(values) - {field.name for field in fields(Progress)}, key=str)
    if unknown:
        raise ValueError(f"{path}: progress has the unknown entry {unknown[0]!r:.{ONE_LINE}}")
    try:
        return TypeAdapter(Progress).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: progress.{name}={first['input']!r:.{ONE_LINE}}: {first['msg']}") from None


def _read_config(text: Any) -> Config | None:
    try:
        return Config.model_validate_json(text)
    except ValidationError:  # of another version
        return None


def _check_random_state(state: Any, *, path: Path) -> None:
    """Raises ValueError unless generators take these states; those in use are not touched."""
    try:
        version, internal, gauss_next = state["python"]
        random.Random().setstate((version, tuple(internal), gauss_next))
        torch.Generator().set_state(state["torch"].cpu())
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError):
        raise ValueError(f"{path}: random_states is damaged; go on from an earlier checkpoint") from None


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
    write_checkpoint_file(output, with_min_score(read_checkpoint_file(path), stored))


def last_checkpoint(folder: Path) -> Path:
    """The name of the newest checkpoint."""
    return folder / CHECKPOINT_FOLDER / LAST


def restore_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Puts the weights of a checkpoint into the bare model.

    Raises:
        ValueError: if the checkpoint belongs to another architecture; with every parameter that does not fit.
    """
    state = checkpoint.content["model"]
    for name, tensor in model.state_dict().items():
        if name in state and state[name].dtype != tensor.dtype:
            raise ValueError(
                f"checkpoint {checkpoint.path}: model.{name} is of type {state[name].dtype}, expected {tensor.dtype}"
            )
    load_strictly(model, state, source=f"checkpoint {checkpoint.path}")


def restore_optimizer(checkpoint: Checkpoint, state: TrainingState) -> None:
    """Puts optimiser and schedule of a checkpoint into those of its stage.

    Learning rates and other settings are those of the configuration, not of the checkpoint: where they are the same
    this changes nothing.

    Raises:
        ValueError: if other parameters are trained now, or by another optimiser, than when the checkpoint was written.
    """
    optimizer, schedule = state.optimizer, state.schedule
    configured = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
    peaks = list(schedule.base_lrs)
    done, steps = checkpoint.content["schedule"]["last_epoch"], checkpoint.progress.stage_step
    if done != steps:
        raise ValueError(
            f"checkpoint {checkpoint.path}: schedule.last_epoch={done}, expected progress.stage_step={steps}"
        )
    try:
        optimizer.load_state_dict(checkpoint.content["optimizer"])
        schedule.load_state_dict(checkpoint.content["schedule"])
        misfit = _find_misfit(optimizer)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        misfit = f"{type(error).__name__}: {error}"[:ONE_LINE]
    if misfit is not None:
        raise ValueError(
            f"checkpoint {checkpoint.path} does not fit the optimiser: {misfit}; go on with the optimiser and the "
            "trained parts that it was written with"
        )
    schedule.base_lrs = peaks
    for group, settings, peak, factor in zip(
        optimizer.param_groups, configured, peaks, schedule.lr_lambdas, strict=True
    ):
        group.update({**settings, "initial_lr": peak, "lr": peak * factor(schedule.last_epoch)})


def _find_misfit(optimizer: Optimizer) -> str | None:
    """What in the state of an optimiser is missing, or not of the shape of its parameter; None if all is well."""
    parts = [getattr(optimizer, name) for name in ("muon", "adamw") if hasattr(optimizer, name)] or [optimizer]
    if not any(part.state for part in parts):
        return "it holds no state of any parameter"
    for part in parts:
        for parameter, state in part.state.items():
            for name, tensor in state.items():
                if isinstance(tensor, Tensor) and tensor.numel() > 1 and tensor.shape != parameter.shape:
                    return f"{name} is {tuple(tensor.shape)} for a parameter of {tuple(parameter.shape)}"
    return None
