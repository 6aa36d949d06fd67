"""The index files of RefCOCO/+/g in their two layouts, see `datasets.refcoco`.

What is wrong with an entry becomes a problem that names it, and the entry is left out; only a file that cannot be read
at all is an error.
"""

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, FiniteFloat

from datasets.index_file import Id, IndexEntry, Name, NameId, Place, Sentence, Text, WholeNumber, read_json, validate
from datasets.index_text import LONGEST_VALUE, IndexFileError, read_bytes, shown, shown_name
from datasets.problems import Problem, ProblemKind
from datasets.run_lengths import encode_segmentation, mask_box

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


# ---- what stands in the files ----


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("at least one pixel")
    return value


def _not_empty(sentences: list[Any]) -> list[Any]:
    if not sentences:
        raise ValueError("at least one sentence")
    return sentences


def _as_box(values: list[float]) -> list[float]:
    if len(values) != 4 or min(values[2:]) < 0:
        raise ValueError("left, top, width and height in pixels")
    return values


class _Image(IndexEntry):
    """An image of COCO."""

    id: Id
    file_name: Name
    height: Annotated[WholeNumber, AfterValidator(_at_least_one)]
    width: Annotated[WholeNumber, AfterValidator(_at_least_one)]


class _ImageWithSentence(_Image):
    """An image of the layout with a file per split."""

    id: NameId
    caption: Sentence


class _OfImage(IndexEntry):
    """What every annotation says; the rest is looked at where it is used."""

    image_id: Id


class _WithId(IndexEntry):
    """An entry that others refer to."""

    id: Id


class _Annotation(IndexEntry):
    """An annotation of COCO that is used; `datasets.run_lengths` looks at its segmentation."""

    segmentation: Any
    bbox: Annotated[list[FiniteFloat], AfterValidator(_as_box)] | None = None


class _OfSplit(IndexEntry):
    """What every reference says; those of other splits are not looked at."""

    split: Text


class _Reference(IndexEntry):
    """A reference of the REFER toolkit."""

    ann_id: Id
    image_id: Id
    sentences: Annotated[list[Any], AfterValidator(_not_empty)]


class _ReferenceSentence(IndexEntry):
    """A sentence of a reference."""

    sent_id: NameId
    sent: Sentence


class _Instances(IndexEntry):
    """A file of COCO; its entries are validated one by one."""

    images: list[Any]
    annotations: list[Any]


# ---- a file per split ----


def read_split_file(path: Path, problems: list[Problem]) -> list[Reference]:
    """The layout with an image entry and an annotation per sentence.

    Args:
        path: of the file of one split.
        problems: takes what is wrong with entries.

    Raises:
        ValueError: the file is missing or damaged.
    """
    content = validate(_Instances, read_json(path), Place(path))
    annotations: dict[int | str, list[Any]] = {}
    for annotation in content.annotations:
        with _collecting(problems), _entry(path, "annotation", annotation) as place:
            annotations.setdefault(validate(_OfImage, annotation, place).image_id, []).append(annotation)
    references, known = [], set()
    for entry in content.images:
        with _collecting(problems), _entry(path, "image", entry) as place:
            image = validate(_ImageWithSentence, entry, place)
            if image.id in known:
                detail = f"image {shown_name(image.id)} occurs more than once; the first one is read"
                raise _EntryError(Problem("duplicates", str(path), detail))
            known.add(image.id)
            own = annotations.get(image.id, [])
            if not own:
                detail = f"image {shown_name(image.id)} ({shown_name(image.file_name)}) has no annotation"
                raise _EntryError(Problem("objects", str(path), detail))
            if len(own) > 1:
                raise ValueError(f"it has {len(own)} annotations; one per sentence is expected")
            size = (image.height, image.width)
            mask = _mask(path, own[0], size)
            references.append(Reference(image.file_name, size, *mask, ((str(image.id), image.caption),)))
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
        raise ValueError(f"{path}: got {shown(references)}, expected a list of references")
    chosen, splits = [], set()
    for reference in references:
        with _collecting(problems), _entry(path, "reference", reference) as place:
            own_split = validate(_OfSplit, reference, place).split
            splits.add(own_split)
            if own_split == split:
                chosen.append(reference)
    if not chosen:
        present = ", ".join(map(shown_name, sorted(splits))) or "none that can be read"
        raise ValueError(f"{path}: no reference is of split {split!r}; there are {present}")
    content = validate(_Instances, read_json(instances), Place(instances))
    annotations = _by_id(instances, "annotation", content.annotations, problems)
    images = _by_id(instances, "image", content.images, problems)
    usable, known = [], set[tuple[str, str]]()
    for entry in chosen:
        with _collecting(problems), _entry(path, "reference", entry) as place:
            reference = validate(_Reference, entry, place)
            annotation = _look_up(place, "ann_id", reference.ann_id, annotations, instances)
            image_entry = _look_up(place, "image_id", reference.image_id, images, instances)
            with _entry(instances, "image", image_entry) as image_place:
                image = validate(_Image, image_entry, image_place)
            size = (image.height, image.width)
            mask = _mask(instances, annotation, size)
            sentences = []
            for sentence_entry in reference.sentences:
                with _collecting(problems), _entry(path, f"image {image.file_name}, sentence", sentence_entry) as where:
                    sentence = validate(_ReferenceSentence, sentence_entry, where)
                    name = str(sentence.sent_id)
                    if (image.file_name, name) in known:
                        detail = f"{where.where} occurs more than once; the first one is read"
                        raise _EntryError(Problem("duplicates", str(path), detail))
                    known.add((image.file_name, name))
                    sentences.append((name, sentence.sent))
            if sentences:
                usable.append(Reference(image.file_name, size, *mask, tuple(sentences)))
    return usable


