"""Outcomes of mutants as a table, as JSON and as Markdown; and which survivors are the same program."""

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.mutate.operators import OPERATORS, Mutant
from tools.mutate.runner import Outcome

KILLED = ("killed", "timeout")

PASSING_SHARE = 0.95
"""Of the mutants that are not equivalent."""


@dataclass(frozen=True, slots=True)
class Equivalents:
    """Mutants known to be the same program, with the reason for each.

    Attributes:
        reasons: (file, original text, mutated text), spaces made single, to the reason.
    """

    reasons: dict[tuple[str, str, str], str]

    def reason(self, mutant: Mutant) -> str | None:
        """Why a mutant is the same program; None where it is not known to be."""
        return self.reasons.get((mutant.file, single_spaced(mutant.before), single_spaced(mutant.after)))


def read_equivalents(path: Path) -> Equivalents:
    """Read a file of `[[equivalent]]` tables with `file`, `original`, `mutated` (a text or a list) and `reason`.

    Raises:
        ValueError: if an entry lacks one of these.
    """
    if not path.is_file():
        return Equivalents({})
    reasons = {}
    for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []), start=1):
        missing = [key for key in ("file", "original", "mutated", "reason") if not str(entry.get(key, "")).strip()]
        if missing:
            raise ValueError(f"{path}: entry {number} lacks {', '.join(missing)}")
        mutated = entry["mutated"] if isinstance(entry["mutated"], list) else [entry["mutated"]]
        for text in mutated:
            reasons[entry["file"], single_spaced(entry["original"]), single_spaced(text)] = str(entry["reason"])
    return Equivalents(reasons)


