"""One split under examination: what the loader says, which files there should be, and what opening them shows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.schema import DataConfig
from datasets.records import VideoRecord
from datasets.statistics import PUBLISHED, Counts
from loading.loaders import VideoSource, open_split
from tools.checks.files import Names
from tools.checks.opening import files_of, open_all, plan
from tools.checks.report import Problem, SplitReport
from tools.shapes.writer import DATASET_NAME, STATISTICS_FILE

PUBLISHED_NUMBERS = "published"


@dataclass
class SplitCheck:
    """What a format's examination starts from and adds to.

    Attributes:
        data: settings, with `root` set.
        root: folder of the data.
        split: name of the split.
        names: which files exist.
        source: what the loader made of it; None if it refused.
        records: videos to open; a format may put its own here where the loader refused.
        is_partial: whether files are left out of the records, so that an object without a pixel means nothing.
        problems: found so far.
        known_objects: per video, objects that need no pixel because another file knows them.
        shared: folders in which other splits have files, too, so that a file nobody asks for is no surplus.
    """

    data: DataConfig
    root: Path
    split: str
    names: Names
    source: VideoSource | None = None
    records: Sequence[VideoRecord] = ()
    is_partial: bool = False
    problems: list[Problem] = field(default_factory=list)
    known_objects: dict[str, set[int]] = field(default_factory=dict)
    shared: set[Path] = field(default_factory=set)

    def add(self, kind: str, place: Path | str, detail: str = "") -> None:
        """Notes a problem of a file (a path), or of something in it."""
        self.problems.append(Problem(kind, self.names.show(place) if isinstance(place, Path) else place, detail))


def count_videos(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes of what the loader (or the examination) found."""
    if not videos:
        return Counts()
    objects = [{number for e in video.expressions for number in e.object_ids} for video in videos]
    return Counts(
        videos=len(videos),
        objects=sum(map(len, objects)) if all(objects) else None,
        expressions=sum(len(video.expressions) for video in videos),
        frames=sum(len(video.frame_names) for video in videos),
    )


@dataclass(frozen=True, slots=True)
class Format:
    """How one data set is recognised and examined.

    Attributes:
        dataset: as in `data.dataset`.
        title: its name in papers.
        recognises: whether a folder holds it.
        configurations: what can be opened in a folder, as changes of `DataConfig`, and the splits of each.
        examine: adds what can be said without opening images.
        title_of: its name with these settings, where a format has several.
        published: key of `PUBLISHED` for these settings.
        count: sizes of what was found.
        is_trained_on: whether it has a training split.
    """

    dataset: str
    title: str
    recognises: Callable[[Path], bool]
    configurations: Callable[[Path], Sequence[tuple[dict[str, object], tuple[str, ...]]]]
    examine: Callable[[SplitCheck], None]
    title_of: Callable[[DataConfig], str] | None = None
    published: Callable[[DataConfig], str] = lambda data: data.dataset
    count: Callable[[Sequence[VideoRecord]], Counts] = count_videos
    is_trained_on: bool = True


def check_split(format: Format, data: DataConfig, split: str, *, sample: int, num_workers: int) -> SplitReport:
    """Examines one split.

    Args:
        format: of the data.
        data: settings, with `root` set to an existing folder.
        split: name of the split.
        sample: frames to open; 0: all.
        num_workers: processes that open files; 0: this one.
    """
    assert data.root is not None
    root = Path(data.root).expanduser()
    check = SplitCheck(data=data, root=root, split=split, names=Names(root))
    try:
        check.source = open_split(data.model_copy(update={"root": root}), split)
        check.records = check.source.videos
    except ValueError as error:
        check.add("loader", str(error).replace(f"{root}/", ""))
    format.examine(check)
    title = format.title if format.title_of is None else format.title_of(data)
    wanted = {path for video in check.records for p in range(len(video.frame_names)) for path in files_of(video, p)}
    check.problems += check.names.missing(wanted)
    named = {problem.name for problem in check.problems}  # what is damaged is not surplus as well
    surplus = check.names.surplus(path for path in wanted if path.parent not in check.shared)
    check.problems += [problem for problem in surplus if problem.name not in named]
    openings = plan(check.records, root=root, sample=sample, is_there=check.names.exists)
    for opening, opened in open_all(openings, num_workers=num_workers, title=f"{title}, {split}"):
        check.problems += opened.problems
        if not check.is_partial:
            _note_unseen(check, opening.video, opened.unseen)
    counts = format.count(check.records)
    expected, source = expected_counts(root, split, format.published(data))
    if data.sequences:  # a part of the set on purpose
        expected = None
    _compare_counts(check, counts, expected, source)
    num_frames = sum(len(video.frame_names) for video in check.records)
    return SplitReport(
        dataset=data.dataset,
        title=title,
        root=root,
        split=split,
        counts=counts,
        expected=expected,
        expected_from=source,
        num_frames=num_frames,
        num_opened=sum(len(opening.positions) for opening in openings),
        is_sample=0 < sample < num_frames,
        problems=tuple(check.problems),
    )


def expected_counts(root: Path, split: str, dataset: str) -> tuple[Counts | None, str]:
    """What there should be, and who says so: generated data have their own numbers beside them."""
    generated = read_generated(root)
    if generated is None:
        return PUBLISHED.get(dataset, {}).get(split), PUBLISHED_NUMBERS
    try:
        return _generated_counts(generated, split), STATISTICS_FILE
    except (KeyError, TypeError, AttributeError):
        return None, STATISTICS_FILE


def read_generated(root: Path) -> dict[str, Any] | None:
    """What `tools.make_shapes` says about its data; None where the data are not generated."""
    try:
        content = json.loads((root / STATISTICS_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("dataset") == DATASET_NAME else None


def _generated_counts(content: dict[str, Any], split: str) -> Counts:
    options, layout = content["options"], content["options"].get("format", "ref_youtube_vos")
    own_split = "train" if split == "train" else "valid"  # the layouts call the second one test, val, ...
    videos = options[f"num_{own_split}"]
    if layout == "refcoco":  # the sentences are counted over three sets together
        return Counts(images=videos)
    is_secret = layout == "mevis" and split == "valid"  # a split of its own, which the statistics leave out
    sentences = None if is_secret else sum(content["sentences"][own_split].values())
    return Counts(videos=videos, expressions=sentences, frames=videos * options["num_frames"])


def _compare_counts(check: SplitCheck, counts: Counts, expected: Counts | None, source: str) -> None:
    if expected is None or not check.records:
        return
    own, other = counts.as_dict(), expected.as_dict()
    for name in counts.differences(expected):
        check.add("counts", f"{check.split}, {name}", f"{own[name]:,} instead of {other[name]:,} ({source})")


def _note_unseen(check: SplitCheck, video: VideoRecord, unseen: Sequence[int]) -> None:
    known = {problem.name for problem in check.problems if problem.kind == "unseen"}
    for number in unseen:
        place = f"video {video.name}, object {number}"
        if place in known:
            continue  # the index files say so already
        expressions = ", ".join(e.name for e in video.expressions if number in e.object_ids)
        is_known = number in check.known_objects.get(video.name, {number})
        check.add(
            "unseen" if is_known else "objects",
            place,
            f"no pixel in any mask (expressions {expressions})",
        )
