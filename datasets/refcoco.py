"""RefCOCO, RefCOCO+ and RefCOCOg: images of COCO train2014 with sentences about one object each.

    ROOT/train2014/COCO_train2014_<12 digits>.jpg          or below ROOT/coco, ROOT/images, ROOT/coco/images,
                                                           ROOT/images/mscoco/images
    or ROOT/train2017/<12 digits>.jpg, there, too          as copies from the release of 2017 have them
    ROOT/<name>/instances_<name>_<split>.json              or below ROOT/coco
      images[]: one per *sentence*: id, file_name, height, width, caption; annotations[]: one each, by image_id
      (made by tools/data/convert_refexp_to_coco.py of https://github.com/wjn922/ReferFormer)
    or, as the sets were published,
    ROOT/<name>/refs(<split_by>).p                         a pickled list of objects and the sentences about them
    ROOT/<name>/instances.json                             images and annotations of COCO, by id

<name> is refcoco, refcoco+ or refcocog. A record is one image, its expressions the sentences about all its objects;
object n is the n-th that the file mentions in this image, counted from 1.

Source: https://github.com/lichengunc/refer
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from datasets.counts import Counts, count_videos
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    RankedImages,
    SplitContents,
    SplitRequest,
)
from datasets.listing import first_folder
from datasets.problems import Problem
from datasets.readers import ImageFrames
from datasets.records import Expression, VideoRecord
from datasets.refcoco_files import Reference, read_plain_pickle, read_references, read_split_file
from datasets.run_lengths import RunLengthMasks, Track
from media.files import path_inside
from media.folders import IMAGE_SUFFIXES, listing

SPLITS_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
"""Of each set, who divided it into splits; the first is the one that papers use."""

IMAGE_FOLDERS = ("train2014", "train2017")
"""In which copies have the images of COCO; in the second one their names are the numbers alone."""

PUBLISHED = {
    "refcoco": {
        "train": Counts(images=16994, objects=42404, expressions=120624),
        "val": Counts(images=1500, objects=3811, expressions=10834),
        "testA": Counts(images=750, objects=1975, expressions=5657),
        "testB": Counts(images=750, objects=1810, expressions=5095),
    },
    "refcoco+": {
        "train": Counts(images=16992, objects=42278, expressions=120191),
        "val": Counts(images=1500, objects=3805, expressions=10758),
        "testA": Counts(images=750, objects=1975, expressions=5726),
        "testB": Counts(images=750, objects=1798, expressions=4889),
    },
    "refcocog": {
        "train": Counts(images=21899, objects=42226, expressions=80512),
        "val": Counts(images=1300, objects=2573, expressions=4896),
        "test": Counts(images=2600, objects=5023, expressions=9602),
    },
}
"""In the division that papers use: RefCOCO and RefCOCO+ in that of UNC, RefCOCOg in that of UMD.

