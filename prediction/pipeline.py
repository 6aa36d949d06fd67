"""Reading ahead and writing behind, so that the model waits for neither; both hold a bounded number of bytes."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Generic, TypeVar

import torch

from media.video import Frame
from prediction.outputs import FrameResult
from prediction.stream import WindowPrediction
from prediction.writers import OutputWriter

MOST_BYTES = 64 * 2**20
"""Of frames that are read before they are needed, and of frames that wait to be written: 24 frames of 720p."""

MOST_BYTES_IN_WORK = 128 * 2**20
"""Of frames that are written at the same time, with their masks: two frames of 4K with four objects."""

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Items on their way from one thread to another, in order.

    Args:
        most_bytes: of items that wait; a single one may be larger.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = Condition()
        self._is_complete, self._is_given_up = False, False
        self._error: BaseException | None = None

    def put(self, item: Item, num_bytes: int) -> bool:
        """Adds an item once there is room; False where nothing is taken any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_given_up or not self._items or self._bytes + num_bytes <= self._most_bytes
            )
            if not self._is_given_up:
                self._items.append((item, num_bytes))
                self._bytes += num_bytes
                self._changed.notify_all()
            return not self._is_given_up

    def complete(self, error: BaseException | None = None) -> None:
        """Nothing more is put; `error` is raised to who takes what would have come next."""
        with self._changed:
            self._is_complete, self._error = True, error
            self._changed.notify_all()

    def give_up(self) -> None:
        """Nothing more is taken; what waits is dropped."""
        with self._changed:
            self._is_given_up = True
            self._items.clear()
            self._changed.notify_all()

    def items(self) -> Iterator[Item]:
        """Takes the items, and waits for them."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items) or self._is_complete or self._is_given_up)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item, num_bytes = self._items.popleft()
                self._bytes -= num_bytes
                self._changed.notify_all()
            yield item
            del item  # not kept while the next one is waited for


@contextmanager
def read_ahead(frames: Generator[Frame, None, None], *, most_bytes: int) -> Iterator[Iterator[Frame]]:
    """The same frames, read by another thread before they are asked for; an error comes in its place.

    Not for a camera: who asks it for a frame wants the newest.
    """
    queue: BoundedQueue[Frame] = BoundedQueue(most_bytes)

    def read() -> None:
        error: BaseException | None = None
        try:
            for frame in frames:
                if not queue.put(frame, frame.num_bytes):
                    break
                del frame  # not kept while the next one is decoded
            frames.close()
        except BaseException as raised:  # noqa: BLE001  # it belongs to who asks for the frame
            error = raised
        queue.complete(error)

    thread = Thread(target=read, name="read ahead")
    try:
        thread.start()  # in here: Ctrl-C while it starts must end it, too, or Python would wait for it for ever
        yield queue.items()
    finally:
        queue.give_up()
        _join(thread)


def _join(thread: Thread) -> None:
    if thread.ident is not None:  # it was started
        thread.join()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A frame that is to be written.

    Attributes:
        number: of the frame, in the order of the video.
        result: what was found in it.
        ready: when the GPU has it; None on a CPU.
    """

    number: int
    result: FrameResult
    ready: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class _Apart:
    """A frame of which only that is left to write which needs its turn.

    Attributes:
        waiting: the frame.
        areas: see `WriterBehind`.
        error: that has come.
    """

    waiting: _Waiting
    areas: list[int] = field(default_factory=list)
    error: BaseException | None = None


