"""Training: one loop over stages, epochs and batches, read from top to bottom."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from configs.loader import dump_config
from configs.schema import Config, StageConfig
from engine.checkpoint import (
    BEST,
    CHECKPOINT_FOLDER,
    LAST,
    Checkpoint,
    Progress,
    TrainingState,
    discard_checkpoints,
    last_checkpoint,
    make_best,
    newest_checkpoint,
    note_validation,
    read_checkpoint,
    restore_model,
    restore_optimizer,
    tidy_up,
)
from engine.distributed import World, gather, process_group, read_world, wait_for_all
from engine.keeper import Keeper
from engine.logging import METRICS_FILE, MetricsLog, StepWindow, describe
from engine.optim import build_optimizer, build_schedule, clip_gradients, learning_rates
from engine.progress import progress_bar
from engine.resuming import require_same_run
from engine.run_folder import claimed_folder
from engine.seeding import restore_random_state, seed_everything
from engine.startup import start_process
from engine.stop import Stopped, StopSignals
from eval import validate_model
from evaluation.benchmarks import EvaluatedSet, evaluated_sets
from loading.loaders import build_train_loader, require_held_out, validation_data
from loading.sampling import EpochSampler
from loading.skipping import SkipCount
from media.files import claim_output, output_path, write_text
from models.build import build_criterion, build_model, set_execution
from models.criterion import Criterion, count_totals
from models.ops.ms_deform_attn.backends import choose
from models.recording import WORDS_MULTIPLE, RecordedSOC
from models.soc import SOC
from structures.samples import VideoBatch
from structures.transfer import sent_ahead

logger = logging.getLogger(__name__)


def fit(config: Config) -> None:
    """Trains all stages; writes `config.yaml`, `metrics.jsonl` and `checkpoints/` to `output_dir`.

    Under `torchrun` every process calls this with the same configuration. With `train.resume` the run goes on from
    its newest checkpoint as if it had never stopped. SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 end it after the step
    that is being computed, with a checkpoint.

    Raises:
        ValueError: if data, weights or output folder are not usable, or a loss is not finite.
        Stopped: a signal has ended the run; its exit code is 128 and the number of the signal.
    """
    world = read_world()
    device = start_process(config, world, is_mixed=config.train.amp != "off")
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        stack.enter_context(process_group(world, device, peer_timeout=config.train.peer_timeout))
        if world.is_main:
            stack.enter_context(claimed_folder(config.output_dir))
        try:
            train_stages(prepare_run(config, world, device), stop)
        except Stopped as signal:
            there = last_checkpoint(config.output_dir)
            hint = f"; train.resume=true goes on from {there}" if there.exists() else ", before the first checkpoint"
            logger.info("stopped by %s%s", signal, hint)
            raise


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
        resumed: that checkpoint; None for a new run.
    """

    config: Config
    world: World
    device: torch.device
    model: SOC
    validation: tuple[EvaluatedSet, ...]
    metrics: MetricsLog
    progress: Progress
    resumed: Checkpoint | None

    @property
    def is_recorded(self) -> bool:
        """Whether training passes become CUDA graphs."""
        return self.config.train.cuda_graphs and self.device.type == "cuda"

    def is_resumed_at(self, progress: Progress) -> bool:
        """Whether nothing has been trained since the checkpoint, and its stage has not been left."""
        same = (progress.stage, progress.step) == (self.progress.stage, self.progress.step)
        return self.resumed is not None and same


