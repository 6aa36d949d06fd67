"""What readers of data sets find wrong: collected, not raised, so that one look names everything.

Training and evaluation raise what stops them (`require_usable`); `tools.check_data` prints all of it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

ProblemKind = Literal[
    "index",
    "missing",
    "unreadable",
    "unavailable",
    "mismatched",
    "objects",
    "expressions",
    "labels",
    "unseen",
    "left_out",
    "duplicates",
    "line_ends",
    "counts",
    "oddities",
    "surplus",
]


@dataclass(frozen=True, slots=True)
class KindOfProblem:
    """Problems with one remedy.

    Attributes:
        title: headline.
        stops: whether training or evaluation refuses the data.
        advice: what to do.
    """

    title: str
    stops: bool
    advice: str


KINDS: dict[ProblemKind, KindOfProblem] = {
    "index": KindOfProblem(
        "index files that cannot be used", True, "take the file that is named from the release again"
    ),
    "missing": KindOfProblem(
        "missing files", True, "unpack the archive again, or copy what is absent; an interrupted copy looks like this"
    ),
    "unreadable": KindOfProblem(
        "truncated or damaged files",
        True,
        "fetch these files again from the archive; if they come back damaged, so is it",
    ),
    "unavailable": KindOfProblem(
        "files that cannot be read now, whether they are whole or not",
        True,
        "see to the disk or network, then check again",
    ),
    "mismatched": KindOfProblem(
        "masks and frames that do not fit each other",
        True,
        "take frames and masks from the same release; do not resize one of them alone",
    ),
    "objects": KindOfProblem(
        "expressions whose object is missing",
        True,
        "expressions and masks are of different releases, or the masks were converted: compare with the original files",
    ),
    "expressions": KindOfProblem(
        "expressions or videos with bad entries", True, "take the file of expressions from the release again"
    ),
    "labels": KindOfProblem(
        "labels and sentences of one's own that cannot be used",
        True,
        "mend them in the labelling tool or in sentences.json; docs/your_own_data.md says how they should be",
    ),
    "unseen": KindOfProblem(
        "expressions about objects without a pixel, or without a box where boxes are targets",
        False,
        "nothing: training leaves them out, evaluation scores them against empty masks",
    ),
    "left_out": KindOfProblem(
        "labels of one's own that are left out", False, "nothing, if that is meant; the others are used"
    ),
    "duplicates": KindOfProblem(
        "ids that occur twice", False, "of each only one entry is read; take the file from the release again"
    ),
    "line_ends": KindOfProblem("text files with Windows line ends", False, "nothing: they are read all the same"),
    "counts": KindOfProblem(
        "counts that differ from the published ones",
        False,
        "another release, or an incomplete one: figures will not be comparable with papers",
    ),
    "oddities": KindOfProblem(
        "files that contradict themselves or each other, and are read as the published code reads them",
        False,
        "nothing: training and evaluation do the same with them as the published code",
    ),
    "surplus": KindOfProblem("surplus files", False, "nothing: they are not read"),
}
"""In the order of a report."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: key of `KINDS`.
        name: path of the file, or video and expression.
        detail: what is wrong with it, where the kind does not say all.
    """

    kind: ProblemKind
    name: str
    detail: str = ""

    @property
    def stops(self) -> bool:
        """Whether training or evaluation refuses the data because of it."""
        return KINDS[self.kind].stops

    def __str__(self) -> str:
        return f"{self.name}: {self.detail or KINDS[self.kind].title}"


def any_stops(problems: Sequence[Problem]) -> bool:
    """Whether one of them keeps training and evaluation from using the data."""
    return any(problem.stops for problem in problems)


def require_usable(problems: Sequence[Problem], *, for_training: bool, skip_damaged: bool = False) -> None:
    """Raises what stops a run; problems that do not stop it are written to the log.

    Args:
        problems: of a split.
        for_training: the message may suggest to leave damaged files out, as only training can.
        skip_damaged: damaged files (kind "unreadable") do not stop; the reader has left them out of its records.

    Raises:
        ValueError: with the first problem, how many more there are, and what to do.
    """
    stopping = [p for p in problems if p.stops and not (skip_damaged and p.kind == "unreadable")]
    if stopping:
        more = f" (and {len(stopping) - 1} more; python -m tools.check_data names all)" if len(stopping) > 1 else ""
        can_skip = for_training and stopping[0].kind == "unreadable"
        hint = "; data.on_error=skip leaves such files out" if can_skip else ""
        first = stopping[0]
        # what cannot be read now says so itself
        advice = "" if first.kind == "unavailable" else f"; {KINDS[first.kind].advice}"
        raise ValueError(f"{first}{more}{hint}{advice}")
    for problem in problems:
        logger.warning("%s%s", "left out: " if problem.kind == "unreadable" else "", problem)
