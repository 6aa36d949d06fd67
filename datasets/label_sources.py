"""Videos of one's own with labels: where they lie, and what is read of each of them for `datasets.labelled_videos`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from datasets.absent_words import nouns
from datasets.coco_labels import LabelJson, open_label_json, read_json_labels
from datasets.frame_names import FrameNames
from datasets.index_text import IndexFileError
from datasets.label_files import VideoLabels, read_label_pngs
from datasets.problems import Problem, ProblemKind
from datasets.readers import FrameReader, ImageFiles
from datasets.records import Expression, VideoRecord
from datasets.sentence_file import FILE_NAME, SentenceFile, name_as_sentence, read_sentence_file
from media.files import UnavailableError, plain_name
from media.folders import IMAGE_SUFFIXES, listing
from structures.config_node import ConfigNode

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
FRAMES_FOLDER, LABELS_FOLDER = "frames", "labels"
SHARED_LABELS = "labels.json"

MOST_NAMED = 8
"""Names in a message."""

OBJECT = "object"
"""Kind of the sentences about objects."""


class LabelledVideo(ConfigNode):
    """A video and its labels; relative paths start at the folder of the data set."""

    video: Path
    """Video file, or folder of frames."""

    labels: Path
    """Folder of PNG files, JSON file of COCO or YouTube-VIS, or folder with one such file."""

    sentences: Path | None = None
    """`sentences.json`, where it is not beside the labels."""

    name: str = ""
    """Of the video, in results; empty: that of its file or folder."""

    @field_validator("name")
    @classmethod
    def is_name_of_a_folder(cls, name: str) -> str:
        """Raises ValueError if a folder of results cannot be called so."""
        return plain_name(name, what="name") if name else name


@dataclass(frozen=True, slots=True)
class LabelledRecord:
    """A video with the sentences about its objects.

    Attributes:
        record: all labelled frames; only sentences about objects.
        sentences: what its file of sentences says.
        sentence_file: where that is, for messages.
    """

    record: VideoRecord
    sentences: SentenceFile
    sentence_file: Path

    @property
    def own_texts(self) -> list[str]:
        """What is in the video: the sentences about objects, what may stand for words of them, what has no mask."""
        texts = [expression.sentence for expression in self.record.expressions]
        mentioned = frozenset[str]().union(*map(nouns, texts))
        for word, others in self.sentences.synonyms.items():
            if not mentioned.isdisjoint(nouns(word)):
                texts += others
        return [*texts, *self.sentences.unlabelled]


# ---- finding videos ----


def find_videos(root: Path, listed: Sequence[LabelledVideo], problems: list[Problem]) -> Sequence[LabelledVideo]:
    """The videos that the settings name, or that lie in the folder, with paths and names filled in.

    Args:
        root: folder of the data set.
        listed: as the settings name them; none: those in the folder.
        problems: takes folders without a video.

    Raises:
        ValueError: there is none, or two have one name.
    """
    if listed:
        videos = [
            LabelledVideo(
                video=root / one.video,
                labels=root / one.labels,
                sentences=None if one.sentences is None else root / one.sentences,
                name=one.name or _name_of(root / one.video),
            )
            for one in listed
        ]
    else:
        videos = list(_videos_in(root, problems))
        if not videos and not problems:
            raise ValueError(
                f"{root}: no labelled video; expected {root}/NAME/{LABELS_FOLDER}/ beside {root}/NAME/CLIP.mp4 or "
                f"{root}/NAME/{FRAMES_FOLDER}/ (docs/your_own_data.md), or `videos` in the settings"
            )
    names = [one.name for one in videos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{len(names)} labelled videos, of which several are called {twice[0]!r}; give them `name`s")
    return videos


def holds_a_video(folder: Path) -> bool:
    """Whether a folder looks like that of a labelled video."""
    return bool(listing(folder, VIDEO_SUFFIXES)) or (folder / FRAMES_FOLDER).is_dir()


def _name_of(video: Path) -> str:
    return video.parent.name if video.name == FRAMES_FOLDER else video.stem if video.suffix else video.name


def _videos_in(root: Path, problems: list[Problem]) -> Iterator[LabelledVideo]:
    """The folders of a folder that hold labels, each with its video."""
    shared = root / SHARED_LABELS
    for folder in (path for path in listing(root) if path.is_dir()):
        labels = folder / LABELS_FOLDER
        if not labels.is_dir():
            labels = shared
        if not labels.exists():
            continue
        candidates = listing(folder, VIDEO_SUFFIXES)
        if (folder / FRAMES_FOLDER).is_dir():
            candidates.append(folder / FRAMES_FOLDER)
        own = folder / FILE_NAME
        if len(candidates) == 1:
            sentences = own if own.is_file() else None
            yield LabelledVideo(video=candidates[0], labels=labels, sentences=sentences, name=folder.name)
            continue
        found = f"several ({', '.join(path.name for path in candidates[:3])})" if candidates else "none"
        detail = f"expected one video file ({', '.join(VIDEO_SUFFIXES)}) or a folder `{FRAMES_FOLDER}`, found {found}"
        problems.append(Problem("missing", f"{folder}/", detail))


def _open_frames(video: Path, *, first_index: int) -> tuple[FrameReader, FrameNames]:
    """The frames of a video file, or of a folder of images in the order of their names.

    Raises:
        ValueError: there is no such video, or it has no frame.
    """
    if video.is_dir():
        paths = sorted(listing(video, IMAGE_SUFFIXES), key=_natural_order)
        stems = tuple(path.stem for path in paths)
        if not paths:
            raise ValueError(f"{video}: the folder holds no frame ({', '.join(IMAGE_SUFFIXES)})")
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise ValueError(f"{video}: several frames are called {twice[0]!r}")
        return ImageFiles(video, tuple(path.name for path in paths)), FrameNames(stems)
    # Here, because configurations are read without PyAV.
    from media.video_seek import VideoFileFrames

    reader = VideoFileFrames(video)
    stems = tuple(f"{index:05d}" for index in range(reader.num_frames))  # as prediction names them
    return reader, FrameNames(stems, is_video_file=True, first_index=first_index)


# ---- reading one video ----


def _json_in(labels: Path) -> Path | None:
    """The JSON file that labels are in; None where they are PNG files.

    Raises:
        ValueError: there are no labels, or several JSON files.
    """
    if labels.is_file():
        if labels.suffix.lower() != ".json":
            raise ValueError(f"{labels}: expected a folder of labels or a JSON file")
        return labels
    if not labels.is_dir():
        raise ValueError(f"{labels}: no such file or folder of labels")
    # CVAT puts its file into `annotations`
    below = labels / "annotations"
    found = [*listing(labels, (".json",)), *(listing(below, (".json",)) if below.is_dir() else ())]
    candidates = sorted(path for path in found if path.name != FILE_NAME)
    if len(candidates) > 1:
        names = ", ".join(path.relative_to(labels).as_posix() for path in candidates[:MOST_NAMED])
        raise ValueError(f"{labels}: several JSON files besides {FILE_NAME} ({names}); name one of them as `labels`")
    return candidates[0] if candidates else None


def open_json_files(videos: Sequence[LabelledVideo], problems: list[Problem]) -> dict[Path, LabelJson | None]:
    """The JSON files that the videos have their labels in, each read once; None where it cannot be used."""
    users: dict[Path, list[str]] = {}
    for one in videos:
        try:
            path = _json_in(one.labels)
        except ValueError:
            continue  # reported where the labels are read
        if path is not None:
            users.setdefault(path, []).append(one.name)
    files: dict[Path, LabelJson | None] = {}
    for path, names in users.items():
        try:
            files[path] = open_label_json(path, names)
        except ValueError as error:
            problems.append(_as_problem(error))
            files[path] = None
    return files


def _as_problem(error: ValueError) -> Problem:
    """A message that begins with a path, as a problem with that path."""
    if isinstance(error, IndexFileError):
        return Problem("labels", str(error.path), error.detail)
    name, _, detail = str(error).partition(": ")
    return Problem("labels", name, detail)


def read_video(
    one: LabelledVideo, files: Mapping[Path, LabelJson | None], *, first_index: int, problems: list[Problem]
) -> LabelledRecord | None:
    """A video with all its labelled frames; None, with problems, where nothing of it can be used.

    Args:
        one: where it lies.
        files: see `open_json_files`.
        first_index: number of the first frame of a video file in the names of its labels.
        problems: takes what is wrong.
    """
    try:
        reader, frames = _open_frames(one.video, first_index=first_index)
        size = reader.size()
    except ValueError as error:
        kind: ProblemKind = "unreadable" if one.video.exists() else "missing"
        kind = "unavailable" if isinstance(error, UnavailableError) else kind
        problems.append(Problem(kind, str(one.video), str(error).removeprefix("video ").removeprefix(f"{one.video}: ")))
        return None
    try:
        json_path = _json_in(one.labels)
        if json_path is None:
            labels = _read_pngs(one.labels, frames=frames, size=size, problems=problems)
        else:
            file = files[json_path]
            if file is None:
                return None
            labels = read_json_labels(file, video=one.name, frames=frames, size=size, problems=problems)
            if not labels.positions:
                detail = f"no labelled frame of video {one.name}"
                problems.append(Problem("labels", str(json_path), detail))
                return None
        path = one.sentences or (one.labels if json_path is None else json_path.parent) / FILE_NAME
        may_be_missing = json_path is not None and one.sentences is None
        if may_be_missing and not path.is_file() and one.labels.is_dir():
            path = one.labels / FILE_NAME
        sentences = SentenceFile() if may_be_missing and not path.is_file() else read_sentence_file(path)
    except ValueError as error:
        problems.append(_as_problem(error))
        return None
    record = VideoRecord(
        name=one.name,
        frame_names=tuple(frames.stems),
        frames=reader,
        masks=labels.masks,
        expressions=tuple(_expressions(path, sentences, labels, problems)),
        visible=labels.visible,
        annotated=labels.positions,
    )
    return LabelledRecord(record, sentences, path)


def _read_pngs(folder: Path, *, frames: FrameNames, size: tuple[int, int], problems: list[Problem]) -> VideoLabels:
    """Labels as PNG files.

    Raises:
        ValueError: there are none.
    """
    before = len(problems)
    labels = read_label_pngs(folder, frames=frames, size=size, problems=problems)
    if not labels.positions and len(problems) == before:
        raise ValueError(
            f"{folder}: no labels; expected PNG files named like the frames, such as 00012.png, or a JSON file of COCO "
            "or YouTube-VIS"
        )
    return labels


def _expressions(
    path: Path, sentences: SentenceFile, labels: VideoLabels, problems: list[Problem]
) -> Iterator[Expression]:
    """The sentences about objects; those that stand with several objects are about all of them."""
    objects_of: dict[str, list[int]] = {}
    named = dict(labels.names)
    described: set[int] = set()
    for key, texts in sentences.objects.items():
        named.pop(key, None)
        ids = labels.keys.get(key)
        if ids is None and (key in labels.elsewhere or labels.is_shared):
            detail = f"object {key!r} is in no labelled frame of this video; its sentences are left out"
            problems.append(Problem("left_out", str(path), detail))
            continue
        if ids is None:
            detail = f"object {key!r} is not in the labels, which have {_shortened(labels.keys)}"
            problems.append(Problem("labels", str(path), detail))
            continue
        described |= set(ids)
        unseen = [number for number in ids if number not in labels.visible]
        if unseen:
            detail = f"object {key!r} has no pixel in any labelled frame; its sentences are left out"
            problems.append(Problem("unseen", str(path), detail))
            continue
        for text in texts:
            objects_of.setdefault(text, []).extend(ids)
    for key, name in named.items():
        described |= set(labels.keys[key])
        objects_of.setdefault(name_as_sentence(name), []).extend(labels.keys[key])
    for number in sorted(labels.visible.keys() - described):
        detail = (
            f"object {number} is labelled in frame {min(labels.visible[number])}, but has no sentence: add "
            f'"{number}": ["the ..."], or "{number}": null to leave it out'
        )
        problems.append(Problem("labels", str(path), detail))
    for text, objects in objects_of.items():
        yield Expression("", text, tuple(sorted(set(objects))), kind=OBJECT)


def _shortened(names: Mapping[str, tuple[int, ...]]) -> str:
    shown = ", ".join(list(names)[:MOST_NAMED])
    return f"{shown}, ..." if len(names) > MOST_NAMED else shown


def _natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """`frame2` before `frame10`, as in prediction."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
