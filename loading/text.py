"""Sentences: cleaning, and exchange of left and right for a mirrored picture."""

import re

_OTHER_SIDE = {"left": "right", "right": "left"}
# Whole words and their common compounds ("leftmost", "right-hand", "leftside"); never "bright" or "cleft".
_SIDE_WORD = re.compile(
    r"(?<![^\W\d_])(left|right)(?=(?:most|hand|handed|side|ward|wards)?(?![^\W\d_]))", re.IGNORECASE
)


def clean_sentence(sentence: str, *, lower_case: bool) -> str:
    """The sentence with single blanks between words and none at the ends; in lower case if asked for."""
    words = " ".join(sentence.split())
    return words.lower() if lower_case else words


def swap_left_right(sentence: str) -> str:
    """The sentence for the mirrored picture; upper and lower case are kept.

    Words in which "left" or "right" is only a part ("bright", "upright", "cleft") stay as they are; the published
    code replaces plain substrings.
    """
    return _SIDE_WORD.sub(_swap, sentence)


def _swap(match: re.Match[str]) -> str:
    word = match.group(1)
    other = _OTHER_SIDE[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
