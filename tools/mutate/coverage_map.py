"""Which tests execute which line: recorded once with coverage.py, kept in a file, brought up to date by need."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.mutate.tree import copy_tree, environment_of_tests, tracked_files
from tools.mutate.worker import FIXTURE_PREFIX

WORKER = Path(__file__).with_name("worker.py")

VERSION = 1
"""Of the file that holds the map."""

AT_IMPORT = ""
"""Context of lines that run while modules are imported."""


@dataclass(frozen=True, slots=True)
class RecordedTest:
    """One test that passes without any mutant.

    Attributes:
        seconds: of its body, under coverage.
        fixtures: the shared ones that it uses.
    """

    seconds: float
    fixtures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CoverageMap:
    """What was recorded.

    Attributes:
        tests: node id to test; those that fail or are skipped without any mutant are not among them.
        failing: node ids of tests that fail without any mutant: they can prove nothing.
        skipped: node ids of tests that were skipped.
        fixtures: shared fixture to seconds of its set-up.
        lines: file to line to contexts: node ids, `fixture:` and a shared fixture, or `AT_IMPORT`.
        hashes: file to hash of what was recorded: sources, tests and settings.
    """

    tests: dict[str, RecordedTest]
    failing: tuple[str, ...]
    skipped: tuple[str, ...]
    fixtures: dict[str, float]
    lines: dict[str, dict[int, tuple[str, ...]]]
    hashes: dict[str, str]

    def tests_of(self, contexts: Iterable[str]) -> set[str]:
        """Tests of these contexts; a shared fixture stands for all tests that use it."""
        names = set(contexts)
        shared = {name.removeprefix(FIXTURE_PREFIX) for name in names if name.startswith(FIXTURE_PREFIX)}
        users = {name for name, test in self.tests.items() if not shared.isdisjoint(test.fixtures)} if shared else set()
        return users | (names & self.tests.keys())

    def tests_of_lines(self, file: str, lines: Iterable[int]) -> set[str]:
        """Tests that execute at least one of the lines."""
        by_line = self.lines.get(file, {})
        return self.tests_of({context for line in lines for context in by_line.get(line, ())})

    def tests_of_file(self, file: str) -> set[str]:
        """Tests that execute anything of a file."""
        return self.tests_of_lines(file, self.lines.get(file, {}))

    def cost(self, name: str) -> float:
        """Seconds of a test run alone."""
        test = self.tests[name]
        return test.seconds + sum(self.fixtures.get(fixture, 0.0) for fixture in test.fixtures)

    def fastest_first(self, names: Iterable[str]) -> list[str]:
        """An order in which cheap tests come early and those that share an expensive fixture stay together."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            shared = [fixture for fixture in self.tests[name].fixtures if self.fixtures.get(fixture, 0.0) > 0.05]
            groups.setdefault((name.split("::", maxsplit=1)[0], *shared) if shared else (name,), []).append(name)
        ordered = [sorted(group, key=lambda name: (self.tests[name].seconds, name)) for group in groups.values()]
        ordered.sort(key=lambda group: (self.cost(group[0]), group[0]))
        return [name for group in ordered for name in group]

    def to_json(self) -> dict[str, Any]:
        """Node ids are stored once and referred to by number."""
        contexts = sorted(
            {context for lines in self.lines.values() for of_line in lines.values() for context in of_line}
        )
        number = {context: i for i, context in enumerate(contexts)}
        return {
            "version": VERSION,
            "tests": {name: [round(test.seconds, 4), list(test.fixtures)] for name, test in self.tests.items()},
            "failing": list(self.failing),
            "skipped": list(self.skipped),
            "fixtures": self.fixtures,
            "contexts": contexts,
            "lines": {
                file: {str(line): [number[context] for context in of_line] for line, of_line in lines.items()}
                for file, lines in self.lines.items()
            },
            "hashes": self.hashes,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CoverageMap":
        """The reverse of `to_json`."""
        contexts = stored["contexts"]
        return cls(
            tests={
                name: RecordedTest(seconds, tuple(fixtures)) for name, (seconds, fixtures) in stored["tests"].items()
            },
            failing=tuple(stored["failing"]),
            skipped=tuple(stored["skipped"]),
            fixtures=dict(stored["fixtures"]),
            lines={
                file: {int(line): tuple(contexts[i] for i in numbers) for line, numbers in lines.items()}
                for file, lines in stored["lines"].items()
            },
            hashes=dict(stored["hashes"]),
        )


def up_to_date_map(
    root: Path, path: Path, *, roots: Sequence[str], marked: str, refresh: bool, say: Callable[[str], None]
) -> CoverageMap:
    """The map of the present sources and tests: from the file, recorded anew where files changed since.

    Args:
        root: of the repository.
        path: where the map is kept.
        roots: what is mutated, and so watched.
        marked: pytest's `-m`.
        refresh: record everything anew.
        say: called with a sentence on what takes time.

    Raises:
        ValueError: if the tests cannot be run.
    """
    hashes = {**file_hashes(root), "(marked)": marked, "(roots)": " ".join(roots)}
    old = None if refresh else read_map(path)
    if old is not None and old.hashes == hashes:
        return old
    arguments = ["-m", marked] if marked else []
    if old is not None and (stale := stale_tests(old, hashes)) is not None:
        names = collect(root, arguments)
        kept = names & {*old.tests, *old.failing, *old.skipped} - stale
        say(f"recording {len(names - kept)} of {len(names)} tests: their code changed")
        new = record(root, roots, arguments, sorted(names - kept), hashes) if names - kept else None
        result = merged(old, kept, new, hashes)
    else:
        say("recording which test executes which line; this runs all tests once")
        result = record(root, roots, arguments, None, hashes)
    if not result.tests:
        raise ValueError("no test passes without any mutant; run pytest and mend the tests first")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.to_json()))
    return result


