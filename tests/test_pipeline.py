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
    """Writes nothing; notes what it gets, slowly, and more slowly where frames come earlier."""

    def __init__(self, *, fails_at=()):
        self.seen, self.apart, self.fails_at = [], [], fails_at

    def write_apart(self, result):
        number = result.frame.index
        self.apart.append(number)
        time.sleep(0.02 if number % 2 == 0 else 0.01)
        if number in self.fails_at:
            raise OSError(28, "No space left on device", f"masks/{number}.png")
        return [int(mask.sum()) for mask in result.masks]

    def write_next(self, result):
        self.seen.append(result.frame.index)


def writing(writer, *, workers=1, most_bytes=1000):
    return write_behind(writer, device=CPU, workers=workers, most_bytes=most_bytes)


def no_thread_is_left():
    return not any(thread.name.startswith("write behind") for thread in threading.enumerate())


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


@pytest.mark.parametrize("workers", [1, 4])
def test_windows_are_written_in_order_and_areas_are_those_of_their_masks(workers):
    writer = Collector()
    with writing(writer, workers=workers, most_bytes=130) as behind:
        behind.add(window(0, 1, 2))
        behind.add(window(3, 4))
    assert writer.seen == [0, 1, 2, 3, 4]
    assert behind.areas == [[5], [4], [3], [2], [1]]
    assert no_thread_is_left()


def test_what_is_written_behind_is_what_is_written_at_once(tmp_path):
    formats = outputs_of(["masks", "palette", "cutouts", "rle", "coco", "overlay", "contact_sheet"])
    written = []
    for workers in (0, 1, 4):
        folder = tmp_path / str(workers)
        with write_outputs(formats, folder=folder, video="v", objects=OBJECTS, fps=5.0) as writer:
            if not workers:
                areas = [writer.add(each) for each in windows()]
                frames = [list(of_frame) for part in areas for of_frame in zip(*part, strict=True)]
            else:
                with writing(writer, workers=workers, most_bytes=10_000_000) as behind:
                    for each in windows():
                        behind.add(each)
                assert behind.areas == frames
        written.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert len(written[0]) > 10
    assert written[0] == written[1] == written[2]


def test_as_many_frames_as_there_are_workers_are_written_at_the_same_time():
    together = threading.Barrier(3)

    class Meeting(Collector):
        def write_apart(self, result):
            together.wait(timeout=60)
            return super().write_apart(result)

    with writing(Meeting(), workers=3) as behind:
        behind.add(window(*range(6)))
    assert behind.areas == [[5], [4], [3], [2], [1], [0]]


@pytest.mark.parametrize(("largest", "threads"), [(1, 1), (2, 2), (9, 3)])
def test_frames_that_are_large_with_their_masks_are_written_by_fewer_threads(monkeypatch, largest, threads):
    monkeypatch.setattr("prediction.pipeline.MOST_BYTES_IN_WORK", largest * 4 * 5 * (3 + 1))
    names = set()

    class Named(Collector):
        def write_apart(self, result):
            names.add(threading.current_thread().name)
            return super().write_apart(result)

    with writing(Named(), workers=3) as behind:
        behind.add(window(*range(9)))
    assert len(names) == threads


@pytest.mark.parametrize("workers", [1, 4])
def test_a_slow_writer_holds_the_model_back(workers):
    goes_on, started = threading.Event(), []

    class Slow(Collector):
        def write_apart(self, result):
            started.append(result.frame.index)
            goes_on.wait(timeout=60)
            return super().write_apart(result)

    writer, added = Slow(), []
    with writing(writer, workers=workers, most_bytes=130) as behind:  # two frames of 60 bytes wait

        def add_all():
            for number in range(20):
                behind.add(window(number))
                added.append(number)

        model = threading.Thread(target=add_all)
        model.start()
        time.sleep(0.5)
        assert len(started) == workers
        assert len(added) == workers + 2
        goes_on.set()
        model.join(timeout=60)
        assert len(added) == 20
    assert writer.seen == list(range(20))


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


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_of_writing_is_raised_to_who_adds_or_finishes(workers):
    writer = Collector(fails_at=(4, 5, 6))  # 5 fails before 4 does
    with pytest.raises(OSError, match=r"No space left.*masks/4\.png"), writing(writer, workers=workers) as behind:
        behind.add(window(*range(8)))
    assert writer.seen == [0, 1, 2, 3], "what comes before the error is written"
    assert len(behind.areas) == 4
    assert no_thread_is_left()
    added = []

    def add_for_ever():
        with writing(Collector(fails_at=(1,)), workers=workers, most_bytes=1) as behind:
            while True:
                behind.add(window(len(added)))
                added.append(True)
                time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        add_for_ever()
    assert len(added) < 100, "it is noticed before the end"


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_of_what_is_written_in_order_ends_all_threads(workers):
    class Failing(Collector):
        def write_next(self, result):
            if result.frame.index == 2:
                raise OSError(28, "No space left on device", "overlay.mp4")
            super().write_next(result)

    writer = Failing()
    with pytest.raises(OSError, match=r"overlay\.mp4"), writing(writer, workers=workers) as behind:
        behind.add(window(*range(12)))
    assert writer.seen == [0, 1]
    assert no_thread_is_left()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_of_the_model_or_ctrl_c_what_waits_is_dropped(workers, error):
    writer = Collector()

    def predict():
        with writing(writer, workers=workers, most_bytes=10_000) as behind:
            behind.add(window(*range(50)))
            raise error

    with pytest.raises(error):
        predict()
    assert len(writer.seen) < 50
    assert writer.seen == sorted(writer.apart), "what was begun is finished, in order"
    assert no_thread_is_left()


@pytest.mark.parametrize("what", ["read ahead", "write behind"])
def test_ctrl_c_while_a_thread_starts_leaves_no_thread(monkeypatch, what):
    start, started = threading.Thread.start, []

    def interrupted(thread):
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    block = read_ahead(map_frames(50), most_bytes=130) if what == "read ahead" else writing(Collector(), workers=2)
    with pytest.raises(KeyboardInterrupt), block as behind:
        behind.add(window(0))
    (thread,) = started
    thread.join(timeout=10)
    assert not thread.is_alive()
