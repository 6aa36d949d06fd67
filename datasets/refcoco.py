"""RefCOCO, RefCOCO+ and RefCOCOg: images of COCO train2014 with sentences about one object each.

    ROOT/train2014/COCO_train2014_<12 digits>.jpg          or below ROOT/coco, ROOT/images, ROOT/images/mscoco/images
    ROOT/<name>/instances_<name>_<split>.json              or below ROOT/coco
      images[]: one per *sentence*: id, file_name, height, width, caption; annotations[]: one each, by image_id
    or, as the sets were published,
    ROOT/<name>/refs(<split_by>).p                         a pickled list of objects and the sentences about them
    ROOT/<name>/instances.json                             images and annotations of COCO, by id

<name> is refcoco, refcoco+ or refcocog. A record is one image, its expressions the sentences about all its objects.
"""

import json
import logging
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from configs.schema import DataConfig
from datasets.coco_masks import decode_mask, encode_segmentation, mask_area
from datasets.readers import ImageFrames, SizeMismatchError
from datasets.records import ClipExpansion, Expression, VideoRecord
from loading.pseudo_clips import PseudoClips
from loading.text import clean_sentence

logger = logging.getLogger(__name__)

SPLITS_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
"""Of each set, who divided it into splits; the first is the one that papers use."""


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "RefCoco":
    """See `OpenSplit`."""
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: RefCOCO has other categories than Ref-YouTube-VOS")
    return RefCoco(
        root,
        split,
        name=data.variant,
        split_by=data.split_by,
        lower_case=data.lower_case,
        raw_sentences=raw_sentences,
        expand=PseudoClips() if data.pseudo_clips else None,
    )


@dataclass(frozen=True, slots=True)
class Referral:
    """One object and what is said about it.

    Attributes:
        image: name of the image file.
        size: (height, width) of the image in pixels, as the file of annotations has it.
        counts: its mask, as compressed run lengths. The same object has the same: sentences of the first layout repeat
            its annotation under new ids.
        sentences: name and text of each.
    """

    image: str
    size: tuple[int, int]
    counts: bytes
    sentences: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RunLengthMasks:
    """The masks of one image: object n is the n-th of `counts`, counted from 1.

    Attributes:
        source: file that the masks come from, for messages.
        counts: compressed run lengths of every object.
        size: (height, width) that they were made for.
    """

    source: Path
    counts: tuple[bytes, ...]
    size: tuple[int, int]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """See `MaskReader`; the same at every position."""
        if size != self.size:
            raise SizeMismatchError(
                f"{self.source}: annotated at (height, width) {self.size}, but the image has {size}"
            )
        masks = np.stack([decode_mask(self.counts[number - 1], size=size) for number in objects])
        still = torch.from_numpy(masks).view(torch.bool)[:, None]  # (object, 1, height, width)
        return still.expand(-1, len(positions), -1, -1)


