"""The text of index files, and what stands in them as part of a message."""

import csv
import os
import reprlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from media.files import reading, regular_file

SIZE_VARIABLE = "SOC_MAX_INDEX_MB"
"""Environment variable: the largest index file that is read, in megabytes."""

DEFAULT_MAX_MB = 8192
"""Far above any published file; the masks of MeViS, the largest one, are a few hundred megabytes."""

LONGEST_VALUE = 80
"""Characters of a value in a message."""

LONGEST_NAME = 40
"""Of a key or name in a place."""

MOST_DIGITS = 4300
"""Python refuses to read longer whole numbers: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits."""

_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


# ---- what stands in a file, in a message ----


class _ShortRepr(reprlib.Repr):
    """`repr` of a part of a value: of nested, cyclic and endless ones, too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE

    def repr_int(self, x: int, level: int) -> str:
        """As of the class; it may be too long to be written."""
        if x.bit_length() > MOST_DIGITS:  # bits, so far fewer digits
            return "a whole number of hundreds of digits or more"
        return super().repr_int(x, level)


def shown(value: object, *, most: int = LONGEST_VALUE) -> str:
    """A value of a file as part of a message: one line, cut to `most` characters, nothing unprintable."""
    text = _ShortRepr().repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown_name(name: object) -> str:
    """A key or name of a file as part of a place: as it stands there, unless it is long or odd."""
    is_plain = isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_NAME
    return str(name) if is_plain else shown(name, most=LONGEST_NAME)


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can hold half of a surrogate pair, which cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_usable(text: str) -> bool:
    """Whether a text can be written to files and given to a tokenizer: no NUL, no half of a surrogate pair."""
    return "\0" not in text and is_encodable(text)


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: blanks, control characters, and those of no width."""
    return all(unicodedata.category(character)[0] in "CZ" for character in text)


# ---- text ----


class IndexFileError(ValueError):
    """What is wrong with a file.

    Attributes:
        path: of the file.
        detail: the message without it.
    """

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


def read_text(path: Path, *, or_latin_1: bool = False) -> str:
    """The text of an index file, which must be UTF-8 whatever the locale; a byte order mark is dropped.

    Args:
        path: of the file.
        or_latin_1: what is not UTF-8 is Latin-1, as some published files are.

    Raises:
        IndexFileError: it is missing, no file, too large, or not UTF-8.
    """
    data = read_bytes(path)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if encoding is not None:
        raise IndexFileError(path, f"text in {encoding}, expected UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if or_latin_1:
            return data.decode("latin-1")
        line = data.count(b"\n", 0, error.start) + 1
        around = data[max(0, error.start - 10) : error.start + 10]
        detail = f"line {line}: not UTF-8 text, expected UTF-8: byte {data[error.start]:#04x} in {around!r}"
        raise IndexFileError(path, f"{detail}; save it as UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """The content of an index file.

    Raises:
        ValueError: it is missing, no file, cannot be read, or is larger than `SIZE_VARIABLE` allows.
    """
    most = _max_mb()
    try:
        with reading(path):
            size = regular_file(path).stat().st_size
            if size > most * 1_000_000:
                detail = f"{size / 1_000_000:,.0f} MB, expected at most {most:,} MB; {SIZE_VARIABLE}=N raises the limit"
                raise IndexFileError(path, detail)
            return path.read_bytes()
    except FileNotFoundError:
        raise IndexFileError(path, "no such file") from None
    except OSError as error:
        raise IndexFileError(path, f"cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise IndexFileError(path, "it does not fit into memory") from None


def read_names(path: Path) -> list[str]:
    """The lines of a list of names, without blank ones.

    Raises:
        IndexFileError: as `read_text`; or a name has a character that no file name has.
    """
    names = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if "\0" in line:
            raise IndexFileError(path, f"line {number}: got {shown(line)}, expected a name without the character NUL")
        if line.strip():
            names.append(line.strip())
    return names


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and columns of each line that is not empty, of a file whose columns are separated by commas.

    Raises:
        IndexFileError: as `read_text`; or a line cannot be divided into columns, such as one with an endless column.
    """
    rows = csv.reader(read_text(path).splitlines())
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            detail = f"line {max(1, rows.line_num)}: {error}, expected a line of columns that are separated by commas"
            raise IndexFileError(path, detail) from None
        if not all(map(is_usable, row)):
            detail = f"line {rows.line_num}: got {shown(','.join(row))}, expected text without the character NUL"
            raise IndexFileError(path, detail)
        if row:
            yield rows.line_num, row


def _max_mb() -> int:
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_MAX_MB))
    if not (text.isascii() and text.isdecimal() and len(text) < len(str(10**12)) and int(text) > 0):
        raise ValueError(f"{SIZE_VARIABLE}={shown(text)}: expected a whole number of megabytes")
    return int(text)
