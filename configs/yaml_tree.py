"""One YAML file: its values as plain Python, and the line of each; and plain Python as YAML."""

import difflib
import io
import os
import re
import stat
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from configs.yaml_limits import MAX_BYTES, LimitError, require_plain
from structures.wording import one_line

KeyPath = tuple[str | int, ...]

MAX_SYNTAX = 200
"""Characters of a message of the parser."""

MAX_PATH = 300


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written.

    Attributes:
        location: `file:line`, or `command line`.
        key: the dotted key as written there.
    """

    location: str
    key: str


@dataclass(frozen=True, slots=True)
class YamlTree:
    """The content of one file.

    Attributes:
        values: plain nested dicts, lists and scalars.
        origins: of each key and each entry of a list.
    """

    values: dict[str, Any]
    origins: dict[KeyPath, Origin]


def read_tree(path: Path) -> YamlTree:
    """Reads `path`; an empty file has no values.

    Raises:
        ValueError: one readable line, `file:line: what is wrong`.
    """
    shown = show_path(path)
    text = read_text(path, shown)
    try:
        tree = load_yaml(text, typ="rt")
    except LimitError as error:
        raise ValueError(f"{shown}:{error.line}: {error.reason}") from error
    except YAMLError as error:
        raise ValueError(describe_yaml_error(shown, error)) from error
    except ValueError as error:  # a date such as 2026-99-99
        raise ValueError(f"{shown}: not YAML: {one_line(str(error))}") from error
    if tree is None:
        return YamlTree({}, {})
    if not isinstance(tree, CommentedMap):
        actual = "a list" if isinstance(tree, list) else "a single value"
        raise ValueError(f"{shown}:1: expected a mapping (key: value lines), got {actual}")
    return plain_tree(tree, shown)


def load_yaml(text: str, *, typ: Literal["rt", "safe"]) -> Any:
    """What the library makes of a text.

    Args:
        text: of a file, or of a value.
        typ: of the library's loaders; `rt` keeps lines.

    Raises:
        ValueError: it cannot be read, as `LimitError` where it holds what no configuration does.
        YAMLError: it is not YAML.
    """
    try:
        require_plain(text)
        return YAML(typ=typ, pure=True).load(text)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError) as error:
        # slips of the library itself
        raise ValueError(f"the YAML library fails on it ({type(error).__name__}: {error})") from error


def read_text(path: Path, shown: str) -> str:
    """The text of a file.

    Raises:
        ValueError: one readable line; also for devices and pipes, which may never end.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "Is a directory" if stat.S_ISDIR(mode) else "it is a device or a pipe, expected a file"
            raise ValueError(f"{shown}: cannot be read: {kind}")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{shown}: larger than {MAX_BYTES} bytes, so it is no configuration")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{shown}: no such file{suggest_file(path)}") from error
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{shown}: not a text file in UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error


def read_value(text: str) -> Any:
    """One value as YAML reads it: number, text, list, null.

    Raises:
        ValueError: if it is not YAML.
    """
    try:
        return plain_value(load_yaml(text, typ="safe"))
    except LimitError as error:
        raise ValueError(error.reason) from error
    except YAMLError as error:
        raise ValueError(f"the value is not YAML: {describe_syntax(error)}") from error
    except ValueError as error:  # a date such as 2026-99-99
        raise ValueError(f"the value is not YAML: {one_line(str(error))}") from error


def describe_yaml_error(shown: str, error: YAMLError) -> str:
    """One line for a syntax error or a duplicate key."""
    mark = error.problem_mark or error.context_mark if isinstance(error, MarkedYAMLError) else None
    location = f"{shown}:{mark.line + 1}" if mark else shown
    text = describe_syntax(error)
    if duplicate := re.match(r'found duplicate key "(.*?)"', text):
        return f"{location}: {one_line(duplicate[1])}: this key stands twice in its section"
    return f"{location}: not YAML: {text}"


def describe_syntax(error: YAMLError) -> str:
    """The message of ruamel, without its excerpt of the source."""
    if not isinstance(error, MarkedYAMLError):
        return one_line(" ".join(str(error).split()), MAX_SYNTAX)
    return one_line("; ".join(part for part in (error.problem, error.context) if part) or "syntax error", MAX_SYNTAX)


def plain_tree(tree: CommentedMap, shown: str) -> YamlTree:
    """Plain dicts, lists and scalars of a parsed file, and the line of each key."""
    origins: dict[KeyPath, Origin] = {}

    def convert(node: Any, key: KeyPath, line: int) -> Any:
        if key:
            origins[key] = Origin(f"{shown}:{line}", dotted(key))
        if isinstance(node, CommentedMap):
            return {str(name): convert(node[name], (*key, str(name)), line_of(node, name, line)) for name in node}
        if isinstance(node, CommentedSeq):
            return [convert(item, (*key, i), line_of(node, i, line)) for i, item in enumerate(node)]
        return plain_scalar(node)

    return YamlTree(convert(tree, (), 1), origins)


def line_of(node: CommentedMap | CommentedSeq, name: Any, otherwise: int) -> int:
    """Line of a key or item, counted from 1; `otherwise` for keys that came through a YAML merge (`<<`)."""
    try:
        position = node.lc.key(name) if isinstance(node, CommentedMap) else node.lc.item(name)
    except (KeyError, TypeError):
        return otherwise
    return otherwise if position is None else int(position[0]) + 1


def plain_scalar(value: Any) -> Any:
    """Plain Python in place of ruamel's scalars, which remember how they were written."""
    if value is None:
        return None
    if isinstance(value, date):  # no setting is a date, but a name may look like one
        return value.isoformat()
    if type(value).__name__ == "ScalarBoolean":
        return bool(value)
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return str(value)


def plain_value(value: Any) -> Any:
    """`plain_scalar` for nested values."""
    if isinstance(value, dict):
        return {str(name): plain_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return plain_scalar(value)


def write_tree(values: dict[str, Any]) -> str:
    """Plain nested dicts, lists and scalars as YAML."""
    yaml = YAML(typ="rt")
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.representer.add_representer(list, represent_list)
    yaml.representer.add_representer(type(None), represent_none)
    stream = io.StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def represent_list(representer: Any, values: list[Any]) -> Any:
    """Lists of scalars on one line, lists of sections (stages) line by line."""
    return representer.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=not any(isinstance(value, dict) for value in values)
    )


def represent_none(representer: Any, _value: None) -> Any:
    """`null`, where ruamel would write nothing."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def dotted(key: KeyPath) -> str:
    """`stages.0.optim.lr`."""
    return one_line(".".join(str(step) for step in key))


def show_path(path: Path) -> str:
    """The path as the user would type it: relative where it lies below the working directory."""
    absolute = Path(os.path.normpath(Path.cwd() / path))
    is_below = absolute.is_relative_to(Path.cwd())
    return one_line(str(absolute.relative_to(Path.cwd()) if is_below else absolute), MAX_PATH)


def suggest_file(path: Path) -> str:
    """`; did you mean ...?` with a file of a similar name in the same folder."""
    if not path.parent.is_dir():
        return ""
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {show_path(path.parent / close[0])!r}?" if close else ""
