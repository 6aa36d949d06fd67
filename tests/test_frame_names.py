"""Names of labels and the frames that they belong to."""

import pytest

from datasets.frame_names import FrameNames, plain_stem

FOLDER = FrameNames(("frame_0009", "frame_0010", "frame_0011"))
FILE = FrameNames(tuple(f"{i:05d}" for i in range(20)), is_video_file=True)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("frame_0010.jpg", 1),
        ("images/frame_0010.PNG", 1),
        ("images\\frame_0010.png", 1),
        ("images/3f2a91bc-frame_0010.jpg", 1),  # Label Studio
        ("..\\..\\label-studio\\media\\upload\\4\\cb0618f6-frame_0009.png", 0),  # Label Studio 1.16 on Windows
        ("frame_0011_jpg.rf.68cb444f62494b5756c4708d119a66da.jpg", 2),  # Roboflow
        ("train/frame_0011_png.rf.68cb444f62494b5756c4708d119a66da.jpg", 2),
        ("frame_000010.PNG", 1),  # another number of zeros: the number counts
        ("10.png", 1),
    ],
)
def test_a_label_finds_its_frame_in_a_folder(name, position):
    assert FOLDER.position_of(name) == position


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("00012.png", 12),
        ("frame_000000.PNG", 0),
        ("3f2a91bc-frame_0007.jpg", 7),
        ("clip_mp4-0019_jpg.rf.68cb444f62494b5756c4708d119a66da.jpg", 19),
    ],
)
def test_a_label_of_a_video_file_is_of_the_frame_with_its_last_number(name, position):
    assert FILE.position_of(name) == position


def test_frames_may_be_counted_from_one():
    counted = FrameNames(FILE.stems, is_video_file=True, first_index=1)
    assert counted.position_of("00001.png") == 0
    assert counted.position_of("00020.png") == 19
    with pytest.raises(ValueError, match=r"label '00000.png' is of frame 0, but the 20 frames .* from 1 to 20"):
        counted.position_of("00000.png")


def test_the_whole_name_comes_before_its_end_and_its_number():
    frames = FrameNames(("a-1", "b-1", "1", "x_2", "2"))
    assert frames.position_of("a-1.png") == 0
    assert frames.position_of("1.png") == 2
    assert frames.position_of("x_2.png") == 3


@pytest.mark.parametrize(
    ("frames", "name", "message"),
    [
        (FOLDER, "frame_0012.png", "label 'frame_0012.png' belongs to none of the 3 frames frame_0009 to frame_0011"),
        (FOLDER, "mask.png", "belongs to none of"),
        (FrameNames(("a-1", "b-1")), "c-1.png", r"may belong to several of the 2 frames a-1 to b-1 \(a-1, b-1"),
        (FrameNames(("1", "a-1")), "x-a-1.png", r"may belong to several"),
        (FILE, "mask.png", "has no number in its name"),
        (FILE, "00020.png", "is of frame 20, but the 20 frames of the video are counted from 0 to 19"),
    ],
)
def test_a_label_without_a_frame_is_named(frames, name, message):
    with pytest.raises(ValueError, match=message):
        frames.position_of(name)


def test_names_lose_what_tools_add():
    assert plain_stem("train/IMG_2489_jpeg_jpg.rf.ffb357957a29cdef43f3fdfb2a13c417.jpg") == "IMG_2489_jpeg"
    assert plain_stem("my.clip.0001.jpg") == "my.clip.0001"
