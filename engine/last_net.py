"""How every command ends: with an exit code, and one message where it could not do its work (docs/exit_codes.md).

`run_command` stands between a command and Python: what a user or the machine has caused becomes one message, and what
is left is a fault of the program, which is said, and written to a log file with all that is needed to mend it.
"""

import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.machine_limits import LESS_MEMORY, describe_limit
from structures.wording import MOST_CHARACTERS_OF_LINE, one_line

EXIT_BAD_INPUT = 2
EXIT_FAULT = 70  # EX_SOFTWARE in sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_NOBODY_READS = 141  # 128 + SIGPIPE

MOST_LINES = 60
"""Of a message."""


@dataclass
class Command:
    """A command that runs.

    Attributes:
        program: as a user starts it.
        arguments: what follows.
        output_folder: takes the log of a fault, once the command knows it and it is there.
        less_memory: what can be done where memory is used up.
        after_interruption: what can be done after Ctrl-C.
    """

    program: str
    arguments: list[str] = field(default_factory=list)
    output_folder: Path | None = None
    less_memory: str = LESS_MEMORY
    after_interruption: str = ""

    @property
    def line(self) -> str:
        """Program and arguments, as a shell reads them."""
        return f"{self.program} {shlex.join(self.arguments)}".strip()


def run_command(
    body: Callable[[Command], int], *, program: str, arguments: Sequence[str] | None, prefix: str = "error"
) -> int:
    """Runs a command, and turns what stops it into one message.

    Args:
        body: does the work; returns the exit code. `SystemExit` goes through with its own code: it is raised on
            purpose, by a parser of arguments, or by training after a signal.
        program: as a user starts it, such as `python main.py`.
        arguments: what follows; None: those of this process.
        prefix: before a message.

    Returns:
        The exit code of docs/exit_codes.md.
    """
    if arguments is None:
        leave_ascii()
    command = Command(program, list(sys.argv[1:] if arguments is None else arguments))
    try:
        prepare_output()
        code = body(command)
        sys.stdout.flush()  # here and not when Python ends: a full disk or a closed pipe is still reported
        return code
    except SystemExit:
        raise
    except KeyboardInterrupt:
        after = f"; {command.after_interruption}" if command.after_interruption else ""
        say(f"\ninterrupted{after}")
        return EXIT_INTERRUPTED
    except BaseException as error:  # noqa: BLE001  # libraries written in Rust raise panics that are no Exception
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return EXIT_NOBODY_READS
        message = describe_limit(error, less_memory=command.less_memory)
        if message is None and isinstance(error, ValueError):
            message = str(error) or type(error).__name__
        if message is None:
            from engine.fault_report import report_fault  # here, because a command without a fault starts faster so

            say(report_fault(error, command=command.line, output_folder=command.output_folder))
            return EXIT_FAULT
        say(f"{prefix}: {readable(message)}")
        give_up_output()
        return EXIT_BAD_INPUT


def leave_ascii() -> None:
    """Starts the program again in the UTF-8 mode of Python where the locale knows ASCII alone, as in some containers.

    Python does so by itself in the locale C, unless `PYTHONUTF8=0` or another setting forbids it; then names and
    sentences with other letters could be neither read from the command line nor written.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def prepare_output() -> None:
    """Lets the console show any text, and be absent (`>&-`), without an error of its own."""
    for name, mode in (("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  # for the whole run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def give_up_output() -> None:
    """Throws away what cannot be written: Python would try once more when it ends, and change the exit code to 120."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def nobody_reads() -> bool:
    """Whether the reader of this process's output has gone (`| head`); then the rest is thrown away.

    A pipe to another process that has ended raises the same error, so the output itself is looked at.
    """
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            number = stream.fileno()
        except OSError:  # no file: a stream of a test or a notebook
            continue
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            gone = True
            with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), number)  # else Python complains when it ends
    return gone


def say(text: str) -> None:
    """Writes a message to the console, if anybody reads it."""
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        nobody_reads()


def readable(message: str) -> str:
    """The message without control characters, and cut where it is the content of a file."""
    lines = [one_line(line, MOST_CHARACTERS_OF_LINE) for line in message.splitlines()]
    rest = [f"... and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + rest)
