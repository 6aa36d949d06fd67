"""The parts of the page that show single samples: examples with pictures, and the table of all."""

import json

from media.colours import object_colour
from tools.analyze.choice import Verdict, verdict_of
from tools.analyze.examples import choose_galleries
from tools.analyze.markup import note, percent, section, text
from tools.analyze.pictures import Example, Layer, draw_example
from tools.analyze.samples import Sample
from tools.analyze.study import Study

VERDICTS: dict[Verdict, str] = {"choice": "wrong choice", "masks": "no good mask", "good": "", "": ""}


def examples(study: Study, number: int) -> str:
    """The worst, best and most changed samples, with pictures where the data can be read."""
    reasons = [run.without_pictures.get(study.name, "") for run in study.runs]
    which = " Worst and best are those of the second run." if len(study.runs) > 1 else ""
    body = note(f"At most one of each of the {study.sets[0].video_unit}.{which}")
    if all(reasons):
        body = (
            f'<p class="warning">Without pictures: the data cannot be read ({text(reasons[0])}). '
            "<code>--data-root FOLDER</code> says where it is now.</p>\n"
        )
    for gallery in choose_galleries(study.samples, study.differences, number):
        cards = "".join(_card(study, index) for index in gallery.indices)
        body += section(gallery.title, f'<div class="cards">{cards}</div>\n' if cards else note("None."), level=4)
    return section("Examples", body, name=study.anchor("examples"))


def _card(study: Study, index: int) -> str:
    example = draw_example(study.runs, study.name, index)
    samples = [one.samples[index] for one in study.sets]
    sample = samples[0]
    sentences = "".join(f'<p class="sentence">{text(sentence)}</p>' for sentence in example.sentences)
    where = [text(f"video {sample.video}")]
    where += [text(f"frame {sample.frame}")] if sample.frame not in ("", sample.video) else []
    where += [text(f"expression {sample.expression}") if sample.sentence else _object(sample)]
    where += [text(sample.group)] if sample.group else []
    facts = "".join(
        _facts(study.labels[run] if len(samples) > 1 else "", study.sets[run].measure, own, run)
        for run, own in enumerate(samples)
    )
    missing = f'<p class="warning">{text(example.missing)}</p>' if example.missing else ""
    return (
        f'<article class="card">{sentences}<p class="where key">{" · ".join(where)}</p>{facts}'
        f"{_strip(example)}{missing}</article>\n"
    )


def _object(sample: Sample) -> str:
    """An object among others that are drawn, with its colour."""
    colour = f"rgb{object_colour(int(sample.expression) - 1)}"
    return f'<i style="background: {colour}"></i>{text(f"object {sample.expression}")}'


def _facts(label: str, measure: str, sample: Sample, run: int) -> str:
    """Score, queries and verdict of a sample in one run."""
    name = f'<i class="run{run}"></i>{text(label)}: ' if label else ""
    words = [f"{text(measure)} <b>{percent(sample.score)}</b>"]
    if sample.ranking:
        regions = " / ".join(percent(query.region) for query in sample.ranking)
        scores = " / ".join(percent(query.score) for query in sample.ranking)
        words.append(f"queries: J {regions}, score {scores}")
    verdict = VERDICTS[verdict_of(sample.ranking)]
    chip = f' <span class="chip {verdict_of(sample.ranking)}">{verdict}</span>' if verdict else ""
    return f'<p class="facts key">{name}{" · ".join(words)}{chip}</p>'


def _strip(example: Example) -> str:
    if not example.layers:
        return ""
    columns = max(len(layer.pictures) for layer in example.layers)
    rows = "".join(_pictures(layer) for layer in example.layers)
    return f'<div class="strip of{columns}">{rows}</div>'


def _pictures(layer: Layer) -> str:
    figures = "".join(
        f'<figure><img src="{uri}" alt="{text(layer.name)}, {text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for uri, caption in layer.pictures
    )
    return f'<div class="layer"><span class="layer-name">{text(layer.name)}</span><div>{figures}</div></div>'


def all_samples(study: Study) -> str:
    """A table of everything, which the script of the page fills, sorts and filters."""
    source = study.anchor("samples")
    rows = [_row(study, index) for index in range(len(study.samples))]
    known = [place for place in range(len(rows[0])) if any(row[place] not in (None, "") for row in rows)]
    columns = _columns(study)
    content = {
        "columns": [columns[place] for place in known],
        "rows": [[row[place] for place in known] for row in rows],
    }
    # "<" would end the script element, or begin a comment in it
    encoded = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    body = (
        f'<div class="all-samples" data-source="{source}">'
        '<p><label>Filter <input type="search" placeholder="words, video, kind, verdict"></label> '
        '<span class="count"></span></p><div class="scroll"><table></table></div>'
        "<noscript>This table needs JavaScript.</noscript></div>\n"
        f'<script type="application/json" id="{source}">{encoded}</script>\n'
    )
    return section(f"All {study.sets[0].unit}", body, name=study.anchor("all"))


Column = tuple[str, int | None]
"""Heading, and digits after the point; None for text."""


def _columns(study: Study) -> list[Column]:
    columns: list[Column] = [("video", None), ("frame", None), ("expression", None), ("sentence", None), ("kind", None)]
    columns += [("words", 0), ("size %", 1), ("speed", 3)]
    scores: list[Column] = [(study.sets[0].measure, 1)]
    queries: list[Column] = [("model's score", 1), ("best runner-up", 1), ("verdict", None)]
    if len(study.runs) == 1:
        return [*columns, *scores, *queries]
    of_runs = [[(f"{name}, {label}", n) for label in study.labels for name, n in own] for own in (scores, queries)]
    return [*columns, *of_runs[0], ("change", 1), *of_runs[1]]


def _row(study: Study, index: int) -> list[str | float | None]:
    """The cells of `_columns`; None: unknown."""
    samples = [one.samples[index] for one in study.sets]
    sample = samples[0]
    frame = "" if sample.frame == sample.video else sample.frame  # an image is both
    row: list[str | float | None] = [sample.video, frame, sample.expression, sample.sentence, sample.group]
    row += [sample.num_words, _rounded(sample.area_share), None if sample.speed is None else round(sample.speed, 3)]
    row += [_rounded(own.score) for own in samples]
    if len(samples) > 1:
        row.append(_rounded(samples[1].score - samples[0].score))
    for own in samples:
        row.append(_rounded(own.ranking[0].score if own.ranking else None))
        row.append(_rounded(max((query.region for query in own.ranking[1:]), default=None)))
        row.append(VERDICTS[verdict_of(own.ranking)])
    return row


def _rounded(share: float | None) -> float | None:
    """In percent, with one decimal."""
    return None if share is None else round(100 * share, 1)