def train_stages(run: Run, stop: StopSignals) -> None:
    """The loop: batches, gradients, clip, step, log, save, validate."""
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
        num_steps = stage_length(stage, steps_per_epoch)
        require_same_steps(run, stage, progress, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        progress = replace(progress, steps_per_epoch=steps_per_epoch, clips_per_step=clips_per_step(run, stage))
        criterion = build_criterion(stage.loss)
        model.train_only(stage.trainable, layers=stage.supervised_layers)
        # A wrapper per stage: it waits for the gradients of what is trained when it is made, and of nothing else.
        recorded = RecordedSOC(model) if run.is_recorded else model
        parallel = DistributedDataParallel(recorded) if run.world.size > 1 else recorded
        state = build_state(run, stage, num_steps=num_steps, steps_per_epoch=steps_per_epoch, progress=progress)
        window = build_window(run, progress)
        keeper = Keeper(config, run.world, stop, state, window)
        logger.info(
            "stage %s: %d steps, %d per epoch, %s", stage.name, num_steps, steps_per_epoch, step_size(run, stage)
        )
        if run.validation and run.resumed is not None and run.is_resumed_at(progress) and run.resumed.is_validated_next:
            progress = validate(run, stage, progress, checkpoint=run.resumed.path)
        with (
            progress_bar(total=num_steps, initial=progress.stage_step, title=stage.name, world=run.world) as bar,
            stop.noted(),
        ):
            while progress.stage_step < num_steps:
                window.restart_clock()
                steps = steps_of(loader, stage, progress, at_most=num_steps - progress.stage_step)
                for batches in sent_ahead(steps, lambda step: [batch.to(run.device) for batch in step], run.device):
                    model.train()
                    state.optimizer.zero_grad()
                    losses = add_gradients(run, parallel, criterion, batches)
                    grad_norm = clip_gradients(model.parameters(), stage.optim.max_grad_norm)
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
                        run.metrics.write("train", **log_position(stage, progress, progress.epoch), lr=rates, **means)
                    if progress.stage_step < num_steps and progress.stage_step % steps_per_epoch:
                        keeper.save_if_due(progress)

                window.pause_clock()
                window.check_finite()
                progress = replace(progress, epoch=progress.stage_step // steps_per_epoch)
                is_end, epoch = progress.stage_step >= num_steps, passes(progress)
                is_validated = bool(run.validation) and (is_end or is_due(epoch, config.train.validate_every))
                # Saved before the validation, so that one that fails or is interrupted costs nothing that was trained.
                path = keeper.save_if_due(
                    replace(progress, is_validated_next=is_validated),
                    is_due=is_end or is_validated or is_due(epoch, config.train.checkpoint_every),
                )
                if is_validated:
                    with stop.heeded():
                        progress = validate(run, stage, progress, checkpoint=path)
        progress = replace(progress, stage=index + 1, epoch=0, stage_step=0)
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
    resumed = find_checkpoint(config, world)
    if resumed is None:
        if world.is_main:
            claim_run(config)
    else:
        require_same_run(resumed, config)
        if world.is_main:
            tidy_up(config.output_dir, resumed.path)
    seed_everything(config.train.seed)  # all processes build the same model ...
    model = build_model(config.model, data_root=config.data.root)
    set_execution(model, config)
    if resumed is not None:
        restore_model(resumed, model)
    model = model.to(device)
    choose(device.type, torch.float32)  # logs which backend is used, and compiles it before the first step
    seed_everything(config.train.seed + world.rank)  # ... and draw their own dropout
    progress = Progress()
    if resumed is not None:
        progress = replace(resumed.progress, is_validated_next=False)
        states = resumed.content["random_states"]
        if len(states) == world.size:
            restore_random_state(states[world.rank])
        else:
            logger.warning("resuming with %d processes instead of %d: other random numbers", world.size, len(states))
        logger.info("resumed %s after %d steps", resumed.path, progress.step)
    if world.is_main:
        write_text(config.output_dir / "config.yaml", dump_config(config))
    metrics = MetricsLog(
        config.output_dir,
        world,
        keep_up_to_step=None if resumed is None else progress.step,
        validates_again=resumed is not None and resumed.is_validated_next,
    )
    wait_for_all(world)
    return Run(config, world, device, model, validation, metrics, progress, resumed)


def find_checkpoint(config: Config, world: World) -> Checkpoint | None:
    """The checkpoint to go on from, as `train.resume` says; all processes take the one that the first has found.

    Raises:
        ValueError: if there is none and `train.resume` is true, or none is whole.
    """
    if not config.train.resume:
        return None
    output_path(config.output_dir, CHECKPOINT_FOLDER, what="folder")  # refuses a link that leads elsewhere
    found = newest_checkpoint(config.output_dir) if world.is_main else None
    (path, *_) = gather(None if found is None else found.path, world)
    if path is None and config.train.resume is True:
        raise ValueError(
            f"{last_checkpoint(config.output_dir)} does not exist: there is no checkpoint to go on from; "
            "train.resume=auto starts a run where there is none"
        )
    return found if found is not None or path is None else read_checkpoint(path)


def claim_run(config: Config) -> None:
    """Makes the output folder ready for a new run; what belongs to an old one is gone before the new one begins.

    Raises:
        ValueError: if the folder holds a run, and is not to be overwritten.
    """
    claim_output(
        config.output_dir,
        markers=(METRICS_FILE, CHECKPOINT_FOLDER),
        # A run that was stopped before its first checkpoint has nothing to go on with.
        overwrite=config.overwrite or config.train.resume == "auto",
        hint=", or train.resume=true to continue it",
    )
    discard_checkpoints(config.output_dir)


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
    if run.resumed is not None and run.is_resumed_at(progress) and progress.stage_step:
        restore_optimizer(run.resumed, state)
    return state


def build_window(run: Run, progress: Progress) -> StepWindow:
    """A new window of the log for the stage, or that of the checkpoint that stopped inside it.

    Raises:
        ValueError: if the checkpoint holds something else.
    """
    window = StepWindow(run.world)
    states = run.resumed.content.get("windows") if run.resumed is not None else None
    # With another number of processes the lines of the log are means of other steps, no more.
    if run.resumed is not None and run.is_resumed_at(progress) and states and len(states) == run.world.size:
        try:
            window.restore(states[run.world.rank])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"{run.resumed.path}: windows is damaged; go on from an earlier checkpoint") from None
    return window


def add_gradients(
    run: Run, parallel: SOC | RecordedSOC | DistributedDataParallel, criterion: Criterion, batches: Sequence[VideoBatch]
) -> dict[str, Tensor]:
    """Forward, loss and backward of the batches of one step; their gradients add up to those of one large batch.

    Args:
        run: the model and its device.
        parallel: the model, or its wrapper where passes are recorded or there are several processes.
        criterion: the losses.
        batches: on the device; one after the other, so that memory is that of the largest.

    Returns:
        The losses of the step for the log, detached and still on the device.
    """
    device = run.device
    is_mixed = run.config.train.amp == "bf16"
    totals = count_totals((target for batch in batches for target in batch.targets), device=device)
    sums: dict[str, Tensor] = {}
    for batch in batches:
        # Processes exchange their gradients with the last batch, when all have been added up; once a step is enough.
        silent = isinstance(parallel, DistributedDataParallel) and batch is not batches[-1]
        with cast(DistributedDataParallel, parallel).no_sync() if silent else nullcontext():
            tokens = run.model.tokenize(batch.sentences, multiple_of=WORDS_MULTIPLE if run.is_recorded else 1).to(
                device
            )
            # What is recorded casts its weights itself, each time that it is played back.
            with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed, cache_enabled=not run.is_recorded):
                output = parallel(
                    batch.clips.normalised(run.model.normalisation),
                    tokens,
                    clip_of_sentence=batch.clip_of_sentence,
                    annotated_frame=batch.annotated_frame,
                )
            losses = criterion(output, batch.targets, totals=totals)
            losses.total.backward()
        scalars = losses.scalars()
        sums = {name: sums[name] + value for name, value in scalars.items()} if sums else scalars
    return sums


