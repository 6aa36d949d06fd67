"""A progress bar with loss and time left, in the first process only."""

import sys

from tqdm import tqdm

from engine.distributed import World


def progress_bar(*, total: int | None, initial: int = 0, title: str, world: World, unit: str = "step") -> tqdm:
    """A bar for a `with` block; in a file (no terminal) it prints a line every half minute.

    Lines of the log appear above it where `setup_logging` set the console up.

    Args:
        total: steps to do; None where nobody knows.
        initial: steps that are done already.
        title: written before the bar.
        world: other processes than the first get a silent bar.
        unit: what is counted.
    """
    is_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        disable=not world.is_main,
        dynamic_ncols=is_terminal,
        mininterval=0.1 if is_terminal else 30.0,
        leave=is_terminal,
    )
