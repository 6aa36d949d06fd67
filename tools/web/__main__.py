"""Command line of the page: `python -m tools.web --model FOLDER`, then http://127.0.0.1:7860 in a browser."""

import argparse
import errno
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.last_net import Command, run_command
from structures.user_path import user_path

MISSING = (
    "the page needs Gradio: pip install -r requirements-web.txt (in a checkout) or pip install 'soc-rvos[web]' "
    "(installed)"
)

SAMPLE = Path("examples/bedroom/bedroom.mp4")


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m tools.web", description=__doc__)
    parser.add_argument("--model", type=user_path, metavar="FOLDER", help="a saved model; without it one can be taught")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on: by default this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--max-mb", type=float, default=200.0, help="largest upload, in megabytes")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="longest video")
    parser.add_argument("--queue", type=int, default=4, help="visitors that may wait")
    parser.add_argument("--max-teach-minutes", type=float, default=30.0, help="teaching is stopped after these")
    default = [SAMPLE] if SAMPLE.is_file() else []
    parser.add_argument(
        "--examples", type=user_path, nargs="*", default=default, metavar="VIDEO", help="samples to pick"
    )
    parser.add_argument(
        "--teach-overrides", nargs="*", default=[], metavar="key=value", help="settings of configs/teach.yaml"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted.

    Returns:
        The exit code: 2 with one message for what the user can mend.
    """
    return run_command(_serve, program="python -m tools.web", arguments=argv)


def _serve(command: Command) -> int:
    arguments = make_parser().parse_args(command.arguments)
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(MISSING)
    require_free_port(arguments.host, arguments.port)
    root = Path(tempfile.mkdtemp(prefix="soc_web_"))
    try:
        run(arguments, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


def require_free_port(host: str, port: int) -> None:
    """Fails before the model is loaded, where the page could not be served in the end.

    Raises:
        ValueError: host and port are no address of this machine, or something else listens there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number in errno.errorcode else str(error)
        raise ValueError(
            f"--host {host} --port {port}: {reason}; end the program that listens there, or name another --port"
        ) from error


def run(arguments: argparse.Namespace, root: Path) -> None:
    """Builds and serves the page.

    Args:
        arguments: of the command line.
        root: an empty folder for everything that visitors send and get.

    Raises:
        ValueError: model, samples or limits cannot be used.
    """
    # Gradio reads these when it is imported. It would count visits, and keep uploads for good.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from soc_rvos import Segmenter
    from tools.web.app import build_page
    from tools.web.limits import Limits
    from tools.web.page import Page, Sample
    from tools.web.server import build_server, serve
    from tools.web.sessions import Sessions

    limits = Limits(
        max_mb=arguments.max_mb,
        max_seconds=arguments.max_seconds,
        queue=arguments.queue,
        teach_minutes=arguments.max_teach_minutes,
    )
    sessions = Sessions(root)
    model = arguments.model
    page = Page(
        sessions=sessions,
        limits=limits,
        segmenter=None if model is None else Segmenter.from_pretrained(model, device=arguments.device),
        model_name="" if model is None else model.resolve().name,
        samples=tuple(
            Sample.copied(video, root / "samples" / str(number)) for number, video in enumerate(arguments.examples)
        ),
        teach_overrides=tuple(arguments.teach_overrides),
    )
    server = build_server(build_page(page), sessions, limits, host=arguments.host)
    sessions.sweep_regularly()
    sys.stdout.write(f"the page: http://{arguments.host}:{arguments.port}  (Ctrl-C ends it and deletes all uploads)\n")
    sys.stdout.flush()
    try:
        serve(server, host=arguments.host, port=arguments.port)
    finally:
        sessions.close()


if __name__ == "__main__":
    sys.exit(main())
