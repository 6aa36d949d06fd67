"""The parts of the page that show scores: overall, by group, over the course of the videos, and two runs compared."""

from collections.abc import Mapping, Sequence

import numpy as np

from tools.analyze.bootstrap import DRAWS, Estimate
from tools.analyze.charts import Line, bars, difference_bar, line_chart
from tools.analyze.comparison import CHANGE, count_changes
from tools.analyze.grouping import Group, by_position
from tools.analyze.markup import UNKNOWN, note, percent, section, table, text, with_interval
from tools.analyze.study import Study

MIN_LIMIT, MARGIN = 0.05, 1.5
"""Bars of differences show plus and minus the largest of them with a margin, but at least this much; wider intervals
run out of the picture."""


def overall(study: Study) -> str:
    """The main numbers, as tiles, and those that the evaluation itself has reported."""
    tiles = []
    for run, one in zip(study.runs, study.sets, strict=True):
        measures = {one.measure: [sample.score for sample in one.samples]}
        if not one.ranked:
            measures["J"] = [sample.region for sample in one.samples]
            measures["F"] = [sample.boundary or 0.0 for sample in one.samples]
        for name, values in measures.items():
            shown = with_interval(study.bootstrap.mean(np.array(values)))
            where = f"{run.label}: " if len(study.runs) > 1 else ""
            tiles.append(f'<div class="tile"><b>{shown}</b><span>{text(where)}mean {text(name)}</span></div>')
    num_videos = len({sample.video for sample in study.samples})
    counts = f"{num_videos} {study.sets[0].video_unit}, {len(study.samples)} {study.sets[0].unit}"
    body = f'<div class="tiles">{"".join(tiles)}</div>\n' + note(
        f"{counts}. Everything in percent. In brackets: 95 % of {DRAWS:,} bootstrap draws of whole "
        f"{study.sets[0].video_unit}."
    )
    if study.sets[0].ranked:
        figures = [run.results["sets"][study.name]["overall"] for run in study.runs]
        body += table(
            ["reported by the evaluation", *study.labels],
            [[text(name), *(percent(own.get(name)) for own in figures)] for name in figures[0]],
        )
    return section("Scores", body + _rejections(study), name=study.anchor("scores"))


def _rejections(study: Study) -> str:
    """How many sentences were refused and invented, where some could be."""
    reported = [run.results["sets"][study.name].get("rejection") for run in study.runs]
    if not any(reported):
        return ""
    rows = [
        [name, *(_share_wrong(counts, total, right) for counts in reported)]
        for name, total, right in (
            ("refused: sentences with a target that were not found", "present", "found"),
            ("invented: sentences without a target that got a mask", "absent", "rejected"),
        )
    ]
    return table(["", *study.labels], rows)


def _share_wrong(counts: Mapping[str, int] | None, total: str, right: str) -> str:
    if counts is None or not counts[total]:
        return UNKNOWN
    wrong = counts[total] - counts[right]
    return f"{wrong} of {counts[total]} ({percent(wrong / counts[total])} %)"


def compared(study: Study) -> str:
    """How the second run differs from the first; empty for a single run."""
    differences = study.differences
    if differences is None:
        return ""
    changes = count_changes(differences)
    first, second = map(text, study.labels)
    difference = with_interval(study.bootstrap.mean(differences), signed=True)
    tiles = "".join(
        f'<div class="tile {css}"><b>{number}</b><span>{words}</span></div>'
        for number, words, css in (
            (difference, f"{text(study.sets[0].measure)}: {second} minus {first}", ""),
            (str(changes.better), f"{study.sets[0].unit} better by more than {100 * CHANGE:g} point", "better"),
            (str(changes.worse), f"worse by more than {100 * CHANGE:g} point", "worse"),
            (str(changes.same), "about the same", ""),
        )
    )
    explained = note(
        "Differences are taken per sample, and both runs see the same draws of videos (paired). An interval without 0 "
        "is a difference that other videos of the same kind would most likely show, too."
    )
    return section("The runs compared", f'<div class="tiles">{tiles}</div>\n{explained}', name=study.anchor("compared"))


def by_group(study: Study) -> str:
    """A table for each way to group the samples."""
    parts = []
    for breakdown in study.breakdowns:
        rows = _rows(study, breakdown.groups)
        if not rows:
            body = note(f"Not known for this data set ({breakdown.note}).")
        else:
            body = note(f"{breakdown.note[0].upper()}{breakdown.note[1:]}.") + table(_header(study), rows, css="groups")
        parts.append(section(breakdown.title, body, level=4))
    title = "Scores by kind, sentence, size, number and speed of objects"
    return section(title, "".join(parts), name=study.anchor("groups"))


def _header(study: Study) -> list[str]:
    measure = study.sets[0].measure
    names = [f"{measure}, {label}" for label in study.labels] if len(study.runs) > 1 else [measure]
    header = ["", study.sets[0].unit, study.sets[0].video_unit, *names, ""]
    return header if len(study.runs) == 1 else [*header, "difference", ""]


def _rows(study: Study, groups: Sequence[Group]) -> list[list[str]]:
    estimates = [study.estimates(group.members) for group in groups]
    differences = study.differences
    changes: list[Estimate | None] = []
    if differences is not None:
        changes = [study.bootstrap.mean(differences, group.members) for group in groups]
    limit = max([MIN_LIMIT, *(MARGIN * abs(change.mean) for change in changes if change is not None)])
    rows = []
    for number, (group, own) in enumerate(zip(groups, estimates, strict=True)):
        first = own[0]
        assert first is not None  # no group is empty
        row = [text(group.name), str(first.num_samples), str(first.num_videos), *map(with_interval, own), bars(own)]
        if changes:
            row += [with_interval(changes[number], signed=True), difference_bar(changes[number], limit=limit)]
        rows.append(row)
    return rows


def over_time(study: Study) -> str:
    """J over the course of the videos."""
    positions = by_position(study.sets[0].samples)
    if positions is None:
        return section(
            "Over the course of the video", note("Single frames are scored here."), name=study.anchor("frames")
        )
    number = len(positions.names)
    places = [(part + 0.5) / number for part in range(number)]
    columns, lines = [], []
    for index, (label, one) in enumerate(zip(study.labels, study.sets, strict=True)):
        own = by_position(one.samples)
        assert own is not None  # the runs have the same frames
        estimates = [study.bootstrap.mean(part) for part in own.regions.T]
        columns.append([with_interval(estimate) for estimate in estimates])
        known = [(place, e) for place, e in zip(places, estimates, strict=True) if e is not None]
        points = [(place, e.mean) for place, e in known]
        band = [None if e.low is None or e.high is None else (e.low, e.high) for _, e in known]
        lines.append(Line(label if len(study.runs) > 1 else "", f"run{index}", points, band, radii=[3.0] * len(points)))
    is_frame = "%" not in positions.names[0]
    axis = "frame" if is_frame else "part of the video"
    ticks = list(zip(places, (name.removesuffix(" %") for name in positions.names), strict=True))
    chart = line_chart(lines, ticks=ticks, x_label=axis if is_frame else f"{axis}, in percent", y_label="mean J")
    header = [axis, *(f"J, {label}" if len(study.runs) > 1 else "J" for label in study.labels)]
    rows = [[text(name), *(column[part] for column in columns)] for part, name in enumerate(positions.names)]
    body = f'<div class="beside">{chart}{table(header, rows)}</div>\n'
    return section("Over the course of the video", body, name=study.anchor("frames"))
