"""A progress bar with loss and time left, in the first process only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from engine.distributed import World


@contextmanager
def progress_bar(
    *, total: int | None, initial: int = 0, title: str, world: World, unit: str = "step"
) -> "Iterator[tqdm]":
    """A bar that log lines do not tear; in a file (no terminal) it prints a line every half minute.

    Args:
        total: steps to do; None where nobody knows.
        initial: steps that are done already.
        title: written before the bar.
        world: other processes than the first get a silent bar.
        unit: what is counted.
    """
    is_terminal = sys.stderr.isatty()
    with (
        tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit=unit,
            disable=not world.is_main,
            dynamic_ncols=is_terminal,
            mininterval=0.1 if is_terminal else 30.0,
            leave=is_terminal,
        ) as bar,
        logging_redirect_tqdm(tqdm_class=tqdm),
    ):
        yield bar
