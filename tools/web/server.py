"""The server round the page: who may ask, how much, and what the browser may load."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.web.limits import MEGABYTE, Limits
from tools.web.sessions import Sessions

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

BODY_MARGIN = MEGABYTE
"""Of a request beyond the file in it."""

MAX_UPLOADS = 10
"""Files of the largest size that may lie on the disk at a time, of all visitors together."""

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""The browser loads nothing from elsewhere: no fonts, no scripts, no counters."""


class Guard:
    """Refuses requests of other pages, large ones, and such that make the server fetch from elsewhere.

    Args:
        app: that is guarded.
        max_bytes: of a request.
        used_bytes: gives what uploads take on the disk.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, used_bytes: Callable[[], int]) -> None:
        self._app, self._max_bytes, self._used_bytes = app, max_bytes, used_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, send_with_policy)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("requests of other pages are refused\n", 403)
        if "file=http:" in path or "file=https:" in path or "/proxy=" in path:
            return PlainTextResponse("files of other servers are not fetched\n", 403)
        size = headers.get("content-length", "0")
        if not size.isdigit() or int(size) > self._max_bytes + BODY_MARGIN:
            text = f"more than the {self._max_bytes / MEGABYTE:g} MB of --max-mb\n"
            return PlainTextResponse(text, 413)
        if path.endswith("/upload") and self._used_bytes() > MAX_UPLOADS * self._max_bytes:
            return PlainTextResponse("the disk space for uploads is used up; try again in an hour\n", 507)
        return None


def build_server(page: gr.Blocks, sessions: Sessions, limits: Limits, *, host: str) -> FastAPI:
    """The page behind its guards.

    Args:
        page: with its queue.
        sessions: whose folder is the only one from which files are given out.
        limits: of requests.
        host: on which it listens; on this machine's own, requests for other names are refused, too.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Guard, max_bytes=limits.max_bytes, used_bytes=lambda: sum(map(_size, sessions.uploads.rglob("*")))
    )
    if host in LOCAL_HOSTS:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS, "[::1]"])
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        max_file_size=limits.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        show_error=True,
        theme=THEME,
        css=(Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
    )


THEME = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
"""With the fonts of the machine."""


CLOSING_SECONDS = 3
"""For answers that are under way when the server is stopped."""


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Runs until it is interrupted or terminated."""
    # uvicorn repeats the signal when it has closed; unhandled, that would end the process before files are deleted
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=CLOSING_SECONDS)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except FileNotFoundError:  # deleted meanwhile
        return 0
