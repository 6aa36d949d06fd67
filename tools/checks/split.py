"""One split under examination: what the loader says, which files there should be, and what opening them shows."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.schema import DataConfig
from datasets.base import VideoRecord
from datasets.loaders import VideoSource, open_split
from datasets.shapes.writer import DATASET_NAME, STATISTICS_FILE
from datasets.statistics import PUBLISHED, Counts
from tools.checks.files import Names
from tools.checks.opening import files_of, open_all, plan
from tools.checks.report import Problem, SplitReport

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
        problems: found so far.
        known_objects: per video, objects that need no pixel because another file knows them.
    """

    data: DataConfig
    root: Path
    split: str
    names: Names
    source: VideoSource | None = None
    records: Sequence[VideoRecord] = ()
    problems: list[Problem] = field(default_factory=list)
    known_objects: dict[str, set[int]] = field(default_factory=dict)

    def add(self, kind: str, place: Path | str, detail: str = "") -> None:
        """Notes a problem of a file (a path), or of something in it."""
        self.problems.append(Problem(kind, self.names.show(place) if isinstance(place, Path) else place, detail))


@dataclass(frozen=True, slots=True)
class Format:
    """How one data set is recognised and examined.

    Attributes:
        dataset: as in `data.dataset`.
        title: its name in papers.
        recognises: whether a folder holds it.
        configurations: what can be opened in a folder, as changes of `DataConfig`, and the splits of each.
        examine: adds what can be said without opening images.
        published: key of `PUBLISHED` for these settings.
    """

    dataset: str
    title: str
    recognises: Callable[[Path], bool]
    configurations: Callable[[Path], Sequence[tuple[dict[str, object], tuple[str, ...]]]]
    examine: Callable[[SplitCheck], None]
    published: Callable[[DataConfig], str] = lambda data: data.dataset


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
    wanted = {path for video in check.records for p in range(len(video.frame_names)) for path in files_of(video, p)}
    check.problems += [*check.names.missing(wanted), *check.names.surplus(wanted)]
    openings = plan(check.records, root=root, sample=sample, is_there=check.names.exists)
    for opening, opened in open_all(openings, num_workers=num_workers, title=f"{format.title}, {split}"):
        check.problems += opened.problems
        _note_unseen(check, opening.video, opened.unseen)
    counts = count(check.records)
    expected, source = expected_counts(root, split, format.published(data))
    if data.sequences:  # a part of the set on purpose
        expected = None
    _compare_counts(check, counts, expected, source)
    num_frames = sum(len(video.frame_names) for video in check.records)
    return SplitReport(
        dataset=data.dataset,
        title=format.title,
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


def count(videos: Sequence[VideoRecord]) -> Counts:
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


def expected_counts(root: Path, split: str, dataset: str) -> tuple[Counts | None, str]:
    """What there should be, and who says so: generated data have their own numbers beside them."""
    statistics = root / STATISTICS_FILE
    if statistics.is_file():
        try:
            content = json.loads(statistics.read_bytes())
            if content["dataset"] == DATASET_NAME:
                return _generated_counts(content, split), STATISTICS_FILE
        except (ValueError, KeyError, TypeError):
            return None, f"{STATISTICS_FILE} (damaged)"
    return PUBLISHED.get(dataset, {}).get(split), PUBLISHED_NUMBERS


def _generated_counts(content: dict[str, dict], split: str) -> Counts | None:
    options, sentences = content["options"], content["sentences"].get(split)
    if sentences is None:
        return None
    videos = options[f"num_{split}"]
    return Counts(videos=videos, expressions=sum(sentences.values()), frames=videos * options["num_frames"])


def _compare_counts(check: SplitCheck, counts: Counts, expected: Counts | None, source: str) -> None:
    if expected is None or not check.records:
        return
    own, other = counts.as_dict(), expected.as_dict()
    for name in counts.differences(expected):
        check.add("counts", f"{check.split}, {name}", f"{own[name]:,} instead of {other[name]:,} ({source})")


def _note_unseen(check: SplitCheck, video: VideoRecord, unseen: Sequence[int]) -> None:
    for number in unseen:
        expressions = ", ".join(e.name for e in video.expressions if number in e.object_ids)
        is_known = number in check.known_objects.get(video.name, {number})
        check.add(
            "unseen" if is_known else "objects",
            f"video {video.name}, object {number}",
            f"no pixel in any mask (expressions {expressions})",
        )
