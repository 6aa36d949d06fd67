"""Labelled videos: one's own, with masks on some frames and a few sentences; docs/your_own_data.md shows how.

    ROOT/<video>/<any name>.mp4, or ROOT/<video>/frames/*.jpg
    ROOT/<video>/labels/*.png        masks of the labelled frames, pixel value = object id
    ROOT/<video>/labels/sentences.json

Instead of PNG files `labels` may hold one JSON file of COCO or of YouTube-VIS. `videos` names files that lie elsewhere.

Only labelled frames are frames with masks. The splits are `all`, and of these frames `train` and `valid`, those that
are held out.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from datasets.absent_words import absent_phrases, may_fit, nouns
from datasets.counts import Counts, count_videos
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    MaskPerSentence,
    SplitContents,
    SplitRequest,
)
from datasets.frame_names import FrameNames
from datasets.label_files import VideoLabels, read_label_pngs
from datasets.problems import Problem, ProblemKind
from datasets.readers import FrameReader, ImageFiles
from datasets.records import Expression, VideoRecord
from datasets.sentence_file import FILE_NAME, SentenceFile, name_as_sentence, read_sentence_file
from structures.config_node import ConfigNode

logger = logging.getLogger(__name__)

SPLITS = ("all", "train", "valid")

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FRAMES_FOLDER, LABELS_FOLDER = "frames", "labels"

MOST_NAMED = 8
"""Names in a message."""

OBJECT, NEAR_MISS, OTHER_VIDEO, WORD = "object", "near miss", "other video", "word"
"""Kinds of sentences: about an object; and absent ones, from `absent`, about another video, from the list of words."""


class LabelledVideo(ConfigNode):
    """A video and its labels; relative paths start at the folder of the data set."""

    video: Path
    """Video file, or folder of frames."""

    labels: Path
    """Folder of PNG files, JSON file of COCO or YouTube-VIS, or folder with one such file."""

    name: str = ""
    """Of the video, in results; empty: that of its file or folder."""


class LabelledVideosSettings(DatasetSettings):
    """Labelled videos."""

    dataset: Literal["labelled_videos"] = "labelled_videos"
    """Format of the data."""

    videos: tuple[LabelledVideo, ...] = ()
    """The videos; none: those in the folder of the data set, see docs/your_own_data.md."""

    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labelled frames of each video that split `valid` has and split `train` has not, at least one of
    them, spread evenly over the video."""

    absent_words: bool = True
    """Take everyday things from a built-in list for absent sentences, without those that a sentence about the video
    mentions. Switch it off where such things can be seen, but are not labelled."""

    max_eval_absent: NonNegativeInt = 20
    """Most absent sentences of a video in evaluation: near misses first, then those about the other videos, then
    words, which are others than in training."""

    first_index: NonNegativeInt = 0
    """Number of the first frame of a video file in the names of its labels."""


def read(request: SplitRequest[LabelledVideosSettings]) -> SplitContents:
    """One split; videos are in the order of `videos`, or sorted by name.

    Raises:
        ValueError: there is no such split, or no video.
    """
    if request.split not in SPLITS:
        raise ValueError(f"split {request.split!r} of labelled videos: expected one of {', '.join(SPLITS)}")
    problems: list[Problem] = []
    found = _find_videos(request, problems)
    read_videos = [one for one in (_read_video(each, request, problems) for each in found) if one is not None]
    videos = []
    for one in read_videos:
        others = [other for other in read_videos if other is not one]
        record = _in_split(_with_absent(one, others, request, problems), request, problems)
        if record is not None:
            videos.append(record)
    return SplitContents(tuple(videos), tuple(problems))


@dataclass(frozen=True, slots=True)
class _ReadVideo:
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
        """The sentences about its objects, and what may stand for words of them."""
        texts = [expression.sentence for expression in self.record.expressions]
        mentioned = frozenset[str]().union(*map(nouns, texts))
        for word, others in self.sentences.synonyms.items():
            if not mentioned.isdisjoint(nouns(word)):
                texts += others
        return texts


