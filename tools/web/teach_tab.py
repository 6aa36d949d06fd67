"""The tab that teaches: masks of a few frames, names and sentences, a live curve, and the model to try."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from media.colours import FIRST_COLOURS
from media.folders import MASK_SUFFIXES, listing
from media.video_seek import VideoFileFrames
from soc_rvos import Segmenter
from tools.web.answers import pack_folder
from tools.web.limits import check_video, clean_lines, collect_labels
from tools.web.page import Page, Sample, mistakes_shown, sample_buttons
from tools.web.painting import (
    COLOUR_NAMES,
    describe,
    ids_of_layers,
    layer_of_ids,
    read_objects,
    write_labels,
)
from tools.web.segment_tab import TAUGHT, SegmentTab
from tools.web.sessions import Session
from tools.web.teaching import Lesson

PAINT, UPLOAD = "paint", "upload"

POLL_SECONDS = 1.0

MANY_ABSENT = 200

EXPLANATION = (
    "Label 3 to 20 frames in which the objects look different, give each object a few sentences, and train: a model "
    "of these objects, in minutes. A quarter of the labelled frames is held out and scored."
)
PAINT_HINT = (
    "One colour for each object. In a labelled frame paint every object that stands in the table: what has no mask "
    "there counts as background."
)
UPLOAD_HINT = (
    "Palette PNG files named like their frames (`00012.png`) and `sentences.json`, or a ZIP archive of them, or one "
    "COCO or YouTube-VIS file: docs/your_own_data.md."
)
NOTHING_LABELLED = "No frame is labelled yet."
COLUMNS = ["colour", "name", "sentences, with ; between them"]


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """The parts of the tab."""

    video: gr.Video
    samples: list[tuple[gr.Button, Sample]]
    how: gr.Radio
    paint_part: gr.Group
    upload_part: gr.Group
    files: gr.File
    position: gr.Slider
    editor: gr.ImageEditor
    keep: gr.Button
    forget: gr.Button
    kept: gr.Markdown
    table: gr.Dataframe
    absent: gr.Textbox


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """What stands below the form."""

    train: gr.Button
    stop: gr.Button
    outcome: gr.Markdown
    attempt: gr.Button
    download: gr.DownloadButton
    curve: gr.LinePlot


def build_teach_tab(page: Page, segment: SegmentTab, tabs: gr.Tabs) -> None:
    """Makes the tab, inside of the one that is open.

    Args:
        page: that it belongs to.
        segment: the other tab, which tries the model.
        tabs: both.
    """
    gr.Markdown(EXPLANATION)
    form, training = _form(page), _training()
    teacher = _Teacher(page)
    quick: dict[str, Any] = {"api_visibility": "private", "queue": False}
    form.how.change(_choose_how, [form.how], [form.paint_part, form.upload_part], **quick)
    form.video.change(teacher.change_video, [form.video], [form.position, form.editor, form.kept], **quick)
    where = [form.video, form.position]
    form.position.release(teacher.show_frame, where, [form.editor], **quick, show_progress="hidden")
    form.keep.click(teacher.keep_masks, [*where, form.editor], [form.kept], **quick)
    form.forget.click(teacher.forget_masks, where, [form.editor, form.kept], **quick)
    for button, sample in form.samples:
        button.click(_pick(sample), None, [form.video, form.how, form.files], **quick)
    training.train.click(
        teacher.teach,
        [form.video, form.how, form.files, form.table, form.absent],
        [training.curve, training.outcome, training.attempt, training.download],
        api_visibility="private",
        show_progress="hidden",
        concurrency_id="teach",
        concurrency_limit=1,
    )
    training.stop.click(teacher.stop, None, None, **quick)
    training.attempt.click(
        teacher.try_model, [form.video], [tabs, segment.model, segment.video, segment.note], api_visibility="private"
    )


def _form(page: Page) -> _Form:
    num_objects = min(page.limits.max_objects, len(FIRST_COLOURS))
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            video = gr.Video(label="1. Video", sources=["upload"], height=240, elem_id="teach-video")
            samples = sample_buttons([each for each in page.samples if each.labels], what="Sample with its labels")
            how = gr.Radio(
                [("Paint masks here", PAINT), ("Upload labels", UPLOAD)],
                value=PAINT,
                label="2. Masks",
                elem_id="teach-how",
            )
            with gr.Group(visible=False) as upload_part:
                gr.Markdown(UPLOAD_HINT, padding=True)
                files = gr.File(
                    label="Labels", file_count="multiple", file_types=[".png", ".json", ".zip"], elem_id="teach-files"
                )
        with gr.Column(scale=3, min_width=480), gr.Group() as paint_part:
            gr.Markdown(PAINT_HINT, padding=True)
            position = gr.Slider(0, 1, step=1, label="Frame", interactive=False, elem_id="teach-position")
            editor = _editor(num_objects)
            with gr.Row():
                keep = gr.Button("Keep the masks of this frame", elem_id="teach-keep")
                forget = gr.Button("Forget them", elem_id="teach-forget")
            kept = gr.Markdown(NOTHING_LABELLED, padding=True, elem_id="teach-kept")
            table = gr.Dataframe(
                value=[[describe(number), "", ""] for number in range(1, num_objects + 1)],
                headers=COLUMNS,
                datatype="str",
                type="array",
                interactive=True,
                static_columns=[0],
                row_count=num_objects,
                column_count=len(COLUMNS),
                label="3. Objects",
                wrap=True,
                column_widths=["20%", "20%", "60%"],
                elem_id="teach-table",
            )
            absent = gr.Textbox(
                label="What is not in the video, one sentence on a line (near misses teach most)",
                placeholder="the white dog",
                lines=2,
                elem_id="teach-absent",
            )
    return _Form(
        video, samples, how, paint_part, upload_part, files, position, editor, keep, forget, kept, table, absent
    )


def _editor(num_objects: int) -> gr.ImageEditor:
    return gr.ImageEditor(
        label="Masks of this frame",
        type="numpy",
        image_mode="RGBA",
        format="png",  # nothing else keeps the colours of the layers
        sources=[],
        transforms=[],
        layers=gr.LayerOptions(allow_additional_layers=False),
        buttons=[],
        brush=gr.Brush(
            default_size=16,
            colors=[_css(colour) for colour in FIRST_COLOURS[:num_objects]],
            default_color=_css(FIRST_COLOURS[0]),
            color_mode="fixed",
        ),
        eraser=gr.Eraser(default_size=16),
        height=460,
        elem_id="teach-editor",
    )


def _training() -> _Training:
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                train = gr.Button("Train", variant="primary", elem_id="teach-train")
                stop = gr.Button("Stop", elem_id="teach-stop")
            outcome = gr.Markdown(elem_id="teach-outcome", min_height=60)
            with gr.Row():
                attempt = gr.Button("Try it", interactive=False, elem_id="teach-try")
                download = gr.DownloadButton("Download the model (ZIP)", interactive=False, elem_id="teach-download")
        with gr.Column(scale=3, min_width=420):
            curve = gr.LinePlot(x="step", y="loss", color="stage", height=260, label="Loss", elem_id="teach-curve")
    return _Training(train, stop, outcome, attempt, download, curve)


class _Teacher:
    """What happens when something in the tab is used.

    Args:
        page: that it belongs to.
    """

    def __init__(self, page: Page) -> None:
        self._page = page

    def change_video(self, path: str | None, request: gr.Request) -> list[Any]:
        """Another video: masks of the one before are forgotten."""
        session = self._page.session(request)
        session.labels.clear()
        if not path:
            return [gr.Slider(0, 1, value=0, interactive=False), None, _kept_text(session)]
        with mistakes_shown():
            file = self._page.uploaded(path, what="video")
            num_frames = check_video(file, self._page.limits).num_frames
            slider = gr.Slider(0, max(1, num_frames - 1), value=0, step=1, interactive=True)
            return [slider, _edited(session, file, 0), _kept_text(session)]

    def show_frame(self, path: str | None, number: float, request: gr.Request) -> dict[str, Any]:
        """Another frame in the editor."""
        with mistakes_shown():
            return _edited(self._page.session(request), self._page.uploaded(path, what="video"), int(number))

    def keep_masks(self, path: str | None, number: float, value: dict[str, Any] | None, request: gr.Request) -> str:
        """What was painted in a frame becomes its label."""
        with mistakes_shown():
            session = self._page.session(request)
            size = VideoFileFrames(self._page.uploaded(path, what="video")).size()
            ids = ids_of_layers((value or {}).get("layers", []), size)
            if not ids.any():
                raise ValueError("nothing is painted in this frame; paint an object, or go to another frame")
            session.labels[int(number)] = ids
            return _kept_text(session)

    def forget_masks(self, path: str | None, number: float, request: gr.Request) -> list[Any]:
        """The frame is labelled no more."""
        with mistakes_shown():
            session = self._page.session(request)
            session.labels.pop(int(number), None)
            file = self._page.uploaded(path, what="video")
            return [_edited(session, file, int(number)), _kept_text(session)]

    def teach(
        self,
        path: str | None,
        how: str,
        uploads: list[str] | None,
        rows: list[list[str]],
        absent: str,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """Teaches, and tells how it goes until it has ended."""
        limits = self._page.limits
        with mistakes_shown():
            session = self._page.session(request)
            if session.lesson is not None and session.lesson.is_running:
                raise ValueError("a model is being taught in this tab already; stop it first")
            file = self._page.uploaded(path, what="video")
            check_video(file, limits)
            labels = session.new_folder("labels")
            if how == UPLOAD:
                files = [self._page.uploaded(each, what="label") for each in uploads or []]
                labels = collect_labels(files, labels, limits)
            else:
                _write_painted(session, labels, rows, absent)
            session.taught = None
            lesson = session.lesson = Lesson.start(
                video=session.keep(file),
                labels=labels,
                folder=session.new_folder("lesson"),
                overrides=self._page.teach_overrides,
                minutes=limits.teach_minutes,
            )
        start = time.monotonic()
        try:
            while lesson.is_running and not lesson.is_overdue:
                self._page.session(request)  # the visitor is still there
                status = _status(lesson, time.monotonic() - start)
                yield [_curve(lesson), status, gr.Button(interactive=False), gr.DownloadButton(interactive=False)]
                time.sleep(POLL_SECONDS)
        finally:
            is_overdue = lesson.is_running and lesson.is_overdue
            lesson.stop()
        with mistakes_shown():
            if is_overdue:
                raise ValueError(f"teaching was stopped after {limits.teach_minutes:g} minutes")
            lines = lesson.outcome()
            archive = pack_folder(lesson.model, lesson.folder / "model.zip")
        yield [
            _curve(lesson),
            "\n\n".join(["**The model is ready.**", *lines]),
            gr.Button(interactive=True),
            gr.DownloadButton(value=str(archive), interactive=True),
        ]

    def stop(self, request: gr.Request) -> None:
        """Ends the teaching that runs."""
        lesson = self._page.session(request).lesson
        if lesson is not None:
            lesson.stop()

    def try_model(self, path: str | None, request: gr.Request) -> list[Any]:
        """The taught model answers in the other tab."""
        with mistakes_shown():
            session = self._page.session(request)
            if session.lesson is None or session.lesson.is_running:
                raise ValueError("there is no taught model yet")
            session.taught = Segmenter.from_pretrained(session.lesson.model)
            return [
                gr.Tabs(selected="segment"),
                gr.Radio(value=TAUGHT, visible=self._page.segmenter is not None),
                path,
                gr.Markdown(visible=False),
            ]


def _choose_how(value: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return gr.update(visible=value == PAINT), gr.update(visible=value == UPLOAD)


def _pick(sample: Sample) -> Any:
    """Puts a sample and its labels into the form."""

    def pick() -> list[Any]:
        assert sample.labels is not None  # others have no button
        files = [str(file) for file in listing(sample.labels, (*MASK_SUFFIXES, ".json"))]
        return [str(sample.video), UPLOAD, files]

    return pick


def _edited(session: Session, video: Path, number: int) -> dict[str, Any]:
    """A frame as the editor takes it, with the masks that were kept."""
    (pixels,) = VideoFileFrames(video).read((number,))
    ids = session.labels.get(number)
    layers = [np.zeros((*pixels.shape[:2], 4), dtype=np.uint8) if ids is None else layer_of_ids(ids)]
    return {"background": pixels, "layers": layers, "composite": None}


def _kept_text(session: Session) -> str:
    if not session.labels:
        return NOTHING_LABELLED
    frames = [
        f"{number} ({', '.join(COLOUR_NAMES[index - 1] for index in np.unique(ids) if index)})"
        for number, ids in sorted(session.labels.items())
    ]
    return f"Labelled frames: {', '.join(frames)}"


def _write_painted(session: Session, folder: Path, rows: list[list[str]], text: str) -> None:
    """The painted masks as labels.

    Raises:
        ValueError: there are too few frames, or masks and table do not agree.
    """
    if len(session.labels) < 2:
        raise ValueError(f"{len(session.labels)} frames are labelled; at least 2 are needed: one of them is held out")
    painted = {int(index) for ids in session.labels.values() for index in np.unique(ids) if index}
    objects = read_objects(rows, painted)
    absent = clean_lines(text, most=MANY_ABSENT) if (text or "").strip() else []
    write_labels(folder, session.labels, objects, absent)


def _curve(lesson: Lesson) -> pd.DataFrame | None:
    losses = lesson.losses()
    return pd.DataFrame(losses, columns=["step", "loss", "stage"]) if losses else None


def _status(lesson: Lesson, seconds: float) -> str:
    losses = lesson.losses()
    where = f"step {losses[-1].step}, loss {losses[-1].loss:.2f}" if losses else "reading labels and encoders"
    return f"Teaching for {seconds:.0f} s: {where}"


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
