"""What a configuration in YAML may not hold: found in the events of its parser, before anything is built from it.

A few hundred bytes of YAML can mean billions of values (aliases of aliases), a value that contains itself, or code to
run (tags); libraries answer them with an endless loop, a `RecursionError`, or by doing as they are told.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from structures.wording import one_line

MAX_BYTES = 2**20
MAX_DEPTH = 32
"""Sections and lists inside of each other; the deepest setting lies 8 deep."""

MAX_VALUES = 20_000
"""With the values that aliases repeat. All settings together are about 250."""

SHOWN_DEPTH = 8
"""Of the key of a value that lies too deep."""

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
class _Open:
    """A section or a list that has begun and not ended.

    Attributes:
        anchor: its name for aliases.
        before: values before it.
        entry: the key, or the number, of what comes now; None in a section whose next event is a key.
    """

    anchor: str | None
    before: int
    entry: str | int | None

    def step(self, event: Event) -> None:
        """A key, a value or an entry has gone by."""
        if isinstance(self.entry, int):
            self.entry += 1
        elif self.entry is None:
            self.entry = one_line(event.value) if isinstance(event, ScalarEvent) else "?"
        else:
            self.entry = None


class _Reading:
    """Counts values, and knows the key of each, while the events go by."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchored: dict[str, int] = {}
        self._total = 0
        self._names: set[str] = set()

    def take(self, event: NodeEvent | CollectionEndEvent) -> None:
        """Counts one event.

        Raises:
            LimitError: there are too many values, they lie too deep, or they are none of a configuration.
        """
        if isinstance(event, CollectionEndEvent):
            done = self._open.pop()
            if done.anchor is not None:
                self._anchored[done.anchor] = self._total - done.before
        elif self._open and self._open[-1].entry is None and not isinstance(event, ScalarEvent):
            self._refuse(event, "expected a name as key, got a section, a list or an alias")
        elif isinstance(event, AliasEvent):
            self._repeat(event)
        elif isinstance(event, CollectionStartEvent):
            self._require_plain(event)
            self._begin(event)
            return  # until its end it is what the section or list around it is at
        elif isinstance(event, ScalarEvent):
            self._require_plain(event)
            self._count(event, 1)
            if event.anchor is not None:
                self._anchored[event.anchor] = 1
        if self._open:
            self._open[-1].step(event)

    def _repeat(self, event: AliasEvent) -> None:
        if any(event.anchor == around.anchor for around in self._open):
            name = one_line(str(event.anchor))
            self._refuse(event, f"the alias *{name} stands inside of what it repeats; write the values out")
        self._count(event, self._anchored.get(event.anchor, 1))  # the parser reports an alias of nothing

    def _begin(self, event: CollectionStartEvent) -> None:
        if len(self._open) == MAX_DEPTH:
            self._refuse(event, f"more than {MAX_DEPTH} sections and lists inside of each other")
        is_section = isinstance(event, MappingStartEvent)
        self._open.append(_Open(event.anchor, self._total, None if is_section else 0))
        self._count(event, 1)

    def _count(self, event: Event, values: int) -> None:
        self._total += values
        if self._total > MAX_VALUES:
            reason = f"more than {MAX_VALUES} values, with those that aliases repeat; no configuration needs as many"
            self._refuse(event, reason)

    def _require_plain(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.anchor in self._names:
            self._refuse(event, f"the anchor &{one_line(str(event.anchor))} is given twice; name one of them otherwise")
        if event.anchor is not None:
            self._names.add(event.anchor)
        if event.tag is not None:
            shown = one_line(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            self._refuse(event, f"the tag {shown} has no meaning here; write the value alone")
        if isinstance(event, CollectionStartEvent) or not event.implicit[0] or len(event.value) <= MAX_DIGITS:
            return
        if LONG_NUMBER.fullmatch(event.value):
            self._refuse(event, f"a number of {len(event.value)} digits; no setting takes one of more than 19")

    def _refuse(self, event: Event, reason: str) -> NoReturn:
        entries = [around.entry for around in self._open[:SHOWN_DEPTH] if around.entry is not None]
        is_file = bool(entries) and isinstance(entries[0], str)  # of a list on the command line the key is known
        key = one_line(".".join(map(str, entries)))
        raise LimitError(event.start_mark.line + 1, f"{key}: {reason}" if is_file else reason)


def require_plain(text: str) -> None:
    """Refuses YAML that would take forever to read, or that asks for more than plain values.

    Args:
        text: of a file, or of a value.

    Raises:
        LimitError: with the line and the key.
        YAMLError: it is not YAML.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise LimitError(1, f"{size} bytes are no configuration, which has at most {MAX_BYTES}")
    reading = _Reading()
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, NodeEvent | CollectionEndEvent):
            reading.take(event)
