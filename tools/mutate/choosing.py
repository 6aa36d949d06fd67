"""Which tests may see a mutant: those that execute its line, or depend on what it sets at import."""

import ast
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from tools.mutate.coverage_map import AT_IMPORT, CoverageMap
from tools.mutate.operators import Mutant

IMPORT_BUDGET_SECONDS = 60.0
"""Normal time of the tests that are tried for a line that runs at import: there may be hundreds of them."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class _Passage:
    """A function, or a statement outside functions.

    Attributes:
        file: where it is.
        lines: of its body; none for a statement, which runs at import.
        uses: names that it reads, also behind a dot.
        sets: names that it defines.
    """

    file: str
    lines: range
    uses: frozenset[str]
    sets: frozenset[str]


class Chooser:
    """Finds the tests for one mutant after another.

    Args:
        coverage: the recorded map.
        sources: path to text of everything that is mutated.
        test_sources: path to text of every file with a test.
    """

    def __init__(self, coverage: CoverageMap, sources: Mapping[str, str], test_sources: Mapping[str, str]) -> None:
        self.coverage = coverage
        self.names_in_tests = {file: frozenset(_uses(ast.parse(text))) for file, text in test_sources.items()}
        self.trees = {file: ast.parse(text) for file, text in sources.items()}
        self.passages = [passage for file, tree in self.trees.items() for passage in _passages(file, tree)]

    def choose(self, mutant: Mutant) -> list[str]:
        """Tests that execute the mutated line, fastest first; empty if none does.

        A line that runs at import sets a name (a constant, a field, a default): the tests are those of files that use
        the name, or for a field its class, and those that execute a function which uses it, or else those that
        execute anything of the file, up to `IMPORT_BUDGET_SECONDS`. Files that use the class come first: `box` is a
        name of many things, `LossWeights` is not.
        """
        tree, by_line = self.trees[mutant.file], self.coverage.lines.get(mutant.file, {})
        functions = [node for node in holders(tree, mutant.line) if isinstance(node, FunctionNode)]
        if not functions or mutant.line < functions[-1].body[0].lineno:
            owners = {node.name for node in holders(tree, mutant.line) if isinstance(node, ast.ClassDef)}
            return self._tests_of_names(mutant.file, names_set_at(tree, mutant.line), owners=owners)
        lines = statement_lines(tree, mutant.line)
        tests = self.coverage.tests_of_lines(mutant.file, range(mutant.line, mutant.last_line + 1))
        tests = tests or self.coverage.tests_of_lines(mutant.file, lines)
        if not tests and any(AT_IMPORT in by_line.get(line, ()) for line in lines):
            return self._tests_of_names(mutant.file, {functions[-1].name})
        return self.coverage.fastest_first(tests)

    def _tests_in_files_that_use(self, names: Set[str]) -> set[str]:
        files = {file for file, used in self.names_in_tests.items() if not names.isdisjoint(used)}
        return {name for name in self.coverage.tests if name.split("::")[0] in files}

    def _tests_of_names(self, file: str, names: set[str], *, owners: Set[str] = frozenset()) -> list[str]:
        """Tests that look at one of the names or their classes, or at a constant made of one."""
        known: set[str] = set()
        first = self._tests_in_files_that_use(owners or names)
        tests = self._tests_in_files_that_use(names)
        waiting = set(names)
        while waiting:
            users = [passage for passage in self.passages if not waiting.isdisjoint(passage.uses)]
            for passage in [*users, *(passage for passage in self.passages if not waiting.isdisjoint(passage.sets))]:
                tests |= self.coverage.tests_of_lines(passage.file, passage.lines)
            known |= waiting
            waiting = {name for passage in users if not passage.lines for name in passage.sets} - known
        chosen, spent = [], 0.0
        rest = (tests - first) or (set() if first else self.coverage.tests_of_file(file))
        for name in [*self.coverage.fastest_first(first), *self.coverage.fastest_first(rest)]:
            if spent > IMPORT_BUDGET_SECONDS:
                break
            chosen.append(name)
            spent += self.coverage.tests[name].seconds
        return chosen


def holders(tree: ast.AST, line: int) -> list[ast.stmt]:
    """Statements, functions and classes among them, that hold a line, from the outermost to the innermost."""
    return [
        node for node in _statements(tree) if node.lineno <= line <= (node.end_lineno or node.lineno)
    ]  # a parent comes before its children


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        yield from _statements(node)


def statement_lines(tree: ast.AST, line: int) -> range:
    """Lines of the statement that holds a line; of a compound one those above its body."""
    statement = holders(tree, line)[-1]
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else (statement.end_lineno or statement.lineno)
    return range(statement.lineno, max(statement.lineno, last) + 1)


def names_set_at(tree: ast.AST, line: int) -> set[str]:
    """Names that a line outside functions sets: a constant or field, else the function or class that it belongs to."""
    around = holders(tree, line)
    if names := set(_targets(around[-1])):
        return names
    named = [node.name for node in around if isinstance(node, FunctionNode | ast.ClassDef)]
    return {name for name in named if name != "__init__"} if named[-1:] == ["__init__"] else set(named[-1:])


def _targets(statement: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.Attribute):
                yield node.attr


def _passages(file: str, tree: ast.Module) -> Iterator[_Passage]:
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            lines = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
            yield _Passage(file, lines, frozenset(_uses(node)), frozenset({node.name}))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for statement in [*tree.body, *(statement for node in classes for statement in node.body)]:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            yield _Passage(file, range(0), frozenset(_uses(statement)), frozenset(_targets(statement)))


def _uses(node: ast.AST) -> Iterable[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.keyword) and part.arg is not None:
            yield part.arg