def steps_of(
    loader: DataLoader[VideoBatch], stage: StageConfig, progress: Progress, *, at_most: int
) -> Iterator[tuple[VideoBatch, ...]]:
    """The batches of each step of one epoch, from where the run is, to where the stage ends; counts skipped samples.

    The last step of an epoch has fewer batches where their number is no multiple of `optim.accumulate`.
    """
    sampler = cast(EpochSampler, loader.sampler)
    epoch, done = divmod(progress.stage_step, progress.steps_per_epoch)
    sampler.set_epoch(epoch, start=done * stage.optim.accumulate * stage.data.batch_size)
    count = SkipCount(num_samples=len(sampler), max_share=stage.data.max_skipped_share)
    batches = islice(loader, at_most * stage.optim.accumulate)
    while step := tuple(islice(batches, stage.optim.accumulate)):
        for batch in step:
            count.add(batch.skipped)
        yield step
    count.report()


def require_same_steps(
    run: Run, stage: StageConfig, progress: Progress, *, steps_per_epoch: int, num_steps: int
) -> None:
    """Raises ValueError if a resumed stage has other steps than in its checkpoint, or fewer than are done.

    Length of the stage, schedule, milestones and the place in an epoch count steps: with other steps they would be
    those of another recipe.
    """
    if run.resumed is None or not progress.stage_step:
        return
    clips = clips_per_step(run, stage)
    are_same = (progress.steps_per_epoch, progress.clips_per_step) == (steps_per_epoch, clips)
    if not progress.steps_per_epoch:  # a checkpoint of an earlier version, written after whole epochs
        are_same = progress.stage_step == progress.epoch * steps_per_epoch
    if not are_same:
        raise ValueError(
            f"{run.resumed.path}: {progress.stage_step} steps are done in {passes(progress)} epochs of stage "
            f"{stage.name}, but an epoch has {steps_per_epoch} steps of {step_size(run, stage)} now; "
            "resume with the same data and the same product of processes, data.batch_size and optim.accumulate"
        )
    if progress.stage_step > num_steps:
        raise ValueError(
            f"{run.resumed.path}: progress.stage_step={progress.stage_step} steps of stage {stage.name} are done, but "
            f"it has only {num_steps} now; raise epochs or max_steps"
        )