class RefCoco:
    """One split of one of the three sets. All index files are read here, once; images by whoever needs them.

    Args:
        root: folder of the data.
        split: "train", "val", "testA", "testB" or "test", whichever the set has.
        name: "refcoco", "refcoco+" or "refcocog".
        split_by: whose splits; read from `refs(<split_by>).p`. Empty takes `instances_<name>_<split>.json` if it
            exists, and otherwise the split that papers use (unc; umd for RefCOCOg).
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.
        expand: makes training clips of the images; None keeps them still.

    Attributes:
        videos: one record per image, sorted by name.

    Raises:
        ValueError: a file or image is missing or damaged, an annotation is missing, the split is unknown.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        name: str = "refcoco",
        split_by: str = "",
        lower_case: bool = True,
        raw_sentences: bool = False,
        expand: ClipExpansion | None = None,
    ) -> None:
        if name not in SPLITS_BY:
            raise ValueError(f"name={name!r} must be one of {', '.join(SPLITS_BY)}")
        if split_by and split_by not in SPLITS_BY[name]:
            raise ValueError(f"data.split_by={split_by!r}: {name} is divided by {' or '.join(SPLITS_BY[name])}")
        self._lower_case, self._raw_sentences, self._expand = lower_case, raw_sentences, expand
        self._file, referrals = find_referrals(root, name, split, split_by)
        self._images = find_images(root)
        self.videos = self._records(referrals)

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The images without the objects that have no pixel, of which a warning tells."""
        kept, empty = [], []
        for video in self.videos:
            masks = video.masks
            assert isinstance(masks, RunLengthMasks)  # made so below
            shown = {n for n, counts in enumerate(masks.counts, start=1) if mask_area(counts, size=masks.size)}
            expressions = tuple(e for e in video.expressions if shown.issuperset(e.object_ids))
            empty += [f"{video.name}: {e.sentence!r}" for e in video.expressions if not shown.issuperset(e.object_ids)]
            if expressions:
                visible = {number: frozenset({0}) for number in shown}
                kept.append(replace(video, expressions=expressions, visible=visible, expand=self._expand))
        if empty:
            logger.warning(
                "%s: %d sentences are left out, because the mask of their object has no pixel: %s",
                self._file,
                len(empty),
                _shown(empty),
            )
        return tuple(kept)

    def _records(self, referrals: Iterable[Referral]) -> tuple[VideoRecord, ...]:
        by_image: dict[str, list[Referral]] = {}
        for referral in referrals:
            by_image.setdefault(referral.image, []).append(referral)
        present = {path.name for path in self._images.iterdir()}
        missing = sorted(set(by_image) - present)
        if missing:
            raise ValueError(
                f"{self._images}: {len(missing)} of the {len(by_image)} images that {self._file} names are missing: "
                f"{_shown(missing)}. Unpack train2014.zip of COCO completely"
            )
        return tuple(self._record(image, by_image[image]) for image in sorted(by_image))

    def _record(self, image: str, referrals: Sequence[Referral]) -> VideoRecord:
        sizes = {referral.size for referral in referrals}
        if len(sizes) > 1:
            raise ValueError(f"{self._file}: image {image} has several sizes: {sorted(sizes)}")
        objects = tuple(dict.fromkeys(referral.counts for referral in referrals))
        expressions = tuple(
            self._expression(image, name, text, objects.index(referral.counts) + 1)
            for referral in referrals
            for name, text in referral.sentences
        )
        names = [expression.name for expression in expressions]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{self._file}: image {image}: the sentence ids {', '.join(twice)} stand there twice")
        stem, suffix = Path(image).stem, Path(image).suffix
        return VideoRecord(
            name=stem,
            frame_names=(stem,),
            frames=ImageFrames(self._images, (stem,), suffix),
            masks=RunLengthMasks(self._file, objects, *sizes),
            expressions=expressions,
        )

    def _expression(self, image: str, name: str, text: str, object_id: int) -> Expression:
        sentence = clean_sentence(text, lower_case=self._lower_case)
        if not sentence:
            raise ValueError(f"{self._file}: image {image}, sentence {name}: the sentence is empty")
        return Expression(name=name, sentence=text if self._raw_sentences else sentence, object_ids=(object_id,))


# ---- the two layouts ----


def find_images(root: Path) -> Path:
    """The folder with the images of COCO.

    Raises:
        ValueError: there is none.
    """
    return _first_folder(
        root / "train2014",
        root / "coco" / "train2014",
        root / "images" / "train2014",
        root / "images" / "mscoco" / "images" / "train2014",
    )


