"""Video files through PyAV: shared by prediction, which reads from start to end, and training, which seeks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.container
import av.error
import numpy as np
from jaxtyping import UInt8

from media.files import may_pass, reading, regular_file

CHUNK_BYTES = 1 << 20


def ffmpeg_name(path: Path) -> str:
    """A file as FFmpeg takes it: `12:30.mp4` and `concat:a` would be protocols, what starts with `/` is a file."""
    return str(path.absolute())


@contextmanager
def open_video_stream(
    path: Path, *, num_threads: int = 0
) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """The file and its first video stream.

    Args:
        path: of the file.
        num_threads: that decode; 0 leaves the choice to FFmpeg.

    Raises:
        ValueError: if the file is missing, is no video or holds no pictures.
    """
    try:
        with reading(path):
            regular_file(path)
        container = av.open(ffmpeg_name(path))
    except (av.error.FFmpegError, OSError) as error:
        require_available(path, error)
        raise ValueError(f"video {path}: not a readable video ({error})") from None
    with container:
        if not container.streams.video:
            raise ValueError(f"video {path}: holds no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = num_threads
        yield container, stream


def require_available(path: Path, error: Exception) -> None:
    """Raises UnavailableError if FFmpeg failed because the file cannot be read now.

    FFmpeg has the same errors for damaged files, so the file is read without it.
    """
    if not may_pass(error):
        return
    with reading(path), path.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def rgb_pixels(decoded: "av.VideoFrame", *, width: int, height: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """A decoded frame as a player shows it, with the rotation that its file asks for.

    Args:
        decoded: the frame.
        width: in pixels, before the rotation; a stream may change its size, all frames shall have one.
        height: in pixels, before the rotation.
    """
    pixels = decoded.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, k=round(decoded.rotation / 90)))
