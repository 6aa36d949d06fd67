"""Letters on pictures: a font that has those of a text, or openly another text.

The font that comes with Pillow has ASCII and little more. For anything else a font of the system is looked for; letters
that none of them has are written without their accents, symbols by their names, the rest as question marks, and the log
says so.
"""

import logging
import os
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

from PIL import ImageFont, features

logger = logging.getLogger(__name__)

Font = ImageFont.FreeTypeFont

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "${WINDIR}/Fonts",
    "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)
PREFERRED = ("notosans", "dejavusans", "arialunicode", "arial unicode", "segoeui", "pingfang", "msyh", "wqy", "unifont")
"""Beginnings of names of fonts with letters of many languages; they are tried first."""

STYLES = ("bold", "italic", "oblique", "light", "mono", "condensed", "serif")
"""In names of fonts that are tried after the plain ones of their family."""

FOR_ANY_LETTER = ("lastresort", "adobeblank")
"""Beginnings of names of fonts that draw something for every letter, which nobody can read."""

TRIED_SIZE = 24
"""At which fonts are asked for their letters: those that they have they have at every size."""

NO_LETTER = "\uffff"
"""Guaranteed to be no letter: what a font draws for it is what it draws for all that it lacks."""

UNKNOWN = "?"
OTHER_SPELLING = {
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
}

_said: set[str] = set()
"""Letters that the log has told about."""


@lru_cache(maxsize=4096)
def lettering(text: str, size: int) -> tuple[str, Font]:
    """What can be drawn of a text, and the font to draw it with.

    Args:
        text: any; signs that are not seen themselves are left out.
        size: of the letters, in pixels.

    Returns:
        The text, changed where no font has its letters, and the font.
    """
    if text.isascii() and text.isprintable():
        return text, _font(None, size)
    whole = unicodedata.normalize("NFC", text)
    visible = "".join(" " if letter.isspace() else letter for letter in whole if _is_seen(letter))
    letters = frozenset(visible)
    file = _best_font(letters)
    lacking = _lacking(letters, file)
    if lacking - _said:
        _said.update(lacking)
        logger.info(
            "no font here has %s: in pictures these are written in other letters, or as %s; a font that has them, such "
            "as Noto Sans or Noto Sans CJK, is used once it is installed",
            " ".join(sorted(lacking)),
            UNKNOWN,
        )
    return "".join(_spelled(letter) if letter in lacking else letter for letter in visible), _font(file, size)


def _is_seen(letter: str) -> bool:
    """Whether a sign is seen, or keeps others apart; no control, no half of one, and no choice among its variants."""
    is_variant = "\ufe00" <= letter <= "\ufe0f"
    return letter.isspace() or not (is_variant or unicodedata.category(letter).startswith("C"))


def _spelled(letter: str) -> str:
    """A letter in ASCII: without its accent, or by the name of what it shows."""
    if letter in OTHER_SPELLING:
        return OTHER_SPELLING[letter]
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if part.isascii())
    if plain:
        return plain
    if unicodedata.category(letter) == "So":
        return f"[{unicodedata.name(letter, UNKNOWN).lower()}]"
    return "" if unicodedata.combining(letter) else UNKNOWN


@cache
def _best_font(letters: frozenset[str]) -> Path | None:
    """The font that lacks the fewest of these letters; None: that of Pillow, if no other is better."""
    best, fewest = None, len(_lacking(letters, None))
    for file in _font_files():
        if fewest == 0:
            break
        try:
            lacking = len(_lacking(letters, file))
        except OSError:  # damaged, or of pictures of one size only
            continue
        if lacking < fewest:
            best, fewest = file, lacking
    return best


def _lacking(letters: frozenset[str], file: Path | None) -> frozenset[str]:
    """Those that a font lacks, or that cannot be set: right to left is for a library that Pillow may be without."""
    font = _font(file, TRIED_SIZE)
    nothing = _drawn(font, NO_LETTER)
    leftward = () if features.check("raqm") else ("R", "AL")
    return frozenset(
        letter
        for letter in letters
        if not letter.isspace() and (_drawn(font, letter) == nothing or unicodedata.bidirectional(letter) in leftward)
    )


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _font(file: Path | None, size: int) -> Font:
    if file is None:
        return cast(Font, ImageFont.load_default(size))  # Pillow's wheels have FreeType
    return ImageFont.truetype(str(file), size)


@cache
def _font_files() -> tuple[Path, ...]:
    """Fonts of the system, those first that are likely to have what is looked for."""
    files = [file for file in _all_files() if not file.name.lower().startswith(FOR_ANY_LETTER)]
    return tuple(sorted(files, key=_rank))


def _all_files() -> Iterator[Path]:
    for name in FONT_FOLDERS:
        folder = os.path.expandvars(os.path.expanduser(name))  # noqa: PTH111  # no home folder is no error here
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, each) for each in names if each.lower().endswith(FONT_SUFFIXES))


def _rank(file: Path) -> tuple[int, int, str]:
    name = file.stem.lower()
    family = next((i for i, start in enumerate(PREFERRED) if name.startswith(start)), len(PREFERRED))
    return family, sum(style in name for style in STYLES), name
