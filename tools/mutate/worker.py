"""The process that runs tests in a copy of the repository. Started as a file, so it imports nothing of the project.

`record` runs the tests once under coverage.py and writes which test executes which line. `serve` imports the large
libraries once, then forks for every mutant that it is told of: the child finds them imported already.
"""

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

CONTEXT_VARIABLE = "MUTATE_CONTEXT"

FIXTURE_PREFIX = "fixture:"
"""Contexts of fixtures that several tests share."""

PYTEST_ARGUMENTS = ("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--no-header", "--tb=line")

STARTUP_SECONDS = 180.0
"""Until the first test starts: imports and collection."""

PATIENCE_SECONDS = 3.0
"""Between the request to end and the end by force."""


def use_quiet_hypothesis() -> None:
    """The same examples in every run, and no search for the smallest failing one, which may take minutes."""
    try:
        from hypothesis import Phase, settings  # a project may do without
    except ImportError:
        return
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutate", phases=phases, derandomize=True, database=None, deadline=None)
    settings.load_profile("mutate")


class Recorder:
    """Pytest plugin: names the test, or the shared fixture, that coverage counts lines for.

    Attributes:
        tests: node id to seconds, outcome and shared fixtures.
        fixtures: shared fixture to seconds of its set-up.
    """

    def __init__(self, coverage: Any, only: Sequence[str] | None) -> None:
        self.coverage = coverage
        self.only = None if only is None else set(only)
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, float] = {}
        self.context = ""

    def switch(self, context: str) -> None:
        """Count lines for this context, also those of processes started from now on."""
        self.context = context
        self.coverage.switch_context(context)
        os.environ[CONTEXT_VARIABLE] = context

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what is recorded already."""
        if self.only is not None:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.only])
            items[:] = [item for item in items if item.nodeid in self.only]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Everything during this test belongs to it."""
        clear_caches()
        shared = [
            fixture_key(definitions[-1])
            for definitions in item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
            if definitions[-1].scope != "function"
        ]
        self.tests[item.nodeid] = {"seconds": 0.0, "outcome": "passed", "fixtures": sorted(shared)}
        self.switch(item.nodeid)
        try:
            return (yield)
        finally:
            self.switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """A shared fixture belongs to all tests that use it, not to the first of them."""
        if fixturedef.scope == "function":
            return (yield)
        before, key, start = self.context, fixture_key(fixturedef), time.perf_counter()
        self.switch(FIXTURE_PREFIX + key)
        try:
            return (yield)
        finally:
            self.fixtures[key] = max(self.fixtures.get(key, 0.0), time.perf_counter() - start)
            self.switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how long it took and how it ended."""
        test = self.tests[report.nodeid]
        if report.when == "call":
            test["seconds"] += report.duration
        if report.outcome != "passed":
            test["outcome"] = report.outcome


def fixture_key(definition: Any) -> str:
    """Where a fixture is defined, and its name."""
    return f"{definition.baseid}::{definition.argname}"


def clear_caches() -> None:
    """Empty the caches of functions of the repository: their lines run in every test, not in the first only."""
    root = str(Path.cwd()) + os.sep
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None) or "").startswith(root):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)) and hasattr(value, "cache_info"):
                    value.cache_clear()


def record(job: dict[str, Any]) -> None:
    """Run the tests under coverage.py; write tests, fixtures and the lines that each executes.

    Args:
        job: `include` (patterns of files to watch), `folder` (for coverage's own files), `arguments` (of pytest),
            `only` (node ids, or null for all), `result` (file to write).
    """
    import coverage  # needed here only, and not for serving

    root, folder = Path.cwd(), Path(job["folder"])
    settings = folder / "coverage.ini"
    settings.write_text(
        "[run]\n"
        f"data_file = {folder / 'data'}\n"
        "concurrency = thread,multiprocessing\n"
        "parallel = true\n"
        "disable_warnings = no-data-collected,module-not-measured,already-imported\n"
        f"context = ${{{CONTEXT_VARIABLE}-}}\n"
        "include =\n" + "".join(f"    {root / pattern}\n" for pattern in job["include"])
    )
    os.environ.pop(CONTEXT_VARIABLE, None)
    measured = coverage.Coverage(config_file=str(settings))
    os.environ["COVERAGE_PROCESS_START"] = str(settings)
    use_quiet_hypothesis()
    recorder = Recorder(measured, job["only"])
    measured.start()
    code = pytest.main([*PYTEST_ARGUMENTS, *job["arguments"]], plugins=[recorder])
    measured.stop()
    measured.save()
    measured.combine()
    data = measured.get_data()
    lines = {}
    for name in sorted(data.measured_files()):
        by_line = data.contexts_by_lineno(name)
        lines[Path(name).relative_to(root).as_posix()] = {line: sorted(by_line[line]) for line in sorted(by_line)}
    Path(job["result"]).write_text(
        json.dumps({"code": int(code), "tests": recorder.tests, "fixtures": recorder.fixtures, "lines": lines})
    )


class Reporter:
    """Pytest plugin: runs the chosen tests in the given order and tells the parent process of each."""

    def __init__(self, pipe: int, order: Sequence[str]) -> None:
        self.pipe = pipe
        self.order = {test: place for place, test in enumerate(order)}

    def tell(self, event: str, test: str, detail: str = "") -> None:
        """One line of JSON to the parent."""
        os.write(self.pipe, (json.dumps([event, test, detail[:300]]) + "\n").encode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the chosen tests, fastest first."""
        chosen = [item for item in items if item.nodeid in self.order]
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.order])
        items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported any more."""
        if report.failed:
            self.tell("failed", report.nodeid, last_line(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test starts."""
        self.tell("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test failed, or its set-up did."""
        if report.failed:
            self.tell("failed", report.nodeid, last_line(report.longreprtext))


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def run_child(job: dict[str, Any], pipe: int, log: Path, temporary: Path) -> None:
    """In the forked process: run the chosen tests and exit with pytest's code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    files = list(dict.fromkeys(test.split("::")[0] for test in job["tests"]))
    arguments = [*PYTEST_ARGUMENTS, "-x", f"--basetemp={temporary}", *files]
    code = 70
    try:
        code = int(pytest.main(arguments, plugins=[Reporter(pipe, job["tests"])]))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def watch(child: int, pipe: IO[bytes], limits: dict[str, float]) -> dict[str, Any]:
    """Follow a child until it ends or one of its tests takes too long."""
    deadline, current, buffer = time.monotonic() + STARTUP_SECONDS, "(start)", b""
    failed: list[str] | None = None
    count, status = 0, None
    while True:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
        while select.select([pipe], [], [], 0.0 if ended else 0.1)[0]:
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                break
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for event, test, detail in map(json.loads, lines):
                if event == "start":
                    count, current, deadline = count + 1, test, time.monotonic() + limits[test]
                elif failed is None:
                    failed = [test, detail]
        if ended or time.monotonic() > deadline:
            break
    end_group(child, is_running=status is None)
    if failed is not None:
        return {"verdict": "killed", "by": failed[0], "detail": failed[1], "ran": count}
    if status is None:
        return {"verdict": "timeout", "by": current, "detail": "took too long", "ran": count}
    code = os.waitstatus_to_exitcode(status)
    if code == pytest.ExitCode.OK:
        return {"verdict": "survived", "by": "", "detail": "", "ran": count}
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return {"verdict": "error", "by": "", "detail": "pytest found none of the chosen tests", "ran": 0}
    return {"verdict": "killed", "by": current, "detail": f"the process ended with code {code}", "ran": count}


def end_group(child: int, *, is_running: bool) -> None:
    """End a child and what it started; politely first, so that starters of processes end theirs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGTERM)
        until = time.monotonic() + PATIENCE_SECONDS
        while is_running and time.monotonic() < until:
            is_running = os.waitpid(child, os.WNOHANG)[0] == 0
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
    if is_running:
        os.waitpid(child, 0)


def forget_bytecode(path: Path) -> None:
    """Remove compiled versions of a file: one of the same size and second would be taken for current."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def try_mutant(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Put a mutated file in place, run the chosen tests in a child, put the original back."""
    path, temporary = Path(job["file"]), folder / "pytest"
    original, start = path.read_bytes(), time.monotonic()
    reader, writer = os.pipe()
    try:
        forget_bytecode(path)
        path.write_bytes(job["source"].encode())
        child = os.fork()
        if child == 0:
            os.close(reader)
            run_child(job, writer, folder / "log.txt", temporary)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            outcome = watch(child, pipe, job["limits"])
    finally:
        path.write_bytes(original)
        shutil.rmtree(temporary, ignore_errors=True)
    return {**outcome, "seconds": round(time.monotonic() - start, 2)}


def serve(job: dict[str, Any]) -> None:
    """Import the libraries, then answer one line of JSON (a mutant) with another (the outcome), until the input ends.

    Args:
        job: `preload` (modules, those that are not installed are skipped), `folder` (for temporary files and the log).
    """
    for name in job["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    use_quiet_hypothesis()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(try_mutant(json.loads(line), Path(job["folder"]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    {"record": record, "serve": serve}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
