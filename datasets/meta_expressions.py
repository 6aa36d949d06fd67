"""`meta_expressions.json`: the videos of a split and the expressions about them, as most video sets have it.

videos.<video>.frames                names of the frames
videos.<video>.expressions.<id>      exp: the sentence; and which objects it refers to, under a key of the data set
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.listing import FolderListing
from datasets.problems import Problem
from datasets.records import Expression
from media.files import path_inside, plain_name
from media.folders import listing

Entry = Mapping[str, Any]
"""What the file says about one expression."""


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


def read_videos(path: Path) -> dict[str, Any]:
    """What a file of expressions (or meta.json) says about each video.

    Raises:
        ValueError: the file is missing or damaged, or has no `videos`, or one that cannot be the name of a folder.
    """
    try:
        videos = json.loads(path.read_bytes())["videos"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file with `videos` ({error!r})") from None
    if not isinstance(videos, dict):
        raise ValueError(f"{path}: `videos` must be a mapping, not {type(videos).__name__}")
    for name in videos:
        plain_name(name, what=f"{path}: video")
    return videos


def video_names(path: Path) -> frozenset[str]:
    """Names of the videos in a file of another split; none where there is no such file, or a damaged one."""
    try:
        return frozenset(read_videos(path))
    except ValueError:
        return frozenset()


def describe_videos(
    file: Path,
    videos: Mapping[str, Any],
    make_expression: Callable[[str, str, Entry], Expression],
    problems: list[Problem],
) -> Iterator[DescribedVideo]:
    """The videos of a file, one after the other.

    Args:
        file: for messages.
        videos: see `read_videos`.
        make_expression: from the name of a video, that of an expression and its entry; raises ValueError where the
            entry cannot be used.
        problems: takes what is wrong; such expressions and videos are left out.
    """
    for name, content in videos.items():
        try:
            frames = tuple(plain_name(str(frame), what="frame") for frame in content["frames"])
            described = dict(content["expressions"])
        except (KeyError, TypeError) as error:
            problems.append(Problem("expressions", str(file), f"video {name}: bad or missing entry ({error!r})"))
            continue
        except ValueError as error:
            problems.append(Problem("expressions", str(file), f"video {name}: {error}"))
            continue
        if not frames or not described:
            problems.append(Problem("expressions", str(file), f"video {name} has no frames or no expressions"))
            continue
        expressions = []
        for key, entry in described.items():
            try:
                plain_name(key, what=f"video {name}: expression")  # results go to a folder of this name
            except ValueError as error:
                problems.append(Problem("expressions", str(file), str(error)))
                continue
            try:
                if not isinstance(entry["exp"], str):
                    raise ValueError(f"exp={entry['exp']!r} must be a text")
                if not entry["exp"].strip():
                    raise ValueError("the sentence is empty")
                expressions.append(make_expression(name, key, entry))
            except (KeyError, TypeError, AttributeError) as error:
                detail = f"video {name}, expression {key}: bad or missing entry ({error!r})"
                problems.append(Problem("expressions", str(file), detail))
            except ValueError as error:
                problems.append(Problem("expressions", str(file), f"video {name}, expression {key}: {error}"))
        if expressions:
            yield DescribedVideo(name, frames, tuple(expressions))


def missing_folders(folder: Path, videos: Sequence[str], hint: str = "") -> Iterator[Problem]:
    """A problem for each video without a folder.

    Raises:
        ValueError: the folder of all of them is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    present = {path.name for path in listing(folder)}
    for video in videos:
        if video not in present:
            missing = path_inside(folder, video, what="video")
            yield Problem("missing", f"{missing}/", f"no such folder of video {video}{hint}")


def repeated_keys(path: Path) -> Iterator[Problem]:
    """Keys that one object of a JSON file has more than once; readers silently take the last."""
    repeated: dict[str, None] = {}

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.update(dict.fromkeys(sorted({name for name in names if names.count(name) > 1})))
        return content

    json.loads(path.read_bytes(), object_pairs_hook=note)
    for name in repeated:
        yield Problem("duplicates", str(path), f"{name!r} occurs more than once in one place; the last one is read")


def unclaimed_videos(seen: FolderListing, folders: Iterable[Path], known: Iterable[str]) -> Iterator[Problem]:
    """Folders of videos about which no expression is."""
    known = set(known)
    for folder in folders:
        yield from seen.surplus_entries(folder, known, "no sentence is about it")
