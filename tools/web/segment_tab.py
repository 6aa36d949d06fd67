"""The tab that asks: a video, sentences, and the answers to look at and take away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd

from soc_rvos import Segmenter
from tools.web.answers import Answered, ask
from tools.web.limits import check_video, clean_lines
from tools.web.page import EXPIRED, Page, Sample, mistakes_shown, sample_buttons
from tools.web.sessions import Session

GIVEN, TAUGHT = "given", "taught"

NO_MODEL = (
    "This page was started without a model. Teach one in the tab *Teach* and press *Try it*, or start the page with "
    "`python -m tools.web --model FOLDER`, where the folder is what `python main.py teach` has written."
)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTab:
    """The parts of the tab that others change.

    Attributes:
        video: that is asked about.
        sentences: one on a line.
        model: which of the models answers.
        note: shown while there is no model.
    """

    video: gr.Video
    sentences: gr.Textbox
    model: gr.Radio
    note: gr.Markdown


def build_segment_tab(page: Page) -> SegmentTab:
    """Makes the tab, inside of the one that is open."""
    note = gr.Markdown(NO_MODEL, visible=page.segmenter is None)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            video = gr.Video(label="Video", sources=["upload"], height=260, elem_id="segment-video")
            buttons = sample_buttons(page.samples, what="Sample")
            sentences = gr.Textbox(
                label="Sentences, one on a line",
                lines=4,
                max_lines=page.limits.max_sentences,
                placeholder="the girl in the blue skirt\na dog",
                elem_id="segment-sentences",
            )
            model = gr.Radio(
                [(f"Model: {page.model_name}", GIVEN), ("The model you have taught", TAUGHT)],
                value=GIVEN,
                label="Who answers",
                visible=False,
            )
            with gr.Row():
                run = gr.Button("Segment", variant="primary", elem_id="segment-run")
                stop = gr.Button("Stop", elem_id="segment-stop")
            verdicts = gr.HTML(label="Found or not", elem_id="segment-verdicts", min_height=60)
        with gr.Column(scale=3, min_width=420):
            overlay = gr.Video(
                label="Overlay",
                show_label=False,
                interactive=False,
                autoplay=True,
                loop=True,
                height=560,
                elem_id="segment-overlay",
            )
            download = gr.DownloadButton(
                "Download masks, answers and overlay (ZIP)", interactive=False, elem_id="segment-download"
            )
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            frame = gr.HTML(elem_id="segment-frame", min_height=80)
            position = gr.Slider(0, 1, step=1, label="Frame", interactive=False, elem_id="segment-position")
        with gr.Column(scale=2, min_width=320):
            shown = gr.CheckboxGroup([], label="Objects shown in the frame", elem_id="segment-shown")
            scores = gr.LinePlot(
                x="time",
                y="score",
                color="sentence",
                x_title="time in s",
                y_title="score",
                color_title="",
                y_lim=[0, 1],
                height=340,
                label="Score of each sentence over time, in its colour; dark grey: the threshold",
                elem_id="segment-scores",
            )

    for button, sample in buttons:
        button.click(_pick(sample), [sentences], [video, sentences], api_visibility="private", queue=False)

    def segment(
        video_path: str | None,
        text: str,
        which: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio finds it by the default
    ) -> list[Any]:
        with mistakes_shown():
            session = page.session(request)
            session.is_stopped = False
            segmenter = _segmenter(page, session, which)
            lines = clean_lines(text or "", most=page.limits.max_sentences)
            file = page.uploaded(video_path, what="video")
            facts = check_video(file, page.limits)

            def tell(share: float, what: str) -> None:
                session.require_wanted()
                progress(share, desc=what)

            session.answered = ask(
                segmenter,
                session.keep(file),
                lines,
                num_frames=facts.num_frames,
                folder=session.new_folder("answer"),
                progress=tell,
            )
            return _shown_after(session.answered)

    def stop_segmenting(request: gr.Request) -> None:
        page.session(request).is_stopped = True

    def show_frame(number: float, objects: Sequence[int], request: gr.Request) -> str:
        with mistakes_shown():
            answered = page.session(request).answered
            if answered is None:
                raise ValueError(EXPIRED)
            return answered.picture_html(min(int(number), len(answered.result) - 1), objects)

    run.click(
        segment, [video, sentences, model], [verdicts, overlay, download, position, shown, frame, scores],
        api_visibility="private", show_progress_on=[verdicts], concurrency_id="segment", concurrency_limit=1,
    )  # fmt: skip
    stop.click(stop_segmenting, None, None, api_visibility="private", queue=False)
    gr.on(
        [position.input, shown.input], show_frame, [position, shown], [frame],
        api_visibility="private", queue=False, show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip
    return SegmentTab(video, sentences, model, note)


def _segmenter(page: Page, session: Session, which: str) -> Segmenter:
    chosen = session.taught if which == TAUGHT else page.segmenter or session.taught
    if chosen is None:
        raise ValueError("there is no model yet: teach one in the tab Teach and press Try it")
    return chosen


def _pick(sample: Sample) -> Any:
    """Puts a sample and sentences about it into the form; sentences that stand there already stay."""

    def pick(text: str) -> tuple[str, str]:
        return str(sample.video), text if (text or "").strip() else "\n".join(sample.sentences())

    return pick


def _shown_after(answered: Answered) -> list[Any]:
    """New values of everything that shows answers, in the order of the outputs."""
    result, found = answered.result, answered.found
    first = answered.fullest_frame()
    rows = pd.DataFrame(answered.score_rows(), columns=["time", "score", "sentence"])
    return [
        answered.verdicts(),
        str(answered.overlay),
        gr.DownloadButton(value=str(answered.archive), interactive=True),
        gr.Slider(0, max(1, len(result) - 1), value=first, step=1, interactive=True),
        gr.CheckboxGroup([(result.sentences[index], index) for index in found], value=found),
        answered.picture_html(first, found),
        gr.LinePlot(value=rows, x="time", y="score", color="sentence", color_map=answered.line_colours()),
    ]
