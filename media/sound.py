"""The sound of a video, carried over to another file that shows a part of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.container
import av.error
import numpy as np

from media.video_stream import ffmpeg_name, picture_stream

logger = logging.getLogger(__name__)

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
"""Codecs that are copied into an .mp4 file as they are; FFmpeg writes all of these."""

ENCODER = "aac"
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""Samples per second that AAC has; sound of another rate is converted to `OTHER_RATE`."""

OTHER_RATE = 48000
BIT_RATE = 160_000

PREROLL_SECONDS = 0.1
"""Copied before the start and skipped by players: decoders need some of what comes before (Opus 80 ms, RFC 7845)."""

SEEK_SECONDS = 1.0
"""Reading starts so long before the first packet that is wanted: seeking is not exact."""

Item = tuple[float, av.Packet | av.AudioFrame]
"""What is written next, and the second of the target at which it starts."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound of a video file from some moment on.

    Attributes:
        path: of the video file; it need not have sound.
        start_seconds: of the moment, counted from the first frame of the video.
    """

    path: Path
    start_seconds: float = 0.0


class SoundTrack:
    """Sound that is written beside the frames of a video, as far as they go.

    Packets are copied where .mp4 takes their codec, and encoded anew as AAC where it does not. Damaged sound ends where
    the damage is, with a warning.

    Args:
        source: that is read.
        stream: of the sound in `source`.
        target: that is written.
        start_seconds: moment of `source` that is the start of `target`, on the clock of the file.
    """

    def __init__(
        self,
        source: "av.container.InputContainer",
        stream: "av.AudioStream",
        target: "av.container.OutputContainer",
        *,
        start_seconds: float,
    ) -> None:
        self._source, self._stream, self._target, self._start = source, stream, target, start_seconds
        self.is_copied = stream.codec_context.codec.canonical_name in COPIED
        self._track: av.AudioStream | None = None
        self._items: Iterator[Item] = iter(())
        self._next: Item | None = None

    def begin(self) -> None:
        """Adds the stream of the sound to the target, before anything is written there."""
        self._track = self._add_track()
        self._items = self._safely(self._packets(self._track) if self.is_copied else self._frames(self._track))
        self._next = next(self._items, None)

    def mux_until(self, seconds: float) -> None:
        """Writes what starts before this moment of the target."""
        while self._next is not None and self._next[0] < seconds:
            item = self._next[1]
            self._target.mux(item if isinstance(item, av.Packet) else self._encode(item))
            self._next = next(self._items, None)

    def finish(self, seconds: float) -> None:
        """Writes what starts before this moment of the target, which is its end."""
        self.mux_until(seconds)
        if not self.is_copied:
            self._target.mux(self._encode(None))

    def _encode(self, frame: "av.AudioFrame | None") -> "list[av.Packet]":
        assert self._track is not None, "begin comes first"
        return self._track.encode(frame)

    def _add_track(self) -> "av.AudioStream":
        if self.is_copied:
            return self._target.add_stream_from_template(self._stream)
        own = self._stream.codec_context
        rate = own.sample_rate if own.sample_rate in AAC_RATES else OTHER_RATE
        track = cast(av.AudioStream, self._target.add_stream(ENCODER, rate=rate))
        track.codec_context.layout = "mono" if own.channels == 1 else "stereo"
        track.codec_context.bit_rate = BIT_RATE
        return track

    def _packets(self, track: "av.AudioStream") -> Iterator[Item]:
        """Packets with the time stamps of the target, from shortly before its start."""
        base = cast(Fraction, self._stream.time_base)
        shift = round(self._start / base)
        for packet in self._demuxed():
            packet.pts = cast(int, packet.pts) - shift
            packet.dts = packet.pts
            if float((packet.pts + (packet.duration or 0)) * base) > -PREROLL_SECONDS:
                packet.stream = track
                yield float(packet.pts * base), packet

    def _frames(self, track: "av.AudioStream") -> Iterator[Item]:
        """Decoded frames with the time stamps of the target, cut at its start."""
        rate, layout = track.codec_context.sample_rate, track.codec_context.layout.name
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        position: int | None = None
        for packet in self._demuxed():
            for decoded in packet.decode():
                if position is None:
                    position = round((float(decoded.time or 0.0) - self._start) * rate)
                for frame in resampler.resample(cast(av.AudioFrame, decoded)):
                    samples = frame.to_ndarray()[:, max(0, -position) :]
                    position += frame.samples
                    if samples.shape[1]:
                        yield (position - samples.shape[1]) / rate, _frame(samples, layout, rate, position)

    def _demuxed(self) -> "Iterator[av.Packet]":
        base = cast(Fraction, self._stream.time_base)
        if self._start > SEEK_SECONDS:
            self._source.seek(int((self._start - SEEK_SECONDS) / base), stream=self._stream)
        for packet in self._source.demux(self._stream):
            if packet.pts is not None:
                yield packet

    def _safely(self, items: "Iterator[Item]") -> "Iterator[Item]":
        try:
            yield from items
        except av.error.FFmpegError as error:
            logger.warning("the sound of %s breaks off (%s)", self._source.name, error)


@contextmanager
def sound_track(sound: Sound, target: "av.container.OutputContainer") -> Iterator[SoundTrack | None]:
    """The sound, ready to be written; None where the file has none, or none that can be read or encoded."""
    with av.open(ffmpeg_name(sound.path)) as source:
        stream = source.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            yield None
            return
        codec = stream.codec_context
        name = codec.codec.canonical_name if codec is not None else "an unknown codec"
        if codec is None or (name not in COPIED and ENCODER not in av.codecs_available):
            logger.warning("no sound: %s has %s, which this FFmpeg cannot bring into an .mp4 file", sound.path, name)
            yield None
            return
        first = picture_stream(source) or stream
        offset = float((first.start_time or 0) * cast(Fraction, first.time_base))
        yield SoundTrack(source, stream, target, start_seconds=offset + sound.start_seconds)


def _frame(samples: np.ndarray, layout: str, rate: int, end: int) -> "av.AudioFrame":
    """A frame of samples that ends before sample number `end`."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), end - samples.shape[1]
    return frame
