"""The index files of RefCOCO/+/g in their two layouts, see `datasets.refcoco`.

What is wrong with an entry becomes a problem that names it, and the entry is left out; only a file that cannot be read
at all is an error.
"""

import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from datasets.problems import Problem, ProblemKind
from datasets.run_lengths import encode_segmentation, mask_box
from media.files import plain_name

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One object and the sentences about it.

    Attributes:
        image: name of the image file.
        size: (height, width) of the image in pixels, as the file of annotations has it.
        counts: its mask, as compressed run lengths. The same object has the same: sentences of the layout with a file
            per split repeat its annotation under new ids.
        box_xywh_px: its box, see `_box`.
        sentences: name and text of each; at least one.
    """

    image: str
    size: tuple[int, int]
    counts: bytes
    box_xywh_px: Box
    sentences: tuple[tuple[str, str], ...]


class _EntryError(Exception):
    """An entry that cannot be used."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


# ---- a file per split ----


def read_split_file(path: Path, problems: list[Problem]) -> list[Reference]:
    """The layout with an image entry and an annotation per sentence.

    Args:
        path: of the file of one split.
        problems: takes what is wrong with entries.

    Raises:
        ValueError: the file is missing or damaged.
    """
    content = _read_json(path)
    annotations: dict[Any, list[Any]] = {}
    for annotation in content["annotations"]:
        with _collecting(problems), _entry(path, "annotation", annotation):
            annotations.setdefault(annotation["image_id"], []).append(annotation)
    references, known = [], set()
    for image in content["images"]:
        with _collecting(problems), _entry(path, "image", image):
            number = image["id"]
            if number in known:
                raise _EntryError(
                    Problem("duplicates", str(path), f"image {number} occurs more than once; the first one is read")
                )
            known.add(number)
            size, file_name, sentence = _size(image), _file_name(image), _sentence(image, "caption")
            own = annotations.get(number, [])
            if not own:
                raise _EntryError(Problem("objects", str(path), f"image {number} ({file_name}) has no annotation"))
            if len(own) > 1:
                raise ValueError(f"it has {len(own)} annotations; one per sentence is expected")
            mask = _mask(path, own[0], size)
            name = plain_name(str(number), what="id")
            references.append(Reference(file_name, size, *mask, ((name, sentence),)))
    return references


# ---- the layout of the REFER toolkit ----


def read_references(path: Path, instances: Path, split: str, problems: list[Problem]) -> list[Reference]:
    """The layout with a pickled list of references for all splits, and the annotations of COCO beside it.

    Args:
        path: `refs(<split_by>).p`.
        instances: `instances.json`.
        split: name of the split.
        problems: takes what is wrong with entries.

    Raises:
        ValueError: a file is missing or damaged, or has nothing of this split.
    """
    references = read_plain_pickle(path)
    if not isinstance(references, list):
        raise ValueError(f"{path}: expected a list of references, got {type(references).__name__}")
    chosen, splits = [], set()
    for reference in references:
        with _collecting(problems), _entry(path, "reference", reference):
            splits.add(str(reference["split"]))
            if reference["split"] == split:
                chosen.append(reference)
    if not chosen:
        present = ", ".join(sorted(splits)) or "none that can be read"
        raise ValueError(f"{path}: no reference is of split {split!r}; there are {present}")
    content = _read_json(instances)
    annotations = _by_id(instances, "annotation", content["annotations"], problems)
    images = _by_id(instances, "image", content["images"], problems)
    usable, known = [], set[tuple[Any, str]]()
    for reference in chosen:
        with _collecting(problems), _entry(path, "reference", reference):
            annotation = _look_up(path, reference, "ann_id", annotations, instances)
            image = _look_up(path, reference, "image_id", images, instances)
            with _entry(instances, "image", image):
                size, file_name = _size(image), _file_name(image)
            mask = _mask(instances, annotation, size)
            if not reference["sentences"]:
                raise ValueError("it has no sentences")
            sentences = []
            for sentence in reference["sentences"]:
                with _collecting(problems), _entry(path, f"image {file_name}, sentence", sentence):
                    name = plain_name(str(sentence["sent_id"]), what="sent_id")
                    if (file_name, name) in known:
                        detail = f"image {file_name}: sentence {name} occurs more than once; the first one is read"
                        raise _EntryError(Problem("duplicates", str(path), detail))
                    known.add((file_name, name))
                    sentences.append((name, _sentence(sentence, "sent")))
            if sentences:
                usable.append(Reference(file_name, size, *mask, tuple(sentences)))
    return usable