class WriterBehind:
    """Writes windows in other threads, see `write_behind`.

    Attributes:
        areas: of every frame that is written, for each object the pixels of its mask.
    """

    def __init__(self, writer: OutputWriter, *, device: torch.device, workers: int, most_bytes: int) -> None:
        self.areas: list[list[int]] = []
        self._writer, self._device, self._workers = writer, device, workers
        self._queue: BoundedQueue[_Waiting] = BoundedQueue(most_bytes)
        self._pool: list[Thread] = []
        self._in_order = Thread(target=self._write_in_order, name="write behind")
        self._changed = Condition()
        self._apart: dict[int, _Apart] = {}
        self._num_added, self._num_written = 0, 0
        self._is_over = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Before the first window."""
        self._in_order.start()

    def add(self, window: WindowPrediction) -> None:
        """Takes the new frames of a window, as soon as there is room for them.

        Raises:
            Exception: what has stopped the writing of earlier ones.
        """
        if not self._pool:
            self._start_pool(window)
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._device))
        for position, frame in enumerate(window.frames):
            waiting = _Waiting(self._num_added, FrameResult.of(window, position), ready)
            self._num_added += 1
            if not self._queue.put(waiting, frame.num_bytes):
                self.finish()

    def finish(self) -> None:
        """Waits until all is written.

        Raises:
            Exception: what has stopped it.
        """
        self._queue.complete()
        self._join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Drops what is not written."""
        self._queue.give_up()
        self._join()

    def _start_pool(self, window: WindowPrediction) -> None:
        """Starts as many threads as there may be frames of this size, with their masks, at the same time."""
        height, width = window.frames[0].size
        num_bytes = height * width * (3 + len(window.objects))
        for number in range(max(1, min(self._workers, MOST_BYTES_IN_WORK // num_bytes))):
            self._pool.append(Thread(target=self._write_apart, name=f"write behind {number}"))
            self._pool[-1].start()

    def _join(self) -> None:
        for thread in self._pool:
            _join(thread)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        _join(self._in_order)

    def _write_apart(self) -> None:
        try:
            with self._own_stream():
                for waiting in self._queue.items():
                    apart = self._try_apart(waiting)
                    with self._changed:
                        self._apart[waiting.number] = apart
                        self._changed.notify_all()
                        # no frame is begun while one of this thread waits for its turn, or they would pile up
                        while self._num_written <= waiting.number and self._error is None:
                            self._changed.wait()
                    del waiting, apart  # not kept while the next one is waited for
        except BaseException as raised:  # noqa: BLE001  # it belongs to who has the frames written
            self._fail(raised)

    def _try_apart(self, waiting: _Waiting) -> _Apart:
        """Writes what can be written at any time; an error waits for the turn of its frame, too.

        Then it is that of the first frame that has one, as if frames were written one by one.
        """
        try:
            if waiting.ready is not None:
                waiting.ready.wait()
            return _Apart(waiting, areas=self._writer.write_apart(waiting.result))
        except BaseException as raised:  # noqa: BLE001  # raised when the turn comes
            return _Apart(waiting, error=raised)

    def _write_in_order(self) -> None:
        """One thread for all frames: what x264 writes depends on the memory that its thread has used before."""
        try:
            with self._own_stream():
                while (apart := self._next_apart()) is not None:
                    if apart.error is not None:
                        raise apart.error
                    if apart.waiting.ready is not None:
                        apart.waiting.ready.wait()
                    self._writer.write_next(apart.waiting.result)
                    self.areas.append(apart.areas)
                    del apart  # not kept while the next one is waited for
                    with self._changed:
                        self._num_written += 1
                        self._changed.notify_all()
        except BaseException as raised:  # noqa: BLE001  # it belongs to who has the frames written
            self._fail(raised)

    def _next_apart(self) -> _Apart | None:
        """Waits for the next frame; None where there is no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_written in self._apart or self._is_over or self._error is not None)
            return None if self._error is not None else self._apart.pop(self._num_written, None)

    def _own_stream(self) -> AbstractContextManager[object]:
        """On a GPU each thread has a stream, or masks would wait for the next window."""
        if self._device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self._device))

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._queue.give_up()


@contextmanager
def write_behind(
    writer: OutputWriter, *, device: torch.device, workers: int, most_bytes: int
) -> Iterator[WriterBehind]:
    """Writes in other threads what is found in windows; when the block succeeds, all of it is written.

    Files are the same, and so is an error, whatever the number of threads.

    Args:
        writer: of the formats.
        device: on which the masks are drawn.
        workers: threads, one at least; fewer where frames with their masks are large.
        most_bytes: of frames that wait; where there are more, who adds them waits.
    """
    behind = WriterBehind(writer, device=device, workers=workers, most_bytes=most_bytes)
    try:
        behind.start()
        yield behind
        behind.finish()
    finally:
        behind.stop()
