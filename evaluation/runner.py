"""Runs a protocol over the videos of a split so that the model does not wait.

Frames are decoded ahead, and masks are written and scored by other threads, while it works on the next clip.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from configs.schema import DataConfig
from datasets.records import VideoRecord
from engine.distributed import World, gather
from engine.progress import progress_bar
from evaluation.journal import Journal
from evaluation.protocol import Benchmark, EvalClip, VideoRun
from evaluation.report import Report
from loading.resized import read_resized, start_reading
from loading.videos import EvalDataset, EvalVideo
from models.inference import encode_sentences, segment_clip
from models.outputs import TextFeatures
from models.soc import SOC

READ, MODEL, WRITE = "waiting for frames", "model", "waiting for writing and scoring"


@dataclass
class Speed:
    """Where the time of one process went, and what it did in it.

    Attributes:
        seconds: by part of the work; what other threads do at the same time does not count.
        num_frames: that the model saw.
        num_masks: frames times sentences that it segmented.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((READ, MODEL, WRITE), 0.0))
    num_frames: int = 0
    num_masks: int = 0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Adds the time of the block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class SetResult:
    """The evaluation of one data set.

    Attributes:
        report: the scores.
        scores: of each video, in the order of the data.
        speed: of every process.
    """

    report: Report
    scores: Mapping[str, Sequence[Any]]
    speed: list[Speed]


def run_benchmark(
    model: SOC,
    dataset: EvalDataset,
    benchmark: Benchmark,
    *,
    folder: Path | None,
    journal: Journal | None,
    workers: int,
    world: World,
    device: torch.device,
) -> SetResult:
    """Runs a model over the videos, which are shared between the processes, longest first.

    Args:
        model: already on `device`; afterwards in evaluation mode.
        dataset: the videos.
        benchmark: their protocol.
        folder: where masks are written; None writes nothing.
        journal: videos that it has finished are left out; takes those that are finished here.
        workers: threads that write and score; 0: the model waits.
        world: the processes; each returns the same result.
        device: of this process.
    """
    finished = {} if journal is None else dict(journal.finished)
    own = share_work([video for video in dataset.videos if video.name not in finished], world)
    speed, scores = Speed(), {}
    model.eval()
    with torch.no_grad(), progress_bar(total=len(own), title="evaluate", world=world, unit="video") as bar:
        for name, video_scores in _finished_videos(
            model, own, benchmark, folder=folder, workers=workers, device=device, speed=speed
        ):
            if journal is not None:
                journal.add(name, video_scores)
            scores[name] = video_scores
            bar.update()
    for of_process in gather(scores, world):
        finished |= of_process
    in_order = {video.name: finished[video.name] for video in dataset.videos}
    report = benchmark.report(
        len(dataset),
        sum(len(video.expressions) for video in dataset.videos),
        [score for video_scores in in_order.values() for score in video_scores],
    )
    return SetResult(report, in_order, gather(speed, world))


def share_work(videos: Sequence[VideoRecord], world: World) -> list[VideoRecord]:
    """The videos of this process: the longest first, each to the process that has least to do so far.

    The visual encoder runs once for each frame, the rest of the model once for each frame and sentence; the two take
    about the same time.
    """

    def cost(video: VideoRecord) -> int:
        frames = video.frame_names if video.annotated is None else video.annotated
        return len(frames) * (1 + len(video.expressions))

    loads, own = [0] * world.size, []
    for video in sorted(videos, key=cost, reverse=True):
        process = loads.index(min(loads))
        loads[process] += cost(video)
        if process == world.rank:
            own.append(video)
    return own


@dataclass(frozen=True, slots=True)
class _Visit:
    """A clip of a video.

    Attributes:
        video: the video.
        run: its evaluation, the same for all of its clips.
        clip: what the model sees.
        is_last: whether it is the last one of the video.
    """

    video: EvalVideo
    run: VideoRun
    clip: EvalClip
    is_last: bool


