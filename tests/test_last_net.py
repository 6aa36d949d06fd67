"""How commands end: what is the user's or the machine's is one message, the rest is a fault with a log file."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
from engine.last_net import EXIT_FAULT, Command, run_command
from engine.machine_limits import describe_limit
from structures.wording import one_line, show_value


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "soc" / "faults"


def end_with(error: BaseException, *, output_folder: Path | None = None) -> int:
    def body(command: Command) -> int:
        command.output_folder = output_folder
        raise error

    return run_command(body, program="python main.py", arguments=["train", "data.root=a b"])


# ---- faults ----


class Panic(BaseException):
    """As libraries written in Rust raise."""


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), RuntimeError("shapes differ"), AssertionError(), TypeError("no"), RecursionError(), Panic("p")],
)
def test_a_fault_is_said_and_written_down_without_a_traceback_on_the_console(
    error: BaseException, own_cache: Path, capsys: pytest.CaptureFixture[str]
):
    assert end_with(error) == EXIT_FAULT == 70
    shown = capsys.readouterr().err
    assert f"this is a fault of the program: {type(error).__name__}" in shown
    assert "command: python main.py train 'data.root=a b'" in shown
    assert "Traceback" not in shown
    (log,) = own_cache.iterdir()
    assert str(log) in shown
    text = log.read_text(encoding="utf-8")
    assert "command: python main.py train 'data.root=a b'" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "in body\n    raise error\n" in text, "the traceback is in the log"
    assert type(error).__name__ in text.splitlines()[-1]


def test_the_log_lies_in_the_output_folder_where_there_is_one(tmp_path: Path, own_cache: Path):
    folder = tmp_path / "out"
    end_with(KeyError("x"), output_folder=folder)
    assert not folder.exists(), "no folder is made for a log"
    assert len(list(own_cache.iterdir())) == 1
    folder.mkdir()
    end_with(KeyError("x"), output_folder=folder)
    assert [path.suffix for path in folder.iterdir()] == [".log"], "one file, and nothing half written"
    assert len(list(own_cache.iterdir())) == 1


def test_where_no_folder_can_be_written_the_log_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("engine.fault_report.write_text", full)
    assert end_with(KeyError("x")) == EXIT_FAULT
    shown = capsys.readouterr().err
    assert "no folder could be written" in shown
    assert "Traceback (most recent call last)" in shown


def test_a_command_that_is_no_text_is_logged_all_the_same(own_cache: Path, capsys: pytest.CaptureFixture[str]):
    def body(_command: Command) -> int:
        raise KeyError("\udcff\x1b[31m")

    assert run_command(body, program="python main.py", arguments=["eval", "\udcff\x1b[31m"]) == EXIT_FAULT
    assert "\x1b" not in capsys.readouterr().err, "no escape sequence reaches the terminal"
    assert len(list(own_cache.iterdir())) == 1


# ---- what is no fault ----


def test_an_exit_on_purpose_goes_through_with_its_code(own_cache: Path):
    class StoppedBySignalError(SystemExit):
        pass

    for error in (SystemExit(3), StoppedBySignalError(143)):
        with pytest.raises(SystemExit) as stop:
            end_with(error)
        assert stop.value is error
    assert end_with(KeyboardInterrupt()) == 130
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory is used up"),
        (MemoryError("Unable to allocate 149. GiB"), "149. GiB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0"), "memory of the GPU is used up"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "memory is used"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "data.num_workers"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "data.num_workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), "--shm-size"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "no space left"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x.pt"), "runs/x.pt: no space left on this disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "your share of this disk"),
        (OSError(errno.EFBIG, "File too large", "x"), "ulimit -f"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "can only be read"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is used up"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y: permission denied; check who owns it"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "ulimit -n"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "another port"),
        (RuntimeError("The server socket has failed to listen. port: 29500, name: EADDRINUSE"), "another port"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), "another process"),
        (ModuleNotFoundError("No module named 'not_there'", name="not_there"), "package not_there is not installed"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "a process that was read from"),
        (OSError("the server says no"), "the server says no"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_machine_refuses_is_one_line_that_says_what_to_do(
    error: Exception, words: str, own_cache: Path, capsys: pytest.CaptureFixture[str]
):
    assert end_with(error) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not own_cache.exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ModuleNotFoundError("No module named 'torch.nothing'", name="torch.nothing"),
        KeyError("out of memory"),
    ],
)
def test_a_mistake_in_the_program_is_not_taken_for_the_machine(error: Exception):
    assert describe_limit(error) is None


def test_memory_of_training_is_saved_by_settings_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repository: Path
):
    monkeypatch.chdir(repository)

    def out_of_memory(mode: str, config: object) -> None:
        raise MemoryError

    monkeypatch.setattr(main, "run", out_of_memory)
    assert main.main(["train", "--config", "configs/base.yaml"]) == 2
    assert "data.batch_size" in capsys.readouterr().err
    assert main.main(["predict", "--config", "configs/base.yaml"]) == 2
    assert "predict.size" in capsys.readouterr().err


def test_a_long_message_is_cut_and_has_no_escape_sequences(capsys: pytest.CaptureFixture[str]):
    assert end_with(ValueError("\x1b[2Jx" * 5000 + "\n" + "line\n" * 500)) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert len(shown) < 3000
    assert "more lines" in shown


# ---- real processes ----


def run_python(repository: Path, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=repository, text=True, capture_output=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload]


def test_a_closed_pipe_ends_with_141(repository: Path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "main.py", "config", "--config", "configs/base.yaml"],
            cwd=repository, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_the_output_is_reported(repository: Path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "main.py", "config", "--config", "configs/base.yaml"],
            cwd=repository, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left on this disk")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_without_any_output_still_works(repository: Path):
    line = f"'{sys.executable}' main.py config --config configs/base.yaml >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], cwd=repository, timeout=60, check=False).returncode == 0


def test_a_file_size_limit_is_one_message(repository: Path, tmp_path: Path):
    line = f"ulimit -f 1; '{sys.executable}' -m tools.make_shapes {tmp_path}/data --train 1 --valid 1 --workers 1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=repository, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing half written is left"


def test_ctrl_c_ends_a_tool_with_130(repository: Path, tmp_path: Path):
    command = [sys.executable, "-m", "tools.make_shapes", str(tmp_path / "data"), "--train", "5000", "--workers", "1"]
    process = subprocess.Popen(
        command,
        cwd=repository,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in the background with Ctrl-C ignored, and the tests may run there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads here
    )
    # Not before the second clip: with the first one Pillow imports what writes it, and a KeyboardInterrupt that Python
    # raises in a callback of its imports is printed and forgotten.
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".data.*/*/JPEGImages/*"))) < 2:
        assert time.monotonic() < deadline, "the tool has not begun"
        assert process.poll() is None
        time.sleep(0.05)
    # `Generator.choice` of NumPy forgets a KeyboardInterrupt that comes within it, some of a hundred here; who sees the
    # tool go on presses Ctrl-C again.
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_port_of_the_page_is_said_before_the_model_is_loaded(repository: Path):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run_python(repository, "-m", "tools.web", "--model", "nowhere", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --host 127.0.0.1 --port {port}: Address already in use; end the program that listens there, or name "
        "another --port\n"
    )
    done = run_python(repository, "-m", "tools.web", "--model", "nowhere", "--port", "99999")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_every_command_goes_through_the_net(repository: Path):
    """Whatever is started with `python -m tools.x`, or installed, calls `run_command`."""
    tools = (repository / "tools").rglob("*.py")
    mains = [path for path in tools if "sys.exit(main())" in path.read_text()]
    mains.remove(repository / "tools" / "export" / "run.py")  # stands in every export, where there is no project
    assert len(mains) >= 11
    for path in (repository / "main.py", *mains):
        assert "run_command(" in path.read_text(), path


# ---- wording ----


def test_values_are_shown_on_one_line_and_cut():
    assert show_value("a\nb\x00") == r"'a\nb\x00'"
    assert show_value([1, {"a": None}]) == "[1, {'a': None}]"
    assert show_value(10**6000) == "an integer of about 6000 digits"
    assert show_value([10**6000]) == "[an integer of about 6000 digits]"
    assert show_value(2**64) == str(2**64)
    assert len(show_value("x" * 100_000)) < 200
    assert len(show_value(["x" * 1000] * 100_000)) < 200
    assert one_line("a\u202eb\ud800\x1b") == r"a\u202eb\ud800\x1b"
    assert one_line("Mädchen 犬") == "Mädchen 犬"
    cut = one_line("x" * 150 + "y" * 150)
    assert cut.startswith("x" * 80)
    assert cut.endswith("y (300 characters)")


def test_a_locale_of_ascii_alone_keeps_other_letters(repository: Path):
    """Containers without locales; UTF-8 mode is forbidden, and the command takes it all the same."""
    only_ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "main.py", "config", "--config", "configs/shapes.yaml", "output_dir=läufe/1"]
    done = subprocess.run(command, cwd=repository, env=os.environ | only_ascii, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "output_dir: läufe/1".encode() in done.stdout
