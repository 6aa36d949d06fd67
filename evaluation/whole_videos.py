"""Protocols of whole videos: every frame is segmented, window by window (Ref-YouTube-VOS, MeViS, Ref-DAVIS17)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from configs.schema import DataConfig
from datasets.records import Expression, VideoRecord
from evaluation.protocol import Benchmark, EvalClip, Job, VideoRun
from evaluation.report import EntryScore, EvalReport, FrameScore, RankedQuery, score_frames
from evaluation.submission import ExpectedMask
from loading.videos import EvalVideo
from media.files import output_path
from media.mask_png import write_binary_png, write_index_png
from metrics.region_boundary import SequenceMasks, assign_proposals, compare_all_pairs, count_objects
from models.answers import Answer, Answers, start_merged
from models.identity import QueryChoice
from models.inference import windows
from models.outputs import Predictions
from models.postprocess import ClipPrediction

Masks = Callable[[], Bool[Tensor, "time height width"]]
"""Waits for masks and gives them, on the CPU."""


@dataclass(frozen=True)
class WholeVideos(Benchmark[EntryScore]):
    """Shared by protocols of whole videos.

    Attributes:
        runners_up: queries next to the chosen one that are compared with the annotation, too.
        baselines: J of guessing, for generated data.
        min_score: below which a sentence is rejected in a window.
    """

    runners_up: int
    baselines: Mapping[str, Mapping[str, float]]
    min_score: float

    @property
    def score_type(self) -> type[EntryScore]:
        """See `Benchmark`."""
        return EntryScore

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[EntryScore]) -> EvalReport:
        """See `Benchmark`."""
        return EvalReport(num_videos, num_sentences, tuple(scores), self.baselines, self.min_score)


class WholeVideoRun(VideoRun[EntryScore]):
    """Shared by protocols of whole videos: windows, and the answers to sentences.

    Args:
        data: the section `data` of the configuration.
        video: to segment.
        folder: of the masks; None writes none.
        min_score: below which a sentence is rejected in a window.
        num_ranked: queries per sentence that are looked at, the best one included.
    """

    def __init__(
        self, data: DataConfig, video: EvalVideo, folder: Path | None, *, min_score: float, num_ranked: int = 1
    ) -> None:
        self.video, self.record, self.folder = video, video.record, folder
        self.overlap = data.window_overlap
        self.windows = scored_windows(data, self.record)
        choice = QueryChoice(overlap=self.overlap)
        self._answers = Answers(choice=choice, min_score=min_score, num_ranked=num_ranked)

    @property
    def choice(self) -> QueryChoice:
        """See `VideoRun`."""
        return self._answers.choice

    def clips(self) -> Sequence[EvalClip]:
        """See `VideoRun`: consecutive windows."""
        return [EvalClip(tuple(range(start, stop)), self.record.expressions) for start, stop in self.windows]

    def answers(self, clip: EvalClip, layers: Iterable[Predictions]) -> Iterator[tuple[Expression, Answer]]:
        """The answer to each sentence, without frames that the window before has shown already."""
        old, done = self.num_old_frames(clip), 0
        for layer in layers:
            for answer in self._answers.of(layer, first_sentence=done):
                yield clip.expressions[done], answer.frames(old)
                done += 1

    def num_old_frames(self, clip: EvalClip) -> int:
        """Frames at the start of a window that the one before has shown already."""
        return self.overlap if clip.positions[0] else 0

    def new_positions(self, clip: EvalClip) -> tuple[int, ...]:
        """The other frames."""
        return clip.positions[self.num_old_frames(clip) :]


def mask_path(folder: Path, record: VideoRecord, position: int, *folders: str) -> Path:
    """Where the mask of a frame is written: in folders named after videos and sentences, and never elsewhere."""
    return output_path(folder, *folders, f"{record.frame_names[position]}.png", what="mask")


def scored_windows(data: DataConfig, record: VideoRecord) -> list[tuple[int, int]]:
    """First frame and end of the windows that are run: all of them, or those with a frame that has masks.

    Windows that follow the queries of the one before need it, whether something is scored in it or not.
    """
    found = list(windows(len(record.frame_names), data.eval_num_frames, overlap=data.window_overlap))
    if record.annotated is None or data.window_overlap:
        return found
    return [(start, stop) for start, stop in found if not record.annotated.isdisjoint(range(start, stop))]


# ---- a mask per sentence ----


@dataclass(frozen=True)
class OneMaskPerSentence(WholeVideos):
    """`<folder>/<video>/<expression>/<frame>.png` of 0 and 255; J and F of every sentence.

    Attributes:
        zip_folder: what stands before `<video>` in a submission.
    """

    zip_folder: str

    def open(self, video: EvalVideo, *, folder: Path | None) -> VideoRun[EntryScore]:
        """See `Benchmark`."""
        masks = None if folder is None else output_path(folder, self.outputs[0], what="masks")
        # Without an annotation there is nothing to compare runners-up with.
        num_ranked = 1 if video.record.masks is None else 1 + self.runners_up
        return _SentenceRun(self.data, video, masks, min_score=self.min_score, num_ranked=num_ranked)

    def submission(self, video: EvalVideo) -> Iterator[ExpectedMask]:
        """See `Benchmark`."""
        record = video.record
        written = {p for start, stop in scored_windows(self.data, record) for p in range(start, stop)}
        frames = [record.frame_names[position] for position in sorted(written)]
        for expression in record.expressions:
            for frame in frames:
                name = f"{record.name}/{expression.name}/{frame}.png"
                path = f"{self.outputs[0]}/{name}"
                yield ExpectedMask(path, f"{self.zip_folder}/{name}".lstrip("/"), video.original_size, {0, 255})


@dataclass(frozen=True, slots=True)
class _SentencePart:
    """A sentence in one window.

    Attributes:
        expression: its name.
        frames: scores; empty where the annotation is secret.
        ranking: score of each ranked query, and sum of its J over the frames.
        num_frames: of the window that are scored.
        presence_score: see `EntryScore`.
    """

    expression: str
    frames: list[FrameScore]
    ranking: list[RankedQuery]
    num_frames: int
    presence_score: float | None = None


class _SentenceRun(WholeVideoRun):
    """See `OneMaskPerSentence`."""

    def jobs(self, clip: EvalClip, layers: Iterable[Predictions], size: tuple[int, int]) -> Iterator[Job]:
        """See `VideoRun`: one job per sentence."""
        positions = self.new_positions(clip)
        for expression, answer in self.answers(clip, layers):
            masks = answer.start_masks(self.video.original_size)
            drawn = masks if answer.is_found else answer.ranked[0].start_masks(self.video.original_size)
            # the runners-up for a sentence that means nothing are equally wrong
            others = [] if expression.is_absent else [prediction.to("cpu") for prediction in answer.ranked[1:]]
            yield partial(self._finish, expression, positions, masks, drawn, others, answer.scores)

    def _finish(
        self,
        expression: Expression,
        positions: tuple[int, ...],
        wait_for_masks: Masks,
        wait_for_drawn: Masks,
        runners_up: Sequence[ClipPrediction],
        scores: Sequence[float],
    ) -> _SentencePart:
        """Writes and scores the masks of one sentence in one window.

        Args:
            expression: the sentence.
            positions: of the frames.
            wait_for_masks: gives the answer.
            wait_for_drawn: gives the same without rejection.
            runners_up: the next best queries.
            scores: of the best query and those next to it.
        """
        record, masks = self.record, wait_for_masks().numpy()
        drawn = masks if wait_for_drawn is wait_for_masks else wait_for_drawn().numpy()
        if self.folder is not None:
            for position, mask in zip(positions, masks, strict=True):
                write_binary_png(mask_path(self.folder, record, position, record.name, expression.name), mask)
        # What means nothing in its video is nowhere; objects are known where they are labelled.
        is_partial = record.annotated is not None and not expression.is_absent
        scored = [i for i, p in enumerate(positions) if not is_partial or p in (record.annotated or ())]
        annotation = self.video.load_masks(expression, [positions[i] for i in scored]) if scored else None
        if annotation is None:
            return _SentencePart(expression.name, [], [], 0)
        sums = [_sum_of_region(annotation, drawn[scored])]
        sums += [_sum_of_region(annotation, _frame_by_frame(each, scored, annotation.shape[1:])) for each in runners_up]
        ranking = [RankedQuery(score, total) for score, total in zip(scores[: len(sums)], sums, strict=True)]
        presence_score = scores[0] if drawn.any() else None
        frames = score_frames(annotation, masks[scored])
        return _SentencePart(expression.name, frames, ranking, len(scored), presence_score)

    def scores(self, parts: Sequence[_SentencePart]) -> list[EntryScore]:
        """See `VideoRun`."""
        scores = []
        for expression in self.record.expressions:
            own = [part for part in parts if part.expression == expression.name and part.num_frames]
            frames = tuple(frame for part in own for frame in part.frames)
            if not frames:
                continue
            ranking = [
                RankedQuery(
                    sum(rank.score * part.num_frames for rank, part in zip(ranks, own, strict=True)) / len(frames),
                    sum(rank.region for rank in ranks) / len(frames),
                )
                for ranks in zip(*(part.ranking for part in own), strict=True)
            ]
            scores.append(
                EntryScore(
                    self.record.name,
                    expression.name,
                    expression.sentence,
                    expression.kind,
                    frames,
                    tuple(ranking),
                    len(self.record.object_ids),
                    is_absent=expression.is_absent,
                    presence_score=max((p.presence_score for p in own if p.presence_score is not None), default=None),
                )
            )
        return scores


def _frame_by_frame(
    prediction: ClipPrediction, frames: Sequence[int], size: tuple[int, int]
) -> Iterator[Bool[np.ndarray, "height width"]]:
    """The masks of a prediction in some frames, one after the other, so that only one is held."""
    for frame in frames:
        yield prediction.frames(frame, frame + 1).masks_at(size)[0].numpy()


def _sum_of_region(
    annotation: Bool[np.ndarray, "time height width"], masks: Iterable[Bool[np.ndarray, "height width"]]
) -> float:
    """Sum of J over the frames; 1 where both masks are empty."""
    total = 0.0
    for true, mask in zip(annotation, masks, strict=True):
        union = np.count_nonzero(true | mask)
        total += float(np.count_nonzero(true & mask) / union) if union else 1.0
    return total


# ---- merged objects ----


@dataclass(frozen=True)
class MergedObjectsPerAnnotator(WholeVideos):
    """The objects of each annotator's sentences merged into `<annotator>/<video>/<frame>.png`.

    Each annotator is scored by the unsupervised protocol of DAVIS-2017; the result is the mean over annotators.
    """

    def open(self, video: EvalVideo, *, folder: Path | None) -> VideoRun[EntryScore]:
        """See `Benchmark`."""
        return _MergedRun(self.data, video, folder, min_score=self.min_score)

    def submission(self, video: EvalVideo) -> Iterator[ExpectedMask]:
        """See `Benchmark`: nobody runs a server, but the masks can be passed on."""
        for annotator, expressions in _by_annotator(video.record.expressions):
            for frame in video.record.frame_names:
                name = f"{annotator}/{video.record.name}/{frame}.png"
                yield ExpectedMask(name, name, video.original_size, set(range(len(expressions) + 1)))


@dataclass(frozen=True, slots=True)
class _MergedPart:
    """The sentences of one annotator in one window.

    Attributes:
        annotator: slot of the sentences.
        num_predicted: greatest predicted id.
        region: J of every predicted object with every annotated one, (proposal, object, time); None without
            annotation.
        boundary: F, likewise.
    """

    annotator: str
    num_predicted: int
    region: np.ndarray | None
    boundary: np.ndarray | None


class _MergedRun(WholeVideoRun):
    """See `MergedObjectsPerAnnotator`."""

    def jobs(self, clip: EvalClip, layers: Iterable[Predictions], size: tuple[int, int]) -> Iterator[Job]:
        """See `VideoRun`: one job per annotator."""
        positions, original = self.new_positions(clip), self.video.original_size
        answers = {expression.name: answer for expression, answer in self.answers(clip, layers)}
        for annotator, expressions in _by_annotator(self.record.expressions):
            index_maps = start_merged([answers[e.name] for e in expressions], original)
            yield partial(self._finish, annotator, len(expressions), positions, index_maps)

    def _finish(
        self,
        annotator: str,
        num_expressions: int,
        positions: tuple[int, ...],
        wait_for_maps: Callable[[], UInt8[Tensor, "time height width"]],
    ) -> _MergedPart:
        """Writes and compares the objects of one annotator in one window."""
        record, index_maps = self.record, wait_for_maps().numpy()
        if self.folder is not None:
            for position, index_map in zip(positions, index_maps, strict=True):
                write_index_png(mask_path(self.folder, record, position, annotator, record.name), index_map)
        num_predicted = int(index_maps.max())
        annotation = self.video.load_object_maps(positions)
        if annotation is None:
            return _MergedPart(annotator, num_predicted, None, None)
        pairs = compare_all_pairs(
            SequenceMasks(record.name, annotation, index_maps),
            num_objects=self._num_objects,
            num_proposals=max(num_expressions, self._num_objects),
        )
        return _MergedPart(annotator, num_predicted, *pairs)

    @cached_property
    def _num_objects(self) -> int:
        first = self.video.load_object_maps((0,))
        assert first is not None  # only asked for where there is an annotation
        return count_objects(first[0])

    def scores(self, parts: Sequence[_MergedPart]) -> list[EntryScore]:
        """See `VideoRun`."""
        scores: list[EntryScore] = []
        for annotator, _ in _by_annotator(self.record.expressions):
            own = [part for part in parts if part.annotator == annotator]
            regions = [part.region for part in own if part.region is not None]
            boundaries = [part.boundary for part in own if part.boundary is not None]
            if not regions:
                continue
            region, boundary = assign_proposals(
                np.concatenate(regions, axis=2),
                np.concatenate(boundaries, axis=2),
                num_predicted=max(part.num_predicted for part in own),
                name=self.record.name,
            )
            for number, (j, f) in enumerate(zip(region, boundary, strict=True), start=1):
                frames = tuple(FrameScore(*pair) for pair in zip(j.tolist(), f.tolist(), strict=True))
                scores.append(EntryScore(self.record.name, str(number), "", annotator, frames, num_objects=len(region)))
        return scores


def _by_annotator(expressions: Sequence[Expression]) -> Iterator[tuple[str, list[Expression]]]:
    """The sentences of each annotator, both in order of first mention."""
    order = list(dict.fromkeys(expression.kind for expression in expressions))
    for annotator, own in groupby(sorted(expressions, key=lambda e: order.index(e.kind)), key=lambda e: e.kind):
        yield annotator, list(own)