def single_spaced(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a run.

    Attributes:
        killed: by a failing test, or by one that hung.
        survived: not killed, nor known to be equivalent.
        equivalent: not killed, and known to be the same program.
        errors: the tool could not tell; counted as survivors.
    """

    killed: int
    survived: int
    equivalent: int
    errors: int

    @property
    def share(self) -> float:
        """Killed ones among those that are not equivalent; 1 if there is none."""
        total = self.killed + self.survived + self.errors
        return self.killed / total if total else 1.0

    @property
    def passes(self) -> bool:
        """Whether enough are killed."""
        return self.share >= PASSING_SHARE

    def __str__(self) -> str:
        total = self.killed + self.survived + self.errors
        text = f"{self.killed} of {total} killed ({100 * self.share:.1f} %), {self.survived} survived"
        text += f", {self.equivalent} equivalent" if self.equivalent else ""
        return text + (f", {self.errors} not decided" if self.errors else "")


def verdict_of(outcome: Outcome, equivalents: Equivalents) -> str:
    """The verdict, with `equivalent` for survivors that are known to be the same program."""
    if outcome.verdict == "survived" and equivalents.reason(outcome.mutant) is not None:
        return "equivalent"
    return outcome.verdict


def summarise(outcomes: Sequence[Outcome], equivalents: Equivalents) -> Summary:
    """Count the outcomes."""
    counts = Counter(verdict_of(outcome, equivalents) for outcome in outcomes)
    return Summary(
        killed=sum(counts[verdict] for verdict in KILLED),
        survived=counts["survived"],
        equivalent=counts["equivalent"],
        errors=counts["error"],
    )


def progress_line(outcome: Outcome, equivalents: Equivalents, number: int, total: int) -> str:
    """One line on one mutant."""
    mutant, verdict = outcome.mutant, verdict_of(outcome, equivalents)
    change = f"{single_spaced(mutant.before)[:90]}  =>  {single_spaced(mutant.after)[:90]}"
    line = f"[{number}/{total}] {verdict:<10} {outcome.seconds:6.1f} s  {mutant.file}:{mutant.line} {mutant.operator}: "
    line += change
    return line + (f"  [{outcome.detail}]" if verdict in ("survived", "error") and outcome.detail else "")


def table(outcomes: Sequence[Outcome], equivalents: Equivalents) -> str:
    """Counts by operator and by file, and the survivors."""
    lines = []
    for title, key in (("operator", lambda m: m.operator), ("file", lambda m: m.file)):
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(key(outcome.mutant), []).append(outcome)
        lines.append(f"{title:<52} {'killed':>8} {'survived':>9} {'equivalent':>11}")
        for name, group in sorted(groups.items()):
            summary = summarise(group, equivalents)
            left = summary.survived + summary.errors
            lines.append(f"{name:<52} {summary.killed:>8} {left:>9} {summary.equivalent:>11}")
        lines.append("")
    for outcome in outcomes:
        if verdict_of(outcome, equivalents) in ("survived", "error"):
            mutant = outcome.mutant
            lines.append(
                f"{outcome.verdict}: {mutant.file}:{mutant.line} ({mutant.operator}) {outcome.detail}".rstrip()
            )
            lines.append(f"  - {single_spaced(mutant.before)}")
            lines.append(f"  + {single_spaced(mutant.after)}")
    return "\n".join([*lines, str(summarise(outcomes, equivalents))]) + "\n"


def to_json(outcomes: Sequence[Outcome], equivalents: Equivalents, *, seed: int | None, roots: Sequence[str]) -> str:
    """Everything about a run, readable by `--only-survivors`."""
    summary = summarise(outcomes, equivalents)
    return json.dumps(
        {
            "seed": seed,
            "roots": list(roots),
            "killed": summary.killed,
            "survived": summary.survived,
            "equivalent": summary.equivalent,
            "errors": summary.errors,
            "share": round(summary.share, 4),
            "mutants": [
                {
                    "file": outcome.mutant.file,
                    "line": outcome.mutant.line,
                    "operator": outcome.mutant.operator,
                    "before": outcome.mutant.before,
                    "after": outcome.mutant.after,
                    "verdict": verdict_of(outcome, equivalents),
                    "by": outcome.by,
                    "detail": outcome.detail or equivalents.reason(outcome.mutant) or "",
                    "tests": outcome.ran,
                    "seconds": outcome.seconds,
                }
                for outcome in outcomes
            ],
        },
        indent=1,
    )


def to_markdown(outcomes: Sequence[Outcome], equivalents: Equivalents, *, title: str) -> str:
    """A section for `docs/testing.md`: counts, and a row for every mutant."""
    lines = [f"### {title}", "", f"{summarise(outcomes, equivalents)}.", ""]
    lines += ["| operator | changes | killed |", "|---|---|---|"]
    for operator, meaning in OPERATORS.items():
        group = [outcome for outcome in outcomes if outcome.mutant.operator == operator]
        if group:
            summary = summarise(group, equivalents)
            known = f", {summary.equivalent} equivalent" if summary.equivalent else ""
            lines.append(f"| {operator} | {_cell(meaning)} | {summary.killed} of {len(group)}{known} |")
    lines += ["", "| line | before | after | result |", "|---|---|---|---|"]
    for outcome in outcomes:
        mutant, verdict = outcome.mutant, verdict_of(outcome, equivalents)
        result = {
            "killed": f"`{outcome.by.rpartition('/')[2]}`",
            "timeout": f"timeout in `{outcome.by.rpartition('/')[2]}`",
            "equivalent": f"equivalent: {equivalents.reason(mutant)}",
            "survived": "**survived**" + (f": {outcome.detail}" if outcome.detail else ""),
        }.get(verdict, f"**not decided**: {outcome.detail}")
        cells = (f"{mutant.file}:{mutant.line}", _code(mutant.before), _code(mutant.after), _cell(result))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`` {_cell(single_spaced(text))} ``"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def survivors_in(report: dict[str, Any], mutants_of: dict[str, list[Mutant]]) -> tuple[list[Mutant], list[str]]:
    """The mutants that survived in a report, wherever their lines are now, and those that are no longer there.

    Args:
        report: what `to_json` wrote.
        mutants_of: file to all of its mutants.
    """
    found, gone = [], []
    for entry in report["mutants"]:
        if entry["verdict"] not in ("survived", "error"):
            continue
        same = [
            mutant
            for mutant in mutants_of.get(entry["file"], [])
            if (mutant.operator, mutant.before, mutant.after) == (entry["operator"], entry["before"], entry["after"])
        ]
        if same:
            found.append(min(same, key=lambda mutant: abs(mutant.line - entry["line"])))
        else:
            gone.append(f"{entry['file']}:{entry['line']}: {single_spaced(entry['after'])}")
    return found, gone