def read_map(path: Path) -> CoverageMap | None:
    """The map in a file; None if there is none, or one that another version of this module wrote."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return CoverageMap.from_json(stored) if stored.get("version") == VERSION else None


def file_hashes(root: Path) -> dict[str, str]:
    """Hash of every Python file and of pytest's settings; after changes of other files, `--refresh` is at hand."""
    own = Path(__file__).resolve().parent
    paths = [root / name for name in tracked_files(root) if name.endswith(".py") or name == "pyproject.toml"]
    paths = [path for path in paths if not path.resolve().is_relative_to(own)]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths}


def stale_tests(old: CoverageMap, hashes: Mapping[str, str]) -> set[str] | None:
    """Recorded tests that may behave otherwise now; None if that may be all of them."""
    changed = {name for name in hashes.keys() | old.hashes.keys() if hashes.get(name) != old.hashes.get(name)}
    stale: set[str] = set()
    for name in changed:
        if Path(name).name.startswith("test_"):
            stale |= {test for test in (*old.tests, *old.failing, *old.skipped) if test.split("::")[0] == name}
        elif name in old.lines:
            stale |= old.tests_of_file(name)
        elif name in old.hashes:
            return None  # help of tests, settings, or a file that is not watched
    return stale


def merged(old: CoverageMap, kept: set[str], new: CoverageMap | None, hashes: dict[str, str]) -> CoverageMap:
    """What is still true of the old map, with what was recorded now."""
    tests = {name: test for name, test in old.tests.items() if name in kept}
    contexts = {AT_IMPORT, *tests, *(FIXTURE_PREFIX + fixture for test in tests.values() for fixture in test.fixtures)}
    lines: dict[str, dict[int, set[str]]] = {
        file: {line: contexts.intersection(of_line) for line, of_line in by_line.items()}
        for file, by_line in old.lines.items()
        if old.hashes.get(file) == hashes.get(file)
    }
    for file, by_line in (new.lines if new else {}).items():
        for line, of_line in by_line.items():
            lines.setdefault(file, {}).setdefault(line, set()).update(of_line)
    return CoverageMap(
        tests={**tests, **(new.tests if new else {})},
        failing=(*(name for name in old.failing if name in kept), *(new.failing if new else ())),
        skipped=(*(name for name in old.skipped if name in kept), *(new.skipped if new else ())),
        fixtures={**old.fixtures, **(new.fixtures if new else {})},
        lines={
            file: {line: tuple(sorted(of_line)) for line, of_line in sorted(by_line.items())}
            for file, by_line in sorted(lines.items())
        },
        hashes=hashes,
    )


def collect(root: Path, arguments: Sequence[str]) -> set[str]:
    """Node ids of all tests."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run([*command, "-o", "addopts="], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"pytest cannot collect the tests:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return {line.strip() for line in done.stdout.splitlines() if "::" in line}


def record(
    root: Path, roots: Sequence[str], arguments: Sequence[str], only: Sequence[str] | None, hashes: dict[str, str]
) -> CoverageMap:
    """Run the tests, or `only` some of them, in a copy of the tree under coverage.py."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder, tree = Path(name), Path(name) / "tree"
        copy_tree(root, tree)
        result = folder / "result.json"
        (folder / "coverage").mkdir()
        job = {
            "include": [source if source.endswith(".py") else f"{source}/*" for source in roots],
            "folder": str(folder / "coverage"),
            "arguments": [*arguments, *dict.fromkeys(test.split("::")[0] for test in only or ())],
            "only": only,
            "result": str(result),
        }
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-P", str(WORKER), "record", str(folder / "job.json")]
        environment = environment_of_tests(folder / "tmp")
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if not result.is_file():
            raise ValueError(f"the tests cannot be recorded:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        recorded = json.loads(result.read_text())
    return from_record(recorded, hashes)


def from_record(recorded: Mapping[str, Any], hashes: dict[str, str]) -> CoverageMap:
    """What the worker wrote, as a map."""
    named: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for name, test in recorded["tests"].items():
        named[test["outcome"]].append(name)
    tests = recorded["tests"]
    return CoverageMap(
        tests={name: RecordedTest(tests[name]["seconds"], tuple(tests[name]["fixtures"])) for name in named["passed"]},
        failing=tuple(named["failed"]),
        skipped=tuple(named["skipped"]),
        fixtures=recorded["fixtures"],
        lines={
            file: {int(line): tuple(contexts) for line, contexts in lines.items()}
            for file, lines in recorded["lines"].items()
        },
        hashes=hashes,
    )
