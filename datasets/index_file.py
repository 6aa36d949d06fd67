"""Reading index files: text and JSON as they are, then validated by typed models, with one message for what is wrong.

A message says the file, where in it, what stands there (cut to a part of a line), and what is expected.

    with_objects.json: videos.abc.expressions.3.exp: got 5, expected a text
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, RootModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from datasets.index_text import (
    LONGEST_VALUE,
    MOST_DIGITS,
    IndexFileError,
    is_blank,
    is_encodable,
    is_usable,
    read_text,
    shown,
    shown_name,
)
from datasets.problems import Problem, ProblemKind
from media.files import plain_name

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


# ---- types of values ----


def _usable_text(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "a text without the character NUL")
    if not is_encodable(text):
        raise PydanticCustomError("surrogate", "a text without half of a surrogate pair")
    return text


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "a text that is not empty")
    return text


def _file_name(name: str) -> str:
    try:
        return plain_name(name, what="")
    except ValueError:
        raise PydanticCustomError("name", "the name of one file or folder, without separators") from None


def _whole(value: object) -> object:
    """Some tools write 480.0; more digits than that are no count of anything."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _id(value: object) -> object:
    value = _whole(value)
    is_text = isinstance(value, str) and is_usable(value)
    if isinstance(value, bool) or not (isinstance(value, int) or is_text):
        raise PydanticCustomError("id", "a whole number or a text")
    return value


def _id_as_name(value: int | str) -> int | str:
    is_endless = isinstance(value, int) and value.bit_length() > MOST_DIGITS
    _file_name("" if is_endless else str(value))
    return value


def _unique(values: list[str]) -> list[str]:
    if not values:
        raise PydanticCustomError("empty", "a list that is not empty")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise PydanticCustomError(
            "twice", "every name once; {twice} stands there twice, a duplicate", {"twice": shown(twice)}
        )
    return values


def _not_empty(entries: dict[str, Any]) -> dict[str, Any]:
    if not entries:
        raise PydanticCustomError("empty", "at least one entry; it is empty")
    return entries


Text = Annotated[str, AfterValidator(_usable_text)]
"""A text that can be written to files and given to a tokenizer: no NUL, no half of a surrogate pair."""

Sentence = Annotated[Text, AfterValidator(_not_blank)]

Name = Annotated[Text, AfterValidator(_file_name)]
"""Of a video, a frame, an expression or an image: files and folders are called so, see `media.files.plain_name`."""

UniqueNames = Annotated[list[Name], AfterValidator(_unique)]
"""At least one name, none of them twice."""

Entries = Annotated[dict[Name, Any], AfterValidator(_not_empty)]
"""A mapping of at least one name to entries that are validated one by one."""

WholeNumber = Annotated[int, BeforeValidator(_whole)]

Id = Annotated[int | str, BeforeValidator(_id)]
"""Of an entry of COCO; the format asks for numbers, and some tools write texts."""

NameId = Annotated[int | str, BeforeValidator(_id), AfterValidator(_id_as_name)]
"""An id by which files or folders are called."""


