"""The page as a whole."""

import gradio as gr

from tools.web.page import Page
from tools.web.segment_tab import build_segment_tab
from tools.web.teach_tab import build_teach_tab

TITLE = "SOC: find what sentences mean in a video"


def build_page(page: Page) -> gr.Blocks:
    """Both tabs and the queue; the page starts with the one that can be used.

    Args:
        page: what the tabs work with.
    """
    limits = page.limits
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(
            f"## {TITLE}\nVideos of at most {limits.max_seconds:g} s and {limits.max_mb:g} MB. Uploads and results "
            "are deleted when you close this tab, or after an hour without use."
        )
        with gr.Tabs(selected="teach" if page.segmenter is None else "segment") as tabs:
            with gr.Tab("Segment", id="segment", elem_id="tab-segment"):
                segment = build_segment_tab(page)
            with gr.Tab("Teach", id="teach", elem_id="tab-teach"):
                build_teach_tab(page, segment, tabs)

        def leave(request: gr.Request) -> None:
            page.sessions.end(str(request.session_hash))

        blocks.unload(leave)
    blocks.queue(max_size=limits.queue, api_open=False)
    return blocks
