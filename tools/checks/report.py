"""What was found wrong, grouped by what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.counts import Counts
from datasets.problems import KINDS, KindOfProblem, Problem, any_stops
from datasets.records import VideoRecord


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What is known about one split after the check.

    Attributes:
        dataset: as in `dataset` of an entry of `data.sets`.
        title: its name in papers.
        root: folder of the data.
        split: name of the split.
        counts: what was found.
        expected: what there should be; None where nobody says.
        expected_from: who says so.
        num_frames: that the index files list.
        num_opened: that were opened, out of these.
        is_sample: whether more could have been opened.
        problems: all that is wrong.
        videos: of the split, with all that is known about their objects; None where a run would not get as far, or
            where not all masks were looked at that training looks at.
    """

    dataset: str
    title: str
    root: Path
    split: str
    counts: Counts
    expected: Counts | None
    expected_from: str
    num_frames: int
    num_opened: int
    is_sample: bool
    problems: tuple[Problem, ...]
    videos: tuple[VideoRecord, ...] | None = None

    @property
    def fails(self) -> bool:
        """Whether training on it or evaluating it would fail."""
        return any_stops(self.problems)

    def as_json(self) -> dict[str, object]:
        """Everything, for programs."""
        return {
            "dataset": self.dataset,
            "root": str(self.root),
            "split": self.split,
            "fails": self.fails,
            "counts": self.counts.as_dict(),
            "expected": None if self.expected is None else self.expected.as_dict(),
            "expected_from": self.expected_from,
            "frames": self.num_frames,
            "opened": self.num_opened,
            "problems": [{"kind": p.kind, "stops": p.stops, "name": p.name, "detail": p.detail} for p in self.problems],
        }

    def as_text(self, *, show: int) -> str:
        """The report for people.

        Args:
            show: most names of a group; 0: all.
        """
        lines = [f"{self.title}, {self.split}: {self.root}", f"  {self._counted()}", f"  {self._opened()}"]
        for key, kind in KINDS.items():
            found = [problem for problem in self.problems if problem.kind == key]
            if found:
                lines += ["", *_group(kind, found, show)]
        if not self.problems:
            lines.append("  nothing wrong")
        return "\n".join(lines) + "\n"

    def _counted(self) -> str:
        expected = {} if self.expected is None else self.expected.as_dict()
        parts = []
        for name, value in self.counts.as_dict().items():
            of = f" of {expected[name]:,}" if name in expected else ""
            parts.append(f"{name} {value:,}{of}")
        return ", ".join(parts) or "nothing could be counted"

    def _opened(self) -> str:
        if not self.num_frames:
            return "opened no frame"
        hint = " (a sample; --full opens all)" if self.is_sample else ""
        return f"opened {self.num_opened:,} of {self.num_frames:,} frames{hint}"


def _group(kind: KindOfProblem, found: Sequence[Problem], show: int) -> list[str]:
    lines = [f"  {'ERROR' if kind.stops else 'note'}: {kind.title} ({len(found):,})"]
    shown = found[:show] if show else found
    lines += [f"    {p.name}: {p.detail}" if p.detail else f"    {p.name}" for p in shown]
    if len(shown) < len(found):
        lines.append(f"    ... and {len(found) - len(shown):,} more (--show 0 lists all)")
    return [*lines, f"    what to do: {kind.advice}"]
