import os
import pickle
from fractions import Fraction

import numpy as np
import pytest

from media import video_seek
from media.video_seek import VideoFileFrames
from tests.video_files import cut_start, moving_pictures, read_whole_video, write_video

NUM_FRAMES = 50
RANDOM_TIMES = [int(t) for t in np.cumsum(np.random.default_rng(3).integers(1, 7, NUM_FRAMES))]

FILES = {
    "one-key-frame.mp4": {},
    "short-gops.mp4": {"options": {"g": "7", "bf": "3", "sc_threshold": "0"}},
    "open-gops.mp4": {"options": {"x264-params": "open-gop=1:keyint=10:bframes=3:b-pyramid=normal:scenecut=0"}},
    "pyramid.mp4": {"options": {"x264-params": "keyint=16:bframes=7:b-pyramid=strict:ref=4:weightp=2"}},
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=2"}},
    "no-b-frames.mp4": {"options": {"bf": "0", "g": "9"}},
    "odd-time-base.mp4": {"rate": Fraction(30000, 1001), "options": {"g": "12"}},
    "variable-rate.mp4": {"pts": RANDOM_TIMES, "options": {"g": "8"}},
    "late-start.mp4": {"pts": [t + 100 for t in RANDOM_TIMES], "options": {"g": "8"}},
    "h264.mkv": {"options": {"g": "12"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "qscale": "3"}},
    "fragmented.mp4": {"options": {"g": "12"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "no-time-stamps.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "qscale": "3"}},
    "raw-stream.h264": {"options": {"g": "12"}},
    "transport.ts": {"options": {"g": "12"}},
    "motion.mkv": {"codec": "mjpeg", "options": {"qscale": "3", "strict": "unofficial"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("name", list(FILES))
def test_every_window_is_what_decoding_the_whole_file_gives(folder, name):
    path = write_video(folder / name, moving_pictures(NUM_FRAMES), **FILES[name])
    whole = read_whole_video(path)
    frames = VideoFileFrames(path)
    assert frames.num_frames == len(whole) == NUM_FRAMES
    assert frames.size() == whole.shape[1:3]
    for centre in (0, 1, 9, 10, 11, 24, 37, NUM_FRAMES - 1):
        window = np.clip(np.arange(centre - 4, centre + 4), 0, NUM_FRAMES - 1).tolist()
        assert np.array_equal(frames.read(window), whole[window]), centre
    scattered = [40, 3, 3, 17]
    assert np.array_equal(frames.read(scattered), whole[scattered])


def test_a_window_needs_no_second_look_at_common_files(folder, monkeypatch):
    path = write_video(folder / "plain.mp4", moving_pictures(NUM_FRAMES), options={"g": "12"})
    starts = []
    decode = VideoFileFrames._decode_from

    def watch(self, key, position_at, *, skip):
        starts.append((key, skip))
        return decode(self, key, position_at, skip=skip)

    monkeypatch.setattr(VideoFileFrames, "_decode_from", watch)
    VideoFileFrames(path).read(range(30, 38))
    ((key, skip),) = starts
    assert key is not None
    assert skip


def test_frames_that_lossless_cutting_hides_are_not_counted(folder):
    path = write_video(folder / "long.mp4", moving_pictures(NUM_FRAMES), options={"g": "10", "sc_threshold": "0"})
    cut = cut_start(path, folder / "cut.mp4", seconds=1)
    whole = read_whole_video(cut)
    frames = VideoFileFrames(cut)
    assert frames.num_frames == len(whole) == 30
    assert np.array_equal(frames.read(range(5, 13)), whole[5:13])


def test_a_file_that_was_replaced_is_looked_at_again(folder):
    path = write_video(folder / "replaced.mp4", moving_pictures(20))
    assert VideoFileFrames(path).num_frames == 20
    write_video(path, moving_pictures(12))
    assert VideoFileFrames(path).num_frames == 12


@pytest.mark.parametrize("layout", ["index last", "index first"])
def test_a_truncated_file_is_named(folder, layout):
    options = {"movflags": "+faststart"} if layout == "index first" else None
    path = folder / f"truncated {layout}.mp4"
    write_video(path, moving_pictures(NUM_FRAMES), options={"g": "12"}, container_options=options)
    os.truncate(path, path.stat().st_size * 6 // 10)
    with pytest.raises(ValueError, match=rf"truncated {layout}\.mp4"):
        VideoFileFrames(path).read([0])


def test_other_bad_files_and_positions_are_named(folder):
    with pytest.raises(ValueError, match=r"absent\.mp4: no such file"):
        VideoFileFrames(folder / "absent.mp4").read([0])
    (folder / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: not a readable video"):
        VideoFileFrames(folder / "text.mp4").read([0])
    (folder / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4"):
        VideoFileFrames(folder / "empty.mp4").read([0])
    short = VideoFileFrames(write_video(folder / "short.mp4", moving_pictures(3)))
    for positions in ([], [-1], [3]):
        with pytest.raises(ValueError, match=r"short\.mp4: positions .* must lie in \[0, 3\)"):
            short.read(positions)


def test_damage_inside_a_frame_is_an_error_or_pixels_but_never_another_frame(folder):
    path = write_video(folder / "damaged.mp4", moving_pictures(NUM_FRAMES), options={"g": "10", "sc_threshold": "0"})
    whole = read_whole_video(path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)
    frames = VideoFileFrames(path)
    assert frames.num_frames == NUM_FRAMES
    assert np.array_equal(frames.read(range(45, 50)), whole[45:])


def test_a_reader_travels_to_a_worker_without_pixels(folder):
    path = write_video(folder / "travels.mp4", moving_pictures(10))
    frames = VideoFileFrames(path)
    expected = frames.read([4])
    data = pickle.dumps(frames)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).read([4]), expected)


def test_the_time_stamps_of_a_file_are_read_once(folder, monkeypatch):
    path = write_video(folder / "once.mp4", moving_pictures(10))
    frames = VideoFileFrames(path)
    frames.read([0])
    monkeypatch.setattr(video_seek, "_index_of_packets", lambda packets: pytest.fail("read again"))
    frames.read([5])


def test_videos_that_are_damaged_anywhere_are_named_or_read(folder):
    generator, messages = np.random.default_rng(0), []
    for name in ("index-first.mp4", "fragments.mp4", "stream.mkv", "stream.avi"):
        flags = {"index-first": "+faststart", "fragments": "frag_keyframe+empty_moov"}.get(name.split(".")[0])
        path = folder / name
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        write_video(path, moving_pictures(6), codec=codec, container_options={"movflags": flags} if flags else None)
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), 8):
                damaged[place] = generator.integers(0, 256)
            path.write_bytes(damaged[: generator.integers(len(content) // 2, len(content) + 1)])
            try:
                VideoFileFrames(path).read([0])
            except ValueError as error:
                messages.append(str(error).startswith(f"video {path}: "))
    assert all(messages)
    assert messages