# ---- finding videos ----


def _find_videos(request: SplitRequest[LabelledVideosSettings], problems: list[Problem]) -> Sequence[LabelledVideo]:
    """The videos that the settings name, or that lie in the folder, with paths and names filled in.

    Raises:
        ValueError: there is none, or two have one name.
    """
    root, listed = request.root, request.settings.videos
    if listed:
        videos = [
            LabelledVideo(
                video=root / one.video.expanduser(),
                labels=root / one.labels.expanduser(),
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


def _name_of(video: Path) -> str:
    return video.parent.name if video.name == FRAMES_FOLDER else video.stem if video.suffix else video.name


def _videos_in(root: Path, problems: list[Problem]) -> Iterator[LabelledVideo]:
    """The folders of a folder that hold labels, each with its video."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        labels = folder / LABELS_FOLDER
        if not labels.is_dir():
            continue
        candidates = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
        if (folder / FRAMES_FOLDER).is_dir():
            candidates.append(folder / FRAMES_FOLDER)
        if len(candidates) == 1:
            yield LabelledVideo(video=candidates[0], labels=labels, name=folder.name)
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
        paths = sorted((p for p in video.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
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


def _read_video(
    one: LabelledVideo, request: SplitRequest[LabelledVideosSettings], problems: list[Problem]
) -> _ReadVideo | None:
    """A video with all its labelled frames; None, with problems, where nothing of it can be used."""
    try:
        reader, frames = _open_frames(one.video, first_index=request.settings.first_index)
        size = reader.size()
    except ValueError as error:
        kind: ProblemKind = "unreadable" if one.video.exists() else "missing"
        problems.append(Problem(kind, str(one.video), str(error).removeprefix("video ").removeprefix(f"{one.video}: ")))
        return None
    try:
        labels = _read_labels(one, frames=frames, size=size, problems=problems)
        path = one.labels / FILE_NAME
        sentences = read_sentence_file(path)
    except ValueError as error:
        name, _, detail = str(error).partition(": ")
        problems.append(Problem("index", name, detail))
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
    return _ReadVideo(record, sentences, path)


def _read_labels(
    one: LabelledVideo, *, frames: FrameNames, size: tuple[int, int], problems: list[Problem]
) -> VideoLabels:
    """The labels of a video.

    Raises:
        ValueError: there are none.
    """
    if not one.labels.is_dir():
        raise ValueError(f"{one.labels}: no such folder of labels")
    before = len(problems)
    labels = read_label_pngs(one.labels, frames=frames, size=size, problems=problems)
    if not labels.positions and len(problems) == before:
        raise ValueError(f"{one.labels}: no labels; expected PNG files named like the frames, such as 00012.png")
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
        if ids is None:
            detail = f"object {key!r} is not in the labels, which have {_shortened(labels.keys)}"
            problems.append(Problem("objects", str(path), detail))
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
        problems.append(Problem("expressions", str(path), detail))
    for text, objects in objects_of.items():
        yield Expression("", text, tuple(sorted(set(objects))), kind=OBJECT)


def _shortened(names: Mapping[str, tuple[int, ...]]) -> str:
    shown = ", ".join(list(names)[:MOST_NAMED])
    return f"{shown}, ..." if len(names) > MOST_NAMED else shown


# ---- absent sentences ----


def _with_absent(
    one: _ReadVideo,
    others: Sequence[_ReadVideo],
    request: SplitRequest[LabelledVideosSettings],
    problems: list[Problem],
) -> VideoRecord:
    """The video with sentences about what is not in it, and with the synonyms of all videos."""
    present = [expression.sentence for expression in one.record.expressions]
    both = sorted(set(present) & set(one.sentences.absent))
    if both:
        problems.append(Problem("expressions", str(one.sentence_file), f"{both[0]!r} is both present and absent"))
    kind_of = dict.fromkeys(one.sentences.absent, NEAR_MISS)
    own_texts = one.own_texts
    mentioned = frozenset[str]().union(*map(nouns, own_texts))
    for other in others:
        for expression in other.record.expressions:
            if not may_fit(expression.sentence, mentioned):
                kind_of.setdefault(expression.sentence, OTHER_VIDEO)
    if request.settings.absent_words:
        for phrase in absent_phrases(own_texts, for_training=request.for_training):
            kind_of.setdefault(phrase, WORD)
    absent = [(text, kind) for text, kind in kind_of.items() if text not in present]
    if not request.for_training:
        absent = _chosen(absent, request.settings.max_eval_absent)
    expressions = [*one.record.expressions, *(Expression("", text, (), kind=kind) for text, kind in absent)]
    synonyms: dict[str, tuple[str, ...]] = {}
    for each in (one, *others):
        for word, texts in each.sentences.synonyms.items():
            synonyms[word] = tuple(dict.fromkeys((*synonyms.get(word, ()), *texts)))
    named = tuple(replace(expression, name=str(index)) for index, expression in enumerate(expressions))
    return replace(one.record, expressions=named, synonyms=synonyms)


def _chosen(absent: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """At most `count`, those of a kind that does not fit as a whole spread evenly over it."""
    chosen: list[tuple[str, str]] = []
    for kind in (NEAR_MISS, OTHER_VIDEO, WORD):
        own = [item for item in absent if item[1] == kind]
        room = min(count - len(chosen), len(own))
        chosen += [own[index * len(own) // room] for index in range(room)]
    return chosen


# ---- splits ----


def held_out_positions(labelled: Sequence[int], share: float) -> frozenset[int]:
    """The labelled frames that are held out: spread evenly over the video, at least one, the same every time.

    Args:
        labelled: positions of all labelled frames, ascending.
        share: of them.
    """
    count = max(1, round(share * len(labelled)))
    return frozenset(labelled[(2 * index + 1) * len(labelled) // (2 * count)] for index in range(count))


def _in_split(
    record: VideoRecord, request: SplitRequest[LabelledVideosSettings], problems: list[Problem]
) -> VideoRecord | None:
    """The video with the labelled frames of the split; None where it has none."""
    labelled = sorted(record.annotated or ())
    positions = frozenset(labelled)
    if request.split != "all" and labelled:
        held_out = held_out_positions(labelled, request.settings.held_out_share)
        positions = held_out if request.split == "valid" else positions - held_out
        if not positions:
            detail = f"{len(labelled)} labelled frame, so none is left for split `{request.split}`; label one more"
            problems.append(Problem("index", f"video {record.name}", detail))
    if not positions:
        return None
    visible = {number: shown & positions for number, shown in record.visible.items()}
    if request.for_training:
        for number in record.object_ids:
            if not visible[number]:
                problems.append(Problem("unseen", f"video {record.name}, object {number}", "only in held-out frames"))
    return replace(record, visible=visible, annotated=positions)


def _count(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes; of the frames only the labelled ones."""
    counts = count_videos(videos)
    return replace(counts, frames=sum(len(video.annotated or ()) for video in videos)) if videos else counts


def _shared_folders(request: SplitRequest[LabelledVideosSettings]) -> Iterator[Path]:
    """Labels of all splits lie together, with sentences and whatever else a tool exports."""
    for one in _find_videos(request, problems=[]):
        yield from (one.labels, one.labels.parent, one.video, one.video.parent)


def _natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """`frame2` before `frame10`, as in prediction."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _find(root: Path) -> list[FoundDataset]:
    is_here = any((folder / LABELS_FOLDER / FILE_NAME).is_file() for folder in root.iterdir() if folder.is_dir())
    return [FoundDataset(LabelledVideosSettings(), ("train", "valid"))] if is_here else []


LABELLED_VIDEOS = DatasetDefinition(
    title="Labelled videos",
    settings=LabelledVideosSettings,
    read=read,
    find=_find,
    protocol=MaskPerSentence(),
    published={},
    count=_count,
    shared_folders=_shared_folders,
)