class IndexEntry(BaseModel):
    """Base of the models of entries: types are taken exactly, further keys are nobody's business here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class IndexContent(RootModel[R]):
    """Base of the models of what is no mapping of known keys, such as a list; the value is `root`."""

    model_config = ConfigDict(frozen=True, strict=True)


class AnyMapping(IndexContent[dict[str, Any]]):
    """A mapping whose values are validated one by one."""


# ---- JSON ----


class _Repeated(dict[str, Any]):
    """A mapping in which the file has a key more than once."""

    def __init__(self, content: dict[str, Any], key: str) -> None:
        super().__init__(content)
        self.key = key


def read_json(path: Path) -> Any:
    """The content of a JSON file, in which no key of a mapping occurs twice.

    Raises:
        IndexFileError: it cannot be read as text, is no JSON, is nested too deeply, or has a key twice; readers would
            take the last one in silence.
    """
    text = read_text(path)
    repeated: list[_Repeated] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) == len(pairs):
            return content
        keys = [key for key, _ in pairs]
        repeated.append(_Repeated(content, next(key for key in content if keys.count(key) > 1)))
        return repeated[-1]

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        found = shown(text[error.pos : error.pos + LONGEST_VALUE // 2]) if error.pos < len(text) else "its end"
        detail = f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}, got {found}"
        raise IndexFileError(path, f"{detail}; it may be cut off: compare it with the original") from None
    except RecursionError:
        raise IndexFileError(path, "nested too deeply, expected an index file of a few levels") from None
    except MemoryError:
        raise IndexFileError(path, "it does not fit into memory") from None
    except ValueError:  # of `int`
        number = re.search(rf"\d{{{MOST_DIGITS},}}", text)
        line = 0 if number is None else text.count("\n", 0, number.start()) + 1
        found = "" if number is None else f" of {len(number.group())} digits"
        raise IndexFileError(path, f"line {line}: got a whole number{found}, expected at most {MOST_DIGITS}") from None
    if repeated:
        places = _place_of(content, repeated[0])
        where = ".".join(map(shown_name, places)) or "the file"
        detail = f"{where}: the key {shown(repeated[0].key)} stands there twice, a duplicate; expected every key once"
        more = f" (and {len(repeated) - 1} more places like this)" if len(repeated) > 1 else ""
        raise IndexFileError(path, f"{detail}{more}; keep one of them")
    return content


def _place_of(content: Any, wanted: object) -> tuple[str | int, ...]:
    """Keys and positions on the way to a part of what was read."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), content)]
    while pending:
        place, value = pending.pop()
        if value is wanted:
            return place
        if isinstance(value, dict):
            pending += [((*place, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [((*place, index), item) for index, item in enumerate(value)]
    return ()


# ---- models ----


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file something stands.

    Attributes:
        path: of the file.
        where: within it, such as `videos.abc.expressions.3`; empty at its top.
    """

    path: Path
    where: str = ""

    def at(self, *keys: object) -> "Place":
        """A place below this one."""
        return Place(self.path, ".".join((*((self.where,) if self.where else ()), *map(shown_name, keys))))

    def error(self, detail: str) -> IndexFileError:
        """What is wrong here."""
        return IndexFileError(self.path, f"{self.where}: {detail}" if self.where else detail)

    def problem(self, kind: ProblemKind, detail: str) -> Problem:
        """The same, to be collected."""
        return Problem(kind, str(self.path), self.error(detail).detail)


def validate(model: type[M], content: Any, place: Place) -> M:
    """A part of a file as what it should be.

    Args:
        model: an `IndexEntry` or `IndexContent`.
        content: as it was read.
        place: of the content.

    Raises:
        IndexFileError: it is something else; the message is about the first thing that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _as_error(first, content, place) from None


_EXPECTED: Mapping[str, str] = {
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


def _as_error(error: ErrorDetails, content: Any, place: Place) -> IndexFileError:
    keys = _keys_of(error["loc"], content)
    if error["type"] == "missing":
        what = f"the key {shown(error['loc'][-1])} is missing"
        return place.at(*keys).error(f"{what}, got {shown(error['input'])}")
    message = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    is_bound = error["type"].startswith(("greater", "less"))
    expected = _EXPECTED.get(error["type"], f"a number {message}" if is_bound else message)
    if error["loc"][-1:] == ("[key]",):  # what is wrong is the key itself
        return place.at(*keys[:-1]).error(f"got the key {shown(keys[-1])}, expected {expected}")
    return place.at(*keys).error(f"got {shown(error['input'])}, expected {expected}")


def _keys_of(location: tuple[int | str, ...], content: Any) -> list[int | str]:
    """The keys of a place that are in the file: pydantic adds names of its own, and those of missing keys."""
    keys: list[int | str] = []
    for key in location:
        is_inside = (
            key in content
            if isinstance(content, dict)
            else isinstance(content, list) and isinstance(key, int) and key < len(content)
        )
        if is_inside:
            content = content[key]
            keys.append(key)
    return keys
