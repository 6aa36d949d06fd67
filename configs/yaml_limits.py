"""What a configuration in YAML may not hold: found in the events of its parser, before anything is built from it.

A few hundred bytes of YAML can mean billions of values (aliases of aliases), a value that contains itself, or code to
run (tags); libraries answer them with an endless loop, a `RecursionError`, or by doing as they are told.
"""

import re
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)

from structures.wording import one_line

MAX_BYTES = 2**20
MAX_DEPTH = 32
"""Sections and lists inside of each other; the deepest setting lies 8 deep."""

MAX_VALUES = 20_000
"""With the values that aliases repeat. All settings together are about 250."""

MAX_DIGITS = 400
"""Of a number; floats have at most 309 before the point."""

LONG_NUMBER = re.compile(r"[-+]?[0-9_]+(\.[0-9_]*)?([eE][-+]?[0-9]+)?")


class LimitError(ValueError):
    """YAML that no configuration needs.

    Attributes:
        line: counted from 1.
        reason: what is wrong, and what to do.
    """

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(f"line {line}: {reason}")


@dataclass(slots=True)
class _Sizes:
    """Counts values while the events go by.

    Attributes:
        open: of each section or list that has begun: its anchor and the values before it.
        anchored: values below each anchor that is complete.
        total: values so far, those that aliases repeat among them.
    """

    open: list[tuple[str | None, int]] = field(default_factory=list)
    anchored: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def add(self, event: Event) -> None:
        """Counts one event.

        Raises:
            LimitError: there are too many values, or they lie too deep.
        """
        line = event.start_mark.line + 1
        if isinstance(event, CollectionEndEvent):
            anchor, before = self.open.pop()
            if anchor is not None:
                self.anchored[anchor] = self.total - before
            return
        if isinstance(event, AliasEvent):
            if event.anchor in (anchor for anchor, _ in self.open):
                raise LimitError(
                    line, f"the alias *{_name(event)} stands inside of what it repeats; write the values out"
                )
            self.total += self.anchored.get(event.anchor, 0)  # the parser reports an alias of nothing
        elif isinstance(event, CollectionStartEvent):
            if len(self.open) == MAX_DEPTH:
                raise LimitError(line, f"more than {MAX_DEPTH} sections and lists inside of each other")
            self.open.append((event.anchor, self.total))
        elif isinstance(event, ScalarEvent) and event.anchor is not None:
            self.anchored[event.anchor] = 1
        self.total += 1
        if self.total > MAX_VALUES:
            raise LimitError(
                line, f"more than {MAX_VALUES} values, with those that aliases repeat; no configuration needs as many"
            )


def require_plain(text: str) -> None:
    """Refuses YAML that would take forever to read, or that asks for more than plain values.

    Args:
        text: of a file, or of a value.

    Raises:
        LimitError: with the line.
        YAMLError: it is not YAML.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise LimitError(1, f"{size} bytes are no configuration, which has at most {MAX_BYTES}")
    sizes = _Sizes()
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, NodeEvent | CollectionEndEvent):
            sizes.add(event)
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            shown = one_line(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            raise LimitError(line, f"the tag {shown} has no meaning here; write the value alone")
        is_plain = isinstance(event, ScalarEvent) and event.implicit[0]
        if is_plain and len(event.value) > MAX_DIGITS and LONG_NUMBER.fullmatch(event.value):
            raise LimitError(line, f"a number of {len(event.value)} digits; no setting takes one of more than 19")


def _name(event: AliasEvent) -> str:
    return one_line(str(event.anchor))
