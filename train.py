"""Training: one loop over stages, epochs and batches, read from top to bottom."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from configs.loader import dump_config
from configs.schema import Config, StageConfig
from engine.checkpoint import (
    BEST,
    CHECKPOINT_FOLDER,
    LAST,
    Progress,
    TrainingState,
    last_checkpoint,
    read_checkpoint,
    restore_model,
    restore_optimizer,
    save_checkpoint,
)
from engine.distributed import World, gather, process_group, read_world, wait_for_all
from engine.logging import METRICS_FILE, MetricsLog, StepWindow, describe
from engine.optim import build_optimizer, build_schedule, learning_rates
from engine.progress import progress_bar
from engine.seeding import random_state, restore_random_state, seed_everything
from engine.startup import start_process
from eval import validate_model
from evaluation.benchmarks import EvaluatedSet, evaluated_sets
from loading.loaders import build_train_loader, require_held_out, validation_data
from loading.sampling import EpochSampler
from loading.skipping import SkipCount
from media.files import claim_output, write_text
from models.build import build_criterion, build_model
from models.criterion import Criterion, count_totals
from models.ops.ms_deform_attn.backends import choose
from models.soc import SOC
from structures.samples import VideoBatch

logger = logging.getLogger(__name__)


def fit(config: Config) -> None:
    """Trains all stages; writes `config.yaml`, `metrics.jsonl` and `checkpoints/` to `output_dir`.

    Under `torchrun` every process calls this with the same configuration. With `train.resume` the run goes on from
    its last checkpoint as if it had never stopped.

    Raises:
        ValueError: if data, weights or output folder are not usable, or a loss is not finite.
    """
    world = read_world()
    device = start_process(config, world)
    with process_group(world, device):
        train_stages(prepare_run(config, world, device))


@dataclass(frozen=True, slots=True)
class Run:
    """What does not change during a run.

    Attributes:
        config: resolved.
        world: the processes.
        device: of this process.
        model: on `device`.
        validation: the data sets that it is validated on; none where nothing can be scored.
        metrics: the log of numbers.
        progress: where the run starts: zero, or that of a checkpoint.
        resumed: content of that checkpoint; None for a new run.
    """

    config: Config
    world: World
    device: torch.device
    model: SOC
    validation: tuple[EvaluatedSet, ...]
    metrics: MetricsLog
    progress: Progress
    resumed: dict[str, Any] | None


def train_stages(run: Run) -> None:
    """The loop: batches, gradients, clip, step, log, validate, save."""
    config, model = run.config, run.model
    progress = run.progress

    stages = list(enumerate(config.training_stages()))[progress.stage :]
    # All of them now: a mistake in the data of the last stage should not show after the others have been trained.
    loaders = [
        build_train_loader(stage.data, seed=config.train.seed + index, rank=run.world.rank, world_size=run.world.size)
        for index, stage in stages
    ]
    for index, stage in stages:
        loader = loaders.pop(0)
        steps_per_epoch = math.ceil(len(loader) / stage.optim.accumulate)
        require_same_steps(run, stage, progress, steps_per_epoch=steps_per_epoch)
        num_steps = stage_length(stage, steps_per_epoch)
        criterion = build_criterion(stage.loss)
        model.train_only(stage.trainable, layers=stage.supervised_layers)
        # A wrapper per stage: it waits for the gradients of what is trained when it is made, and of nothing else.
        parallel = DistributedDataParallel(model) if run.world.size > 1 else model
        state = build_state(run, stage, num_steps=num_steps, steps_per_epoch=steps_per_epoch, progress=progress)
        logger.info(
            "stage %s: %d steps, %d per epoch, %s", stage.name, num_steps, steps_per_epoch, step_size(run, stage)
        )
        window = StepWindow(run.world)
        with progress_bar(total=num_steps, initial=progress.stage_step, title=stage.name, world=run.world) as bar:
            while progress.stage == index:
                for batches in steps_of(loader, stage, progress.epoch, at_most=num_steps - progress.stage_step):
                    model.train()
                    state.optimizer.zero_grad()
                    losses = add_gradients(run, parallel, criterion, batches)
                    max_norm = stage.optim.max_grad_norm or float("inf")
                    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
                    rates = learning_rates(state.optimizer)
                    state.optimizer.step()
                    state.schedule.step()

                    progress = replace(progress, step=progress.step + 1, stage_step=progress.stage_step + 1)
                    num_sentences = sum(len(batch.sentences) for batch in batches)
                    window.add(progress.step, losses | {"grad_norm": grad_norm}, num_sentences)
                    bar.update()
                    if progress.step % config.train.log_every == 0:
                        means = window.flush()
                        bar.set_postfix_str(f"loss {means['total']:.3f}", refresh=False)
                        run.metrics.write("train", **log_position(stage, progress), lr=rates, **means)

                window.pause_clock()
                window.check_finite()  # so that no checkpoint holds a model with a loss that is not finite
                is_end = progress.stage_step >= num_steps
                progress = replace(progress, epoch=progress.epoch + 1)
                best_before = progress.best_score
                if run.validation and (is_end or is_due(progress.epoch, config.train.validate_every)):
                    progress = validate(run, stage, progress)
                is_best = progress.best_score > best_before
                end_of_epoch = progress
                if is_end:
                    progress = replace(progress, stage=index + 1, epoch=0, stage_step=0)
                if is_end or is_best or is_due(end_of_epoch.epoch, config.train.checkpoint_every):
                    save(run, state, progress, is_best=is_best)
                window.restart_clock()
    newest = "" if run.validation else f"; not validated, {LAST} is the newest checkpoint"
    logger.info("finished after %d steps; results in %s%s", progress.step, config.output_dir, newest)


def prepare_run(config: Config, world: World, device: torch.device) -> Run:
    """Claims the output folder, or reads the checkpoint to resume from; most errors of the user show here."""
    # Read here, because a mistake in the validation data should not show after the first epoch.
    limit = config.train.validate_videos or config.data.max_eval_videos
    data = validation_data(config.data)
    require_held_out(data, (stage.data for stage in config.training_stages()))
    min_score = config.predict.min_score or 0.0  # one that is stored in a checkpoint is no longer that of the weights
    validation = scorable(evaluated_sets(data.model_copy(update={"max_eval_videos": limit}), min_score=min_score))
    path = last_checkpoint(config.output_dir)
    resumed = read_checkpoint(path) if config.train.resume else None
    if world.is_main and resumed is None:
        claim_output(
            config.output_dir,
            markers=(METRICS_FILE, f"{CHECKPOINT_FOLDER}/{LAST}"),
            overwrite=config.overwrite,
            hint=", or train.resume=true to continue it",
        )
    seed_everything(config.train.seed)  # all processes build the same model ...
    model = build_model(config.model, data_root=config.data.root).to(device)
    choose(device.type, torch.float32)  # logs which backend is used, and compiles it before the first step
    seed_everything(config.train.seed + world.rank)  # ... and draw their own dropout
    progress = Progress()
    if resumed is not None:
        restore_model(resumed, model, path=path)
        progress = Progress(**resumed["progress"])
        states = resumed["random_states"]
        if len(states) == world.size:
            restore_random_state(states[world.rank])
        else:
            logger.warning("resuming with %d processes instead of %d: other random numbers", world.size, len(states))
        logger.info("resumed %s after %d steps", path, progress.step)
    if world.is_main:
        write_text(config.output_dir / "config.yaml", dump_config(config))
    metrics = MetricsLog(config.output_dir, world, keep_up_to_step=None if resumed is None else progress.step)
    wait_for_all(world)
    return Run(config, world, device, model, validation, metrics, progress, resumed)


def scorable(sets: tuple[EvaluatedSet, ...]) -> tuple[EvaluatedSet, ...]:
    """The data sets whose masks are known; the others would cost time and give no number, which is said once."""
    known = tuple(one for one in sets if one.dataset.can_be_scored)
    secret = ", ".join(one.settings.eval_name for one in sets if not one.dataset.can_be_scored)
    if secret and known:
        logger.warning("%s: its masks are not known; validation leaves it out", secret)
    elif secret:
        logger.warning(
            "%s: its masks are not known, so no validation runs, no %s is written, and %s is the newest checkpoint; "
            "to validate, hold training videos out: python -m tools.prepare_data --held-out 0.05 ... makes a list, "
            "data.sets.0.held_out=LIST uses it",
            secret,
            BEST,
            LAST,
        )
    return known


def build_state(
    run: Run, stage: StageConfig, *, num_steps: int, steps_per_epoch: int, progress: Progress
) -> TrainingState:
    """A new optimiser and schedule for the stage, or those of the checkpoint that stopped inside it."""
    groups = run.model.parameter_groups(
        lr=stage.optim.lr,
        lr_visual_encoder=stage.optim.lr_visual_encoder,
        lr_text_encoder=stage.optim.lr_text_encoder,
    )
    optimizer = build_optimizer(groups, stage.optim)
    schedule = build_schedule(optimizer, stage.optim, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    state = TrainingState(run.model, optimizer, schedule)
    if run.resumed is not None and progress == run.progress and progress.stage_step:
        restore_optimizer(run.resumed, state, path=last_checkpoint(run.config.output_dir))
    return state


def add_gradients(
    run: Run, parallel: SOC | DistributedDataParallel, criterion: Criterion, batches: Sequence[VideoBatch]
) -> dict[str, Tensor]:
    """Forward, loss and backward of the batches of one step; their gradients add up to those of one large batch.

    Args:
        run: the model and its device.
        parallel: the model, or its wrapper where there are several processes.
        criterion: the losses.
        batches: one after the other, so that memory is that of the largest.

    Returns:
        The losses of the step for the log, detached and still on the device.
    """
    device = run.device
    totals = count_totals((target for batch in batches for target in batch.targets), device=device)
    sums: dict[str, Tensor] = {}
    for batch in batches:
        # Processes exchange their gradients with the last batch, when all have been added up; once a step is enough.
        silent = isinstance(parallel, DistributedDataParallel) and batch is not batches[-1]
        with cast(DistributedDataParallel, parallel).no_sync() if silent else nullcontext():
            tokens = run.model.tokenize(batch.sentences).to(device)
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=run.config.train.amp == "bf16"):
                output = parallel(
                    batch.clips.normalised(run.model.normalisation),
                    tokens,
                    clip_of_sentence=batch.clip_of_sentence,
                    annotated_frame=batch.annotated_frame,
                )
            losses = criterion(output, batch.targets, totals=totals)
            losses.total.backward()
        sums = {name: sums.get(name, 0) + value for name, value in losses.scalars().items()}
    return sums


def steps_of(
    loader: DataLoader[VideoBatch], stage: StageConfig, epoch: int, *, at_most: int
) -> Iterator[tuple[VideoBatch, ...]]:
    """The batches of each step of one epoch, cut off where the stage ends; skipped samples are counted.

    The last step of an epoch has fewer batches where their number is no multiple of `optim.accumulate`.
    """
    sampler = cast(EpochSampler, loader.sampler)
    sampler.set_epoch(epoch)
    count = SkipCount(num_samples=len(sampler), max_share=stage.data.max_skipped_share)
    batches = islice(loader, at_most * stage.optim.accumulate)
    while step := tuple(islice(batches, stage.optim.accumulate)):
        for batch in step:
            count.add(batch.skipped)
        yield step
    count.report()


def require_same_steps(run: Run, stage: StageConfig, progress: Progress, *, steps_per_epoch: int) -> None:
    """Raises ValueError if an epoch of a resumed stage has more or fewer steps now than in its checkpoint.

    Checkpoints are written after whole epochs. Length of the stage, schedule and milestones count steps: with other
    steps they would be those of another recipe.
    """
    if progress.stage_step != progress.epoch * steps_per_epoch:
        raise ValueError(
            f"{last_checkpoint(run.config.output_dir)}: {progress.stage_step} steps are done in {progress.epoch} "
            f"epochs of stage {stage.name}, but an epoch has {steps_per_epoch} steps of {step_size(run, stage)} now; "
            "resume with the same data and the same product of processes, data.batch_size and optim.accumulate"
        )


def stage_length(stage: StageConfig, steps_per_epoch: int) -> int:
    """Number of steps of the stage."""
    planned = stage.epochs * steps_per_epoch
    return min(planned, stage.max_steps or planned)


def step_size(run: Run, stage: StageConfig) -> str:
    """How many clips make a step, and why, for the log."""
    processes, batch_size, batches = run.world.size, stage.data.batch_size, stage.optim.accumulate
    clips = processes * batch_size * batches
    return f"{clips} clips each (processes {processes} x batch_size {batch_size} x accumulate {batches})"


def is_due(epoch: int, every: int) -> bool:
    """Whether `epoch` is a multiple of `every`; 0: never."""
    return every > 0 and epoch % every == 0


def log_position(stage: StageConfig, progress: Progress) -> dict[str, str | int]:
    """Stage, finished epochs and finished steps, for a line of the log."""
    return {"stage": stage.name, "epoch": progress.epoch, "step": progress.step}


def validate(run: Run, stage: StageConfig, progress: Progress) -> Progress:
    """Scores the model on `train.validate_videos` videos; returns the progress with the best score so far."""
    workers = run.config.eval.workers
    results = validate_model(run.model, run.validation, workers=workers, world=run.world, device=run.device)
    run.metrics.write("validation", **log_position(stage, progress), **results.scores())
    assert results.main_score is not None  # `scorable` leaves out what has no masks
    logger.info("%s, epoch %d: %s", stage.name, progress.epoch, describe(results.scores()))
    return replace(progress, best_score=max(progress.best_score, results.main_score))


def save(run: Run, state: TrainingState, progress: Progress, *, is_best: bool) -> None:
    """Writes a checkpoint with the random states of all processes."""
    random_states = gather(random_state(), run.world)
    if run.world.is_main:
        save_checkpoint(
            run.config.output_dir,
            state,
            progress,
            random_states=random_states,
            config=run.config,
            is_best=is_best,
            keep=run.config.train.keep_checkpoints,
        )
    wait_for_all(run.world)
