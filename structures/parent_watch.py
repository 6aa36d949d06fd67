"""Processes that end with the one that started them: loader workers, and the ranks of a launcher."""

import os
import sys
import threading
import time
from functools import cache

INTERVAL_S = 0.5


def end_with_parent() -> None:
    """From now on this process ends, at once and without writing any more, when the one that started it is gone.

    A thread asks for the parent, because Linux' own signal for this comes when the *thread* that started the process
    ends, and that may be long before. On Windows, where the number of the parent stays, nothing happens.
    """
    if sys.platform != "win32":
        _start(os.getpid(), os.getppid())


@cache
def _start(process: int, parent: int) -> None:
    """Once in each process: one that is forked has the results of calls before, and not the thread."""
    threading.Thread(target=_watch, args=(parent,), name=f"parent of {process}", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL_S)
    os._exit(1)
