"""The whole page: a file without any reference to another one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.analyze.causes import calibration, choice_or_masks
from tools.analyze.comparison import changed_settings
from tools.analyze.gallery import all_samples, examples
from tools.analyze.markup import UNKNOWN, section, table, text
from tools.analyze.runs import Run
from tools.analyze.sections import by_group, compared, over_time, overall
from tools.analyze.study import Study

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser loads nothing but what is in the page."""


def render_page(runs: Sequence[Run], *, num_examples: int) -> str:
    """The page as HTML.

    Args:
        runs: one, or two on the same samples.
        num_examples: of each kind.
    """
    title = " and ".join(run.label for run in runs)
    studies = [Study(name, number, runs) for number, name in enumerate(runs[0].sets)]
    parts = [_contents(studies), _about(runs), *(_set(study, num_examples) for study in studies)]
    style, script = (path.read_text(encoding="utf-8") for path in (STYLE, SCRIPT))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation: {text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>Evaluation: {text(title)}</h1>\n{''.join(parts)}<script>\n{script}</script>\n</body>\n</html>\n"
    )


PARTS = {
    "scores": "scores",
    "compared": "comparison",
    "groups": "groups",
    "frames": "course of the video",
    "choice": "choice or masks",
    "calibration": "calibration",
    "examples": "examples",
    "all": "all",
}
"""Parts of the page by the names of their anchors."""


def _contents(studies: Sequence[Study]) -> str:
    """Links to the parts of the page."""
    lines = []
    for study in studies:
        parts = [part for part in PARTS if part != "compared" or len(study.runs) > 1]
        links = " ".join(f'<a href="#{study.anchor(part)}">{PARTS[part]}</a>' for part in parts)
        lines.append(f"<p><b>{text(study.name)}</b> {links}</p>\n")
    return f"<nav>{''.join(lines)}</nav>\n"


def _set(study: Study, num_examples: int) -> str:
    """Everything about one data set."""
    body = [
        overall(study),
        compared(study),
        by_group(study),
        over_time(study),
        choice_or_masks(study),
        calibration(study),
        examples(study, num_examples),
        all_samples(study),
    ]
    return section(study.name, "".join(body), level=2, name=study.anchor("set"))


def _about(runs: Sequence[Run]) -> str:
    """Where the runs come from, and how their settings differ."""
    facts = [_facts(run) for run in runs]
    rows = [[text(name), *(text(own[name]) for own in facts)] for name in facts[0]]
    heads = ["", *(run.label for run in runs)]
    body = table(heads, rows, css="about")
    if len(runs) > 1:
        changed = changed_settings(runs[0].results["config"], runs[1].results["config"])
        differing = [
            [f"<code>{text(key)}</code>", *(f"<code>{text(v)}</code>" for v in values)] for key, *values in changed
        ]
        body += section("Settings that differ", table(heads, differing, css="about"), level=4)
    return section("The runs" if len(runs) > 1 else "The run", body, level=2, name="about")


def _facts(run: Run) -> dict[str, str]:
    results = run.results
    checkpoint: dict[str, Any] = results.get("checkpoint") or {}
    speed: dict[str, Any] = results.get("speed") or {}
    memory = max((each.get("process_mib", 0) for each in results.get("peak_memory") or ()), default=0)
    main, masks = results.get("main_score"), speed.get("masks_per_second")
    return {
        "main score": UNKNOWN if main is None else f"{100 * main:.2f}",
        "checkpoint": str(checkpoint.get("path") or UNKNOWN),
        "its weights": str(checkpoint.get("weights_sha256") or UNKNOWN)[:16],
        "code": str(results.get("git") or UNKNOWN),
        "duration": f"{speed['seconds']:.0f} s, {masks or 0:.1f} masks per second" if speed.get("seconds") else UNKNOWN,
        "memory": f"{memory:.0f} MiB" if memory else UNKNOWN,
    }