Images and objects: the description of `ref_coco` in TensorFlow Datasets. Expressions of RefCOCO: the documentation of
FlagEval. Not confirmed: expressions of RefCOCO+ for each split, and of RefCOCOg.
"""


class RefcocoSettings(DatasetSettings):
    """One of the three sets."""

    dataset: Literal["refcoco"] = "refcoco"
    """Format of the data."""

    variant: Literal["refcoco", "refcoco+", "refcocog"] = "refcoco"
    """Which of the three sets."""

    split_by: str = ""
    """Whose division into splits, read from `refs(<split_by>).p`: `unc` or `google` for RefCOCO, `unc` for RefCOCO+,
    `umd` or `google` for RefCOCOg. Empty: `instances_<variant>_<split>.json` if there is one, otherwise the division
    that papers use, which is the first of these."""

    pseudo_clips: bool = False
    """Train on clips in which the image moves, turns and blurs, as published for joint training with videos."""

    eval_split: str = "val"
    """Split that is evaluated: `val`, `testA`, `testB` or, for RefCOCOg, `test`."""

    @model_validator(mode="after")
    def split_by_exists(self) -> "RefcocoSettings":
        """Raises ValueError if nobody has divided this set so."""
        known = SPLITS_BY[self.variant]
        if self.split_by and self.split_by not in known:
            raise ValueError(f"split_by={self.split_by!r}: {self.variant} is divided by {' or '.join(known)}")
        return self

    @property
    def label(self) -> str:
        """The name of the set; and of its division, unless it is the one that papers use and give counts of."""
        is_usual = self.split_by in ("", SPLITS_BY[self.variant][0])
        return self.variant if is_usual else f"{self.variant} ({self.split_by})"


def read(request: SplitRequest[RefcocoSettings]) -> SplitContents:
    """One split; images are sorted by name."""
    problems: list[Problem] = []
    file, references = _read_index(request, problems)
    images = _find_images(request.root)
    by_image: dict[str, list[Reference]] = {}
    for reference in references:
        by_image.setdefault(reference.image, []).append(reference)
    present = _ImagesOfCoco(images)
    videos = []
    for image, own in sorted(by_image.items()):
        sizes, path = {reference.size for reference in own}, present.find(image)
        if path is None:
            path = path_inside(images, image, what=f"{file}: image")
            detail = f"no such image; unpack {images.name}.zip of COCO completely"
            problems.append(Problem("missing", str(path), detail))
        elif len(sizes) > 1:
            problems.append(Problem("mismatched", str(file), f"image {image} has several sizes: {sorted(sizes)}"))
        else:
            video = _record(file, image, path, own)
            problems += _unseen_objects(video)
            if request.for_training:
                video = replace(video, is_pseudo_clip=request.settings.pseudo_clips)
                video = _without_flat_boxes(video, own[0].size, problems)
            videos.append(video)
    return SplitContents(tuple(videos), tuple(dict.fromkeys(problems)))  # several references may share a bad image


def _read_index(request: SplitRequest[RefcocoSettings], problems: list[Problem]) -> tuple[Path, list[Reference]]:
    """The file that lists the split, in whichever layout is there, and what it says.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    root, split, variant, split_by = request.root, request.split, request.settings.variant, request.settings.split_by
    folder = first_folder(root / variant, root / "coco" / variant)
    split_file = folder / f"instances_{variant}_{split}.json"
    if not split_by and split_file.is_file():
        return split_file, read_split_file(split_file, problems)
    refs = folder / f"refs({split_by or SPLITS_BY[variant][0]}).p"
    if refs.is_file():
        return refs, read_references(refs, folder / "instances.json", split, problems)
    prefix = f"instances_{variant}_"
    splits = sorted(path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.json"))
    there = f"; there are files for the splits {', '.join(splits)}" if splits else ""
    raise ValueError(f"split {split!r} of {variant}: neither {split_file} nor {refs} exists{there}")


def _record(file: Path, image: str, path: Path, references: Sequence[Reference]) -> VideoRecord:
    """The record of an image, named as the index names it, wherever and however the file is called."""
    name_of_image = Path(image).stem
    boxes = {reference.counts: reference.box_xywh_px for reference in reversed(references)}  # the first one counts
    numbers = {counts: n for n, counts in enumerate(dict.fromkeys(r.counts for r in references), start=1)}
    tracks = {n: Track(references[0].size, counts) for counts, n in numbers.items()}
    return VideoRecord(
        name=name_of_image,
        frame_names=(name_of_image,),
        frames=ImageFrames(path.parent, (path.stem,), path.suffix),
        masks=RunLengthMasks(file, tracks),
        expressions=tuple(
            Expression(name, text, (numbers[reference.counts],))
            for reference in references
            for name, text in reference.sentences
        ),
        visible={n: track.visible() for n, track in tracks.items()},
        boxes_xywh_px={n: boxes[counts] for counts, n in numbers.items()},
    )


def _unseen_objects(video: VideoRecord) -> Iterator[Problem]:
    """Objects without a pixel; training leaves out the expressions about them, because no frame shows these objects."""
    for number, positions in video.visible.items():
        if not positions:
            names = ", ".join(expression.name for expression in video.expressions if number in expression.known_ids)
            detail = f"no pixel in its mask (expressions {names})"
            yield Problem("unseen", f"video {video.name}, object {number}", detail)


def _without_flat_boxes(video: VideoRecord, size: tuple[int, int], problems: list[Problem]) -> VideoRecord:
    """An image in which objects without a box count as not visible: a box without area in the image is no target.

    The published loader takes another sample for one about such an object, at random. The boxes of pseudo-clips are
    the extents of masks.
    """
    if video.is_pseudo_clip:
        return video
    height, width = size
    visible = dict(video.visible)
    for number, (left, top, box_width, box_height) in video.boxes_xywh_px.items():
        inside_width = min(left + box_width, width) - max(left, 0)
        inside_height = min(top + box_height, height) - max(top, 0)
        if visible[number] and not (inside_width > 0 and inside_height > 0):
            visible[number] = frozenset()
            names = ", ".join(expression.name for expression in video.expressions if number in expression.known_ids)
            detail = f"bbox={list(video.boxes_xywh_px[number])} has no area in the image (expressions {names})"
            problems.append(Problem("unseen", f"video {video.name}, object {number}", detail))
    return replace(video, visible=visible)


# ---- folders ----


def _find_images(root: Path) -> Path:
    """The folder with the images of COCO.

    Raises:
        ValueError: there is none.
    """
    places = (root, root / "coco", root / "images", root / "coco" / "images", root / "images" / "mscoco" / "images")
    return first_folder(*(place / name for name in IMAGE_FOLDERS for place in places))


class _ImagesOfCoco:
    """The images of a folder, found by the names that index files have for them.

    Copies from the release of 2017 have them under their numbers alone, and some have another suffix.
    """

    def __init__(self, folder: Path) -> None:
        self._exact = {path.name: path for path in listing(folder, IMAGE_SUFFIXES)}
        self._by_number = {self._number(name): path for name, path in self._exact.items()}

    def find(self, name: str) -> Path | None:
        """The image, or None."""
        return self._exact.get(name) or self._by_number.get(self._number(name))

    @staticmethod
    def _number(name: str) -> str:
        return Path(name).stem.removeprefix("COCO_train2014_")


def _find(root: Path) -> list[FoundDataset]:
    """What lies in the folders of the three sets: splits of prepared files, otherwise those of the references."""
    datasets = []
    for variant, (split_by, *_) in SPLITS_BY.items():
        for folder in (root / variant, root / "coco" / variant):
            if any(folder.glob("instances*.json")) or any(folder.glob("refs(*).p")):
                prepared = [s for s in PUBLISHED[variant] if (folder / f"instances_{variant}_{s}.json").is_file()]
                splits = prepared or _splits_of_references(folder / f"refs({split_by}).p", variant)
                settings = RefcocoSettings.model_validate({"variant": variant})
                datasets.append(FoundDataset(settings, tuple(splits)))
                break
    return datasets


def _splits_of_references(path: Path, variant: str) -> list[str]:
    try:
        there = {reference["split"] for reference in read_plain_pickle(path)}
    except (ValueError, KeyError, TypeError):
        return ["train"]  # reading it will say what is wrong
    return [split for split in PUBLISHED[variant] if split in there]


# ---- definition ----


def _count(videos: Sequence[VideoRecord]) -> Counts:
    counts = count_videos(videos)
    # objects with the same mask are one here, references to them are not: the number cannot be compared
    return replace(counts, images=counts.videos, objects=None, videos=None, frames=None)


def _shared_folders(request: SplitRequest[RefcocoSettings]) -> Iterable[Path]:
    """The images: COCO has many more."""
    try:
        return (_find_images(request.root),)
    except ValueError:
        return ()  # `read` raises the same error, and the check reports it


REFCOCO = DatasetDefinition(
    title="RefCOCO/+/g",
    settings=RefcocoSettings,
    read=read,
    find=_find,
    protocol=RankedImages(),
    published=PUBLISHED,
    count=_count,
    shared_folders=_shared_folders,
)