def _by_id(path: Path, what: str, entries: Sequence[Any], problems: list[Problem]) -> dict[Any, Any]:
    by_id: dict[Any, Any] = {}
    for entry in entries:
        with _collecting(problems), _entry(path, what, entry):
            if entry["id"] in by_id:
                detail = f"{what} {entry['id']} occurs more than once; the first one is read"
                raise _EntryError(Problem("duplicates", str(path), detail))
            by_id[entry["id"]] = entry
    return by_id


def _look_up(path: Path, reference: Any, key: str, known: Mapping[Any, Any], instances: Path) -> Any:
    """The image or annotation that a reference names."""
    if reference[key] not in known:
        detail = (
            f"reference {_name_of(reference)}: {key} {reference[key]} is not in {instances}; are the two files of the "
            "same data set?"
        )
        raise _EntryError(Problem("objects", str(path), detail))
    return known[reference[key]]


# ---- entries, in which anything may stand ----


def _mask(path: Path, annotation: Any, size: tuple[int, int]) -> tuple[bytes, Box]:
    """Run lengths and box of an annotation."""
    with _entry(path, "annotation", annotation, kind="objects"):
        counts = encode_segmentation(annotation["segmentation"], size=size)
        return counts, _box(annotation, counts, size)


def _box(annotation: Any, counts: bytes, size: tuple[int, int]) -> Box:
    """The box as it is annotated: the published evaluation scores boxes against it, not against the mask's extent."""
    box = annotation.get("bbox")
    if box is None:
        return mask_box(counts, size=size)  # as COCO makes boxes of masks
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError):
        left = top = width = height = math.nan
    if not all(map(math.isfinite, (left, top, width, height))) or width < 0 or height < 0:
        raise ValueError(f"bbox={box!r} must be left, top, width and height in pixels")
    return left, top, width, height


def _size(image: Any) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if height < 1 or width < 1:
        raise ValueError(f"{height} x {width} pixels")
    return height, width


def _text(entry: Any, key: str) -> str:
    if not isinstance(entry[key], str):
        raise ValueError(f"{key}={entry[key]!r} must be a text")
    return str(entry[key])


def _file_name(image: Any) -> str:
    return plain_name(_text(image, "file_name"), what="file_name")


def _sentence(entry: Any, key: str) -> str:
    """The sentence exactly as it stands there."""
    if not _text(entry, key).strip():
        raise ValueError("the sentence is empty")
    return _text(entry, key)


@contextmanager
def _collecting(problems: list[Problem]) -> Iterator[None]:
    """Notes what is wrong with an entry; the rest of the block, which reads it, is left out."""
    try:
        yield
    except _EntryError as error:
        problems.append(error.problem)


@contextmanager
def _entry(path: Path, what: str, entry: Any, *, kind: ProblemKind = "expressions") -> Iterator[None]:
    """Says which entry of which file lacks a key, or has a value that cannot be used."""
    try:
        yield
    except ValueError as error:
        raise _EntryError(Problem(kind, str(path), f"{what} {_name_of(entry)}: {error}")) from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        detail = f"{what} {_name_of(entry)}: bad or missing value ({error!r})"
        raise _EntryError(Problem(kind, str(path), detail)) from None


def _name_of(entry: Any) -> str:
    if not isinstance(entry, dict):
        return repr(entry)
    return next((str(entry[key]) for key in ("id", "ref_id", "sent_id") if key in entry), "without id")


# ---- files ----


def _read_json(path: Path) -> dict[str, Any]:
    """A file of COCO, with lists of images and annotations."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(f"{path}: expected lists of `images` and `annotations`, as in the annotation files of COCO")
    return content


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers, and nothing else.

    A pickle is a program: one that names a class or function may run anything on the reader's machine. The files of
    references come from mirrors on the web, and plain containers are all that they hold, so every name is refused.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuses."""
        raise pickle.UnpicklingError(f"it names {module}.{name}, and would run code of its own")


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of plain containers.

    Raises:
        ValueError: the file is missing or damaged, or would run code.
    """
    try:
        with path.open("rb") as file:
            # The published files come from Python 2; its byte strings are text here, and latin-1 reads any byte.
            return PlainUnpickler(file, encoding="latin-1").load()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a readable pickle of lists, dicts, texts and numbers ({error})") from None