def _finished_videos(
    model: SOC,
    videos: Sequence[VideoRecord],
    benchmark: Benchmark,
    *,
    folder: Path | None,
    workers: int,
    device: torch.device,
    speed: Speed,
) -> Iterator[tuple[str, Sequence[Any]]]:
    """Names of the videos and their scores, each once all of its masks are written and scored."""
    data = benchmark.data
    without_clips: list[str] = []

    def visits() -> Iterator[_Visit]:
        # One video after the other is opened, and nothing of it stays when it is finished.
        for record in videos:
            video = EvalVideo(record)
            run = benchmark.open(video, folder=folder)
            clips = run.clips()
            if not clips:
                without_clips.append(record.name)
            for number, clip in enumerate(clips, start=1):
                yield _Visit(video, run, clip, number == len(clips))

    futures: list[Future[Any]] = []
    ready: deque[tuple[_Visit, list[Future[Any]]]] = deque()
    failure: Exception | None = None
    with ExitStack() as stack:
        segment = _Segmenter(model, data, _Jobs(workers, stack), device=device, speed=speed)
        try:
            for visit, frames in _decoded_ahead(visits(), data, stack, speed):
                futures += segment(visit, frames)
                if visit.is_last:
                    ready.append((visit, futures))
                    futures = []
                while ready and all(future.done() for future in ready[0][1]):
                    yield _scored(*ready.popleft())
        except (ValueError, OSError, RuntimeError) as error:
            failure = error  # raised below, after the videos that are finished, so that these are noted
        while ready:
            with speed.time(WRITE):
                scored = _scored(*ready.popleft())
            yield scored
    if failure is not None:
        raise failure
    yield from ((name, []) for name in without_clips)


class _Segmenter:
    """Runs the model on one clip after the other; the sentences of a video are encoded once."""

    def __init__(self, model: SOC, data: DataConfig, jobs: "_Jobs", *, device: torch.device, speed: Speed) -> None:
        self._model, self._data, self._jobs, self._device, self._speed = model, data, jobs, device, speed
        self._sentences: list[str] = []
        self._texts: tuple[TextFeatures, ...] = ()

    def __call__(self, visit: _Visit, frames: UInt8[Tensor, "time 3 height width"]) -> list[Future[Any]]:
        """Starts the jobs of a clip as soon as the model has what they need."""
        clip, speed, device = visit.clip, self._speed, self._device
        futures = []
        with speed.time(MODEL):
            sentences = [expression.sentence for expression in clip.expressions]
            if sentences != self._sentences:
                group = self._data.eval_sentences
                self._texts = encode_sentences(self._model, sentences, group=group, device=device)
                self._sentences = sentences
            layers = segment_clip(
                self._model,
                frames,
                self._texts,
                device=device,
                annotated_frame=clip.annotated_frame,
                choice=visit.run.choice,
            )
            new = visit.run.jobs(clip, layers, (frames.shape[-2], frames.shape[-1]))
            job = next(new, None)
        while job is not None:
            with speed.time(WRITE):
                futures.append(self._jobs.start(job))
            with speed.time(MODEL):
                job = next(new, None)
        speed.num_frames += len(clip.positions)
        speed.num_masks += len(sentences) * (1 if clip.annotated_frame is not None else len(clip.positions))
        return futures


def _scored(visit: _Visit, futures: Sequence[Future[Any]]) -> tuple[str, Sequence[Any]]:
    return visit.video.record.name, visit.run.scores([future.result() for future in futures])


class _Jobs:
    """Threads with a bounded queue: masks of many sentences must not pile up in memory.

    Args:
        workers: threads; 0 runs every job at once.
        stack: ends the threads; jobs that were not started are dropped if there is an error.
    """

    def __init__(self, workers: int, stack: ExitStack) -> None:
        self._limit = 2 * workers
        self._running: deque[Future[Any]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if workers:
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="write")
            stack.callback(self._pool.shutdown, cancel_futures=True)

    def start(self, job: Callable[[], Any]) -> Future[Any]:
        """Starts a job, once there is room for it.

        Raises:
            Exception: what an earlier job has raised.
        """
        if self._pool is None:
            done: Future[Any] = Future()
            done.set_result(job())
            return done
        while len(self._running) >= self._limit:
            self._running.popleft().result()
        future = self._pool.submit(job)
        self._running.append(future)
        return future


def _decoded_ahead(
    visits: Iterator[_Visit], data: DataConfig, stack: ExitStack, speed: Speed
) -> Iterator[tuple[_Visit, UInt8[Tensor, "time 3 height width"]]]:
    """The clips with their frames, resized; `data.num_workers` threads read as many clips ahead."""
    sides = {"short_side": data.short_side, "long_side": data.long_side}
    if not data.num_workers:
        for visit in visits:
            with speed.time(READ):
                frames = read_resized(visit.video.record.frames, visit.clip.positions, **sides)
            yield visit, frames
        return
    pool = ThreadPoolExecutor(data.num_workers, thread_name_prefix="read")
    stack.callback(pool.shutdown, cancel_futures=True)

    def started(visit: _Visit) -> tuple[_Visit, Callable[[], UInt8[Tensor, "time 3 height width"]]]:
        return visit, start_reading(visit.video.record.frames, visit.clip.positions, pool=pool, **sides)

    ahead = deque(map(started, islice(visits, data.num_workers)))
    while ahead:
        visit, wait = ahead.popleft()
        with speed.time(READ):
            frames = wait()
        ahead.extend(map(started, islice(visits, 1)))
        yield visit, frames
