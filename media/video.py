"""Videos in and out: a file or folder of frames, read frame by frame; overlay videos, written atomically."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import av
import av.container
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8

from media.files import atomic_path
from media.folders import IMAGE_SUFFIXES, is_clutter, listing
from media.images import animation_frames, animation_seconds, is_animation, read_shown
from media.sound import Sound, SoundTrack, sound_track
from media.video_stream import KeptPixels, ShownPixels, VideoDecoder, ffmpeg_name, open_video_stream

logger = logging.getLogger(__name__)

FOLDER_FPS = 10.0
UNKNOWN_FPS = 25.0

BT709 = 1
"""Of colours in videos that are written: its number in FFmpeg, as matrix, primaries and transfer."""

SAME_SPEED = 1e-4
"""Largest difference of speeds, as a share, that sound is kept with: a third of a second in an hour."""


LARGE_PIXELS = 4_000_000
"""Of larger frames not RGB is kept, but what it is made from: a window of 4K frames would take 0.9 GB."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        index: its number in the source, from 0, whatever the step.
        name: stem of its file; five digits of the index for a video file.
        content: its pixels, RGB, or what makes them each time.
        seconds: from the start of the video to the moment at which a player shows the frame; None where nobody says.
    """

    index: int
    name: str
    content: UInt8[np.ndarray, "height width 3"] | KeptPixels
    seconds: float | None = None

    @property
    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """RGB; of a large frame made anew each time, so ask once."""
        return self.content if isinstance(self.content, np.ndarray) else self.content.make()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.content.shape[:2] if isinstance(self.content, np.ndarray) else self.content.size

    @property
    def num_bytes(self) -> int:
        """That its pixels take as RGB."""
        height, width = self.size
        return 3 * height * width


@runtime_checkable
class FrameSource(Protocol):
    """Yields frames of one size, in order; may be iterated several times."""

    @property
    def fps(self) -> float:
        """Frames per second."""

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Every `step`-th frame from number `start` on, before number `stop`, one at a time; none where it is over."""


def open_video(path: Path) -> FrameSource:
    """A video file, a folder of frames, an animated image, or a single image.

    Raises:
        ValueError: if there is nothing at `path`, it is no video, or holds no frame.
    """
    source: FrameSource
    if path.is_dir():
        images = listing(path, IMAGE_SUFFIXES)
        if not images:
            raise ValueError(f"video {path}: the folder holds no image ({', '.join(IMAGE_SUFFIXES)})")
        source = FrameFiles(images, name=str(path))
    elif path.is_file() and is_image(path):
        source = Animation(path) if is_animation(path) else FrameFiles([path], name=str(path))
    elif path.is_file():
        source = VideoFile(path)
    else:
        raise ValueError(f"video {path}: no such file or folder")
    return source


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_clutter(path.name)


