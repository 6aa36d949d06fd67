"""A process that stops, dies or never comes is noticed in time, and named; one that works for long is not."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.distributed import Store

from engine.peers import EXIT_PEER_LOST, PeerWatch, name_ranks

TIMEOUT_S = 6
SLACK_S = 30  # of a busy machine
FOREVER = 120

pytestmark = pytest.mark.distributed


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start(repository, port):
    """Starts one process of a run; all are killed in the end."""
    processes = []

    def start_one(rank, size=2, seconds=FOREVER, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.peer", str(TIMEOUT_S), str(seconds)],
            cwd=repository,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(size),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def met(process):
    assert process.stdout.readline() == "met\n", process.stderr.read()


def messages(process, *, within):
    """Exit code, and the lines that are no news: those of PyTorch's C++ begin with a bracket, news with a time."""
    _, errors = process.communicate(timeout=within)
    return process.returncode, [
        line for line in errors.splitlines() if not re.match(r"\[[WE]\d+|Exception raised|[\d:]+ I ", line)
    ]


@pytest.mark.slow
def test_a_process_that_is_stopped_is_named_in_time(start):
    first, second = start(0), start(1)
    met(first), met(second)
    second.send_signal(signal.SIGSTOP)
    code, lines = messages(first, within=TIMEOUT_S + SLACK_S)
    assert code == EXIT_PEER_LOST
    assert [line.split(" (")[0] for line in lines] == [f"error: process 1 of 2 did not answer for {TIMEOUT_S} s"]


@pytest.mark.slow
def test_a_stopped_process_with_the_store_is_named_in_time(start):
    first, second = start(0), start(1)
    met(first), met(second)
    first.send_signal(signal.SIGSTOP)
    code, lines = messages(second, within=TIMEOUT_S + SLACK_S)
    assert code == EXIT_PEER_LOST
    assert len(lines) == 1
    assert lines[0].startswith("error: process 0 or the launcher, with the store at 127.0.0.1:")


@pytest.mark.slow
def test_of_several_that_see_it_one_says_which_process_was_killed(start):
    processes = [start(rank, size=3, seconds=0 if rank else FOREVER) for rank in range(3)]
    for process in processes:
        met(process)
    processes[2].kill()
    results = [messages(process, within=TIMEOUT_S + SLACK_S) for process in processes[:2]]
    assert [code for code, _ in results] == [EXIT_PEER_LOST] * 2
    (line,) = [line for _, lines in results for line in lines]
    assert line.startswith("error: process 2 of 3 ")


@pytest.mark.slow
def test_a_process_that_never_comes_is_named(start):
    code, lines = messages(start(0, size=3), within=TIMEOUT_S + 2 * SLACK_S)
    assert code == 2
    assert len(lines) == 1
    assert re.match(rf"error: processes 1 and 2 of 3 did not come to 127.0.0.1:\d+ within {TIMEOUT_S} s", lines[0])


@pytest.mark.slow
def test_a_run_whose_first_process_never_comes_ends(start, port):
    code, lines = messages(start(1), within=TIMEOUT_S + 2 * SLACK_S)
    assert code == 2
    assert len(lines) == 1
    assert f"process 1 of 2 cannot reach process 0 or the launcher at 127.0.0.1:{port} within {TIMEOUT_S} s" in lines[0]


def test_an_occupied_port_is_one_message(start, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, lines = messages(start(0), within=2 * SLACK_S)
    assert code == 2
    assert len(lines) == 1
    assert f"MASTER_PORT={port}: process 0 cannot listen there" in lines[0]


@pytest.mark.slow
def test_long_work_in_python_is_not_taken_for_a_stop(start):
    first, second = start(0, seconds=2.5 * TIMEOUT_S), start(1)
    assert messages(first, within=3 * TIMEOUT_S + 2 * SLACK_S) == (0, [])
    assert messages(second, within=SLACK_S) == (0, [])


@pytest.mark.slow
def test_processes_that_are_stopped_together_go_on_together(start):
    """As with Ctrl-Z: each of them finds that the others have been silent for long."""
    processes = start(0, seconds=2), start(1)
    for process in processes:
        met(process)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * TIMEOUT_S)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        assert messages(process, within=TIMEOUT_S + SLACK_S) == (0, [])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": ""}, "but RANK not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two': expected a whole number"),
        ({"RANK": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http': expected a whole number"),
        ({"MASTER_ADDR": ""}, "but MASTER_ADDR not set"),
    ],
)
def test_wrong_variables_are_one_message(start, variables, message):
    code, lines = messages(start(1, **variables), within=2 * SLACK_S)
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ranks_end_with_their_launcher(repository):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = subprocess.Popen(
        [*command, "-m", "tests.distributed.peer", str(FOREVER), str(FOREVER)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with launcher:
        assert [launcher.stdout.readline() for _ in range(2)] == ["met\n"] * 2
        ranks = children(launcher.pid)
        assert len(ranks) == 2
        launcher.kill()
        end = time.monotonic() + 3
        while any(map(lives, ranks)) and time.monotonic() < end:
            time.sleep(0.05)
        left = [rank for rank in ranks if lives(rank)]
        for rank in left:
            os.kill(rank, signal.SIGKILL)
    assert not left


class SlowStore(Store):
    """A store that answers when it is let."""

    def __init__(self):
        super().__init__()
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def set(self, _key, _value):
        self.asked.set()
        assert self.may_answer.wait(60)

    def multi_get(self, keys):
        return [b"1" for _ in keys]


@pytest.fixture
def slow():
    """A watch that has just asked its store, and the store."""
    store = SlowStore()
    watch = PeerWatch(lambda: store, rank=0, size=2, timeout_s=60.0, where="here")
    watch.start()
    assert store.asked.wait(60)
    yield watch, store
    store.may_answer.set()


def heartbeats():
    return [thread for thread in threading.enumerate() if thread.name == "peers"]


def test_the_end_waits_for_the_heartbeat_that_is_under_way(slow):
    watch, store = slow
    threading.Timer(0.5, store.may_answer.set).start()
    watch.stop()
    assert store.may_answer.is_set()
    assert not heartbeats(), "a thread within C++ aborts a process that ends"


def test_the_end_does_not_wait_for_ever(slow, monkeypatch):
    monkeypatch.setattr("engine.peers.LAST_ANSWER_S", 0.1)
    watch, store = slow
    watch.stop()
    assert not store.may_answer.is_set()


def test_names_of_processes():
    assert name_ranks([1], size=2) == "process 1 of 2"
    assert name_ranks([0, 2, 3], size=4) == "processes 0, 2 and 3 of 4"
