"""The sound of a video is that of the part that is shown, in time with its frames."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from media.video import open_video, sound_of, write_video

RATE = 44100
FPS = 25.0
NUM_FRAMES = 75
CLICKS = (0.4, 1.4, 2.0, 2.6)
"""Seconds at which the picture flashes and a tone of 40 ms begins."""

CODECS = {"aac": "mp4", "mp3": "mp4", "flac": "mkv", "libopus": "mkv", "pcm_s16le": "mkv", "vorbis": "mkv"}
IS_COPIED = {"aac", "mp3", "flac", "libopus"}


def tone(seconds):
    times = np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros(len(times))
    for click in CLICKS:
        inside = (times >= click) & (times < click + 0.04)
        sound[inside] = 0.8 * np.sin(2 * np.pi * 1000 * times[inside])
    return sound


def write_source(path, codec, *, seconds=NUM_FRAMES / FPS, channels=1, delay=0):
    """Frames that are white where a tone begins, beside the sound; the first of them is shown `delay` frames late."""
    rate = 48000 if codec == "libopus" else RATE
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=int(FPS), options={"g": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        options = {"strict": "experimental"}
        layout = "mono" if channels == 1 else "stereo"
        if codec == "vorbis":
            layout = "stereo"  # FFmpeg's own encoder knows no other
        audio = container.add_stream(codec, rate=rate, options=options, layout=layout)
        for i in range(NUM_FRAMES):
            flash = any(click <= (i + delay) / FPS < click + 0.04 for click in CLICKS)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255 * flash, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = i + delay, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.stack([tone(seconds)] * channels).astype(np.float32)
        mux_sound(container, audio, samples, "mono" if channels == 1 else "stereo")
    return path


def mux_sound(container, stream, samples, layout):
    for start in range(0, samples.shape[1], 1000):
        part = np.ascontiguousarray(samples[:, start : start + 1000])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def clip(source_path, target, *, start=0, stop=None, step=1, fps=None):
    """As prediction writes an overlay: some frames of the source, with sound where that fits."""
    source = open_video(source_path)
    fps = fps or source.fps / step
    with write_video(target, fps=fps, sound=sound_of(source, first_frame=start, step=step, fps=fps)) as writer:
        for frame in source.frames(step, start=start, stop=stop):
            writer.add(frame.pixels)
    return target


def read_sound(path):
    """Samples of the first channel from the start of the file on, their rate, and the codec; None without sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        rate = stream.sample_rate
        samples = np.zeros(0)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        for decoded in container.decode(stream):
            at = round(decoded.time * rate)
            for frame in resampler.resample(decoded):
                new = frame.to_ndarray()[0]
                samples = np.concatenate([samples, np.zeros(max(0, at - len(samples)))])[:at]
                samples = np.concatenate([samples, new])
                at += len(new)
        return samples, rate, stream.codec_context.codec.canonical_name


def tones(path):
    """Seconds at which tones begin, by the sound."""
    samples, rate, _ = read_sound(path)
    loud = np.abs(samples) > 0.25
    starts = np.flatnonzero(loud & ~np.r_[False, loud[:-1]])
    return [starts[0] / rate, *(b / rate for a, b in pairwise(starts) if b - a > 0.1 * rate)]


