"""The tool that makes small wrong changes: what it changes, what it leaves alone, and what it finds out."""

import json
import textwrap
from pathlib import Path

import pytest

from tools.mutate import __main__ as command
from tools.mutate import runner
from tools.mutate.choosing import Chooser
from tools.mutate.coverage_map import CoverageMap, RecordedTest
from tools.mutate.finding import find_mutants
from tools.mutate.report import read_equivalents
from tools.mutate.sampling import draw, shares, source_files


def changes(source: str, operator: str | None = None) -> set[str]:
    """The changed lines that are offered for a source."""
    mutants = find_mutants("x.py", textwrap.dedent(source))
    return {mutant.after for mutant in mutants if operator in (None, mutant.operator)}


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ("comparison", "y = a < b", {"y = a <= b", "y = a >= b"}),
        ("comparison", "y = a == b != c", {"y = a != b != c", "y = a == b == c"}),
        ("comparison", "y = a is not None", {"y = a is None"}),
        ("comparison", "y = (a) not in (b)", {"y = (a) in (b)"}),
        ("index", "y = x[0], x[-1]", {"y = x[1], x[-1]", "y = x[0], x[-2]"}),
        ("index", "y = x[1:, :n]", {"y = x[2:, :n]", "y = x[1:, :(n) - 1]"}),
        ("index", "y = range(1, n)", {"y = range(2, n)", "y = range(1, (n) - 1)"}),
        ("opposite", "y = scores.argmax(dim=k)", {"y = scores.argmin(dim=k)"}),
        ("opposite", "y = max(a)", {"y = min(a)"}),
        ("opposite", "y = np.any(a)", {"y = np.all(a)"}),
        ("opposite", "y = a.sum() + sum(b)", {"y = a.mean() + sum(b)"}),
        ("sign", "y = a + b * c", {"y = a - b * c", "y = a + b / c"}),
        ("sign", "y = a // b", {"y = a * b"}),
        ("sign", "y += -a", {"y -= -a", "y += a"}),
        ("number", "y = 0, 3", {"y = 1, 3", "y = 0, 6", "y = 0, 4"}),
        ("truth", "f(x, flag=True)", {"f(x, flag=False)"}),
        ("call", "x.append(1)", {"pass"}),
        ("call", "y = (a - b).abs().sum()", {"y = (a - b).sum()"}),
        ("call", "y = sorted(names, key=len)", {"y = (names)"}),
        ("call", "y = text.strip().lower()", {"y = text.lower()", "y = text.strip()"}),
        ("axis", "y = x.sum(dim=-1)", {"y = x.sum(dim=-2)"}),
        ("axis", "y = x.mean(axis=(0, 1))", {"y = x.mean(axis=(1, 1))", "y = x.mean(axis=(0, 0))"}),
        ("axis", 'y = rearrange(x, "b c -> c b")', {'y = rearrange(x, "b c -> b c")'}),
        ("axis", "height, width = size", {"width, height = size"}),
        ("axis", "def f(h, w):\n    return h, w", {"return w, h"}),
        ("logic", "y = a and not b", {"y = a or not b", "y = a and b"}),
        ("logic", "y = a & b", {"y = a | b"}),
        ("arguments", "y = overlap(ours, theirs)", {"y = overlap(theirs, ours)"}),
        ("condition", "if a:\n    y = b", {"if True:", "if False:"}),
        ("condition", "y = [a for a in b if a]", {"y = [a for a in b if True]", "y = [a for a in b if False]"}),
        ("loop", "for a in b:\n    continue", {"break"}),
    ],
)
def test_an_operator_changes_what_it_says_and_nothing_else(operator, before, after):
    assert changes(before, operator) == after


def test_only_the_span_changes_whatever_stands_before_it_in_the_line():
    source = 'name = "Überlänge"; y = (a  # not < here\n     < b)  # noqa\n'
    mutants = {mutant.replacement: mutant for mutant in find_mutants("x.py", source)}
    assert mutants["<="].apply(source) == source.replace("     < b", "     <= b")
    assert mutants["<="].line == 2


