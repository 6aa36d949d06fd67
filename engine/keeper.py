"""When a run is saved, and when it ends early: after some steps or minutes, at the end of an epoch, or by a signal."""

import time
from pathlib import Path

from configs.schema import Config
from engine.checkpoint import Progress, TrainingState, save_checkpoint
from engine.distributed import World, gather, largest, wait_for_all
from engine.logging import StepWindow
from engine.seeding import random_state
from engine.stop import Stopped, StopSignals

SIGNAL_OFFSET = 1
"""What processes agree on: 0 for nothing, 1 for a checkpoint, more for the signal whose number is that minus 1."""


class Keeper:
    """Writes checkpoints when they are due, and ends the run when a signal asks for it.

    Args:
        config: `train` says when, `output_dir` where.
        world: the processes, all of which have a keeper.
        stop: the signals.
        state: model, optimiser and schedule of the stage.
        window: of the log.
    """

    def __init__(
        self, config: Config, world: World, stop: StopSignals, state: TrainingState, window: StepWindow
    ) -> None:
        self._config, self._world = config, world
        self._stop, self._state, self._window = stop, state, window
        self._saved_at = time.monotonic()

    def save_if_due(self, progress: Progress, *, is_due: bool = False) -> Path | None:
        """Called after every step, by all processes; they agree on what the first of them, or a signal, asks for.

        Args:
            progress: after the step.
            is_due: save in any case.

        Returns:
            The checkpoint; None if none was written, and in other processes than the first.

        Raises:
            Stopped: a signal has come, to any of the processes; the checkpoint is written.
        """
        train = self._config.train
        minutes = (time.monotonic() - self._saved_at) / 60
        is_late = self._world.is_main and 0 < train.checkpoint_minutes <= minutes
        is_due = is_due or (train.checkpoint_steps > 0 and progress.step % train.checkpoint_steps == 0)
        asked = largest(SIGNAL_OFFSET + self._stop.signum if self._stop.signum else int(is_late), self._world)
        path = self._save(progress) if is_due or asked else None
        if asked > SIGNAL_OFFSET:
            raise Stopped(asked - SIGNAL_OFFSET)
        return path

    def _save(self, progress: Progress) -> Path | None:
        self._window.pause_clock()
        self._window.check_finite()  # so that no checkpoint holds a model with a loss that is not finite
        random_states, windows = zip(*gather((random_state(), self._window.state()), self._world), strict=True)
        path = None
        if self._world.is_main:
            path = save_checkpoint(
                self._config.output_dir,
                self._state,
                progress,
                random_states=list(random_states),
                windows=list(windows),
                config=self._config,
                keep=self._config.train.keep_checkpoints,
            )
        wait_for_all(self._world)
        self._saved_at = time.monotonic()
        self._window.restart_clock()
        return path
