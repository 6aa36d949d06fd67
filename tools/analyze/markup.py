"""Small pieces of HTML. Everything that comes from data or files goes through `text`."""

from collections.abc import Iterable, Sequence
from html import escape

from tools.analyze.bootstrap import Estimate

UNKNOWN = "\N{EN DASH}"
"""Stands where a number is missing."""


def text(value: object) -> str:
    """Any value as text of a page."""
    return escape(str(value), quote=True)


def section(title: str, body: str, *, level: int = 3, name: str = "") -> str:
    """A part of the page with a heading.

    Args:
        title: plain text.
        body: HTML.
        level: of the heading.
        name: of the part, for links and styles.
    """
    mark = f' id="{text(name)}"' if name else ""
    return f"<section{mark}><h{level}>{text(title)}</h{level}>\n{body}</section>\n"


def note(words: str) -> str:
    """A paragraph that explains; plain text."""
    return f'<p class="note">{text(words)}</p>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, css: str = "") -> str:
    """A table.

    Args:
        header: plain text; the first column holds names, the others numbers or pictures.
        rows: HTML of the cells.
        css: class of the table.
    """
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    lines = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>\n" for row in rows)
    content = f"<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody>"
    return f'<div class="scroll"><table class="{css}">{content}</table></div>\n'


def percent(value: float | None) -> str:
    """A share in percent, with one decimal."""
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def with_interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    """A mean in percent with its interval."""
    if estimate is None:
        return UNKNOWN
    sign = "+" if signed else ""
    mean = _without_minus_zero(f"{100 * estimate.mean:{sign}.1f}")
    if estimate.low is None or estimate.high is None:
        return mean
    ends = [_without_minus_zero(f"{100 * end:{sign}.1f}") for end in (estimate.low, estimate.high)]
    return f'{mean} <span class="ci">[{ends[0]}, {ends[1]}]</span>'


def _without_minus_zero(number: str) -> str:
    return number.lstrip("+-") if float(number) == 0 else number
