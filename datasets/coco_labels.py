"""Labels of one's own in a JSON file of COCO or YouTube-VIS, as labelling tools export them.

COCO: `images`, `annotations` with a segmentation (polygons, or run lengths, compressed or not) and `categories`. An
image belongs to the frame that its `file_name` names (`datasets.frame_names`). An object is what has one category and
one track: `track_id` of the annotation or of its `attributes`, or else `name` of these; without any, all annotations of
a category are one object. `iscrowd` changes nothing: some tools set it for every painted mask. Images without an
annotation are not labelled, because tools list all frames, seen or not.

YouTube-VIS: `videos` with `file_names`, `annotations` with one segmentation or null per frame, and `categories`. Every
annotation is an object; frames in which none is seen are not labelled.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.coco_models import Coco, Image, ImageAnnotation, Video, YoutubeVis
from datasets.frame_names import FrameNames, plain_stem
from datasets.index_file import Place, read_json, validate
from datasets.index_text import IndexFileError, shown, shown_name
from datasets.label_files import VideoLabels
from datasets.problems import Problem
from datasets.run_lengths import (
    MIN_POLYGON_NUMBERS,
    RunLengthMasks,
    Track,
    encode_segmentation,
    mask_area,
    merge_run_lengths,
)

MOST_NAMED = 5
"""Images in a message."""

_HINTS = {
    "shapes": "this looks like LabelMe's own format",
    "flags": "this looks like LabelMe's own format",
    "_via_settings": "this looks like the project of VIA",
    "tags": "this looks like CVAT's own format",
}


@dataclass(frozen=True, slots=True)
class LabelJson:
    """The content of a file, for one or several videos.

    Attributes:
        path: of the file.
        content: of it.
        videos: names of the videos that have their labels in it.
    """

    path: Path
    content: Coco | YoutubeVis
    videos: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One mask in one frame.

    Attributes:
        position: of the frame.
        category: its name.
        track: which object of the category; empty where the file does not say.
        where: the place in the file, for messages.
        segmentation: as it stands there.
    """

    position: int
    category: str
    track: str
    where: str
    segmentation: Any