def flashes(path):
    """Seconds at which the picture turns white."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    return [time for (time, level), before in zip(frames, [(0, 0), *frames], strict=False) if level > 128 > before[1]]


def lengths(path):
    with av.open(str(path)) as container:
        return [float(stream.duration * stream.time_base) for stream in container.streams]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {codec: write_source(folder / f"{codec}.{suffix}", codec) for codec, suffix in CODECS.items()}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("start", "stop"), [(0, None), (20, 60)])
def test_tones_stay_with_their_pictures(sources, tmp_path, codec, start, stop):
    target = clip(sources[codec], tmp_path / "clip.mp4", start=start, stop=stop)
    stop = stop or NUM_FRAMES
    expected = [click - start / FPS for click in CLICKS if start / FPS <= click < stop / FPS]
    assert len(expected) == (4 if start == 0 else 2)
    assert flashes(target) == pytest.approx(expected, abs=0.001)
    assert tones(target) == pytest.approx(expected, abs=0.004)
    picture, sound = lengths(target)
    assert picture == pytest.approx((stop - start) / FPS, abs=0.001)
    assert sound == pytest.approx(picture, abs=0.05)
    assert read_sound(target)[2] == (codec.removeprefix("lib") if codec in IS_COPIED else "aac")


def test_sound_that_is_encoded_anew_begins_with_the_pictures(sources, tmp_path):
    """Nothing but what an AAC encoder puts before is left to be skipped by players."""
    target = clip(sources["pcm_s16le"], tmp_path / "clip.mp4", start=40)
    with av.open(str(target)) as container:
        stream = container.streams.audio[0]
        first = min(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        assert float(first * stream.time_base) >= -1024 / RATE - 0.001


def test_pictures_that_begin_after_their_sound_stay_with_it(tmp_path):
    source = write_source(tmp_path / "late.mkv", "pcm_s16le", delay=10)
    target = clip(source, tmp_path / "clip.mp4", start=5)
    expected = [click - 15 / FPS for click in CLICKS if click >= 15 / FPS]
    assert flashes(target) == pytest.approx(expected, abs=0.001)
    assert tones(target) == pytest.approx(expected, abs=0.004)


def test_what_mp4_takes_is_not_encoded_anew(sources, tmp_path):
    target = clip(sources["aac"], tmp_path / "clip.mp4")
    packets = []
    for path in (sources["aac"], target):
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(audio=0) if packet.size])
    assert set(packets[1]) <= set(packets[0])
    assert len(packets[1]) >= len(packets[0]) - 3


def test_a_step_keeps_the_sound_in_time(sources, tmp_path):
    target = clip(sources["aac"], tmp_path / "clip.mp4", start=10, step=5)
    expected = [click - 10 / FPS for click in CLICKS]
    assert tones(target) == pytest.approx(expected, abs=0.004)
    assert flashes(target) == pytest.approx(expected, abs=0.001)
    assert lengths(target)[0] == pytest.approx(65 / FPS, abs=0.001)


def test_frames_at_another_speed_have_no_sound_and_the_log_says_why(sources, tmp_path, caplog):
    with caplog.at_level("INFO"):
        target = clip(sources["aac"], tmp_path / "clip.mp4", fps=10.0)
    assert read_sound(target) is None
    assert "another speed" in caplog.text
    assert read_sound(clip(sources["aac"], tmp_path / "other.mp4", fps=FPS)) is not None


def test_a_video_without_sound_and_a_folder_of_frames_work(sources, tmp_path):
    silent = tmp_path / "silent.mp4"
    with write_video(silent, fps=FPS) as writer:
        for _ in range(5):
            writer.add(np.zeros((48, 64, 3), dtype=np.uint8))
    assert read_sound(clip(silent, tmp_path / "clip.mp4")) is None
    assert len(list(open_video(tmp_path / "clip.mp4").frames())) == 5


def test_sound_that_ends_before_the_pictures_ends_there(tmp_path):
    source = write_source(tmp_path / "short.mp4", "aac", seconds=1.5)
    target = clip(source, tmp_path / "clip.mp4")
    picture, sound = lengths(target)
    assert picture == pytest.approx(3, abs=0.001)
    assert sound == pytest.approx(1.5, abs=0.05)
    late = clip(source, tmp_path / "late.mp4", start=60)
    assert len(list(open_video(late).frames())) == 15


def test_five_channels_become_two(tmp_path):
    path = tmp_path / "surround.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=int(FPS))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="5.1")
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.stack([tone(2.0)] * 6).astype(np.float32)
        mux_sound(container, audio, samples, "5.1")
    target = clip(path, tmp_path / "clip.mp4")
    with av.open(str(target)) as container:
        assert container.streams.audio[0].codec_context.layout.name == "stereo"
    assert tones(target) == pytest.approx(CLICKS[:2], abs=0.004)


def test_damaged_sound_ends_with_a_warning_and_the_pictures_go_on(tmp_path, caplog, monkeypatch):
    source = write_source(tmp_path / "source.mkv", "pcm_s16le")

    def broken(self, items):
        for number, item in enumerate(items):
            if number == 10:
                raise av.error.InvalidDataError(1, "damaged")
            yield item

    whole = av.container.InputContainer.demux
    monkeypatch.setattr("media.sound.SoundTrack._demuxed", lambda self: broken(self, whole(self._source, self._stream)))
    target = clip(source, tmp_path / "clip.mp4")
    assert "breaks off" in caplog.text
    assert len(list(open_video(target).frames())) == NUM_FRAMES
    assert lengths(target)[1] < 2
