"""Signals that end a run: between two steps they are noted, so that the run can save first; elsewhere they end it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C, what a cluster or `kill` sends, a terminal that closes, and what Slurm sends before the time is over."""


class Stopped(SystemExit):
    """A signal has ended the run. Its exit code is the shell's for that signal: 128 and its number.

    Attributes:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class StopSignals:
    """A context in which signals end the run as `Stopped`, and, where they are `noted`, only when it comes to look.

    Outside of the main thread signals cannot be caught: then nothing changes.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        """The first signal that was noted."""
        self._are_noted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                # A program started with nohup ignores SIGHUP, and is to go on doing so.
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Signals that come in the block are noted; the second one ends the run nevertheless."""
        self._are_noted = True
        try:
            yield
        finally:
            self._are_noted = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Signals end the run in this part of a block in which they are noted; one that was noted does so at once."""
        self._are_noted = False
        try:
            if self.signum is not None:
                raise Stopped(self.signum)
            yield
        finally:
            self._are_noted = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._are_noted and self.signum is None:
            self.signum = signum
        else:
            raise Stopped(signum)