class FrameFiles:
    """Images as frames of a video, in the order of their names; numbers in names count as numbers.

    Args:
        paths: of the images, one or more.
        name: of the video, for messages.

    Raises:
        ValueError: if two of them have the same stem.
    """

    fps = FOLDER_FPS

    def __init__(self, paths: Sequence[Path], *, name: str) -> None:
        self._paths = sorted(paths, key=natural_order)
        stems = [path.stem for path in self._paths]
        double = sorted({stem for stem in stems if stems.count(stem) > 1})
        if double:
            raise ValueError(
                f"video {name}: several images are called {', '.join(double[:3])}, with different suffixes; keep one "
                "of each, or name those you mean by a pattern such as '*.jpg'"
            )

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`; raises ValueError for an unreadable image or one of another size than the first.

        A photograph is turned as its camera was held, as viewers do.
        """
        shape = None
        for index in range(len(self._paths))[start:stop:step]:
            path = self._paths[index]
            pixels = read_shown(path)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise ValueError(
                    f"{path}: (height, width) {pixels.shape[:2]}, but the frames before have {shape[:2]}; "
                    "images that do not belong to one video are given one by one"
                )
            yield Frame(index, path.stem, pixels, index / self.fps)
            del pixels  # not kept while the next one is read


class Animation:
    """An image file of several frames (WebP, PNG).

    Raises:
        ValueError: the file is damaged, or too large.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seconds = animation_seconds(path)
        self.fps = (len(self._seconds) - 1) / self._seconds[-1]

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`."""
        for index, pixels in enumerate(islice(animation_frames(self.path), stop)):
            if index >= start and (index - start) % step == 0:
                yield Frame(index, f"{index:05d}", pixels, self._seconds[index])


class VideoFile:
    """A video file, decoded from start to end; turned and mirrored as the file asks for, as players do.

    Raises:
        ValueError: if the file is no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_video_stream(self.path) as (_, stream):
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else UNKNOWN_FPS

    def frames(self, step: int = 1, *, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """See `FrameSource`.

        Frames are counted as they are decoded, because time stamps of real files have gaps and repeats. What is damaged
        is left out, as players do, and said in one warning: packets in the middle, or the rest of a file that breaks
        off.
        """
        index, shown, last = 0, None, None
        decoder = VideoDecoder(self.path)
        for decoded in decoder.frames():
            if stop is not None and index >= stop:
                break
            # a stream may change its size; all frames get that of the first
            shown = shown or ShownPixels(width=decoded.width, height=decoded.height)
            last = _seconds_of(decoded, origin=decoder.origin, last=last, step=1 / self.fps)
            if index >= start and (index - start) % step == 0:
                is_large = decoded.width * decoded.height > LARGE_PIXELS
                yield Frame(index, f"{index:05d}", shown.kept(decoded) if is_large else shown.of(decoded), last)
            del decoded  # not kept while the next one is decoded
            index += 1
        problem = decoder.problem
        if index == 0:
            raise ValueError(f"video {self.path}: no frame can be decoded" + (f": {problem}" if problem else ""))
        if problem is not None:
            logger.warning("video %s: %s; %d frames are decoded", self.path, problem, index)


def _seconds_of(decoded: "av.VideoFrame", *, origin: float, last: float | None, step: float) -> float:
    """When a frame is shown: as the file says, or a frame after the last one where it says nothing."""
    if decoded.time is None:
        return 0.0 if last is None else last + step
    return decoded.time - origin


def sound_of(source: FrameSource, *, first_frame: int, step: int, fps: float) -> Sound | None:
    """The sound for a video of every `step`-th frame of `source`; None where there is none that would fit.

    Args:
        source: of the frames.
        first_frame: number of the first frame that is shown.
        step: shown is every so many-th frame.
        fps: frames per second of the video that gets the sound.
    """
    if not isinstance(source, VideoFile):
        return None
    if abs(fps * step / source.fps - 1) > SAME_SPEED:
        logger.info("no sound: the frames of %s are shown at another speed than in the file", source.path)
        return None
    return Sound(source.path, first_frame / source.fps)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        encoders: of FFmpeg with their options, the best first; the first that this build of FFmpeg has is taken.
        pixel_format: of the encoder.
        container_options: of the file.
    """

    encoders: tuple[tuple[str, dict[str, str]], ...]
    pixel_format: str
    container_options: dict[str, str]

    @property
    def encoder(self) -> tuple[str, dict[str, str]]:
        """Name and options of the encoder that is taken.

        Raises:
            ValueError: this build of FFmpeg has none of them.
        """
        for name, options in self.encoders:
            if name in av.codecs_available:
                return name, options
        names = ", ".join(name for name, _ in self.encoders)
        raise ValueError(f"this build of FFmpeg (in PyAV {av.__version__}) has no encoder {names}")


# mpeg4 is part of every build
MP4 = Encoding(
    (("libx264", {"crf": "18", "preset": "medium"}), ("mpeg4", {"qscale": "3"})), "yuv420p", {"movflags": "+faststart"}
)


LARGE_OPTIONS = {"preset": "veryfast", "rc-lookahead": "2", "refs": "1", "bf": "1"}
"""Of large frames (`LARGE_PIXELS`) x264 keeps few: of 4K frames 0.3 GB instead of more than 1 GB."""


class VideoWriter:
    """Encodes frames of one size; odd sides get one more row or column.

    Args:
        container: that is written.
        fps: frames per second.
        encoding: of the frames.
        sound: written beside the frames.

    Attributes:
        fps: frames per second.
    """

    def __init__(
        self,
        container: "av.container.OutputContainer",
        *,
        fps: float,
        encoding: Encoding,
        sound: SoundTrack | None,
    ) -> None:
        self._container, self._encoding, self._sound = container, encoding, sound
        self.fps = fps
        # of time lapses the seconds of a frame are rounded, because the rate would become 0
        self._rate = (
            Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
        )
        self._stream: av.VideoStream | None = None
        self._num_frames = 0

    def add(self, pixels: UInt8[np.ndarray, "height width channels"]) -> None:
        """Appends an RGB frame, or an RGBA frame where the encoding has an alpha channel.

        Raises:
            ValueError: the encoder takes no frames of this size.
        """
        odd = [(0, side % 2) for side in pixels.shape[:2]]
        if odd != [(0, 0), (0, 0)]:
            pixels = np.pad(pixels, (*odd, (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._start(height=pixels.shape[0], width=pixels.shape[1])
        layout = "rgb24" if pixels.shape[2] == 3 else "rgba"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout).reformat(
            format=self._encoding.pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        try:
            self._mux(self._stream.encode(frame))
        except (av.error.ArgumentError, av.error.ExternalError) as error:
            name, (height, width) = self._encoding.encoder[0], pixels.shape[:2]
            raise ValueError(
                f"FFmpeg cannot encode frames of {width} x {height} pixels (width x height) as {name} at {self.fps:g} "
                f"frames per second ({error.strerror}); choose formats that are no video, such as masks"
            ) from None
        self._num_frames += 1

    def finish(self) -> None:
        """Flushes the encoder, and writes the sound to the end of the frames."""
        if self._stream is not None:
            self._mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.finish(float(self._num_frames / self._rate))

    def _mux(self, packets: "Sequence[av.Packet]") -> None:
        """Writes packets, and the sound up to them: the streams of a file should lie side by side."""
        for packet in packets:
            self._container.mux(packet)
            if self._sound is not None and packet.pts is not None:
                self._sound.mux_until(float(packet.pts * packet.time_base))

    def _start(self, *, height: int, width: int) -> "av.VideoStream":
        name, options = self._encoding.encoder
        if name == "libx264" and height * width > LARGE_PIXELS:
            options = options | LARGE_OPTIONS
        stream = cast(av.VideoStream, self._container.add_stream(name, rate=self._rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, self._encoding.pixel_format
        # said in the file, because players guess from the size of the frames where it is not
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = ColorRange.MPEG
        if self._sound is not None:
            self._sound.begin()
        return stream


@contextmanager
def write_video(
    path: Path, *, fps: float, sound: Sound | None = None, encoding: Encoding = MP4
) -> Iterator[VideoWriter]:
    """A writer for a video file, which appears when the block succeeds.

    Args:
        path: of the file; its suffix says which container it is.
        fps: frames per second.
        sound: for an .mp4 file: of the part that is shown; a file without sound gives none.
        encoding: of the frames; that of an .mp4 file unless another one is given.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(path))
        container = stack.enter_context(av.open(ffmpeg_name(temporary), "w", options=encoding.container_options))
        track = None if sound is None else stack.enter_context(sound_track(sound, container))
        writer = VideoWriter(container, fps=fps, encoding=encoding, sound=track)
        yield writer
        writer.finish()


def natural_order(path: Path) -> tuple[tuple[int, int, str], ...]:
    """`frame2` before `frame10`."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
