"""How values that somebody else wrote are shown in a message: on one line, cut, and without control characters."""

import unicodedata
from collections.abc import Iterable
from itertools import islice
from typing import Any

MOST_CHARACTERS = 120
"""Of a value in a message."""

MOST_CHARACTERS_OF_LINE = 1000
"""Of a line of a message: what is longer is the content of a file."""

MOST_BITS = 128
"""Of an integer that is shown as it is; Python refuses to write out very large ones."""

DIGITS_PER_BIT = 0.30103
MOST_ITEMS = 40
MOST_DEPTH = 4


def one_line(text: str, limit: int = MOST_CHARACTERS) -> str:
    """The text on one line, with control characters and lone surrogates escaped, and its middle left out if it is long.

    Args:
        text: from anywhere.
        limit: characters that are kept.
    """
    short = text if len(text) <= limit else f"{text[: limit * 2 // 3]} ... {text[-limit // 4 :]}"
    shown = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _ESCAPED else character
        for character in short
    )
    return shown if len(text) <= limit else f"{shown} ({len(text)} characters)"


def show_value(value: object, limit: int = MOST_CHARACTERS) -> str:
    """`repr` of a value for a message: on one line, and cut.

    Args:
        value: a scalar, or a nested list or dict of them.
        limit: characters that are kept.
    """
    return one_line(_written(value, limit, depth=0), limit)


def _written(value: object, limit: int, depth: int) -> str:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return f"an integer of about {round(value.bit_length() * DIGITS_PER_BIT)} digits"
    if isinstance(value, dict | list | tuple) and depth == MOST_DEPTH:
        return "..."
    if isinstance(value, dict):
        items = [f"{_written(k, limit, depth + 1)}: {_written(v, limit, depth + 1)}" for k, v in _first(value.items())]
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(item, limit, depth + 1) for item in _first(value))}]"
    return repr(value[: limit + 1] if isinstance(value, str | bytes) else value)


def _first(items: Iterable[Any]) -> list[Any]:
    """The first few: the rest would be cut anyway."""
    return list(islice(items, MOST_ITEMS))


_ESCAPED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that do not belong on a terminal: control, format, surrogate, private, separators of lines."""
