"""Small charts as SVG inside the page; colours come from its style sheet, so that they fit light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.analyze.bootstrap import Estimate
from tools.analyze.markup import text

BAR_WIDTH, BAR_HEIGHT = 180, 9
CHART_WIDTH, CHART_HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 36


def bars(estimates: Sequence[Estimate | None]) -> str:
    """A bar from 0 to 1 with its interval, for each run one below the other."""
    height = (BAR_HEIGHT + 3) * len(estimates)
    parts = []
    for run, estimate in enumerate(estimates):
        top = run * (BAR_HEIGHT + 3) + 1
        parts.append(f'<rect class="track" x="0" y="{top}" width="{BAR_WIDTH}" height="{BAR_HEIGHT}"/>')
        if estimate is not None:
            parts.append(
                f'<rect class="run{run}" x="0" y="{top}" width="{BAR_WIDTH * estimate.mean:.1f}" '
                f'height="{BAR_HEIGHT}"/>'
            )
            parts.append(_whisker(estimate, top + BAR_HEIGHT / 2, start=0, scale=BAR_WIDTH))
    return _svg(BAR_WIDTH, height, parts, "bar")


def difference_bar(estimate: Estimate | None, *, limit: float) -> str:
    """A bar to the left or right of zero, with its interval.

    Args:
        estimate: of the difference.
        limit: at the ends of the chart.
    """
    height, middle = BAR_HEIGHT + 9, BAR_WIDTH / 2
    parts = []
    if estimate is not None:
        scale = middle / limit
        width, css = abs(estimate.mean) * scale, "better" if estimate.mean > 0 else "worse"
        start = middle if estimate.mean > 0 else middle - width
        parts.append(f'<rect class="{css}" x="{start:.1f}" y="4" width="{width:.1f}" height="{BAR_HEIGHT}"/>')
        parts.append(_whisker(estimate, height / 2, start=middle, scale=scale))
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="0" y2="{height}"/>')
    return _svg(BAR_WIDTH, height, parts, "bar")


def parts_bar(parts: Sequence[tuple[str, float]]) -> str:
    """Shares that add up to 1, side by side.

    Args:
        parts: class in the style sheet, and share.
    """
    drawn, left = [], 0.0
    for css, share in parts:
        width = BAR_WIDTH * share
        drawn.append(f'<rect class="{css}" x="{left:.1f}" y="1" width="{width:.1f}" height="{BAR_HEIGHT + 3}"/>')
        left += width
    return _svg(BAR_WIDTH, BAR_HEIGHT + 5, drawn, "bar")


def _whisker(estimate: Estimate, y: float, *, start: float, scale: float) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = start + scale * estimate.low, start + scale * estimate.high
    return f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 3:.1f}v6M{high:.1f} {y - 3:.1f}v6"/>'


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend; empty: not in it.
        css: class in the style sheet.
        points: (x, y), both from 0 to 1.
        band: lower and upper end of an interval at each point; None where there is none.
        radii: of the dots at the points, in pixels; none: no dots.
    """

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float] | None] = ()
    radii: Sequence[float] = ()


def line_chart(lines: Sequence[Line], *, ticks: Sequence[tuple[float, str]], x_label: str, y_label: str) -> str:
    """Lines over [0, 1] x [0, 1]; the vertical axis is in percent.

    Args:
        lines: the last one is on top.
        ticks: place from 0 to 1 and its name, on the horizontal axis.
        x_label: below it.
        y_label: beside the vertical axis.
    """
    right, bottom = CHART_WIDTH - RIGHT, CHART_HEIGHT - BOTTOM
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{percent}</text>')
    for place, name in ticks:
        parts.append(f'<text x="{_x(place):.1f}" y="{bottom + 14}" text-anchor="middle">{text(name)}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{CHART_HEIGHT - 5}" text-anchor="middle">{text(x_label)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{text(y_label)}</text>')
    for line in lines:
        parts += _drawn(line)
    legend = "".join(
        f'<span class="key"><i class="{line.css}"></i>{text(line.name)}</span>' for line in lines if line.name
    )
    chart = _svg(CHART_WIDTH, CHART_HEIGHT, parts, "lines")
    return f'<figure class="chart">{chart}<figcaption>{legend}</figcaption></figure>\n'


def _drawn(line: Line) -> list[str]:
    parts = []
    for (x, _), interval in zip(line.points, line.band, strict=False):
        if interval is not None:
            low, high = (_y(end) for end in interval)
            parts.append(
                f'<line class="range {line.css}" x1="{_x(x):.1f}" x2="{_x(x):.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            )
    path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in line.points)
    parts.append(f'<polyline class="{line.css}" points="{path}"/>')
    for (x, y), radius in zip(line.points, line.radii, strict=False):
        parts.append(f'<circle class="{line.css}" cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="{radius:.1f}"/>')
    return parts


def _x(value: float) -> float:
    return LEFT + value * (CHART_WIDTH - LEFT - RIGHT)


def _y(value: float) -> float:
    return TOP + (1 - value) * (CHART_HEIGHT - TOP - BOTTOM)


def _svg(width: int, height: int, parts: Sequence[str], css: str) -> str:
    return f'<svg class="{css}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(parts)}</svg>'
