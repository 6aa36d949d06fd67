"""The processes of one run notice when one of them stops, dies or never comes, and say which.

A collective operation waits for all processes, whatever has become of them. So every process counts up in the store
of `torch.distributed`, in a thread that goes on through any validation, and looks whether the others do. One that does
not for `timeout_s` has stopped, and this process ends with a message: the main thread, which waits in a collective
operation, cannot be woken.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

import torch.distributed as dist

EXIT_PEER_LOST = 75
"""Exit code when another process is gone (EX_TEMPFAIL of sysexits.h): nothing is wrong with this one; start again."""

LONGEST_INTERVAL_S = 1.0
"""Between two heartbeats."""

LAST_ANSWER_S = 5.0
"""How long the store may take for the heartbeat that is under way when all is done."""

_meetings = count()
"""Numbers of the meetings of this process; all processes meet equally often."""


class PeerWatch:
    """Heartbeats of this process, and of the others as seen from here.

    Args:
        connect: makes a connection to the store of the run. One of its own, because a connection serves one thread.
        rank: of this process.
        size: number of processes.
        timeout_s: after which a silent process counts as stopped.
        where: the store, for messages.
    """

    def __init__(
        self, connect: Callable[[], dist.Store], *, rank: int, size: int, timeout_s: float, where: str
    ) -> None:
        self._connect, self._rank, self._timeout_s, self._where = connect, rank, timeout_s, where
        self._size = size
        self._interval_s = min(LONGEST_INTERVAL_S, timeout_s / 10)
        self._others = [other for other in range(size) if other != rank]
        now = time.monotonic()
        self._heard = dict.fromkeys(self._others, now)
        self._heard_store = now
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, name="peers", daemon=True) for target in (self._beat, self._judge)
        ]

    def start(self) -> None:
        """Begins to count, and to look at the others."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both; called when all processes are done with each other.

        Python ends a thread that comes back from the store when the interpreter is gone in the middle of C++, and that
        aborts the process (exit code 134), although all went well: so it is waited for, not for ever where the store
        does not answer.
        """
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(LAST_ANSWER_S)

    def end_if_one_is_gone(self) -> None:
        """Ends this process with a message if another one has just fallen silent; returns if all are well.

        For an operation that has failed: a connection that breaks does not say whose process is gone, and why.
        """
        moment = 3 * self._interval_s
        deadline = time.monotonic() + 2 * moment
        while time.monotonic() < deadline:
            time.sleep(self._interval_s)
            if self._is_store_silent(moment) or self._silent_ranks(moment):
                self._end(moment, "ended or stopped answering; what it printed says why")

    def _beat(self) -> None:
        """Counts up, and notes who else has. Blocks where the store does not answer; `_judge` does not."""
        counters: dict[int, bytes] = {}
        keys = [f"beat/{other}" for other in self._others]
        store: dist.Store | None = None
        for number in count(start=1):
            try:
                store = store or self._connect()
                store.set(f"beat/{self._rank}", str(number))
                values = store.multi_get(keys)
            except (OSError, RuntimeError):  # of the connection: `_judge` says so if it does not come back
                store = None
            else:
                now = time.monotonic()
                with self._lock:
                    self._heard_store = now
                    for other, value in zip(self._others, values, strict=True):
                        if counters.get(other) != value:
                            counters[other], self._heard[other] = value, now
            if self._stop.wait(self._interval_s):
                return

    def _judge(self) -> None:
        """Ends the process when another one has been silent for too long."""
        last = time.monotonic()
        while not self._stop.wait(self._interval_s):
            now = time.monotonic()
            slept = now - last - self._interval_s
            last = now
            if slept > 2 * self._interval_s:  # this process itself was stopped; the others were not silent
                with self._lock:
                    self._heard_store += slept
                    self._heard = {other: heard + slept for other, heard in self._heard.items()}
            if self._is_store_silent(self._timeout_s) or self._silent_ranks(self._timeout_s):
                self._end(
                    self._timeout_s,
                    f"did not answer for {self._timeout_s:.0f} s (train.peer_timeout): stopped, hanging, or on a "
                    "machine that is gone",
                )

    def _is_store_silent(self, seconds: float) -> bool:
        """Whether nobody can be heard."""
        with self._lock:
            return time.monotonic() - self._heard_store > seconds

    def _silent_ranks(self, seconds: float) -> list[int]:
        """The processes that have not counted for so long."""
        now = time.monotonic()
        with self._lock:
            return [other for other, heard in self._heard.items() if now - heard > seconds]

    def _end(self, seconds: float, message: str) -> None:
        """Ends the process without closing anything: what waits for another process would wait for ever.

        Args:
            seconds: for which a process or the store has been silent.
            message: what is said of it.
        """
        if self._stop.is_set():
            return
        silent = self._silent_ranks(seconds)
        if self._is_store_silent(seconds):
            sys.stderr.write(f"error: process 0 or the launcher, with the store at {self._where}, {message}\n")
        elif self._rank == min(set(range(self._size)).difference(silent)):  # one message, and not one of each process
            sys.stderr.write(f"error: {name_ranks(silent, size=self._size)} {message}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_PEER_LOST)


@contextmanager
def met_peers(*, rank: int, size: int, timeout_s: float) -> Iterator[tuple[dist.Store, PeerWatch]]:
    """Waits until all processes of the run are there, and watches them for the length of the block.

    Where `MASTER_ADDR` and `MASTER_PORT` lead, the launcher has a store, or process 0 makes one.

    Args:
        rank: of this process.
        size: number of processes.
        timeout_s: how long one may be silent, or be waited for.

    Returns:
        A store for `init_process_group`, and the watch.

    Raises:
        ValueError: a process has not come in time, or there is no way to the store; the message names it.
    """
    host, port = _address()
    where = f"{host}:{port}"
    meeting = f"run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_meetings)}"
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def connect(*, is_host: bool = False) -> dist.Store:
        if not is_host:
            _wait_for_listener(host, port, timeout_s)
        store = dist.TCPStore(
            host,
            port,
            None,
            is_master=is_host,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
        return dist.PrefixStore(meeting, store)

    try:
        store = connect(is_host=is_host)
    except (OSError, RuntimeError) as error:
        if is_host:
            raise ValueError(f"MASTER_PORT={port}: process 0 cannot listen there ({_line(error)})") from None
        raise ValueError(
            f"process {rank} of {size} cannot reach process 0 or the launcher at {where} within {timeout_s:.0f} s "
            f"(train.peer_timeout): nobody is there, or MASTER_ADDR and MASTER_PORT are wrong ({_line(error)})"
        ) from None
    _wait_for_peers(store, rank=rank, size=size, timeout_s=timeout_s, where=where)
    watch = PeerWatch(connect, rank=rank, size=size, timeout_s=timeout_s, where=where)
    watch.start()
    try:
        yield store, watch
    finally:
        watch.stop()


def _address() -> tuple[str, int]:
    """Where the processes meet; `engine.process_variables` has checked what the launcher says."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _wait_for_listener(host: str, port: int, timeout_s: float) -> None:
    """Returns once somebody listens; PyTorch's own attempts print frames of C++, and go on in silence.

    Raises:
        OSError: nobody does, in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, timeout_s / 10)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(min(0.2, timeout_s / 10))
        else:
            return


def _wait_for_peers(store: dist.Store, *, rank: int, size: int, timeout_s: float, where: str) -> None:
    """Returns when all processes have come.

    Raises:
        ValueError: some have not, in time.
    """
    deadline = time.monotonic() + timeout_s
    store.set(f"beat/{rank}", "0")
    store.set(f"here/{rank}", "")
    missing = set(range(size)) - {rank}
    while missing:
        missing = {other for other in missing if not store.check([f"here/{other}"])}
        if missing and time.monotonic() > deadline:
            raise ValueError(
                f"{name_ranks(sorted(missing), size=size)} did not come to {where} within {timeout_s:.0f} s "
                "(train.peer_timeout): start what is missing, or set WORLD_SIZE to the number of processes there are"
            )
        if missing:
            time.sleep(min(0.2, timeout_s / 10))


def name_ranks(ranks: Sequence[int], *, size: int) -> str:
    """`process 1 of 2`, or `processes 1 and 3 of 4`."""
    *others, last = map(str, ranks)
    return f"processes {', '.join(others)} and {last} of {size}" if others else f"process {last} of {size}"


def _line(error: Exception) -> str:
    """The first line of a message of PyTorch, which goes on with frames of C++."""
    return str(error).splitlines()[0][:200]
