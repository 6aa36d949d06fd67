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

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        raise ValueError(f"{path}: expected a mapping such as {_EXAMPLE}, got {type(content).__name__}")
    if "objects" not in content:
        content = {
            "objects": {key: value for key, value in content.items() if key not in _SECTIONS},
            **{key: value for key, value in content.items() if key in _SECTIONS},
        }
    unknown = [key for key in content if key not in _SECTIONS]
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r} beside `objects`; there are {', '.join(_SECTIONS)}")
    objects, synonyms = content["objects"], content.get("synonyms", {})
    if not isinstance(objects, Mapping):
        raise ValueError(f"{path}: objects={objects!r} must be a mapping such as {_EXAMPLE}")
    if not isinstance(synonyms, Mapping):
        raise ValueError(f"{path}: synonyms={synonyms!r} must be a mapping from a word to a list of words")
    absent, unlabelled = content.get("absent"), content.get("unlabelled")
    return SentenceFile(
        objects={key: _sentences_of(path, key, value) for key, value in objects.items()},
        absent=_texts(f"{path}: absent", absent) if absent else (),
        synonyms={
            _text(f"{path}: synonyms", key): _texts(f"{path}: synonyms of {key!r}", value)
            for key, value in synonyms.items()
        },
        unlabelled=_texts(f"{path}: unlabelled", unlabelled) if unlabelled else (),
    )


def name_as_sentence(name: str) -> str:
    """A name or category as a sentence: "traffic_light" becomes "the traffic light"."""
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    return words if words.lower().startswith(_ARTICLES) else f"the {words}"


def read_json(path: Path) -> Any:
    """The content of a JSON file in which no key occurs twice.

    Raises:
        ValueError: it is missing or damaged, or a key occurs twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{repeated!r} occurs twice in one place")
        return content

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None


def _sentences_of(path: Path, key: str, value: Any) -> tuple[str, ...]:
    where = f"{path}: object {key!r}"
    if value is None:
        return ()
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in ("name", "sentences")]
        if unknown or not value:
            found = f"unknown key {unknown[0]!r}" if unknown else "an empty mapping"
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
        raise ValueError(f"{where}: expected a list of texts, got {value!r}")
    if not values:
        raise ValueError(f"{where}: an empty list; write at least one text, or null to leave an object out")
    return tuple(dict.fromkeys(_text(where, each) for each in values))


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {value!r} must be a text")
    if not value.strip():
        raise ValueError(f"{where}: an empty text")
    return value
