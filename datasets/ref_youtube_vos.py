"""Ref-YouTube-VOS, and everything in its format (Referring Shapes).

    ROOT/meta_expressions/<split>/meta_expressions.json   see `datasets.meta_expressions`; obj_id, and optionally kind
    ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/<split>/Annotations/<video>/<frame>.png          pixel value = object id
    ROOT/<split>/meta.json                                videos.<video>.objects.<id>.category

An `obj_id` of [] says that the sentence means nothing in its video; the published files have no such sentence.

The published `valid` file has no `obj_id` and contains the test videos, too. Where you have masks, they are scored:

    ROOT/valid/Annotations/<video>/<frame>.png                pixel value = object id, with obj_id in the file, or in
                                                              another file of the same form (`valid_objects`)
    ROOT/valid/Annotations/<video>/<expression>/<frame>.png   a mask per expression, in the form of a submission
    ROOT/valid/masks/<video>/<obj_id>.json                    run lengths: {"<any>": [mask or null, for each frame]},
                                                              as the packages for lmms-eval have them

Source: https://youtube-vos.org/dataset/rvos/ and the released files.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from datasets.counts import Counts
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    MaskPerSentence,
    SplitContents,
    SplitRequest,
)
from datasets.index_file import AnyMapping, IndexEntry, Place, Sentence, read_json, validate
from datasets.index_text import MOST_DIGITS, IndexFileError, shown
from datasets.listing import FolderListing
from datasets.meta_expressions import (
    ExpressionEntry,
    describe_videos,
    expressions_file,
    missing_folders,
    read_videos,
    unclaimed_videos,
    video_names,
)
from datasets.problems import Problem, any_stops
from datasets.readers import PngMaskFolders, PngMasks, image_frames, pixel_value
from datasets.records import Expression, VideoRecord
from datasets.run_lengths import RunLength, RunLengthMasks, RunLengths, pack_track
from datasets.visibility import FILE_NAME, objects_in_no_mask, records_with_visibility
from media.files import path_inside

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
RUN_LENGTH_FOLDER = "masks"
LARGEST_ID = 255

PUBLISHED = {
    "ref_youtube_vos": {
        "train": Counts(videos=3471, objects=6388, expressions=12913),
        "valid": Counts(videos=202, expressions=834),
        "test": Counts(videos=305, expressions=1262),
    }
}
"""Train: Seo et al., URVOS (ECCV 2020), expressions about full videos; valid, test: counted in the released files."""

VALID_FILE = Counts(videos=507, objects=1063, expressions=2096)
"""What the released `valid` file holds before the test videos are left out; as in the same paper."""

CATEGORIES = (
    "airplane", "ape", "bear", "bike", "bird", "boat", "bucket", "bus", "camel", "cat", "cow", "crocodile", "deer",
    "dog", "dolphin", "duck", "eagle", "earless_seal", "elephant", "fish", "fox", "frisbee", "frog", "giant_panda",
    "giraffe", "hand", "hat", "hedgehog", "horse", "knife", "leopard", "lion", "lizard", "monkey", "motorbike",
    "mouse", "others", "owl", "paddle", "parachute", "parrot", "penguin", "person", "plant", "rabbit", "raccoon",
    "sedan", "shark", "sheep", "sign", "skateboard", "snail", "snake", "snowboard", "squirrel", "surfboard",
    "tennis_racket", "tiger", "toilet", "train", "truck", "turtle", "umbrella", "whale", "zebra",
)  # fmt: skip
"""Those of YouTube-VOS in alphabetical order, as the published table has them; the index of a name is its class."""


class RefYoutubeVosSettings(DatasetSettings):
    """Ref-YouTube-VOS, or Referring Shapes."""

    dataset: Literal["ref_youtube_vos"] = "ref_youtube_vos"
    """Format of the data."""

    valid_objects: Path | None = None
    """File in the form of meta_expressions.json with the `obj_id` that the published file of `valid` lacks; with it and
    masks in `valid/Annotations` this split is scored."""

    label_categories: bool = False
    """Train with the 65 categories of YouTube-VOS as classes (`model.num_classes=65`) instead of one class."""


def _objects_of(value: object) -> object:
    """`None` and `[]` as they are, an id as the only one."""
    if value is None or value == []:
        return None if value is None else ()
    return (pixel_value(value, largest=LARGEST_ID),)


Objects = Annotated[tuple[int, ...] | None, BeforeValidator(_objects_of)]
"""An `obj_id`: None where the file does not say it; none where the sentence means nothing in its video."""


class _Expression(ExpressionEntry):
    """An expression of the file."""

    obj_id: Objects = None
    kind: str = ""


class _OtherExpression(IndexEntry):
    """An expression of `valid_objects`."""

    obj_id: Objects
    exp: Sentence | None = None


class _OtherVideo(IndexEntry):
    """A video of `valid_objects`."""

    expressions: dict[str, _OtherExpression]


class _Object(IndexEntry):
    """An object of meta.json."""

    category: str = ""


class _VideoObjects(IndexEntry):
    """A video of meta.json."""

    objects: dict[str, _Object]


def read(request: SplitRequest[RefYoutubeVosSettings]) -> SplitContents:
    """One split; videos are sorted by name, and valid videos that are also test videos are left out."""
    folder, file = request.root / request.split, expressions_file(request.root, request.split)
    described, hint = _described(request)
    # Only training reads labels, and the published valid split has no meta.json.
    with_labels = request.settings.label_categories and request.for_training
    categories = _read_categories(folder / "meta.json", needed=with_labels)
    problems = list(missing_folders(folder / "JPEGImages", sorted(described), hint))
    other_file = _valid_objects(request)

    def make_expression(video: str, name: str, entry: _Expression) -> Expression:
        objects = entry.obj_id
        if objects is None and other_file is not None:
            objects = other_file.objects_of(video, name, entry)
        if objects is None and request.for_training:
            raise ValueError("has no obj_id; this split cannot be trained on")
        if not objects:
            return Expression(name, entry.exp, objects, entry.kind)
        label = 0
        if with_labels:
            category = categories.get(video, {}).get(objects[0])
            if category not in CATEGORIES:
                raise ValueError(
                    f"object {objects[0]} has the category {category!r} in {folder / 'meta.json'}; expected one of the "
                    f"{len(CATEGORIES)} of YouTube-VOS"
                )
            label = CATEGORIES.index(category)
        return Expression(name, entry.exp, objects, entry.kind, label)

    videos = []
    for video in describe_videos(file, described, _Expression, make_expression, problems):
        frames = tuple(sorted(video.frames))
        expressions, masks = _with_masks(folder, video.name, frames, video.expressions, problems)
        videos.append(
            VideoRecord(
                name=video.name,
                frame_names=frames,
                frames=image_frames(path_inside(folder / "JPEGImages", video.name, what="video"), frames),
                masks=masks,
                expressions=expressions,
                listed_objects=(
                    None
                    if isinstance(masks, PngMaskFolders | RunLengthMasks)
                    else frozenset(categories.get(video.name, {}))
                ),
            )
        )
    has_masks, has_folder = any(video.masks is not None for video in videos), (folder / "Annotations").is_dir()
    if has_masks and not has_folder and not (folder / RUN_LENGTH_FOLDER).is_dir():
        raise ValueError(f"{folder / 'Annotations'}: no such folder of masks, although expressions have an obj_id")
    if has_folder and not has_masks:
        logger.warning(
            "%s is not used: no expression has an obj_id, which valid_objects=FILE can give", folder / "Annotations"
        )
    if request.for_training and request.scan_masks and not any_stops(problems):
        videos = list(
            records_with_visibility(
                videos,
                mask_folder=folder / "Annotations",
                keep_in=folder / FILE_NAME,
                cache=request.cache,
                expressions_file=file,
                problems=problems,
            )
        )
    if not request.for_training:
        problems += objects_in_no_mask(videos, file)
    return SplitContents(tuple(videos), tuple(problems))


def _described(request: SplitRequest[RefYoutubeVosSettings]) -> tuple[Mapping[str, Any], str]:
    """What the file says about each video of the split, sorted; and why one of them may be missing on disk."""
    described = read_videos(expressions_file(request.root, request.split))
    test_file = expressions_file(request.root, "test")
    hint = ""
    if request.split == "valid":
        test_videos = read_videos(test_file) if test_file.exists() else {}
        described = {video: content for video, content in described.items() if video not in test_videos}
        if not test_videos:
            hint = f"; it may be one of the test videos, which the released file names, too, and {test_file} is missing"
    return dict(sorted(described.items())), hint


@dataclass(frozen=True, slots=True)
class _ObjectsFile:
    """The file `valid_objects`.

    Attributes:
        place: of its videos.
        videos: what it says about each.
    """

    place: Place
    videos: Mapping[str, Any]

    def objects_of(self, video: str, name: str, entry: _Expression) -> tuple[int, ...]:
        """The objects of an expression of the split.

        Raises:
            ValueError: the file has none, or for another sentence.
        """
        place = self.place.at(video)
        described = validate(_OtherVideo, self.videos[video], place).expressions if video in self.videos else {}
        other = described.get(name)
        place = place.at("expressions", name)
        if other is None or other.obj_id is None:
            raise place.error("has no obj_id for this expression of `valid`")
        if other.exp not in (None, entry.exp):
            raise place.at("exp").error(f"got {shown(other.exp)}, expected {shown(entry.exp)} as in `valid`")
        return other.obj_id


def _valid_objects(request: SplitRequest[RefYoutubeVosSettings]) -> _ObjectsFile | None:
    """The file `valid_objects`; None where that is not set, or another split is read."""
    path = request.settings.valid_objects
    if path is None or request.split != "valid":
        return None
    path = path.expanduser()
    return _ObjectsFile(Place(path, "videos"), read_videos(path))


def _with_masks(
    folder: Path, video: str, frames: tuple[str, ...], expressions: tuple[Expression, ...], problems: list[Problem]
) -> tuple[tuple[Expression, ...], PngMasks | PngMaskFolders | RunLengthMasks | None]:
    """The expressions of a video, and its masks if it has some.

    Without objects there may be a folder of masks for each expression: it then counts as an object of its own.

    Args:
        folder: of the split.
        video: its name.
        frames: their names.
        expressions: about it.
        problems: takes files of run lengths that cannot be used.
    """
    own = path_inside(folder / "Annotations", video, what="video")
    # a video about which no sentence is true has masks like the others
    if any(e.object_ids for e in expressions) or all(e.is_absent for e in expressions):
        run_lengths = path_inside(folder / RUN_LENGTH_FOLDER, video, what="video")
        if run_lengths.parent.is_dir() and not own.is_dir():
            return expressions, _read_run_lengths(run_lengths, len(frames), expressions, problems)
        return expressions, PngMasks(own, frames)
    folders = {
        n: path_inside(own, e.name, what="expression") for n, e in enumerate(expressions, start=1) if e.is_secret
    }
    if not any(path.is_dir() for path in folders.values()):
        return expressions, None
    numbered = tuple(replace(e, object_ids=(n,)) if n in folders else e for n, e in enumerate(expressions, start=1))
    return numbered, PngMaskFolders(folders, frames)


def _read_run_lengths(
    folder: Path, num_frames: int, expressions: tuple[Expression, ...], problems: list[Problem]
) -> RunLengthMasks:
    """The masks of a video from a file per object."""
    tracks = {}
    for number in sorted({number for expression in expressions for number in expression.known_ids}):
        path = folder / f"{number}.json"
        if not path.is_file():
            problems.append(Problem("missing", str(path), "no such file of run lengths"))
            continue
        try:
            masks = _run_lengths_of(path)
            tracks[number] = pack_track(masks)
        except IndexFileError as error:
            problems.append(Problem("objects", str(path), error.detail))
            continue
        except ValueError as error:
            problems.append(Problem("objects", str(path), str(error)))
            continue
        if len(masks) != num_frames:
            detail = f"masks for {len(masks)} frames, the video has {num_frames}"
            problems.append(Problem("mismatched", str(path), detail))
    return RunLengthMasks(folder, tracks)


def _run_lengths_of(path: Path) -> list[RunLength | None]:
    """The only list of masks of a file, whatever its key is.

    Raises:
        ValueError: the file has another content.
    """
    content = validate(AnyMapping, read_json(path), Place(path)).root
    if len(content) != 1:
        raise IndexFileError(path, f"got {len(content)} keys, expected one, with a mask or null for each frame")
    ((key, masks),) = content.items()
    return validate(RunLengths, masks, Place(path).at(key)).root


def _read_categories(path: Path, *, needed: bool) -> Mapping[str, Mapping[int, str]]:
    """Category of each object of each video; nothing where the file is missing and nobody needs it."""
    if not needed and not path.exists():
        return {}
    categories = {}
    for video, content in read_videos(path).items():
        place = Place(path, "videos").at(video)
        objects = validate(_VideoObjects, content, place).objects
        odd = next((key for key in objects if not (key.isascii() and key.isdecimal() and len(key) < MOST_DIGITS)), None)
        if odd is not None:
            raise place.at("objects").error(f"got the key {shown(odd)}, expected the number of an object")
        categories[video] = {int(number): item.category for number, item in objects.items()}
    return categories


def _notes(
    request: SplitRequest[RefYoutubeVosSettings], contents: SplitContents, listing: FolderListing
) -> Iterator[Problem]:
    file = expressions_file(request.root, request.split)
    folder, videos = request.root / request.split, video_names(file)
    yield from unclaimed_videos(listing, (folder / "JPEGImages", folder / "Annotations"), videos)
    test_file = expressions_file(request.root, "test")
    if request.split == "valid" and not test_file.is_file() and len(videos) == VALID_FILE.videos:
        yield Problem("counts", str(test_file), "no such file; without it the test videos are taken for valid ones")


def _find(root: Path) -> list[FoundDataset]:
    splits = tuple(s for s in SPLITS if expressions_file(root, s).is_file() or (root / s / "JPEGImages").is_dir())
    is_here = (root / "meta_expressions").is_dir() and any((root / s / "JPEGImages").is_dir() for s in SPLITS)
    return [FoundDataset(RefYoutubeVosSettings(), splits)] if is_here else []


REF_YOUTUBE_VOS = DatasetDefinition(
    title="Ref-YouTube-VOS",
    settings=RefYoutubeVosSettings,
    read=read,
    find=_find,
    protocol=MaskPerSentence(),
    published=PUBLISHED,
    notes=_notes,
)
