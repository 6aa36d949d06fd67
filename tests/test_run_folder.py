"""A second process in an output folder is refused, whatever the file system and however the first one ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import run_folder
from engine.run_folder import LOCK_FILE, Holder, claimed_folder

HOLD = """
import os, sys, time
from pathlib import Path
from engine.run_folder import claimed_folder
with claimed_folder(Path(sys.argv[1])):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def without_locks(monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE_S", 0.0)


@pytest.fixture
def hold(repository):
    """Starts a process that claims a folder until it is killed."""
    processes = []

    def start(folder, *options):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), *options], cwd=repository, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path, hold, impatient):
    first = hold(tmp_path / "out")
    message = rf"out is in use by process {first.pid} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d"
    with pytest.raises(ValueError, match=message), claimed_folder(tmp_path / "out"):
        pass
    with claimed_folder(tmp_path / "other"):
        pass


def test_a_folder_is_free_as_soon_as_its_process_is_killed(tmp_path, hold):
    first = hold(tmp_path)
    first.kill()
    with claimed_folder(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_keep_the_folder(tmp_path, hold):
    first = hold(tmp_path, "fork")
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    first.kill()
    try:
        with claimed_folder(tmp_path):
            pass
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_one_that_is_about_to_end_is_waited_for(tmp_path, hold):
    first = hold(tmp_path)
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {first.pid}"])
    start = time.monotonic()
    with claimed_folder(tmp_path):
        assert time.monotonic() - start > 0.3


def test_the_same_process_cannot_claim_a_folder_twice(tmp_path, impatient):
    with (
        claimed_folder(tmp_path),
        pytest.raises(ValueError, match=f"in use by process {os.getpid()}"),
        claimed_folder(tmp_path),
    ):
        pass


def test_file_systems_without_locks_have_lock_files(tmp_path, impatient, monkeypatch):
    without_locks(monkeypatch)
    with (
        claimed_folder(tmp_path),
        pytest.raises(ValueError, match=f"in use by process {os.getpid()}"),
        claimed_folder(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_reused", [False, True], ids=["dead", "number used again"])
def test_without_locks_the_file_of_a_dead_process_does_not_count(tmp_path, impatient, monkeypatch, is_reused):
    without_locks(monkeypatch)
    dead = subprocess.Popen(["true"])
    dead.wait()
    pid, started = (os.getpid(), 1) if is_reused else (dead.pid, 1)
    left = {"host": socket.gethostname(), "pid": pid, "since": "yesterday", "started": started}
    (tmp_path / LOCK_FILE).write_text(json.dumps(left))
    with claimed_folder(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["since"] != "yesterday"
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nobody_can_tell_whether_a_process_of_another_machine_lives(tmp_path, impatient, monkeypatch):
    without_locks(monkeypatch)
    left = {"host": "elsewhere", "pid": 1, "since": "yesterday", "started": None}
    (tmp_path / LOCK_FILE).write_text(json.dumps(left))
    message = r"process 1 on elsewhere, since yesterday; .* if that one has been killed, delete .*\.lock"
    with pytest.raises(ValueError, match=message), claimed_folder(tmp_path):
        pass
    assert not Holder(**left).is_gone


def test_a_link_of_the_name_of_the_lock_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), claimed_folder(tmp_path / "out"):
        pass
    assert other.read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file, expected a folder"), claimed_folder(tmp_path / "out"):
        pass


def test_a_full_disk_is_named_and_leaves_no_lock(tmp_path, monkeypatch):
    def write(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*\.lock'"), claimed_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
