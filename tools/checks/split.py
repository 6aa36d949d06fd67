"""The check of one split: what its reader says, which files there should be, and what opening them shows."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.counts import Counts
from datasets.definition import SplitContents, SplitRequest
from datasets.generated import read_statistics
from datasets.listing import FolderListing
from datasets.problems import Problem, any_stops
from datasets.readers import ObjectMapReader
from datasets.records import VideoRecord
from datasets.table import definition_of
from datasets.visibility import foreign_values
from loading.videos import EvalDataset
from media.files import UnavailableError
from tools.checks.counts import expected_counts
from tools.checks.opening import OpenedVideo, files_of, open_all, select_frames
from tools.checks.report import SplitReport


def check_split(request: SplitRequest, *, sample: int, num_workers: int) -> SplitReport:
    """Examines one split.

    Args:
        request: the split, as training or evaluation would read it.
        sample: frames to open; 0: all.
        num_workers: processes that open files; 0: this one.
    """
    definition = definition_of(request.settings)
    listing = FolderListing()
    contents, problems = _read(request, listing)
    label = contents.label or request.settings.label
    title = definition.title if definition.published.keys() <= {label} else f"{definition.title} ({label})"
    statistics = _statistics(request.root, problems)
    if statistics is not None:  # what readers and notes compare with is the published set
        problems = [problem for problem in problems if problem.kind != "counts"]
    # once is enough; but a file that is merely odd may be damaged as well
    named = {problem.name for problem in problems if problem.kind != "oddities"}
    wanted = {path for video in contents.videos for path in files_of(video)}
    problems += [problem for problem in listing.missing(wanted) if problem.name not in named]
    shared = set(definition.shared_folders(request)) if contents.videos else set()
    surplus = listing.surplus(path for path in wanted if path.parent not in shared)
    problems += [problem for problem in surplus if problem.name not in named]
    selections = select_frames(
        contents.videos, sample=sample, can_open=lambda path: listing.exists(path) and str(path) not in named
    )
    visible: dict[str, Mapping[int, frozenset[int]] | None] = {}
    for selection, opened in open_all(selections, num_workers=num_workers, title=f"{title}, {request.split}"):
        problems += opened.problems
        problems += [p for p in _without_pixels(selection.video, opened) if p.name not in named]
        visible[selection.video.name] = opened.visible
    incomplete = tuple(f"video {video.name}, " for video in _incomplete_videos(contents))
    problems = [p for p in problems if p.kind not in ("unseen", "objects") or not p.name.startswith(incomplete)]
    counts = definition.count(contents.videos)
    expected, source = expected_counts(request, label, statistics)
    problems += _differences(request.split, counts, expected, source)
    num_frames = sum(len(video.frame_names) for video in contents.videos)
    videos = None if any_stops(problems) else _complete(request, contents, visible)
    return SplitReport(
        dataset=definition.name,
        title=title,
        root=request.root,
        split=request.split,
        counts=counts,
        expected=expected,
        expected_from=source,
        num_frames=num_frames,
        num_opened=sum(len(selection.frames) for selection in selections),
        is_sample=0 < sample < num_frames,
        problems=tuple(_relative_to(request.root, problem) for problem in problems),
        videos=videos,
    )


def _read(request: SplitRequest, listing: FolderListing) -> tuple[SplitContents, list[Problem]]:
    """What the index files say, and everything that keeps a run from using them."""
    definition = definition_of(request.settings)
    try:
        contents = definition.read(request)
    except ValueError as error:
        return SplitContents(videos=()), [_of_index(error)]
    problems = [*contents.problems, *definition.notes(request, contents, listing)]
    if not contents.videos and not any_stops(problems):
        problems.append(Problem("index", f"split {request.split}", "it is empty"))
    if not request.for_training:
        try:
            EvalDataset(contents.videos)
        except ValueError as error:
            problems.append(_of_index(error))
    return contents, problems


def _statistics(root: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """What the generator wrote; None where the data are not generated, or where this is damaged."""
    try:
        return read_statistics(root)
    except ValueError as error:
        problems.append(_of_index(error))
        return None


def _complete(
    request: SplitRequest, contents: SplitContents, visible: Mapping[str, Mapping[int, frozenset[int]] | None]
) -> tuple[VideoRecord, ...] | None:
    """The videos as a run gets them; None where training would look at masks that were not opened.

    Args:
        request: the split.
        contents: without a look at the masks.
        visible: what opening the masks has shown.
    """
    if not request.for_training:
        return contents.videos
    videos = []
    for video in contents.videos:
        shown = video.visible or visible.get(video.name)
        if shown is None and video.object_ids:
            return None
        videos.append(replace(video, visible=shown or {}))
    return tuple(videos)


def _of_index(error: ValueError) -> Problem:
    name, _, detail = str(error).partition(": ")
    return Problem("unavailable" if isinstance(error, UnavailableError) else "index", name, detail)


def _incomplete_videos(contents: SplitContents) -> Iterator[VideoRecord]:
    """Those of which reading has left out damaged files, which may show the objects that the others do not."""
    folders = {name for p in contents.problems if p.stops for name in Path(p.name).parts[-2:]}  # or the folder itself
    return (video for video in contents.videos if video.name in folders)


def _without_pixels(video: VideoRecord, opened: OpenedVideo) -> Iterator[Problem]:
    """Objects of expressions that no mask shows."""
    foreign = "" if opened.visible is None else foreign_values(video, opened.visible.keys())
    if foreign and isinstance(video.masks, ObjectMapReader):
        yield Problem("objects", f"video {video.name}", foreign)
        return
    for number in opened.unseen:
        expressions = ", ".join(e.name for e in video.expressions if number in e.known_ids)
        yield Problem(
            "unseen" if video.listed_objects is None or number in video.listed_objects else "objects",
            f"video {video.name}, object {number}",
            f"no pixel in any mask (expressions {expressions})",
        )


def _differences(split: str, counts: Counts, expected: Counts | None, source: str) -> Iterator[Problem]:
    if expected is None:
        return
    own, other = counts.as_dict(), expected.as_dict()
    for name in counts.differences(expected):
        yield Problem("counts", f"{split}, {name}", f"{own[name]:,} instead of {other[name]:,} ({source})")


def _relative_to(root: Path, problem: Problem) -> Problem:
    """Readers name whole paths; the report says once where the data are."""
    prefix = f"{root}/"
    return replace(problem, name=problem.name.replace(prefix, ""), detail=problem.detail.replace(prefix, ""))
