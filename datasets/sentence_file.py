"""`sentences.json`: what the objects of a labelled video are called, what is not in it, and words for one another.

    {"objects": {"1": {"name": "dog", "sentences": ["the brown dog", "the dog on the left"]}, "2": ["the cat"]},
     "absent": ["a horse"],
     "synonyms": {"dog": ["puppy", "hound"]},
     "unlabelled": ["a lamp"]}

An object may be a list of sentences, one sentence, or such a mapping; one with a name alone is called "the <name>".
`null` says that an object is labelled, but not to be learned. In the short form the objects stand at the top:
{"1": ["the dog"], "2": ["the cat"]}. `unlabelled` names what can be seen and has no mask, so that it is
not taken for absent. A sentence that stands with several objects is about all of them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.index_file import read_json
from datasets.index_text import is_usable, shown

FILE_NAME = "sentences.json"

_EXAMPLE = '{"objects": {"1": ["the brown dog"]}, "absent": ["a horse"], "synonyms": {"dog": ["puppy"]}}'
_SECTIONS = ("objects", "absent", "synonyms", "unlabelled")
_ARTICLES = ("the ", "a ", "an ")


@dataclass(frozen=True, slots=True)
class SentenceFile:
    """What a file says.

    Attributes:
        objects: sentences about each object; none for one that is left out on purpose. Keys are what the labels call
            their objects.
        absent: sentences about what is not in the video.
        synonyms: words or phrases that may stand for another one.
        unlabelled: what can be seen in the video, but has no mask.
    """

    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()


def read_sentence_file(path: Path) -> SentenceFile:
    """The content of a file.

    Raises:
        ValueError: it is missing or damaged, or an entry is not as described above; the message names the entry.
    """
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a mapping such as {_EXAMPLE}, got {shown(content)}")
    if "objects" not in content:
        content = {
            "objects": {key: value for key, value in content.items() if key not in _SECTIONS},
            **{key: value for key, value in content.items() if key in _SECTIONS},
        }
    unknown = [key for key in content if key not in _SECTIONS]
    if unknown:
        raise ValueError(f"{path}: unknown key {shown(unknown[0])} beside `objects`; there are {', '.join(_SECTIONS)}")
    objects, synonyms = content["objects"], content.get("synonyms", {})
    if not isinstance(objects, Mapping):
        raise ValueError(f"{path}: objects={shown(objects)} must be a mapping such as {_EXAMPLE}")
    if not isinstance(synonyms, Mapping):
        raise ValueError(f"{path}: synonyms={shown(synonyms)} must be a mapping from a word to a list of words")
    absent, unlabelled = content.get("absent"), content.get("unlabelled")
    return SentenceFile(
        objects={key: _sentences_of(path, key, value) for key, value in objects.items()},
        absent=_texts(f"{path}: absent", absent) if absent else (),
        synonyms={
            _text(f"{path}: synonyms", key): _texts(f"{path}: synonyms of {shown(key)}", value)
            for key, value in synonyms.items()
        },
        unlabelled=_texts(f"{path}: unlabelled", unlabelled) if unlabelled else (),
    )


def name_as_sentence(name: str) -> str:
    """A name or category as a sentence: "traffic_light" becomes "the traffic light"."""
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    return words if words.lower().startswith(_ARTICLES) else f"the {words}"


def _sentences_of(path: Path, key: str, value: Any) -> tuple[str, ...]:
    where = f"{path}: object {shown(key)}"
    if value is None:
        return ()
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in ("name", "sentences")]
        if unknown or not value:
            found = f"unknown key {shown(unknown[0])}" if unknown else "an empty mapping"
            raise ValueError(f'{where}: {found}; an object has "name", "sentences" or both')
        if value.get("sentences"):
            return _texts(where, value["sentences"])
        if "name" not in value:
            raise ValueError(f"{where}: no sentence; write at least one, or null to leave the object out")
        return (name_as_sentence(_text(f"{where}, name", value["name"])),)
    return _texts(where, value)


def _texts(where: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise ValueError(f"{where}: expected a list of texts, got {shown(value)}")
    if not values:
        raise ValueError(f"{where}: an empty list; write at least one text, or null to leave an object out")
    return tuple(dict.fromkeys(_text(where, each) for each in values))


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {shown(value)} must be a text")
    if not value.strip():
        raise ValueError(f"{where}: an empty text")
    if not is_usable(value):
        raise ValueError(f"{where}: {shown(value)} must be a text without NUL and half of a surrogate pair")
    return value