def open_label_json(path: Path, videos: Sequence[str]) -> LabelJson:
    """The content of a file, by its own account COCO or YouTube-VIS.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    content = read_json(path)
    if isinstance(content, list):
        found = "a list, as in Label Studio's own format"
    elif not isinstance(content, Mapping):
        found = shown(content)
    else:
        if not [key for key in ("annotations", "categories") if not isinstance(content.get(key), list)] and (
            isinstance(content.get("images"), list) or isinstance(content.get("videos"), list)
        ):
            model: type[Coco | YoutubeVis] = Coco if isinstance(content.get("images"), list) else YoutubeVis
            return LabelJson(path, validate(model, content, Place(path)), tuple(videos))
        hint = next((text for key, text in _HINTS.items() if key in content), "")
        found = f"the keys {_listed(content) or '(none)'}{f'; {hint}' if hint else ''}"
    raise ValueError(
        f"{path}: neither COCO (images, annotations, categories) nor YouTube-VIS (videos, annotations, categories), "
        f"but {found}; export it as COCO"
    )


def read_json_labels(
    file: LabelJson, *, video: str, frames: FrameNames, size: tuple[int, int], problems: list[Problem]
) -> VideoLabels:
    """The labels of one video.

    Args:
        file: with the labels.
        video: one of its `videos`.
        frames: of the video.
        size: (height, width) of its frames.
        problems: takes what cannot be used.

    Raises:
        ValueError: an entry is not as its format has it.
    """
    entries = _image_entries if isinstance(file.content, Coco) else _video_entries
    found = _encoded(entries(file, video, frames, size, problems), file, size=size, problems=problems)
    return _as_labels(found, file, num_frames=len(frames.stems), size=size)


# ---- the two formats ----


def _image_entries(
    file: LabelJson, video: str, frames: FrameNames, size: tuple[int, int], problems: list[Problem]
) -> Iterator[_Entry]:
    """The annotations of the images of a video."""
    content = file.content
    assert isinstance(content, Coco), "the caller has looked"
    category_names = _category_names(file)
    of_image: dict[int | str, list[ImageAnnotation]] = {}
    for annotation in content.annotations:
        of_image.setdefault(annotation.image_id, []).append(annotation)
    missed = _Missed(file.path, video, "labelled images belong to no frame of the video")
    name_at: dict[int, str] = {}
    foreign: list[str] = []
    for image in content.images:
        name = image.file_name
        own = of_image.get(image.id, [])
        owner = _video_of(name, file.videos)
        if own and owner is None and video == file.videos[0]:  # once is enough
            foreign.append(name)
        if not own or owner != video:
            continue
        position = missed.position_of(name, frames)
        if position is None:
            continue
        if position in name_at:
            detail = (
                f"{name} and {name_at[position]} are both labels of frame {frames.stems[position]} of video {video}; "
                "export without augmentation, and every frame once"
            )
            problems.append(Problem("labels", str(file.path), detail))
            continue
        name_at[position] = name
        if not _has_size(image, size):
            problems.append(_wrong_size(file.path, f"image {name}", image, size, video))
            continue
        for annotation in own:
            category = category_names(annotation.category_id)
            yield _Entry(
                position,
                category,
                _track_of(annotation),
                f"annotation {shown_name(annotation.id)} ({shown_name(category)}, {shown_name(name)})",
                annotation.segmentation,
            )
    problems += missed.as_problems()
    if foreign:
        detail = f"{_listed(foreign)}: of none of the videos {_listed(file.videos)}, by folder or beginning of the name"
        problems.append(Problem("left_out", str(file.path), detail))


def _video_entries(
    file: LabelJson, video: str, frames: FrameNames, size: tuple[int, int], problems: list[Problem]
) -> Iterator[_Entry]:
    """The masks of the tracks of a video."""
    content = file.content
    assert isinstance(content, YoutubeVis), "the caller has looked"
    category_names = _category_names(file)
    described = content.videos
    own = [each for each in described if _is_described_as(each, video)]
    if not own and len(described) == len(file.videos) == 1:
        own = described
    if len(own) != 1:
        names = ", ".join(_described_name(each) for each in described[:MOST_NAMED])
        raise ValueError(f"{file.path}: {len(own)} entries for video {video!r} among {len(described)} videos ({names})")
    (entry,) = own
    missed = _Missed(file.path, video, "labelled frames belong to no frame of the video")
    tracks = [each for each in content.annotations if each.video_id == entry.id]
    listed = entry.file_names
    for track in tracks:
        if len(track.segmentations) != len(listed):
            detail = f"annotation {shown_name(track.id)} has {len(track.segmentations)} segmentations"
            raise IndexFileError(file.path, f"{detail} for {len(listed)} frames")
    if not _has_size(entry, size):
        problems.append(_wrong_size(file.path, f"video {_described_name(entry)}", entry, size, video))
        return
    name_at: dict[int, str] = {}
    for index, name in enumerate(listed):
        seen = [track for track in tracks if track.segmentations[index] is not None]
        if not seen:
            continue
        position = missed.position_of(name, frames)
        if position is None:
            continue
        if position in name_at:
            detail = f"{name} and {name_at[position]} are both frame {frames.stems[position]} of video {video}"
            problems.append(Problem("labels", str(file.path), detail))
            continue
        name_at[position] = name
        for track in seen:
            category = category_names(track.category_id)
            where = f"annotation {shown_name(track.id)} ({shown_name(category)}, {shown_name(name)})"
            yield _Entry(position, category, str(track.id), where, track.segmentations[index])
    problems += missed.as_problems()


def _category_names(file: LabelJson) -> "_Categories":
    return _Categories(file.path, {each.id: each.name for each in file.content.categories})


@dataclass(frozen=True, slots=True)
class _Categories:
    """Names of the categories of a file."""

    path: Path
    names: Mapping[int | str, str]

    def __call__(self, number: int | str) -> str:
        if number not in self.names:
            detail = f"category_id={shown(number)} is not in `categories` ({shown(list(self.names))})"
            raise IndexFileError(self.path, detail)
        return self.names[number]


def _track_of(annotation: ImageAnnotation) -> str:
    """Which object of its category an annotation shows; empty where the file does not say."""
    attributes = annotation.attributes if isinstance(annotation.attributes, Mapping) else {}
    candidates = (annotation.track_id, attributes.get("track_id"), attributes.get("name"))
    # whatever else stands there is the name of no track
    return next((str(each) for each in candidates if isinstance(each, int | float | str) and each != ""), "")


def _video_of(name: str, videos: Sequence[str]) -> str | None:
    """The video that an image is of: a folder of its name, or the beginning of the name; the only one there is."""
    if len(videos) == 1:
        return videos[0]
    parts = PurePosixPath(name.replace("\\", "/")).parts
    stem = plain_stem(name)
    fitting = [video for video in videos if video in parts[:-1]] or [
        video for video in videos if stem.startswith((f"{video}_", f"{video}-", f"{video}."))
    ]
    return max(fitting, key=len, default=None)


def _described_name(entry: Video) -> str:
    """What YouTube-VIS calls a video: the folder of its frames."""
    return entry.name or next(reversed(_folders_of(entry)), "")


def _is_described_as(entry: Video, video: str) -> bool:
    return video in (*_folders_of(entry), entry.name)


def _folders_of(entry: Video) -> tuple[str, ...]:
    """Folders of its first frame."""
    return PurePosixPath(entry.file_names[0].replace("\\", "/")).parts[:-1] if entry.file_names else ()


def _has_size(entry: Image | Video, size: tuple[int, int]) -> bool:
    return (entry.height, entry.width) == size


def _wrong_size(path: Path, what: str, entry: Image | Video, size: tuple[int, int], video: str) -> Problem:
    found = f"({shown(entry.height)}, {shown(entry.width)})"
    detail = (
        f"{what} has (height, width) {found}, but the frames of video {video} have {size}; label frames of the "
        "original size, and export without resizing"
    )
    return Problem("mismatched", str(path), detail)


@dataclass
class _Missed:
    """Labels that belong to no frame: one message for all of them.

    Attributes:
        path: of the file.
        video: its name.
        what: they are.
        num_found: others.
        reasons: by name.
    """

    path: Path
    video: str
    what: str
    num_found: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def position_of(self, name: str, frames: FrameNames) -> int | None:
        """The frame that a label belongs to; None, noted, where it belongs to none."""
        try:
            position = frames.position_of(name)
        except ValueError as error:
            self.reasons[name] = str(error)
            return None
        self.num_found += 1
        return position

    def as_problems(self) -> Iterator[Problem]:
        """Nothing where all were found."""
        if not self.reasons:
            return
        total = self.num_found + len(self.reasons)
        first = next(iter(self.reasons.values()))
        missed = f"{len(self.reasons)} of {total} {self.what}"
        detail = f"video {self.video}: {missed}: {_listed(self.reasons)}; the first: {first}"
        yield Problem("labels", str(self.path), detail)


def _listed(names: Iterable[str]) -> str:
    given = list(names)
    return ", ".join(map(shown_name, given[:MOST_NAMED])) + (", ..." if len(given) > MOST_NAMED else "")


# ---- masks ----


def _encoded(
    entries: Iterable[_Entry], file: LabelJson, *, size: tuple[int, int], problems: list[Problem]
) -> dict[tuple[str, str], dict[int, list[bytes]]]:
    """Run lengths of each object, by category and track, and by position."""
    found: dict[tuple[str, str], dict[int, list[bytes]]] = {}
    for entry in entries:
        if not entry.segmentation:
            detail = f"{entry.where} has no segmentation, only a box perhaps; draw a polygon or a mask"
            problems.append(Problem("labels", str(file.path), detail))
            continue
        segmentation = entry.segmentation
        if isinstance(segmentation, list):
            # some tools write a single polygon without the list around it
            segmentation = segmentation if isinstance(segmentation[0], list) else [segmentation]
            short = [each for each in segmentation if isinstance(each, list) and len(each) < MIN_POLYGON_NUMBERS]
            if short:
                detail = f"{entry.where}: {len(short)} of {len(segmentation)} polygons have fewer than 3 points"
                problems.append(Problem("left_out", str(file.path), detail))
            if len(short) == len(segmentation):
                continue
        try:
            counts = encode_segmentation(segmentation, size=size)
        except ValueError as error:
            problems.append(Problem("labels", str(file.path), f"{entry.where}: {error}"))
            continue
        found.setdefault((entry.category, entry.track), {}).setdefault(entry.position, []).append(counts)
    return found


def _as_labels(
    found: Mapping[tuple[str, str], Mapping[int, list[bytes]]],
    file: LabelJson,
    *,
    num_frames: int,
    size: tuple[int, int],
) -> VideoLabels:
    tracks: dict[int, Track] = {}
    visible: dict[int, frozenset[int]] = {}
    keys: dict[str, list[int]] = {}
    positions: set[int] = set()
    track_names = [track for _, track in found]
    for number, ((category, track), masks) in enumerate(sorted(found.items()), start=1):
        merged = {position: merge_run_lengths(parts, size=size) for position, parts in masks.items()}
        tracks[number] = Track(size, b" ".join(merged.get(position, b"") for position in range(num_frames)))
        visible[number] = frozenset(p for p, counts in merged.items() if mask_area(counts, size=size))
        positions |= merged.keys()
        keys.setdefault(category, []).append(number)
        if track:
            keys.setdefault(f"{category}/{track}", []).append(number)
    categories = {category for category, _ in found}
    for number, (_, track) in enumerate(sorted(found), start=1):
        if track and track not in categories and track_names.count(track) == 1:
            keys.setdefault(track, []).append(number)
    return VideoLabels(
        masks=RunLengthMasks(file.path, tracks),
        positions=frozenset(positions),
        visible={number: shown for number, shown in visible.items() if shown},
        keys={key: tuple(numbers) for key, numbers in keys.items()},
        names={category: category for category in sorted(categories)},
        elsewhere=frozenset(each.name for each in file.content.categories) - categories,
        is_shared=len(file.videos) > 1,
    )