@pytest.mark.parametrize(
    "source",
    [
        '"""Text of 3 lines."""',
        'class A:\n    x: Float[Tensor, "time 3"]\n    """At least 1."""',
        "import a.b as c",
        'def f(x: Annotated[int, 3] = None) -> Literal[1, 2]:\n    """Sums 1 and 2."""',
        "Mode = Literal[1, 2]",
        'logger.info("%d", 1 + 2)',
        "self.logger.warning(1)",
        "logging.getLogger(name).setLevel(10)",
        "warnings.warn(message, stacklevel=2)",
        'raise ValueError(f"{1 + x}" + str(not y))',
        "assert x < 3",
        "@decorator(frozen=True)\nclass A:\n    pass",
        "class A:\n    def __repr__(self):\n        return str(1 + 2)",
        "if TYPE_CHECKING:\n    x = 1",
        'if __name__ == "__main__":\n    x = 1',
        "y = tqdm(x, total=3)",
        "y = x.to(device, non_blocking=True)",
        "y = zip(a, b, c, strict=True)",
        "super().__init__()",
    ],
)
def test_what_no_test_could_see_is_left_alone(source):
    assert changes(source) == set()


def test_the_condition_of_an_error_is_changed_though_its_text_is_not():
    assert changes("if x < 3:\n    raise ValueError(1)") >= {"if x <= 3:", "if True:"}


SOURCES = {
    "long.py": "".join(f"a{i} = b < {i + 2}\n" for i in range(60)),
    "short.py": "y = a + b\nz = a and b\n",
    "empty.py": '"""Nothing here."""\n',
}


def test_the_seed_decides_what_is_drawn():
    drawn = draw(SOURCES, seed=7, count=20)
    assert drawn == draw(dict(reversed(SOURCES.items())), seed=7, count=20)
    assert len(set(drawn)) == 20
    assert drawn != draw(SOURCES, seed=8, count=20)


def test_files_have_shares_by_length_and_at_least_one():
    files = [mutant.file for mutant in draw(SOURCES, seed=1, count=20)]
    assert (files.count("long.py"), files.count("short.py")) == (19, 1)
    lines = [mutant.line for mutant in draw(SOURCES, seed=1, count=20) if mutant.file == "long.py"]
    assert len(set(lines)) == 19
    assert shares({"a": 300, "b": 100, "c": 1}, 9, None) == {"a": 6, "b": 2, "c": 1}


def test_all_that_there_is_comes_where_more_is_asked_for():
    assert len(draw({"short.py": SOURCES["short.py"]}, seed=1, count=50)) == 2


def test_mutants_that_change_nothing_are_not_drawn():
    assert [mutant.after for mutant in draw({"x.py": "y = 5 - 0\n"}, seed=1, count=9)] != []
    assert "y = 5 + 0" not in {mutant.after for mutant in draw({"x.py": "y = 5 - 0\n"}, seed=1, count=9)}


def test_the_choice_of_the_query_is_among_the_mutants(repository):
    wanted = 0
    for file in source_files(repository, ["models"]):
        source = (repository / file).read_text()
        offered = {mutant.after for mutant in find_mutants(file, source)}
        for line in source.splitlines():
            if ".argmax(" in line and "scores" in line:
                wanted += 1
                assert line.strip().replace(".argmax(", ".argmin(") in offered
    assert wanted


CALCULATION = """\
LIMIT = 3


def add(a, b=2):
    return a + b


def is_large(a):
    return a > LIMIT


def count_down(n):
    while n:
        n -= 1
    return n


def unseen(a):
    return a - 1


def from_outside(a):
    return a / 2
"""

CALCULATION_TESTS = """\
import inspect
import subprocess
import sys

import pytest

from calc import add, count_down, is_large


@pytest.fixture(scope="module")
def three():
    return add(1, 2)


def test_uses_the_sum_first(three):
    assert three


def test_adds(three):
    assert three == 3


def test_four_is_large():
    assert is_large(4)


def test_two_is_added():
    assert inspect.signature(add).parameters["b"].default == 2


def test_counts_down():
    assert count_down(3) == 0


def test_from_outside():
    code = "from calc import from_outside; assert from_outside(4) == 2"
    subprocess.run([sys.executable, "-c", code], check=True)
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of one module, with a test too few."""
    (tmp_path / "calc.py").write_text(CALCULATION)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_calc.py").write_text(CALCULATION_TESTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "PRELOADED", ())
    monkeypatch.setattr(runner, "LEAST_LIMIT_SECONDS", 1.5)
    return tmp_path


