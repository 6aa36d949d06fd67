"""What is damaged in a video is left out, the rest is shown, and one warning says so."""

import logging
import os

import av
import numpy as np
import pytest

from media.video import open_video
from tests.video_files import moving_pictures, write_video

NUM_FRAMES = 48


def damage(path, number):
    """Overwrites one packet, apart from its length."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    position, size = packets[number]
    content = bytearray(path.read_bytes())
    content[position + 4 : position + size] = b"\xff" * (size - 4)
    path.write_bytes(content)


@pytest.mark.parametrize("b_frames", ["0", "3"])
@pytest.mark.parametrize("number", [0, 3, 24, 27, NUM_FRAMES - 1])
def test_frames_after_a_damaged_packet_are_shown(tmp_path, caplog, number, b_frames):
    options = {"g": "12", "bf": b_frames, "sc_threshold": "0", "x264-params": "open-gop=0"}
    path = write_video(tmp_path / "clip.mp4", moving_pictures(NUM_FRAMES), options=options)
    whole = [frame.pixels for frame in open_video(path).frames()]
    damage(path, number)
    with caplog.at_level(logging.WARNING):
        frames = list(open_video(path).frames())
    (record,) = caplog.records
    message = record.getMessage()
    assert f"clip.mp4: 1 damaged packet is left out; {len(frames)} frames are decoded" in message
    # a key frame takes those that refer to it along, up to the next one
    assert NUM_FRAMES - 12 <= len(frames) < NUM_FRAMES
    assert [frame.index for frame in frames] == list(range(len(frames)))
    # what is left is shown when it would have been, and far from the damage it is as it was; beside a damaged key frame
    # FFmpeg may give two frames in the wrong order
    positions = [round(frame.seconds * 25) for frame in frames]
    assert len(set(positions)) == len(positions)
    for position, frame in zip(positions, frames, strict=True):
        if abs(position - number) > 12:
            np.testing.assert_array_equal(frame.pixels, whole[position])


def test_several_damaged_packets_are_counted_in_one_warning(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(NUM_FRAMES), options={"g": "6", "bf": "0"})
    for number in (7, 20, 33):
        damage(path, number)
    assert len(list(open_video(path).frames())) < NUM_FRAMES
    (record,) = caplog.records
    assert "3 damaged packets are left out" in record.getMessage()


def test_a_video_without_one_frame_that_can_be_decoded_is_an_error(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(4), options={"g": "1", "bf": "0"})
    for number in range(4):
        damage(path, number)
    with pytest.raises(ValueError, match=r"clip\.mp4: no frame can be decoded: 4 damaged packets are left out"):
        list(open_video(path).frames())


def test_a_video_that_breaks_off_says_so(tmp_path, caplog):
    path = write_video(
        tmp_path / "clip.mp4",
        moving_pictures(NUM_FRAMES),
        options={"g": "6", "bf": "0"},
        container_options={"movflags": "+faststart"},
    )
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    os.truncate(path, ends[19])  # behind the twentieth frame, so that nothing is damaged
    assert len(list(open_video(path).frames())) == 20
    (record,) = caplog.records
    assert "it breaks off before its end; 20 frames are decoded" in record.getMessage()


def test_a_whole_video_gives_no_warning(tmp_path, caplog):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(NUM_FRAMES))
    assert len(list(open_video(path).frames())) == NUM_FRAMES
    assert not caplog.records
