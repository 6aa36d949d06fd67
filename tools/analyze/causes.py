"""The parts of the page about causes: choice or masks, and whether scores tell good masks from bad ones."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from tools.analyze.calibration import NUM_BINS, Calibration, calibrate
from tools.analyze.charts import Line, line_chart, parts_bar
from tools.analyze.choice import GOOD, MARGIN, chosen_and_best, verdict_of
from tools.analyze.grouping import Group, by_kind
from tools.analyze.markup import note, percent, section, table, text, with_interval
from tools.analyze.samples import Sample
from tools.analyze.study import Study

CHOICE_HEADER = [
    "",
    "J of the chosen",
    "J of the best",
    "lost by choice",
    "lost by masks",
    "",
    "wrong choice",
    "no good mask",
]


MAX_RADIUS = 6.0
"""Of the dots of the calibration curve, in pixels; their area grows with the number of samples."""


def choice_or_masks(study: Study) -> str:
    """What the second and third query would have given."""
    number = max(len(sample.ranking) for one in study.sets for sample in one.samples)
    if number < 2:
        unknown = note("No runners-up were recorded: eval.runners_up=0, or sentences were merged before scoring.")
        return section("Error of choice or error of masks", unknown, name=study.anchor("choice"))
    parts = []
    for label, one in zip(study.labels, study.sets, strict=True):
        rows = _choice_rows(study, one.samples)
        if not rows:
            parts.append(note(f"{label}: no runners-up were recorded."))
            continue
        heading = f"<h4>{text(label)}</h4>\n" if len(study.runs) > 1 else ""
        parts.append(heading + table(CHOICE_HEADER, rows, css="groups"))
    explained = note(
        f"The best of the {number} queries with the highest scores, chosen by the truth, against the one that the "
        "model chose: the difference is lost by the choice, what is missing to 100 by the masks. Wrong choice: a "
        f"runner-up is better by more than {100 * MARGIN:g} points of J. No good mask: otherwise, where no "
        f"query reaches {100 * GOOD:g}."
    )
    legend = (
        '<p class="legend"><span class="key"><i class="chosen"></i>J of the chosen query</span>'
        '<span class="key"><i class="choice"></i>lost by choice</span>'
        '<span class="key"><i class="masks"></i>lost by masks</span></p>\n'
    )
    return section(
        "Error of choice or error of masks", explained + legend + "".join(parts), name=study.anchor("choice")
    )


def _choice_rows(study: Study, samples: Sequence[Sample]) -> list[list[str]]:
    chosen, best = chosen_and_best(samples)
    verdicts = np.array([verdict_of(sample.ranking) for sample in samples])
    everything = Group("all", np.ones(len(samples), dtype=bool))
    rows = []
    for group in (everything, *by_kind(samples).groups):
        means = [study.bootstrap.mean(values, group.members) for values in (chosen, best, best - chosen, 1 - best)]
        if means[0] is None or means[2] is None or means[3] is None:
            continue
        counts = [int(((verdicts == verdict) & group.members).sum()) for verdict in ("choice", "masks")]
        parts = [("chosen", means[0].mean), ("choice", means[2].mean), ("masks", means[3].mean)]
        shares = [f'{count} <span class="ci">({percent(count / means[0].num_samples)} %)</span>' for count in counts]
        rows.append([text(group.name), *map(with_interval, means), parts_bar(parts), *shares])
    return rows


def calibration(study: Study) -> str:
    """Scores of the model against J."""
    lines = [Line("", "diagonal", [(0.0, 0.0), (1.0, 1.0)])]
    tables = []
    for index, (label, one) in enumerate(zip(study.labels, study.sets, strict=True)):
        result = calibrate(one.samples)
        if result is None:
            continue
        name = f"{label}: " if len(study.runs) > 1 else ""
        radii = [max(1.5, MAX_RADIUS * sqrt(b.count / max(each.count for each in result.bins))) for b in result.bins]
        regions, hits = ([(b.score, y) for b, y in zip(result.bins, ys, strict=True)] for ys in _heights(result))
        lines.append(Line(f"{name}mean J", f"run{index}", regions, radii=radii))
        lines.append(Line(f"{name}share with J above 50", f"run{index} dashed", hits, radii=[2.0] * len(hits)))
        tables.append(_calibration_table(label if len(study.runs) > 1 else "", result))
    if not tables:
        return section(
            "Calibration of scores",
            note("No scores were recorded: sentences were merged."),
            name=study.anchor("calibration"),
        )
    ticks = [(quarter / 4, f"{25 * quarter}") for quarter in range(5)]
    chart = line_chart(lines, ticks=ticks, x_label="mean score of the model, in percent", y_label="J")
    explained = note(
        f"Samples in {NUM_BINS} equal steps of the score that the model gives its chosen query. On the diagonal a "
        "score says how good the masks are; larger dots stand for more samples. Expected calibration error: mean "
        "distance from the diagonal."
    )
    body = f'{explained}<div class="beside">{chart}<div class="beside">{"".join(tables)}</div></div>\n'
    return section("Calibration of scores", body, name=study.anchor("calibration"))


def _heights(result: Calibration) -> tuple[list[float], list[float]]:
    """Mean J and share of hits of each bin."""
    return [b.region for b in result.bins], [b.hits for b in result.bins]


def _calibration_table(label: str, result: Calibration) -> str:
    rows = [
        [f"{100 * b.low:.0f} to {100 * b.high:.0f}", str(b.count), *map(percent, (b.score, b.region, b.hits))]
        for b in result.bins
    ]
    heading = f"<h4>{text(label)}</h4>\n" if label else ""
    errors = (
        f"<p>Expected calibration error <b>{percent(result.error)}</b> against J, "
        f"<b>{percent(result.hit_error)}</b> against the share with J above 50.</p>\n"
    )
    return f"<div>{heading}{errors}{table(['score', 'samples', 'mean score', 'mean J', 'J above 50'], rows)}</div>"
