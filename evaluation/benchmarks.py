"""The protocols of evaluation: which frames the model sees, what is written, and what is scored.

The protocol of a data set is defined in its module (`datasets/<name>.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool

from configs.schema import DataConfig
from datasets.definition import AnnotatedFrames, DatasetSettings, MaskPerSentence, MergedObjects, RankedImages
from datasets.generated import j_of_guessing
from datasets.records import Expression
from datasets.table import definition_of
from evaluation.coco_ground_truth import annotated_samples, sample_id
from evaluation.ranked_report import RankedReport, RankedScore, score_boxes, score_masks
from evaluation.report import EntryScore, EvalReport, Report, score_sentence
from loading.clips import as_clip
from loading.loaders import build_eval_dataset, split_request
from loading.sampling import centred_window
from loading.transforms import resize_frames
from loading.videos import EvalDataset, EvalVideo
from media.files import write_json
from media.mask_png import write_binary_png, write_index_png
from metrics.region_boundary import SequenceMasks, frame_statistics, score_unsupervised
from models.inference import encode_sentences, segment_clip, windows
from models.postprocess import ClipPrediction, all_queries, best_queries, merge_objects, ranked_detections
from models.soc import SOC

PREDICTIONS_FILE = "predictions.json"

Score = TypeVar("Score")
WindowPredictions = Sequence[ClipPrediction]
"""The predictions for one sentence, window by window of a video."""


@dataclass(frozen=True)
class Benchmark(ABC, Generic[Score]):
    """A protocol of evaluation, applied to one of the configured data sets.

    Attributes:
        data: the section `data` of the configuration.
        outputs: names of the folders, or of the file, that it writes below the output folder.
    """

    data: DataConfig
    outputs: tuple[str, ...]

    @abstractmethod
    def score_video(
        self, model: SOC, video: EvalVideo, *, device: torch.device, folder: Path | None
    ) -> Sequence[Score]:
        """Runs the model, writes masks below `folder` unless it is None; returns scores if there are annotations."""

    @abstractmethod
    def report(self, num_videos: int, num_sentences: int, scores: Sequence[Score]) -> Report:
        """The report on the scores of all videos."""

    def write_results(self, report: Any, folder: Path) -> None:  # most protocols write nothing here
        """Writes results that need all videos."""

    def require_submission(self) -> None:
        """Raises ValueError if there is no server for the results."""


@dataclass(frozen=True)
class WholeVideos(Benchmark[EntryScore]):
    """Shared by protocols of whole videos: every frame is segmented, window by window.

    Attributes:
        baselines: J of guessing, for generated data.
    """

    baselines: Mapping[str, Mapping[str, float]]

    def score_video(
        self, model: SOC, video: EvalVideo, *, device: torch.device, folder: Path | None
    ) -> list[EntryScore]:
        """See `Benchmark`."""
        return self.finish_video(video, list(zip(*self._predict(model, video, device), strict=True)), folder)

    @abstractmethod
    def finish_video(
        self, video: EvalVideo, predictions: Sequence[WindowPredictions], folder: Path | None
    ) -> list[EntryScore]:
        """Makes masks, writes them below `folder`, unless it is None, and scores them, if there are annotations.

        Args:
            video: that was segmented.
            predictions: one entry per expression of the video.
            folder: of the output.
        """

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[EntryScore]) -> EvalReport:
        """See `Benchmark`."""
        return EvalReport(num_videos, num_sentences, tuple(scores), self.baselines)

    def _predict(self, model: SOC, video: EvalVideo, device: torch.device) -> Iterator[tuple[ClipPrediction, ...]]:
        """Window by window, one prediction per sentence; every sentence and every window is encoded once."""
        data, record = self.data, video.record
        texts = encode_sentences(
            model, [e.sentence for e in record.expressions], group=data.eval_sentences, device=device
        )
        for start, stop in windows(len(record.frame_names), data.eval_num_frames):
            frames = resize_frames(video.load_frames(start, stop), short_side=data.short_side, long_side=data.long_side)
            layers = segment_clip(model, frames, texts, device=device)
            yield tuple(prediction for layer in layers for prediction in best_queries(layer))


@dataclass(frozen=True)
class OneMaskPerSentence(WholeVideos):
    """`<folder>/<video>/<expression>/<frame>.png` of 0 and 255; J and F of every sentence."""

    def finish_video(
        self, video: EvalVideo, predictions: Sequence[WindowPredictions], folder: Path | None
    ) -> list[EntryScore]:
        """See `WholeVideos`."""
        record, scores = video.record, []
        for expression, of_windows in zip(record.expressions, predictions, strict=True):
            masks = torch.cat([prediction.masks_at(video.original_size) for prediction in of_windows]).numpy()
            if folder is not None:
                target = folder / self.outputs[0] / record.name / expression.name
                for name, mask in zip(record.frame_names, masks, strict=True):
                    write_binary_png(target / f"{name}.png", mask)
            annotation = video.load_masks(expression)
            if annotation is not None:
                region, boundary = score_sentence(annotation, masks)
                scores.append(
                    EntryScore(record.name, expression.name, expression.sentence, expression.kind, region, boundary)
                )
        return scores


@dataclass(frozen=True)
class MergedObjectsPerAnnotator(WholeVideos):
    """The objects of each annotator's sentences merged into `<annotator>/<video>/<frame>.png`.

    Each annotator is scored by the unsupervised protocol of DAVIS-2017; the result is the mean over annotators.
    """

    def finish_video(
        self, video: EvalVideo, predictions: Sequence[WindowPredictions], folder: Path | None
    ) -> list[EntryScore]:
        """See `WholeVideos`."""
        record, scores = video.record, []
        for annotator in dict.fromkeys(expression.kind for expression in record.expressions):
            of_annotator = [p for e, p in zip(record.expressions, predictions, strict=True) if e.kind == annotator]
            index_maps = np.concatenate(
                [
                    merge_objects([prediction.logits_at(video.original_size) for prediction in window]).numpy()
                    for window in zip(*of_annotator, strict=True)
                ]
            )
            if folder is not None:
                for name, index_map in zip(record.frame_names, index_maps, strict=True):
                    write_index_png(folder / annotator / record.name / f"{name}.png", index_map)
            if video.object_maps is not None:
                sequence = SequenceMasks(record.name, video.object_maps, index_maps)
                for number, (j, f) in enumerate(zip(*score_unsupervised(sequence), strict=True), start=1):
                    scores.append(
                        EntryScore(record.name, str(number), "", annotator, frame_statistics(j), frame_statistics(f))
                    )
        return scores


@dataclass(frozen=True)
class RankedFrames(Benchmark[RankedScore]):
    """Shared by protocols that rank all queries in single frames."""

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[RankedScore]) -> RankedReport:
        """See `Benchmark`."""
        return RankedReport(num_videos, num_sentences, scores)

    def write_results(self, report: RankedReport, folder: Path) -> None:
        """The masks of all queries in the result format of COCO."""
        write_json(folder / PREDICTIONS_FILE, report.coco_results(), indent=None)

    def require_submission(self) -> None:
        """See `Benchmark`."""
        raise ValueError("eval.zip_submission: this data set has no submission; its annotations are public")


@dataclass(frozen=True)
class FramesInClips(RankedFrames):
    """A2D- and JHMDB-Sentences: each annotated frame in the middle of its clip.

    Attributes:
        names_instances: whether identifiers of samples end in the instance.
    """

    names_instances: bool

    def score_video(
        self, model: SOC, video: EvalVideo, *, device: torch.device, folder: Path | None
    ) -> list[RankedScore]:
        """See `Benchmark`; nothing is written here: `write_results` writes the masks of all queries at the end."""
        data, record, scores = self.data, video.record, []
        for position, expressions in annotated_samples(record):
            window = centred_window(position, len(record.frame_names), data.num_frames)
            frames = resize_frames(
                as_clip(record.frames.read(window)), short_side=data.short_side, long_side=data.long_side
            )
            texts = encode_sentences(model, [e.sentence for e in expressions], group=data.eval_sentences, device=device)
            size, middle = (frames.shape[-2], frames.shape[-1]), data.num_frames // 2
            candidates = [
                candidate
                for layer in segment_clip(model, frames, texts, device=device, annotated_frame=middle)
                for candidate in all_queries(
                    layer,
                    padded=size,
                    unpadded=[size] * len(layer.mask_logits),
                    original=[video.original_size] * len(layer.mask_logits),
                )
            ]
            for expression, candidate in zip(expressions, candidates, strict=True):
                frame = record.frame_names[position]
                scores.append(
                    RankedScore(
                        sample_id(record.name, frame, expression.name if self.names_instances else None),
                        record.name,
                        frame,
                        expression.name,
                        expression.sentence,
                        score_masks(
                            _annotation(video, expression, position),
                            candidate.masks.numpy(),
                            candidate.scores.numpy(),
                        ),
                    )
                )
        return scores


@dataclass(frozen=True)
class SingleImages(RankedFrames):
    """RefCOCO/+/g: every image is a clip of one frame; masks and boxes are compared."""

    def score_video(
        self, model: SOC, video: EvalVideo, *, device: torch.device, folder: Path | None
    ) -> list[RankedScore]:
        """See `Benchmark`; `write_results` writes the masks and boxes of all queries."""
        data, record, scores = self.data, video.record, []
        sentences = [expression.sentence for expression in record.expressions]
        texts = encode_sentences(model, sentences, group=data.eval_sentences, device=device)
        image = resize_frames(video.load_frames(), short_side=data.short_side, long_side=data.long_side)
        size = (image.shape[-2], image.shape[-1])
        detections = [
            detection
            for layer in segment_clip(model, image, texts, device=device)
            for detection in ranked_detections(
                layer,
                unpadded=[size] * len(layer.mask_logits),
                original=[video.original_size] * len(layer.mask_logits),
            )
        ]
        for expression, detection in zip(record.expressions, detections, strict=True):
            annotation = _annotation(video, expression, 0)
            box = np.array(record.boxes_xywh_px[expression.object_ids[0]], dtype=np.float64)
            ranking = detection.scores.numpy()
            boxes = score_boxes(box, float(np.count_nonzero(annotation)), detection.boxes_xyxy_px.numpy(), ranking)
            masks = score_masks(annotation, detection.masks.numpy(), ranking)
            frame, sample = record.frame_names[0], f"{record.name}_{expression.name}"
            scores.append(RankedScore(sample, record.name, frame, expression.name, expression.sentence, masks, boxes))
        return scores


@dataclass(frozen=True, slots=True)
class EvaluatedSet:
    """A data set that is evaluated.

    Attributes:
        settings: its entry of the configuration.
        dataset: its videos.
        benchmark: its protocol.
    """

    settings: DatasetSettings
    dataset: EvalDataset
    benchmark: Benchmark


def evaluated_sets(data: DataConfig) -> tuple[EvaluatedSet, ...]:
    """The data sets of `data.evaluated`.

    Raises:
        ValueError: one of them cannot be read.
    """
    return tuple(
        EvaluatedSet(settings, build_eval_dataset(data, settings), benchmark_for(data, settings))
        for settings in data.evaluated
    )


def benchmark_for(data: DataConfig, settings: DatasetSettings) -> Benchmark:
    """The protocol of one of the evaluated data sets.

    Raises:
        ValueError: `data.root` is not set, or a file there is damaged.
    """
    protocol = definition_of(settings).protocol
    if isinstance(protocol, AnnotatedFrames):
        return FramesInClips(data, (PREDICTIONS_FILE,), protocol.names_instances)
    if isinstance(protocol, RankedImages):
        return SingleImages(data, (PREDICTIONS_FILE,))
    request = split_request(data, settings, settings.eval_split, for_training=False)
    baselines = j_of_guessing(request.root, settings.eval_split)
    if isinstance(protocol, MergedObjects):
        annotators = tuple(f"anno_{k}" for k in range(protocol.num_annotators))
        return MergedObjectsPerAnnotator(data, annotators, baselines)
    assert isinstance(protocol, MaskPerSentence)  # the only other `EvalProtocol`
    return OneMaskPerSentence(data, (protocol.folder,), baselines)


def _annotation(video: EvalVideo, expression: Expression, position: int) -> Bool[np.ndarray, "height width"]:
    """The mask of an expression in one frame.

    Raises:
        ValueError: there is none.
    """
    masks = video.load_masks(expression, (position,))
    if masks is None:
        raise ValueError(f"video {video.record.name} has no masks to score against")
    return masks[0]
