"""Reading ahead and writing behind, so that the model waits for neither; both hold a bounded number of bytes."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

import torch

from media.video import Frame
from prediction.outputs import FrameResult
from prediction.stream import WindowPrediction
from prediction.writers import OutputWriter

MOST_BYTES = 64 * 2**20
"""Of frames that are read before they are needed, and of frames that wait to be written: 24 frames of 720p."""

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


class WriterBehind:
    """Writes windows in another thread, see `write_behind`.

    Attributes:
        areas: of every frame that is written, for each object the pixels of its mask.
    """

    def __init__(self, writer: OutputWriter, *, device: torch.device, most_bytes: int) -> None:
        self.areas: list[list[int]] = []
        self._writer, self._device = writer, device
        self._queue: BoundedQueue[tuple[FrameResult, torch.cuda.Event | None]] = BoundedQueue(most_bytes)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._write, name="write behind")

    def start(self) -> None:
        """Before the first window."""
        self._thread.start()

    def add(self, window: WindowPrediction) -> None:
        """Takes the new frames of a window, as soon as there is room for them.

        Raises:
            Exception: what has stopped the writing of earlier ones.
        """
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._device))
        for position, frame in enumerate(window.frames):
            if not self._queue.put((FrameResult.of(window, position), ready), frame.num_bytes):
                self.finish()

    def finish(self) -> None:
        """Waits until all is written.

        Raises:
            Exception: what has stopped it.
        """
        self._queue.complete()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Drops what is not written."""
        self._queue.give_up()
        _join(self._thread)

    def _write(self) -> None:
        try:
            with ExitStack() as stack:
                if self._device.type == "cuda":  # a stream of its own, or masks would wait for the next window
                    stack.enter_context(torch.cuda.stream(torch.cuda.Stream(self._device)))
                for result, ready in self._queue.items():
                    if ready is not None:
                        ready.wait()
                    self.areas.append(self._writer.add_frame(result))
                    del result  # not kept while the next one is waited for
        except BaseException as raised:  # noqa: BLE001  # it belongs to who has the frames written
            self._error = raised
            self._queue.give_up()


@contextmanager
def write_behind(writer: OutputWriter, *, device: torch.device, most_bytes: int) -> Iterator[WriterBehind]:
    """Writes in another thread what is found in windows; when the block succeeds, all of it is written.

    Args:
        writer: of the formats.
        device: on which the masks are drawn.
        most_bytes: of frames that wait; where there are more, who adds them waits.
    """
    behind = WriterBehind(writer, device=device, most_bytes=most_bytes)
    try:
        behind.start()
        yield behind
        behind.finish()
    finally:
        behind.stop()
