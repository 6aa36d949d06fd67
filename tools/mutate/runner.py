"""Tries mutants in several copies of the tree at once, each served by a process that forks for every mutant."""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.mutate.choosing import Chooser
from tools.mutate.coverage_map import WORKER, CoverageMap
from tools.mutate.operators import Mutant
from tools.mutate.tree import copy_tree, environment_of_tests

PRELOADED = (
    *("numpy", "scipy.ndimage", "scipy.optimize", "torch", "torch.utils.data", "torch.utils.checkpoint", "torchvision"),
    *("torchvision.transforms.v2", "torchvision.ops", "transformers", "transformers.models.roberta.modeling_roberta"),
    *("transformers.models.roberta.tokenization_roberta", "tokenizers", "safetensors.torch", "einops", "jaxtyping"),
    *(
        "beartype",
        "beartype.door",
        "pydantic",
        "ruamel.yaml",
        "av",
        "cv2",
        "h5py",
        "PIL.Image",
        "PIL.ImageDraw",
        "tqdm",
    ),
    *("pycocotools.mask", "pycocotools.coco", "pycocotools.cocoeval", "hypothesis", "hypothesis.extra.numpy"),
    *("sortedcontainers", "pytest_timeout", "unittest.mock"),
)
"""Libraries that the tests import and that take long; none of the project."""

LEAST_LIMIT_SECONDS = 30.0
LIMIT_FACTOR = 8.0
"""A test hangs if it takes longer than both allow: this many seconds, this many times its recorded time."""

FIRST_ROUND_SECONDS = 10.0
"""Normal time of the tests of the first round: most mutants are killed by few tests, so not all need be imported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: the change.
        verdict: `killed`, `timeout` (which counts as killed), `survived`, or `error`: the tool could not tell.
        by: the test that failed or hung.
        detail: the last line of its error, or why nothing could see the mutant.
        ran: number of tests that were started.
        seconds: that it took.
    """

    mutant: Mutant
    verdict: str
    by: str
    detail: str
    ran: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Task:
    """A mutant with the file that it makes and the tests that may see it, fastest first."""

    mutant: Mutant
    source: str
    tests: list[str]


def run_mutants(
    root: Path,
    mutants: Sequence[Mutant],
    *,
    sources: dict[str, str],
    coverage: CoverageMap,
    workers: int,
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Try every mutant against the tests that may see it.

    Args:
        root: of the repository; it is copied, never changed.
        mutants: what to try.
        sources: path to text.
        coverage: which test executes which line.
        workers: processes that run at the same time.
        report: called after each, from one thread at a time.

    Returns:
        In the order of `mutants`.
    """
    test_files = {name.split("::")[0] for name in coverage.tests}
    chooser = Chooser(coverage, sources, {name: (root / name).read_text(encoding="utf-8") for name in test_files})
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    outcomes: dict[Mutant, Outcome] = {}
    lock = threading.Lock()
    problems: list[BaseException] = []

    def finish(outcome: Outcome) -> None:
        with lock:
            outcomes[outcome.mutant] = outcome
            report(outcome)

    for mutant in mutants:
        tests = chooser.choose(mutant)
        if tests:
            waiting.put(Task(mutant, mutant.apply(sources[mutant.file]), tests))
        else:
            finish(Outcome(mutant, "survived", "", "no test executes this line", 0, 0.0))

    def work(folder: Path) -> None:
        try:
            with serving(root, folder) as ask:
                require_green(ask, coverage, sources)
                while not problems:
                    try:
                        task = waiting.get_nowait()
                    except queue.Empty:
                        return
                    finish(try_task(task, coverage, ask))
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread of the caller
            problems.append(error)

    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folders = [Path(name) / f"w{number}" for number in range(min(workers, waiting.qsize()))]
        threads = [threading.Thread(target=work, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]
    return [outcomes[mutant] for mutant in mutants]


def require_green(
    ask: Callable[[dict[str, Any]], dict[str, Any]], coverage: CoverageMap, sources: Mapping[str, str]
) -> None:
    """Runs the cheapest test without any mutant: where even that ends badly, every mutant would count as killed.

    Raises:
        ValueError: it does not pass.
    """
    (test, *_) = coverage.fastest_first(coverage.tests)
    file, source = next(iter(sources.items()))
    limits = {test: max(LEAST_LIMIT_SECONDS, LIMIT_FACTOR * coverage.cost(test))}
    answer = ask({"file": file, "source": source, "tests": [test], "limits": limits})
    if answer["verdict"] != "survived":
        raise ValueError(
            f"{test} does not pass without any mutant ({answer['detail']}); is {sys.executable} the interpreter of the "
            "environment in which pytest passes?"
        )


def try_task(task: Task, coverage: CoverageMap, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Outcome:
    """Cheap tests first; the rest only for a mutant that they did not kill."""
    first: list[str] = []
    spent = 0.0
    for test in task.tests:
        spent += coverage.cost(test)
        if first and spent > FIRST_ROUND_SECONDS:
            break
        first.append(test)
    ran, seconds = 0, 0.0
    answer: dict[str, Any] = {}
    for tests in (first, task.tests[len(first) :]):
        if not tests:
            break
        limits = {test: max(LEAST_LIMIT_SECONDS, LIMIT_FACTOR * coverage.cost(test)) for test in tests}
        answer = ask({"file": task.mutant.file, "source": task.source, "tests": tests, "limits": limits})
        ran, seconds = ran + answer["ran"], seconds + answer["seconds"]
        if answer["verdict"] != "survived":
            break
    return Outcome(task.mutant, answer["verdict"], answer["by"], answer["detail"], ran, round(seconds, 1))


@contextmanager
def serving(root: Path, folder: Path) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A worker process in its own copy of the tree; yields the function that hands it a mutant."""
    tree, job = folder / "tree", folder / "job.json"
    folder.mkdir(parents=True)
    copy_tree(root, tree)
    job.write_text(json.dumps({"preload": PRELOADED, "folder": str(folder)}))
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), "serve", str(job)],
            cwd=tree,
            env=environment_of_tests(folder / "tmp"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            line = answers.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"a worker ended:\n{errors.read()[-3000:]}")
            answer: dict[str, Any] = json.loads(line)
            shutil.rmtree(folder / "tmp", ignore_errors=True)
            (folder / "tmp").mkdir()
            return answer

        try:
            yield ask
        finally:
            requests.close()
            process.wait()