def find_referrals(root: Path, name: str, split: str, split_by: str) -> tuple[Path, Iterator[Referral]]:
    """The file that lists the split, in whichever layout is there, and what it says."""
    folder = _first_folder(root / name, root / "coco" / name)
    per_split = folder / f"instances_{name}_{split}.json"
    if not split_by and per_split.is_file():
        return per_split, _read_per_sentence(per_split)
    refs = folder / f"refs({split_by or SPLITS_BY[name][0]}).p"
    if refs.is_file():
        return refs, _read_refs(refs, folder / "instances.json", split)
    prefix = f"instances_{name}_"
    splits = sorted(path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.json"))
    there = f"; there are files for the splits {', '.join(splits)}" if splits else ""
    raise ValueError(f"split {split!r} of {name}: neither {per_split} nor {refs} exists{there}")


def _read_per_sentence(path: Path) -> Iterator[Referral]:
    """The layout with an image entry per sentence."""
    content = _read_json(path)
    annotations: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        with _entry(path, "annotation", annotation):
            image_id = annotation["image_id"]
        if image_id in annotations:
            raise ValueError(f"{path}: image entry {image_id} has two annotations; one per sentence is expected")
        annotations[image_id] = annotation
    for image in content["images"]:
        with _entry(path, "image", image):
            if image["id"] not in annotations:
                raise ValueError(f"{path}: image entry {image['id']} ({image['file_name']}) has no annotation")
            size, file_name = _size(image), str(image["file_name"])
            sentence = (str(image["id"]), str(image["caption"]))
        yield Referral(file_name, size, _encode(path, annotations[image["id"]], size), (sentence,))


def _read_refs(path: Path, instances: Path, split: str) -> Iterator[Referral]:
    """The layout of the REFER toolkit."""
    refs = read_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path}: expected a list of references, got {type(refs).__name__}")
    chosen, splits = [], set()
    for ref in refs:
        with _entry(path, "reference", ref):
            splits.add(str(ref["split"]))
            if ref["split"] == split:
                chosen.append(ref)
    if not chosen:
        raise ValueError(f"{path}: no reference is of split {split!r}; there are {', '.join(sorted(splits))}")
    content = _read_json(instances)
    annotations = _by_id(instances, content["annotations"], {ref.get("ann_id") for ref in chosen})
    images = _by_id(instances, content["images"], {ref.get("image_id") for ref in chosen})
    for ref in chosen:
        with _entry(path, "reference", ref):
            for key, known in (("ann_id", annotations), ("image_id", images)):
                if ref[key] not in known:
                    raise ValueError(
                        f"{path}: reference {ref.get('ref_id')}: {key} {ref[key]} is not in {instances}; are the two "
                        "files of the same data set?"
                    )
            image, annotation = images[ref["image_id"]], annotations[ref["ann_id"]]
            sentences = tuple((str(sentence["sent_id"]), str(sentence["sent"])) for sentence in ref["sentences"])
        with _entry(instances, "image", image):
            size, file_name = _size(image), str(image["file_name"])
        yield Referral(file_name, size, _encode(instances, annotation, size), sentences)


def _encode(path: Path, annotation: dict[str, Any], size: tuple[int, int]) -> bytes:
    with _entry(path, "annotation", annotation):
        segmentation = annotation["segmentation"]
    try:
        return encode_segmentation(segmentation, size=size)
    except ValueError as error:
        raise ValueError(f"{path}: annotation {annotation.get('id')}: {error}") from None


def _by_id(path: Path, entries: Sequence[dict[str, Any]], wanted: set[Any]) -> dict[Any, dict[str, Any]]:
    """The entries with these ids."""
    found = {}
    for entry in entries:
        with _entry(path, "entry", entry):
            if entry["id"] in wanted:
                found[entry["id"]] = entry
    return found


def _size(image: dict[str, Any]) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if height < 1 or width < 1:
        raise ValueError(f"image {image['file_name']}: {height} x {width} pixels")
    return height, width


# ---- files ----


@contextmanager
def _entry(path: Path, kind: str, entry: Any) -> Iterator[None]:
    """Says which entry of which file lacks a key or has a value of the wrong type."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        name = entry.get("id", entry.get("ref_id", "without id")) if isinstance(entry, dict) else repr(entry)
        raise ValueError(f"{path}: {kind} {name}: bad or missing value ({error!r})") from None


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


def _first_folder(*candidates: Path) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no such folder: {' or '.join(map(str, candidates))}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