def stage_length(stage: StageConfig, steps_per_epoch: int) -> int:
    """Number of steps of the stage."""
    planned = stage.epochs * steps_per_epoch
    return min(planned, stage.max_steps or planned)


def clips_per_step(run: Run, stage: StageConfig) -> int:
    """Of all processes together."""
    return run.world.size * stage.data.batch_size * stage.optim.accumulate


def step_size(run: Run, stage: StageConfig) -> str:
    """How many clips make a step, and why, for the log."""
    factors = f"processes {run.world.size} x batch_size {stage.data.batch_size} x accumulate {stage.optim.accumulate}"
    return f"{clips_per_step(run, stage)} clips each ({factors})"


def passes(progress: Progress) -> int:
    """Epochs of the stage that have begun; the last one may be cut off."""
    return math.ceil(progress.stage_step / max(progress.steps_per_epoch, 1))


def is_due(epoch: int, every: int) -> bool:
    """Whether `epoch` is a multiple of `every`; 0: never."""
    return every > 0 and epoch % every == 0


def log_position(stage: StageConfig, progress: Progress, epoch: int) -> dict[str, str | int]:
    """Stage, epoch and finished steps, for a line of the log."""
    return {"stage": stage.name, "epoch": epoch, "step": progress.step}


def validate(run: Run, stage: StageConfig, progress: Progress, *, checkpoint: Path | None) -> Progress:
    """Scores the model on `train.validate_videos` videos; returns the progress with the best score so far.

    Args:
        run: the model and its data.
        stage: the current one.
        progress: after the last step.
        checkpoint: that of this progress; becomes `best.pt` if the score is the best. Only the first process needs it.
    """
    workers = run.config.eval.workers
    results = validate_model(run.model, run.validation, workers=workers, world=run.world, device=run.device)
    assert results.main_score is not None  # `scorable` leaves out what has no masks
    is_best = results.main_score > progress.best_score
    progress = replace(progress, best_score=max(progress.best_score, results.main_score))
    if is_best and run.world.is_main:
        assert checkpoint is not None  # the first process has written it
        make_best(run.config.output_dir, checkpoint)
    position = log_position(stage, progress, passes(progress))
    run.metrics.write("validation", **position, **results.scores())
    if run.world.is_main:
        note_validation(run.config.output_dir, progress, is_best=is_best)
    logger.info("%s, epoch %d: %s", stage.name, passes(progress), describe(results.scores()))
    return progress