def _by_id(path: Path, what: str, entries: Sequence[Any], problems: list[Problem]) -> dict[int | str, Any]:
    by_id: dict[int | str, Any] = {}
    for entry in entries:
        with _collecting(problems), _entry(path, what, entry) as place:
            number = validate(_WithId, entry, place).id
            if number in by_id:
                detail = f"{what} {shown_name(number)} occurs more than once; the first one is read"
                raise _EntryError(Problem("duplicates", str(path), detail))
            by_id[number] = entry
    return by_id


def _look_up(place: Place, key: str, value: int | str, known: Mapping[int | str, Any], instances: Path) -> Any:
    """The image or annotation that a reference names."""
    if value not in known:
        detail = f"{key} {shown_name(value)} is not in {instances}; are the two files of the same data set?"
        raise _EntryError(place.problem("objects", detail))
    return known[value]


# ---- entries, in which anything may stand ----


def _mask(path: Path, entry: Any, size: tuple[int, int]) -> tuple[bytes, Box]:
    """Run lengths and box of an annotation.

    The box is as it is annotated, because the published evaluation scores boxes against it, not against the mask's
    extent; where there is none, it is that of the mask, as COCO makes boxes of masks.
    """
    with _entry(path, "annotation", entry, kind="objects") as place:
        annotation = validate(_Annotation, entry, place)
        counts = encode_segmentation(annotation.segmentation, size=size)
        if annotation.bbox is None:
            return counts, mask_box(counts, size=size)
        left, top, width, height = annotation.bbox
        return counts, (left, top, width, height)


@contextmanager
def _collecting(problems: list[Problem]) -> Iterator[None]:
    """Notes what is wrong with an entry; the rest of the block, which reads it, is left out."""
    try:
        yield
    except _EntryError as error:
        problems.append(error.problem)


@contextmanager
def _entry(path: Path, what: str, entry: Any, *, kind: ProblemKind = "expressions") -> Iterator[Place]:
    """The place of an entry; says which one of which file cannot be used."""
    place = Place(path, f"{what} {_name_of(entry)}")
    try:
        yield place
    except IndexFileError as error:
        raise _EntryError(Problem(kind, str(path), error.detail)) from None
    except ValueError as error:
        raise _EntryError(place.problem(kind, str(error))) from None


def _name_of(entry: Any) -> str:
    if not isinstance(entry, dict):
        return shown(entry)
    return next((shown_name(entry[key]) for key in ("id", "ref_id", "sent_id") if key in entry), "without id")


# ---- files ----


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
    data = read_bytes(path)
    try:
        # The published files come from Python 2; its byte strings are text here, and latin-1 reads any byte.
        return PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except (MemoryError, RecursionError, OverflowError) as error:
        detail = f"not a pickle of a list of references ({type(error).__name__}); it may be damaged"
        raise IndexFileError(path, detail) from None
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        detail = f"not a readable pickle of lists, dicts, texts and numbers ({str(error)[:LONGEST_VALUE]})"
        raise IndexFileError(path, detail) from None
