"""A2D-Sentences: short clips with a few annotated frames each, and a sentence for each annotated actor.

    ROOT/Release/videoset.csv                       no header; the last column is 0 for train, 1 for test
    ROOT/Release/clips320H/<video>.mp4              or CLIPS320
    ROOT/text_annotations/a2d_annotation.txt        csv: video_id,instance_id,query
    ROOT/text_annotations/a2d_missed_videos.txt     videos of videoset.csv without sentences
    ROOT/text_annotations/a2d_annotation_with_instances/<video>/<frame>.h5

Frames are numbered from 1. An h5 file holds `instance` (the numbers of its actors), `reMask` (a mask for each, width
before height; without the first axis if there is one actor) and `reBBox`. A sample is a sentence and a frame with
its actor; a clip has that frame in its middle.

Files of the release that contradict themselves are read as the published loaders read them: a mask of another size than
its frame keeps its size, which counts as the original one; masks after those of the last `instance` are not read; of an
`instance` that occurs twice the first mask is.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from datasets.a2d_files import (
    SUBSETS,
    A2DFiles,
    Annotation,
    H5Masks,
    ListedVideo,
    Row,
    clips_folder,
    detail_of,
    is_count,
    read_annotation,
    read_missed,
    read_rows,
    read_videoset,
)
from datasets.cache import cached, fingerprint
from datasets.counts import Counts
from datasets.definition import (
    AnnotatedFrames,
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    SplitContents,
    SplitRequest,
)
from datasets.index_file import IndexContent, IndexEntry
from datasets.listing import FolderListing, has_windows_line_ends
from datasets.problems import Problem, ProblemKind
from datasets.records import Expression, VideoRecord
from media.files import UnavailableError
from structures.user_cache import user_cache_folder

logger = logging.getLogger(__name__)

PUBLISHED = {
    "a2d_sentences": {
        "train": Counts(videos=3017, expressions=5359),  # 5,360 rows, one of them with the instance "1 (copy)"
        "test": Counts(videos=737, expressions=1295),
    }
}

INDEX_FORMAT = 4
"""Raise when the meaning of the kept index changes."""

FRAMES_BEYOND_THE_END = 2
"""Annotated frames may be so far after the last frame of the clip, which is then taken, as published."""


class A2DSentencesSettings(DatasetSettings):
    """A2D-Sentences."""

    dataset: Literal["a2d_sentences"] = "a2d_sentences"
    """Format of the data."""

    eval_split: str = "test"
    """Split that is evaluated; there are `train` and `test`."""


def read(request: SplitRequest[A2DSentencesSettings]) -> SplitContents:
    """One split; videos are sorted by name. An expression has the number of its actor, which is its object, too.

    Videos whose clip cannot be read, and annotation files that cannot, are left out.

    Raises:
        ValueError: there is no such split, or a list or folder is missing.
    """
    if request.split not in SUBSETS:
        raise ValueError(f"split {request.split!r} of A2D-Sentences: expected one of {', '.join(SUBSETS)}")
    problems: list[Problem] = []
    split = _open(request, problems)
    videos = []
    for video, content in split.index.items():
        problems += [Problem(item.kind, f"{request.root}/{item.name}", item.detail) for item in content.problems]
        if content.num_frames is not None:
            videos.append(_record(split.files, video, split.rows[video], content.actors, content.num_frames))
    problems += _unseen_actors(videos)
    for oddity, found in _oddities(split.index).items():
        names = list(dict.fromkeys(name for name, _ in found))
        logger.info("%s: %d files of %s have %s, such as %s", request.root, len(names), request.split, oddity, names[0])
    return SplitContents(tuple(videos), tuple(problems), split.key)


@dataclass(frozen=True, slots=True)
class _Split:
    """The files of a split, read.

    Attributes:
        files: where they are.
        rows: the sentences of each video, of all splits.
        index: what `_examine` says about each video of this one.
        key: changes whenever one of the files does.
    """

    files: A2DFiles
    rows: Mapping[str, Sequence[Row]]
    index: Mapping[str, "_VideoIndex"]
    key: str


def _open(request: SplitRequest[A2DSentencesSettings], problems: list[Problem]) -> _Split:
    """Reads the lists, and what is kept about the other files; `problems` takes what is wrong in the lists.

    Raises:
        ValueError: a list or folder is missing.
    """
    files = A2DFiles.below(request.root)
    listed = read_videoset(files.videoset, problems)
    rows: dict[str, list[Row]] = {}
    for row in read_rows(files.annotation, problems):
        rows.setdefault(row.video, []).append(row)
    problems += _compare_lists(files, listed, rows, read_missed(files.missed, problems))
    lengths = {
        video: listed[video].num_frames
        for video in sorted(rows.keys() & listed.keys())
        if listed[video].subset == SUBSETS[request.split]
    }
    if not lengths:
        detail = f"no video of split {request.split!r} has a sentence"
        problems.append(Problem("index", str(files.videoset), detail))
    key = _fingerprint(request, files, lengths)
    return _Split(files, rows, _read_index(request, files, lengths, key), key)


def _compare_lists(
    files: A2DFiles,
    listed: Mapping[str, ListedVideo],
    rows: Mapping[str, Sequence[Row]],
    missed: frozenset[str] | None,
) -> Iterator[Problem]:
    """What the three lists of videos say differently; without `missed` only the other two."""
    for video in sorted(rows.keys() - listed.keys()):
        yield Problem("expressions", str(files.annotation), f"video {video} is not in {files.videoset}")
    if missed is None:
        return
    for video in sorted(missed & rows.keys()):
        yield Problem("index", str(files.missed), f"video {video} has sentences in {files.annotation}")
    for video in sorted(listed.keys() - rows.keys() - missed):
        yield Problem("surplus", f"video {video}", f"in {files.videoset}, but without a sentence")


def _fingerprint(request: SplitRequest[A2DSentencesSettings], files: A2DFiles, lengths: Mapping[str, int]) -> str:
    paths = [files.clip(video) for video in lengths]
    for video in lengths:
        paths += files.annotation_files(video)
    return fingerprint([*paths, files.videoset, files.annotation], root=request.root, version=INDEX_FORMAT)


def _read_index(
    request: SplitRequest[A2DSentencesSettings], files: A2DFiles, lengths: Mapping[str, int], key: str
) -> Mapping[str, "_VideoIndex"]:
    """What is in the clips and annotation files: read once, then kept until one of them changes."""

    def make() -> dict[str, Any]:
        logger.info("reading the frame counts and annotated frames of %d videos once", len(lengths))
        with ThreadPoolExecutor() as threads:
            contents = threads.map(lambda item: _examine(request.root, files, *item), lengths.items())
            return {video: content.model_dump() for video, content in zip(lengths, contents, strict=True)}

    name = f"a2d_sentences_{request.split}"
    if request.cache is None:  # shared by all copies of the data
        return cached([user_cache_folder() / f"{name}_{key[:16]}.json"], key, make, _Index).root
    return cached([request.cache / f"{name}.json"], key, make, _Index).root


class _KeptProblem(IndexEntry):
    """What is wrong with a file; its name is a path below the folder of the data set."""

    kind: ProblemKind
    name: str
    detail: str


class _Oddity(IndexEntry):
    """What is odd in an annotation file."""

    what: str
    name: str
    detail: str


class _VideoIndex(IndexEntry):
    """The files of one video.

    Attributes:
        num_frames: of the clip, None where it cannot be read.
        actors: in each annotated frame.
        problems: with the files.
        oddities: of them.
    """

    num_frames: PositiveInt | None
    actors: dict[str, list[int]]
    problems: list[_KeptProblem]
    oddities: list[_Oddity]


class _Index(IndexContent[dict[str, _VideoIndex]]):
    """The files of all videos of a split."""


def _examine(root: Path, files: A2DFiles, video: str, num_listed: int) -> _VideoIndex:
    """Looks into the files of one video.

    Args:
        root: of the data set.
        files: all of it.
        video: name.
        num_listed: frames that the clip has according to videoset.csv.
    """
    # Here, because configurations are read without PyAV.
    from media.video_seek import VideoFileFrames

    problems: list[_KeptProblem] = []
    clip, folder = files.clip(video), files.annotations(video)
    num_frames: int | None = None
    frame_size: tuple[int, int] | None = None
    try:
        num_frames = VideoFileFrames(clip).num_frames
        frame_size = VideoFileFrames(clip).size()
    except UnavailableError:
        raise  # what is found here is kept
    except ValueError as error:
        kind: ProblemKind = "unreadable" if clip.is_file() else "missing"
        name = clip.relative_to(root).as_posix()
        problems.append(_KeptProblem(kind=kind, name=name, detail=detail_of(error, clip)))
    num_known = num_listed if num_frames is None else num_frames
    actors: dict[str, list[int]] = {}
    oddities: list[_Oddity] = []
    paths = files.annotation_files(video)
    if not paths:
        detail = f"no annotation file (*.h5) of video {video}"
        name = f"{folder.relative_to(root).as_posix()}/"
        problems.append(_KeptProblem(kind="unreadable", name=name, detail=detail))
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            if not (is_count(path.stem) and 1 <= int(path.stem) <= num_known + FRAMES_BEYOND_THE_END):
                raise ValueError(f"frame {path.stem} is not one of the {num_known} of the clip")
            annotation = read_annotation(path)
            actors[path.stem] = list(annotation.index_of)
            oddities += [
                _Oddity(what=what, name=name, detail=detail) for what, detail in _oddities_of(annotation, frame_size)
            ]
        except UnavailableError:
            raise
        except ValueError as error:
            problems.append(_KeptProblem(kind="unreadable", name=name, detail=detail_of(error, path)))
    return _VideoIndex(num_frames=num_frames, actors=actors, problems=problems, oddities=oddities)


def _oddities_of(annotation: Annotation, frame_size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """(What it is, detail) of what is odd in an annotation file; `frame_size` is None where the clip is damaged."""
    if frame_size not in (None, annotation.size):
        detail = (
            f"masks of (height, width) {annotation.size}, its frame has {frame_size}; scored at the size of the mask"
        )
        yield "masks of another size than their frame", detail
    if annotation.num_masks > len(annotation.instances):
        detail = f"{annotation.num_masks} masks for {len(annotation.instances)} instances; the first ones are read"
        yield "more masks than instances", detail
    for actor in annotation.index_of:
        if annotation.instances.count(actor) > 1:
            yield "an instance more than once", f"instance {actor} occurs more than once; its first mask is read"


def _oddities(index: Mapping[str, _VideoIndex]) -> dict[str, list[tuple[str, str]]]:
    """(Path below the folder of the data set, detail) of the annotation files with each oddity."""
    found: dict[str, list[tuple[str, str]]] = {}
    for content in index.values():
        for oddity in content.oddities:
            found.setdefault(oddity.what, []).append((oddity.name, oddity.detail))
    return found


def _record(
    files: A2DFiles, video: str, rows: Sequence[Row], actors: Mapping[str, Sequence[int]], num_frames: int
) -> VideoRecord:
    # Here, because configurations are read without PyAV.
    from media.video_seek import VideoFileFrames

    # in descending order: where two files fall on the last frame, the one with its number is kept
    stems = {min(int(stem), num_frames) - 1: stem for stem in sorted(actors, key=int, reverse=True)}
    return VideoRecord(
        name=video,
        frame_names=tuple(f"{position + 1:05d}" for position in range(num_frames)),
        frames=VideoFileFrames(files.clip(video)),
        masks=H5Masks(files.annotations(video), stems),
        expressions=tuple(Expression(str(row.instance), row.query, (row.instance,)) for row in rows),
        visible={
            row.instance: frozenset(position for position, stem in stems.items() if row.instance in actors[stem])
            for row in rows
        },
        annotated=frozenset(stems),
    )


def _unseen_actors(videos: Sequence[VideoRecord]) -> Iterator[Problem]:
    for video in videos:
        for number in video.object_ids:
            if not video.visible[number]:
                yield Problem("unseen", f"video {video.name}, object {number}", "in no annotated frame")


def _notes(
    request: SplitRequest[A2DSentencesSettings], contents: SplitContents, listing: FolderListing
) -> Iterator[Problem]:
    files = A2DFiles.below(request.root)
    for path in (files.videoset, files.annotation, files.missed):
        if path.is_file() and has_windows_line_ends(path):
            yield Problem("line_ends", str(path))
    # what is wrong in the lists is among the problems of `contents`
    clips = {f"{video}.mp4" for video in read_videoset(files.videoset, problems=[])}
    yield from listing.surplus_entries(files.clips, clips, f"not in {files.videoset.name}")
    split = _open(request, problems=[])
    yield from listing.surplus_entries(files.instances, split.rows, "no sentence is about it")
    for found in _oddities(split.index).values():
        yield from (Problem("oddities", f"{request.root}/{name}", detail) for name, detail in found)


def _find(root: Path) -> list[FoundDataset]:
    lists = (root / "Release" / "videoset.csv", root / "text_annotations" / "a2d_annotation.txt")
    is_here = any(path.is_file() for path in lists)
    return [FoundDataset(A2DSentencesSettings(), tuple(SUBSETS))] if is_here else []


A2D_SENTENCES = DatasetDefinition(
    title="A2D-Sentences",
    settings=A2DSentencesSettings,
    read=read,
    find=_find,
    protocol=AnnotatedFrames(names_instances=True),
    published=PUBLISHED,
    notes=_notes,
    shared_folders=lambda request: (clips_folder(request.root),),
)
