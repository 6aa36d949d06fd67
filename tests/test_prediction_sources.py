"""Frames of paths, globs, arrays, tensors and iterators, and the part of a video that is looked at."""

import itertools
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from prediction.sources import FrameRange, open_source
from structures.moments import Moment, parse_moment
from tests.video_files import moving_pictures, write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (5, 6, 8, 3), dtype=np.uint8)


def pixels_of(source, **range_of):
    return np.stack([frame.pixels for frame in source.frames(**range_of)])


def indices(source, part, name="clip"):
    return [frame.index for frame in part.of(source, name=name)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, twenty frames each at 10 frames per second, and images."""
    folder = tmp_path_factory.mktemp("sources")
    for name, seed in (("a.mp4", 0), ("b.mp4", 1)):
        write_video(folder / name, moving_pictures(20, seed=seed), rate=10, options={"crf": "10"})
    (folder / "frames").mkdir()
    for number in (1, 2, 10):
        Image.fromarray(FRAMES[number % 5]).save(folder / "frames" / f"f{number}.png")
    return folder


@pytest.mark.parametrize(
    "given",
    [
        FRAMES,
        torch.from_numpy(FRAMES),
        torch.from_numpy(FRAMES).movedim(-1, 1),
        list(FRAMES),
        iter(FRAMES),
        (torch.from_numpy(frame) for frame in FRAMES),
        [torch.from_numpy(frame).movedim(-1, 0) for frame in FRAMES],
    ],
    ids=["array", "tensor", "channels first", "list", "iterator", "tensors", "tensors with channels first"],
)
def test_arrays_tensors_and_iterators_are_the_same_video(given):
    frames = list(open_source(given).frames())
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), FRAMES)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.name for frame in frames] == ["00000", "00001", "00002", "00003", "00004"]


def test_one_image_is_a_video_of_one_frame(folder):
    for given in (FRAMES[2], torch.from_numpy(FRAMES[2]).movedim(-1, 0), folder / "frames" / "f2.png"):
        np.testing.assert_array_equal(pixels_of(open_source(given)), FRAMES[2:3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (FRAMES.astype(np.float32), r"an array float32 of shape \(5, 6, 8, 3\): expected RGB bytes"),
        (FRAMES[..., :2], r"uint8 of shape \(5, 6, 8, 2\)"),
        (torch.zeros(2, 4, 6, 8), r"float32 of shape \(2, 4, 6, 8\)"),
        (FRAMES[:0], "it holds no frame"),
    ],
)
def test_arrays_of_another_form_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        open_source(given)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([FRAMES[0], FRAMES[0, :4]], r"frame 1: \(height, width\) \(4, 8\), but the frames before have \(6, 8\)"),
        ([FRAMES[0] / 255], "a frame that is float64 of shape"),
        (["frame.png"], "a frame that is str"),
    ],
)
def test_frames_of_another_form_are_refused_when_they_come(frames, message):
    source = open_source(frames)
    with pytest.raises(ValueError, match=message):
        list(source.frames())


def test_globs_are_one_video(folder):
    frames = list(open_source(folder / "frames" / "f*.png").frames())
    assert [frame.name for frame in frames] == ["f1", "f2", "f10"], "numbers count as numbers"
    assert len(list(open_source(str(folder / "a*")).frames())) == 20
    for pattern, message in (("*.mp4", "2 files match"), ("*.avi", "nothing matches")):
        with pytest.raises(ValueError, match=message):
            open_source(folder / pattern)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    path = write_video(tmp_path / "clip [1].mp4", moving_pictures(3))
    assert len(list(open_source(path).frames())) == 3


def test_a_relative_glob_is_read_from_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(list(open_source("frames/*.png").frames())) == 3
    assert len(list(open_source("**/f1.png").frames())) == 1


@pytest.mark.parametrize("kind", ["file", "folder", "array", "iterator"])
def test_every_source_has_start_stop_and_step(folder, kind):
    given = {"file": folder / "a.mp4", "folder": folder / "frames", "array": FRAMES, "iterator": list(FRAMES)}[kind]
    source = open_source(given)
    everything = list(source.frames())
    for start, stop, step in ((0, None, 1), (1, None, 1), (0, 2, 1), (1, 4, 2), (2, 3, 5), (9, 12, 1), (90, None, 1)):
        part = list(source.frames(step, start=start, stop=stop))
        expected = everything[start:stop:step]
        assert [frame.index for frame in part] == [frame.index for frame in expected]
        assert [frame.name for frame in part] == [frame.name for frame in expected]
        for one, other in zip(part, expected, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)


def test_no_frame_after_the_end_is_asked_for():
    counter = itertools.count()
    source = open_source(FRAMES[next(counter) % 5] for _ in itertools.count())
    assert indices(source, FrameRange(end=Moment(3.0, is_frame=True))) == [0, 1, 2]
    assert next(counter) == 3


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("3.5", Moment(3.5, is_frame=False)),
        ("0", Moment(0.0, is_frame=False)),
        (".5", Moment(0.5, is_frame=False)),
        ("120f", Moment(120.0, is_frame=True)),
        ("00:01:02", Moment(62.0, is_frame=False)),
        ("1:02.5", Moment(62.5, is_frame=False)),
        ("2:00:00", Moment(7200.0, is_frame=False)),
        (" 90 ", Moment(90.0, is_frame=False)),
    ],
)
def test_moments_are_read(text, moment):
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["", "-1", "1.5f", "f", "1:60", "1:75:00", "12:3:4:5", "1h", "nan", "1e3", "½"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match="no moment of a video; expected seconds such as"):
        parse_moment(text)


def test_seconds_are_counted_at_the_rate_of_the_video(folder):
    source = open_source(folder / "a.mp4")
    part = FrameRange(parse_moment("0.5"), parse_moment("00:01.2"), step=3)
    assert indices(source, part) == [5, 8, 11]
    assert indices(source, FrameRange(parse_moment("5f"), parse_moment("0.8"))) == [5, 6, 7]
    assert indices(open_source(FRAMES), FrameRange(parse_moment("0.08"))) == [2, 3, 4], "arrays: 25 per second"
    assert indices(open_source(FRAMES, fps=50.0), FrameRange(parse_moment("0.08"))) == [4]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("20f", None, "video clip: it ends before its frame 20"),
        ("1:00", None, "it ends before its frame 600"),
        ("15f", "1.5", r"end \(frame 15\) must lie after start \(frame 15\)"),
    ],
)
def test_an_empty_part_is_refused(folder, start, end, message):
    part = FrameRange(parse_moment(start), None if end is None else parse_moment(end))
    with pytest.raises(ValueError, match=message):
        part.of(open_source(folder / "a.mp4"), name="clip")


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"fps=0\.0 must be above 0"):
        open_source(FRAMES, fps=0.0)


# ---- files as they are found ----


def test_a_video_that_breaks_off_gives_what_comes_before(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mkv", moving_pictures(40), options={"g": "5", "bf": "0"})
    os.truncate(path, path.stat().st_size // 2)
    frames = list(open_source(path).frames())
    assert 5 < len(frames) < 40
    assert [frame.index for frame in frames] == list(range(len(frames)))


def test_a_video_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    """Two streams of H.264 behind each other, as cameras and screen recorders write them."""
    parts = []
    for number, (height, width) in enumerate(((48, 64), (96, 128))):
        part = write_video(tmp_path / f"{number}.h264", moving_pictures(6, height, width), options={"bf": "0"})
        parts.append(part.read_bytes())
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    frames = list(open_source(path).frames())
    assert len(frames) == 12
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}


QUARTER_TURNS = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
"""Clockwise: the matrix of a track (a, b, c, d) in an .mp4 file."""


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotated_video_stands_as_players_show_it(tmp_path, turns):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(4), options={"crf": "10"})
    upright = pixels_of(open_source(path))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    matrix = struct.unpack(">9i", content[start : start + 36])
    assert (matrix[0], matrix[4]) == (1 << 16, 1 << 16), "not turned yet"
    a, b, c, d = (entry << 16 for entry in QUARTER_TURNS[turns])
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    np.testing.assert_array_equal(pixels_of(open_source(path)), np.rot90(upright, k=-turns, axes=(1, 2)))


def test_a_photograph_stands_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(FRAMES[0]).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(pixels_of(open_source(tmp_path / "photo.png"))[0], np.rot90(FRAMES[0], k=-1))


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(ValueError, match="the folder holds no image"):
        open_source(tmp_path)
