"""The small wrong changes, as tables, and what one of them is: a span of a file and what stands there instead."""

import ast
from dataclasses import dataclass

OPERATORS = {
    "comparison": "`<` to `<=` or `>=` and so on; `==` to `!=`; `is`, `in` to their opposites",
    "index": "a constant index, a bound of a slice or of `range` off by one",
    "opposite": "`argmax` to `argmin`, `max` to `min`, `any` to `all`, `sum` to `mean`, `zeros` to `ones` and so on",
    "sign": "`+` to `-`, `*` to `/`, `//` or `**` to `*`, also in `+=`; a minus or a `~` dropped",
    "number": "a constant doubled, or one more",
    "truth": "`True` to `False` and back, also as an argument",
    "call": "a call left out: a statement, or a step that keeps the shape such as `.sigmoid()` or `sorted(...)`",
    "axis": "`dim=` or `axis=` another one; two axes of an einops pattern swapped; a returned or unpacked pair swapped",
    "logic": "`and` to `or`, `&` to `|` and back; `not` dropped",
    "arguments": "the arguments of a call with two plain names swapped",
    "condition": "an `if` always or never true",
    "loop": "`continue` to `break` and back",
}

COMPARISONS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "is": ("is not",),
    "is not": ("is",),
    "in": ("not in",),
    "not in": ("in",),
}

ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "**": "*", "%": "*"}

UNARY: dict[type[ast.unaryop], str] = {ast.Not: "not ", ast.USub: "-", ast.Invert: "~"}

BITS = {"&": "|", "|": "&"}

PAIRS = (
    ("argmax", "argmin"),
    ("max", "min"),
    ("amax", "amin"),
    ("maximum", "minimum"),
    ("any", "all"),
    ("sum", "mean"),
    ("floor", "ceil"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("zeros_", "ones_"),
    ("logical_and", "logical_or"),
)
OPPOSITES = {**dict(PAIRS), **{second: first for first, second in PAIRS}}
NOT_BUILTIN = {"mean"}
"""What an opposite may not become where the name is a builtin: `sum(x)` has no such counterpart."""

SHAPE_PRESERVING_METHODS = {
    *("sigmoid", "softmax", "log_softmax", "tanh", "relu", "logit", "exp", "log", "log2", "sqrt", "square", "abs"),
    *("clamp", "clip", "clamp_min", "clamp_max", "round", "floor", "ceil", "float", "bool", "detach", "sort", "flip"),
    *("lower", "upper", "strip", "rstrip", "lstrip", "casefold", "cumsum", "resolve", "absolute", "neg"),
}
SHAPE_PRESERVING_FUNCTIONS = {
    *("sorted", "reversed", "abs", "round", "sigmoid", "softmax", "relu", "gelu", "exp", "log", "sqrt", "normalize"),
    *("ascontiguousarray", "clip", "clamp"),
}

TYPE_TESTS = {"isinstance", "issubclass", "getattr", "hasattr", "cast"}
"""Calls of which the second argument is a type or a name."""

EINOPS = {"rearrange", "reduce", "repeat"}
AXIS_ARGUMENTS = {"dim", "axis", "dims"}

LOGGERS = {"logger", "logging", "log", "LOGGER", "_logger", "warnings"}
PROGRESS_BARS = {"tqdm", "trange", "progress", "progress_bar"}

SPEED_OR_LOOKS = {
    *("non_blocking", "pin_memory", "persistent_workers", "prefetch_factor", "maxsize", "bufsize", "flush"),
    *("indent", "ensure_ascii", "help", "metavar", "description", "desc", "leave", "dynamic_ncols", "stacklevel"),
}
"""Keyword arguments that change no result."""


@dataclass(frozen=True, slots=True, order=True)
class Mutant:
    """One wrong change.

    Attributes:
        file: path in the repository.
        line: number of the first line that it changes, from 1.
        last_line: number of the last line of the syntax node.
        start: first byte that is replaced.
        stop: byte after the last.
        operator: a key of `OPERATORS`.
        replacement: what stands there instead.
        before: the lines that it touches, as they are.
        after: the same lines, changed.
    """

    file: str
    start: int
    stop: int
    replacement: str
    operator: str
    line: int
    last_line: int
    before: str
    after: str

    def apply(self, source: str) -> str:
        """The source of the whole file with this change."""
        content = source.encode()
        return (content[: self.start] + self.replacement.encode() + content[self.stop :]).decode()
