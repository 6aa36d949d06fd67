"""`meta_expressions.json`: the videos of a split and the expressions about them, as most video sets have it.

videos.<video>.frames                names of the frames
videos.<video>.expressions.<id>      exp: the sentence; and which objects it refers to, under a key of the data set
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets.index_file import Entries, IndexEntry, Name, Place, Sentence, UniqueNames, read_json, validate
from datasets.index_text import IndexFileError
from datasets.listing import FolderListing
from datasets.problems import Problem
from datasets.records import Expression
from media.files import path_inside
from media.folders import listing


class ExpressionEntry(IndexEntry):
    """What every file says about an expression; each data set adds the key that names its objects."""

    exp: Sentence


class _Videos(IndexEntry):
    """The top of a file."""

    videos: Entries


class _Video(IndexEntry):
    """A video; its expressions are validated one by one."""

    frames: UniqueNames
    expressions: Entries


E = TypeVar("E", bound=ExpressionEntry)


@dataclass(frozen=True, slots=True)
class DescribedVideo:
    """A video as the file describes it.

    Attributes:
        name: of its folder.
        frames: names, as the file has them.
        expressions: those that can be used.
    """

    name: str
    frames: tuple[str, ...]
    expressions: tuple[Expression, ...]


def expressions_file(root: Path, split: str) -> Path:
    """Where Ref-YouTube-VOS keeps the file."""
    return root / "meta_expressions" / split / "meta_expressions.json"


def read_videos(path: Path) -> dict[Name, Any]:
    """What a file of expressions (or meta.json) says about each video; at least one.

    Raises:
        ValueError: the file is missing or damaged, or has no `videos`, or one that cannot be the name of a folder.
    """
    return validate(_Videos, read_json(path), Place(path)).videos


def video_names(path: Path) -> frozenset[str]:
    """Names of the videos in a file of another split; none where there is no such file, or a damaged one."""
    try:
        return frozenset(read_videos(path))
    except ValueError:
        return frozenset()


def describe_videos(
    file: Path,
    videos: Mapping[str, Any],
    model: type[E],
    make_expression: Callable[[str, str, E], Expression],
    problems: list[Problem],
) -> Iterator[DescribedVideo]:
    """The videos of a file, one after the other.

    Args:
        file: for messages.
        videos: see `read_videos`.
        model: of an expression.
        make_expression: from the name of a video, that of an expression and its entry; raises ValueError where the
            entry cannot be used.
        problems: takes what is wrong; such expressions and videos are left out.
    """
    for name, content in videos.items():
        place = Place(file, "videos").at(name)
        try:
            video = validate(_Video, content, place)
        except IndexFileError as error:
            problems.append(Problem("expressions", str(file), error.detail))
            continue
        expressions = []
        for key, entry in video.expressions.items():
            own = place.at("expressions", key)
            try:
                expressions.append(make_expression(name, key, validate(model, entry, own)))
            except IndexFileError as error:  # it may be of another file, which says more about the expression
                problems.append(Problem("expressions", str(error.path), error.detail))
            except ValueError as error:
                problems.append(own.problem("expressions", str(error)))
        if expressions:
            yield DescribedVideo(name, tuple(video.frames), tuple(expressions))


def missing_folders(folder: Path, videos: Sequence[str], hint: str = "") -> Iterator[Problem]:
    """A problem for each video without a folder.

    Raises:
        ValueError: the folder of all of them is not there.
    """
    if not folder.is_dir():
        deeper = folder.parent / folder.parent.name / folder.name
        moved = f", but {deeper} is there: move what is in {deeper.parent} up" if deeper.is_dir() else ""
        raise ValueError(f"{folder}: no such folder{moved}")
    present = {path.name for path in listing(folder)}
    for video in videos:
        if video not in present:
            missing = path_inside(folder, video, what="video")
            yield Problem("missing", f"{missing}/", f"no such folder of video {video}{hint}")


def unclaimed_videos(seen: FolderListing, folders: Iterable[Path], known: Iterable[str]) -> Iterator[Problem]:
    """Folders of videos about which no expression is."""
    known = set(known)
    for folder in folders:
        yield from seen.surplus_entries(folder, known, "no sentence is about it")