@pytest.mark.slow
def test_a_run_tells_which_mutants_no_test_sees(project, capsys):
    report = project / "report.json"
    arguments = ["--roots", "calc.py", "--count", "99", "--json", str(report), "--markdown", str(project / "report.md")]
    assert command.main(arguments) == 1
    assert (project / "calc.py").read_text() == CALCULATION
    verdicts = {entry["after"]: entry for entry in json.loads(report.read_text())["mutants"]}

    def outcome(after):
        return verdicts[after]["verdict"], verdicts[after]["by"].rpartition("::")[2], verdicts[after]["detail"]

    assert outcome("return a - b")[:2] == ("killed", "test_adds")  # the sum is made in a fixture of two tests
    assert outcome("LIMIT = 6")[:2] == ("killed", "test_four_is_large")
    assert outcome("return a * 2")[:2] == ("killed", "test_from_outside")
    assert outcome("def add(a, b=3):")[:2] == ("killed", "test_two_is_added")
    assert outcome("n += 1")[:2] == ("timeout", "test_counts_down")
    assert outcome("return a >= LIMIT") == ("survived", "", "")
    assert outcome("return a + 1") == ("survived", "", "no test executes this line")
    assert "**survived**: no test executes this line" in (project / "report.md").read_text()

    # the map is brought up to date for tests that changed; what survived is tried again, and only that
    with (project / "tests" / "test_calc.py").open("a") as file:
        file.write("\n\ndef test_the_limit_is_not_large():\n    assert not is_large(3)\n")
    capsys.readouterr()
    assert command.main(["--roots", "calc.py", "--only-survivors", str(report), "--json", str(report)]) == 1
    assert "recording 7 of 7 tests" in capsys.readouterr().out
    verdicts = {entry["after"]: entry for entry in json.loads(report.read_text())["mutants"]}
    assert outcome("return a >= LIMIT")[:2] == ("killed", "test_the_limit_is_not_large")
    assert "return a - b" not in verdicts

    # those known to be the same program do not count
    known = [
        f'original = "{entry["before"]}"\nmutated = "{entry["after"]}"\n'
        for entry in verdicts.values()
        if entry["verdict"] == "survived"
    ]
    entries = (f'[[equivalent]]\nfile = "calc.py"\nreason = "-"\n{texts}' for texts in known)
    (project / "known.toml").write_text("".join(entries))
    arguments = ["--roots", "calc.py", "--only-survivors", str(report), "--equivalents", "known.toml"]
    assert command.main(arguments) == 0
    assert f"{len(known)} equivalent" in capsys.readouterr().out


def test_tests_that_pass_no_more_kill_nothing(project, capsys, monkeypatch):
    (project / "conftest.py").write_text("import os\nassert 'BROKEN' not in os.environ\n")
    command.main(["--roots", "calc.py", "--count", "1"])
    monkeypatch.setenv("BROKEN", "1")
    capsys.readouterr()
    assert command.main(["--roots", "calc.py", "--count", "1"]) == 2
    assert "does not pass without any mutant (the process ended with code 4)" in capsys.readouterr().err


def test_an_equivalent_needs_a_reason(tmp_path):
    path = tmp_path / "known.toml"
    path.write_text('[[equivalent]]\nfile = "a.py"\noriginal = "x"\nmutated = "y"\n')
    with pytest.raises(ValueError, match="entry 1 lacks reason"):
        read_equivalents(path)


def test_a_file_that_is_not_a_source_is_an_error(project, capsys):
    assert command.main(["--roots", "calc.py", "--files", "tests", "--list"]) == 2
    assert "tests/test_calc.py: not below calc.py" in capsys.readouterr().err


def test_a_field_is_tried_with_the_tests_of_its_class_before_those_of_its_name():
    source = "class Weights:\n    box: float = 2.0\n\ndef area(box):\n    return box.area\n"
    tests = {
        "t/a.py::box": 50.0,
        "t/b.py::weights": 5.0,
        "t/c.py::key": 20.0,
        "t/d.py::other": 0.1,
        "t/e.py::late": 90.0,
    }
    sources = {"t/a.py": "area(box)", "t/b.py": "Weights()", "t/c.py": "f(box=1)", "t/d.py": "f(1)", "t/e.py": "box"}
    coverage = CoverageMap({name: RecordedTest(cost, ()) for name, cost in tests.items()}, (), (), {}, {}, {})
    (mutant, *_) = find_mutants("x.py", source)
    assert mutant.before == "box: float = 2.0"
    chosen = Chooser(coverage, {"x.py": source}, sources).choose(mutant)
    assert chosen == ["t/b.py::weights", "t/c.py::key", "t/a.py::box"], "no more once a minute is spent"
