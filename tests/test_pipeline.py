"""Reading ahead and writing behind: the same frames in the same order, few at a time, and errors where they belong."""

import threading
import time

import numpy as np
import pytest
import torch

from media.video import Frame
from prediction.pipeline import BoundedQueue, read_ahead, write_behind
from prediction.stream import ObjectPrediction, WindowPrediction
from prediction.writers import OutputWriter, outputs_of, write_outputs
from tests.test_outputs import OBJECTS, windows

CPU = torch.device("cpu")


def frame(number):
    return Frame(number, str(number), np.full((4, 5, 3), number, dtype=np.uint8))


def window(*numbers):
    objects = ObjectPrediction(
        sentence="a",
        is_found=True,
        window_score=0.5,
        query=0,
        frame_scores=np.ones(len(numbers)),
        boxes_xyxy_px=np.zeros((len(numbers), 4)),
        mask_logits=torch.stack([torch.arange(6).view(2, 3) - float(number) for number in numbers]),
        size=(2, 3),
    )
    return WindowPrediction(tuple(map(frame, numbers)), (objects,))


class Collector(OutputWriter):
    """Writes nothing; notes what it gets, slowly."""

    def __init__(self, *, fails_at=None):
        self.seen, self.fails_at = [], fails_at

    def add_frame(self, result):
        time.sleep(0.01)
        if result.frame.index == self.fails_at:
            raise OSError(28, "No space left on device", "masks/0.png")
        self.seen.append(result.frame.index)
        return [int(mask.sum()) for mask in result.masks]


def test_frames_that_are_read_ahead_are_the_same_in_their_order():
    with read_ahead(map_frames(20), most_bytes=130) as frames:
        assert [each.index for each in frames] == list(range(20))
    assert not any(thread.name == "read ahead" for thread in threading.enumerate())


def map_frames(count, read=None, closed=None):
    try:
        for number in range(count):
            if read is not None:
                read.append(number)
            yield frame(number)
    finally:
        if closed is not None:
            closed.append(True)


def test_no_more_is_read_ahead_than_may_wait():
    read, closed = [], []
    with read_ahead(map_frames(50, read, closed), most_bytes=130) as frames:  # two frames of 60 bytes
        for number in range(3):
            assert next(frames).index == number
            time.sleep(0.1)
            assert read[-1] == number + 3, "two wait, and one more is in the hand of the reader"
    assert read == list(range(6))
    assert closed, "the file is closed when nobody asks for more"


def test_a_frame_that_is_larger_than_all_that_may_wait_is_read_alone():
    with read_ahead(map_frames(5), most_bytes=1) as frames:
        assert [each.index for each in frames] == list(range(5))


def test_an_error_of_reading_comes_after_the_frames_before_it():
    def frames():
        yield from map_frames(3)
        raise ValueError("00003.jpg: not a readable image")

    with read_ahead(frames(), most_bytes=1000) as ahead:
        assert [next(ahead).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match=r"00003\.jpg"):
            next(ahead)


def test_windows_are_written_in_order_and_areas_are_those_of_their_masks():
    writer = Collector()
    with write_behind(writer, device=CPU, most_bytes=130) as behind:
        behind.add(window(0, 1, 2))
        behind.add(window(3, 4))
    assert writer.seen == [0, 1, 2, 3, 4]
    assert behind.areas == [[5], [4], [3], [2], [1]]


def test_what_is_written_behind_is_what_is_written_at_once(tmp_path):
    formats = outputs_of(["masks", "palette", "rle", "coco", "overlay", "contact_sheet"])
    written = []
    for name in ("at once", "behind"):
        with write_outputs(formats, folder=tmp_path / name, video="v", objects=OBJECTS, fps=5.0) as writer:
            if name == "at once":
                areas = [writer.add(each) for each in windows()]
                continue
            with write_behind(writer, device=CPU, most_bytes=1) as behind:
                for each in windows():
                    behind.add(each)
        frames = [list(of_frame) for part in areas for of_frame in zip(*part, strict=True)]
        assert behind.areas == frames
    for folder in (tmp_path / "at once", tmp_path / "behind"):
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        written.append(files)
    assert len(written[0]) > 10
    assert written[0] == written[1]


def test_who_adds_more_than_may_wait_waits():
    queue = BoundedQueue(10)
    assert queue.put("a", 6)
    assert queue.put("b", 4)
    late = threading.Thread(target=queue.put, args=("c", 1))
    late.start()
    late.join(0.1)
    assert late.is_alive()
    assert next(queue.items()) == "a"
    late.join(60)
    assert not late.is_alive()


def test_an_error_of_writing_is_raised_to_who_adds_or_finishes():
    with (
        pytest.raises(OSError, match="No space left"),
        write_behind(Collector(fails_at=1), device=CPU, most_bytes=1000) as behind,
    ):
        behind.add(window(0, 1, 2))
    added = []

    def add_for_ever():
        with write_behind(Collector(fails_at=1), device=CPU, most_bytes=1) as behind:
            while True:
                behind.add(window(len(added)))
                added.append(True)
                time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        add_for_ever()
    assert len(added) < 100, "it is noticed before the end"


def test_after_an_error_of_the_model_what_waits_is_dropped():
    writer = Collector()

    def predict():
        with write_behind(writer, device=CPU, most_bytes=1000) as behind:
            behind.add(window(*range(50)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        predict()
    assert len(writer.seen) < 50
    assert not any(thread.name == "write behind" for thread in threading.enumerate())


@pytest.mark.parametrize("what", ["read ahead", "write behind"])
def test_ctrl_c_while_a_thread_starts_leaves_no_thread(monkeypatch, what):
    start, started = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    block = (
        read_ahead(map_frames(50), most_bytes=130)
        if what == "read ahead"
        else write_behind(Collector(), device=CPU, most_bytes=130)
    )
    with pytest.raises(KeyboardInterrupt), block:
        pass
    (thread,) = started
    thread.join(timeout=10)
    assert not thread.is_alive()
