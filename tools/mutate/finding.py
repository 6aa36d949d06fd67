"""Finds the places in a file where an operator applies.

Left alone: docstrings, annotations, imports, decorators, `__repr__`, assertions, log calls, the texts of errors and
warnings, progress bars, and arguments that decide about speed or looks only.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from tools.mutate.code import Code
from tools.mutate.operators import (
    ARITHMETIC,
    AXIS_ARGUMENTS,
    BITS,
    COMPARISONS,
    EINOPS,
    LOGGERS,
    NOT_BUILTIN,
    OPPOSITES,
    PROGRESS_BARS,
    SHAPE_PRESERVING_FUNCTIONS,
    SHAPE_PRESERVING_METHODS,
    SPEED_OR_LOOKS,
    TYPE_TESTS,
    UNARY,
    Mutant,
)


def find_mutants(file: str, source: str) -> list[Mutant]:
    """Every change that the operators offer for a file, in order of their position."""
    finder = _Finder(Code(file, source))
    finder.visit(ast.parse(source))
    return sorted(finder.mutants.values())


class _Statements(ast.NodeVisitor):
    """Walks over statements and collects mutants; what it does not visit is left alone."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.mutants: dict[tuple[int, int, str], Mutant] = {}

    def offer(self, operator: str, node: ast.expr | ast.stmt, *replacements: str) -> None:
        """Replace a whole node."""
        for replacement in replacements:
            self.replace(operator, self.code.start(node), self.code.stop(node), replacement)

    def replace(self, operator: str, start: int, stop: int, replacement: str) -> None:
        """Replace a span of bytes."""
        mutant = self.code.mutant(operator, start, stop, replacement)
        self.mutants.setdefault((start, stop, replacement), mutant)

    def offer_between(
        self, operator: str, left: ast.expr, right: ast.expr, table: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Replace the operator that stands between two operands."""
        tokens = self.code.words_between(self.code.stop(left), self.code.start(right))
        word = " ".join(token.text for token in tokens)
        for replacement in table.get(word, ()):
            self.replace(operator, tokens[0].start, tokens[-1].stop, replacement)

    def swap(self, operator: str, nodes: Sequence[ast.expr]) -> None:
        """Exchange two expressions, as in `height, width`."""
        if len(nodes) != 2 or any(isinstance(node, ast.Starred) for node in nodes):
            return
        first, second = nodes
        between = self.code.between(first, second)
        if "(" in between or ")" in between:
            return
        self.replace(
            operator,
            self.code.start(first),
            self.code.stop(second),
            self.code.of(second) + between + self.code.of(first),
        )

    # what is left alone

    def visit_Import(self, node: ast.Import) -> None:
        """Imports are left alone."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Imports are left alone."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """An assertion states what cannot happen; no input tells a looser one apart."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """The condition that leads here is changed, the text is not."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Before Python 3.12 the tree does not say where in the text an expression stands."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__repr__", "__str__", "extra_repr"):
            return
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._visit_body(node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def _visit_body(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_text:  # a docstring, or the description of a constant or field
                self.visit(statement)

    # statements

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Call):
            if _is_silent(value):
                return
            if not _calls_parent(value):
                self.offer("call", node, "pass")
        self.visit(value)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in self.code.of(node.test) or "__name__" in self.code.of(node.test):
            return
        self.offer("condition", node.test, "True", "False")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.offer("condition", node.test, "True", "False")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.offer("condition", test, "True", "False")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.offer("condition", node.test, "False")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.offer("loop", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self.offer("loop", node, "continue")

    def visit_Return(self, node: ast.Return) -> None:
        if isinstance(node.value, ast.Tuple):
            self.swap("axis", node.value.elts)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Tuple):
            self.swap("axis", node.value.elts)
        else:
            for target in node.targets:
                if isinstance(target, ast.Tuple):
                    self.swap("axis", target.elts)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        augmented = {f"{old}=": (f"{new}=",) for old, new in {**ARITHMETIC, **BITS}.items() if not _is_text(node.value)}
        self.offer_between("sign", node.target, node.value, augmented)
        self.generic_visit(node)


class _Finder(_Statements):
    """Walks over expressions as well."""

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right in pairwise(operands):
            self.offer_between("comparison", left, right, COMPARISONS)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.offer_between("logic", left, right, {"and": ("or",), "or": ("and",)})
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not (_is_text(node.left) or _is_text(node.right)):
            self.offer_between("sign", node.left, node.right, {old: (new,) for old, new in ARITHMETIC.items()})
            self.offer_between("logic", node.left, node.right, {old: (new,) for old, new in BITS.items()})
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        word, start = UNARY.get(type(node.op)), self.code.start(node)
        if word is not None and self.code.content[start:].startswith(word.encode()):
            self.replace("logic" if word == "not " else "sign", start, start + len(word), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.offer("truth", node, str(not value))
        elif isinstance(value, int | float):
            changed = dict.fromkeys(number for number in (2 * value, value + 1) if number != value)
            self.offer("number", node, *map(str, changed))

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if re.fullmatch(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", _name(node.value)):
            return  # a type, such as Literal[...]
        self.visit(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            if isinstance(part, ast.Slice):
                for bound in (part.lower, part.upper):
                    self._shift(bound, down=bound is part.upper)
                if part.step is not None:
                    self.visit(part.step)
            elif _integer(part) is not None:
                self._shift(part, down=_integer(part) == -1)
            else:
                self.visit(part)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node.func)
        if _is_silent(node) or name in PROGRESS_BARS:
            return
        self._offer_opposite(node, name)
        self._offer_without_call(node, name)
        plain = [argument for argument in node.args if isinstance(argument, ast.Name)]
        if len(node.args) == len(plain) == 2 and name not in TYPE_TESTS:
            self.swap("arguments", node.args)
        if name in EINOPS:
            self._offer_patterns(node)
        if name == "range" and isinstance(node.func, ast.Name):
            for place, bound in enumerate(node.args[:2]):
                self._shift(bound, down=place == len(node.args[:2]) - 1)
        else:
            for argument in node.args[:1] if name in TYPE_TESTS else node.args:
                self.visit(argument)
        self.visit(node.func)
        for keyword in node.keywords:
            self._visit_keyword(keyword, name)

    def _visit_keyword(self, keyword: ast.keyword, function: str) -> None:
        # zip(strict=...) only turns a wrong call into an error
        if keyword.arg in SPEED_OR_LOOKS or (function == "zip" and keyword.arg == "strict"):
            return
        axes = keyword.value.elts if isinstance(keyword.value, ast.Tuple) else [keyword.value]
        if keyword.arg in AXIS_ARGUMENTS and all(_integer(axis) is not None for axis in axes):
            for axis in axes:
                number = _integer(axis)
                assert number is not None
                self.offer("axis", axis, str({-1: -2, 0: 1}.get(number, number - 1 if number > 0 else number + 1)))
            return
        if isinstance(keyword.value, ast.Constant) and keyword.value.value in ("sum", "mean"):
            self.offer("opposite", keyword.value, f'"{OPPOSITES[keyword.value.value]}"')
        self.visit(keyword.value)

    def _offer_opposite(self, node: ast.Call, name: str) -> None:
        opposite = OPPOSITES.get(name)
        if opposite is None or (isinstance(node.func, ast.Name) and opposite in NOT_BUILTIN):
            return
        stop = self.code.stop(node.func)
        self.replace("opposite", stop - len(name.encode()), stop, opposite)

    def _offer_without_call(self, node: ast.Call, name: str) -> None:
        is_method = isinstance(node.func, ast.Attribute) and not _is_module(node.func.value)
        if is_method and name in SHAPE_PRESERVING_METHODS:
            assert isinstance(node.func, ast.Attribute)
            dot = self.code.words_between(self.code.stop(node.func.value), self.code.stop(node.func))[0]
            self.replace("call", dot.start, self.code.stop(node), "")
        elif not is_method and name in SHAPE_PRESERVING_FUNCTIONS and node.args:
            argument = node.args[0]
            if not isinstance(argument, ast.GeneratorExp | ast.Starred):
                self.offer("call", node, f"({self.code.of(argument)})")

    def _offer_patterns(self, node: ast.Call) -> None:
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str) and "->" in argument.value):
                continue
            left, right = argument.value.split("->")
            names = list(re.finditer(r"[A-Za-z_]\w*", right))
            for first, second in pairwise(names):
                swapped = (
                    right[: first.start()]
                    + second.group()
                    + right[first.end() : second.start()]
                    + first.group()
                    + right[second.end() :]
                )
                self.offer("axis", argument, f'"{left}->{swapped}"')

    def _shift(self, bound: ast.expr | None, *, down: bool) -> None:
        """An index or a bound off by one; constants as a number, anything else with `- 1` or `+ 1`."""
        if bound is None:
            return
        number = _integer(bound)
        if number is not None:
            self.offer("index", bound, str(number - 1 if down and number < 0 else number + 1))
            return
        self.offer("index", bound, f"({self.code.of(bound)}) {'-' if down else '+'} 1")
        self.visit(bound)


def _name(function: ast.expr) -> str:
    """Last part of a dotted name."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _root(node: ast.expr) -> str:
    """First part of a dotted name."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def _integer(node: ast.expr) -> int | None:
    """Value of a constant integer, also a negative one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _integer(node.operand)
        return None if number is None else -number
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return None


def _is_silent(call: ast.Call) -> bool:
    """Whether a call only logs or warns."""
    return _root(call.func) in LOGGERS or (isinstance(call.func, ast.Attribute) and _name(call.func.value) in LOGGERS)


def _calls_parent(call: ast.Call) -> bool:
    """`super().__init__()`: leaving it out fails at once everywhere."""
    return isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("torch", "np", "numpy", "F", "functional", "math", "cv2", "os")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
