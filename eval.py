"""Evaluation: run a benchmark, write its submission, score it where the masks are known."""

import json
import logging
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from configs.schema import Config, DataConfig
from engine.checkpoint import git_revision, versions
from engine.distributed import World, choose_device, gather, process_group, read_world, wait_for_all
from engine.logging import setup_logging
from engine.progress import progress_bar
from engine.seeding import seed_everything
from evaluation.coco_ground_truth import annotated_samples, sample_id
from evaluation.frame_report import FrameReport, FrameScore, score_frame
from evaluation.report import EntryScore, EvalReport, Report, score_sentence
from loading.loaders import build_eval_dataset
from loading.sampling import centred_window
from loading.transforms import resize_frames
from loading.videos import EvalVideo
from media.files import atomic_path, claim_output, write_json, write_text
from media.mask_png import write_binary_png, write_index_png
from metrics.region_boundary import SequenceMasks, frame_statistics, score_unsupervised
from models.build import build_model
from models.inference import ClipAnswer, encode_sentences, segment_annotated_frame, segment_window, windows
from models.postprocess import merge_objects
from models.soc import SOC

logger = logging.getLogger(__name__)

Answers = Sequence[Sequence[ClipAnswer]]
"""Per sentence, the answers for the windows of the video, in order."""


class Benchmark(Protocol):
    """How a data set wants its answers: windows, post-processing, files, and metric."""

    def score_video(
        self, model: SOC, video: EvalVideo, data: DataConfig, device: torch.device, folder: Path | None
    ) -> list[Any]:
        """Runs the model, writes masks below `folder` if there is one; the scores, where there is an annotation."""

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[Any], data: DataConfig) -> Report:
        """Gathers the scores of all videos."""

    def write_results(self, report: Any, folder: Path) -> None:
        """Writes what is only known after all videos, where there is such a thing."""

    def submission_folders(self, folder: Path) -> list[Path]:
        """The folders that a submission packs."""


class WholeVideos(ABC):
    """What benchmarks of whole videos share: window by window, every frame is segmented."""

    def score_video(
        self, model: SOC, video: EvalVideo, data: DataConfig, device: torch.device, folder: Path | None
    ) -> list[EntryScore]:
        """See `Benchmark`."""
        return self.finish_video(video, list(zip(*_answer_windows(model, video, data, device), strict=True)), folder)

    @abstractmethod
    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """Turns answers into masks, writes them below `folder` if there is one, scores them if that is possible."""

    def report(self, num_videos: int, num_sentences: int, scores: Sequence[EntryScore], data: DataConfig) -> EvalReport:
        """See `Benchmark`."""
        return EvalReport(num_videos, num_sentences, tuple(scores), _read_baselines(data))

    def write_results(self, report: EvalReport, folder: Path) -> None:  # noqa: B027  # nothing is left to write
        """See `Benchmark`; the masks are there already."""


@dataclass(frozen=True)
class OneMaskPerSentence(WholeVideos):
    """Ref-YouTube-VOS: `Annotations/<video>/<expression>/<frame>.png` of 0 and 255; J and F of every sentence.

    Attributes:
        counts_overlap: report overall and mean IoU and the precision at thresholds, too, as for RefCOCO.
    """

    counts_overlap: bool = False

    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """See `WholeVideos`."""
        scores = []
        for i, windows_of_sentence in enumerate(answers):
            masks = torch.cat([answer.masks_at(video.original_size) for answer in windows_of_sentence]).numpy()
            if folder is not None:
                target = folder / "Annotations" / video.video / video.expressions[i]
                target.mkdir(parents=True, exist_ok=True)
                for name, mask in zip(video.frame_names, masks, strict=True):
                    write_binary_png(target / f"{name}.png", mask)
            annotation = None if video.object_ids is None else video.load_masks(video.object_ids[i])
            if annotation is not None:
                truth = annotation.numpy()
                overlap = (int((truth & masks).sum()), int((truth | masks).sum())) if self.counts_overlap else None
                scores.append(
                    EntryScore(
                        video.video,
                        video.expressions[i],
                        video.sentences[i],
                        video.kinds[i],
                        *score_sentence(truth, masks),
                        overlap,
                    )
                )
        return scores

    def submission_folders(self, folder: Path) -> list[Path]:
        """See `Benchmark`."""
        return [folder / "Annotations"]


class MergedObjectsPerAnnotator(WholeVideos):
    """Ref-DAVIS17: the objects of each annotator's sentences merged into `<annotator>/<video>/<frame>.png`.

    Each annotator is scored by the unsupervised protocol of DAVIS-2017; the result is the mean over annotators.
    """

    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """See `WholeVideos`."""
        scores = []
        for annotator in dict.fromkeys(video.kinds):
            mine = [answers[i] for i, kind in enumerate(video.kinds) if kind == annotator]
            index_maps = np.concatenate(
                [
                    merge_objects([answer.logits_at(video.original_size) for answer in window]).numpy()
                    for window in zip(*mine, strict=True)
                ]
            )
            if folder is not None:
                target = folder / annotator / video.video
                target.mkdir(parents=True, exist_ok=True)
                for name, index_map in zip(video.frame_names, index_maps, strict=True):
                    write_index_png(target / f"{name}.png", index_map)
            if video.object_maps is not None:
                sequence = SequenceMasks(video.video, video.object_maps.numpy(), index_maps)
                for number, (j, f) in enumerate(zip(*score_unsupervised(sequence), strict=True), start=1):
                    scores.append(
                        EntryScore(video.video, str(number), "", annotator, frame_statistics(j), frame_statistics(f))
                    )
        return scores

    def submission_folders(self, folder: Path) -> list[Path]:
        """See `Benchmark`."""
        return sorted(folder.glob("anno_*"))


@dataclass(frozen=True)
class AnnotatedFrames:
    """A2D- and JHMDB-Sentences: each annotated frame in the middle of its clip, all queries in the frame ranked.

    Attributes:
        names_instances: whether the names of samples end in the instance.
    """

    names_instances: bool

    def score_video(
        self, model: SOC, video: EvalVideo, data: DataConfig, device: torch.device, folder: Path | None
    ) -> list[FrameScore]:
        """See `Benchmark`; there are no masks to write, because `write_results` writes those of all queries."""
        record, scores = video.record, []
        if record.masks is None:
            raise ValueError(f"video {record.name} has no masks to score against")
        for position, expressions in annotated_samples(record):
            window = centred_window(position, len(record.frame_names), data.num_frames)
            frames = resize_frames(record.frames.read(window), short_side=data.short_side, long_side=data.long_side)
            candidates = segment_annotated_frame(
                model,
                frames,
                encode_sentences(model, [e.sentence for e in expressions], group=data.eval_sentences, device=device),
                annotated_frame=data.num_frames // 2,
                original=video.original_size,
                device=device,
            )
            for expression, found in zip(expressions, candidates, strict=True):
                annotation = record.masks.read((position,), size=video.original_size, objects=expression.object_ids)
                frame = record.frame_names[position]
                scores.append(
                    FrameScore(
                        sample_id(record.name, frame, expression.name if self.names_instances else None),
                        record.name,
                        frame,
                        expression.name,
                        expression.sentence,
                        *score_frame(annotation.any(dim=0)[0].numpy(), found.masks.numpy(), found.scores.numpy()),
                    )
                )
        return scores

    def report(
        self, num_videos: int, num_sentences: int, scores: Sequence[FrameScore], data: DataConfig
    ) -> FrameReport:
        """See `Benchmark`."""
        return FrameReport(num_videos, num_sentences, scores)

    def write_results(self, report: FrameReport, folder: Path) -> None:
        """`predictions.json`, for the ground truth that `tools.prepare_data` writes."""
        write_json(folder / PREDICTIONS, report.coco_results(), indent=None)

    def submission_folders(self, folder: Path) -> list[Path]:
        """See `Benchmark`."""
        raise ValueError("eval.zip_submission: this data set has no submission; its annotations are public")


PREDICTIONS = "predictions.json"

BENCHMARKS: dict[str, Benchmark] = {
    "ref_youtube_vos": OneMaskPerSentence(),
    "ref_davis17": MergedObjectsPerAnnotator(),
    "refcoco": OneMaskPerSentence(counts_overlap=True),
    "mevis": OneMaskPerSentence(),
    "a2d_sentences": AnnotatedFrames(names_instances=True),
    "jhmdb_sentences": AnnotatedFrames(names_instances=False),
}
"""By the name of the data set in the configuration."""


def benchmark_of(data: DataConfig) -> Benchmark:
    """The benchmark of the data set that is evaluated.

    Raises:
        ValueError: there is none.
    """
    name = data.for_evaluation().dataset
    if name not in BENCHMARKS:
        raise ValueError(f"data.dataset={name!r} cannot be evaluated yet; only {', '.join(BENCHMARKS)} can")
    return BENCHMARKS[name]


def evaluate(config: Config, model: SOC | None = None) -> Report:
    """Evaluates `data.eval_split`; writes `report.json`, `report.md` and the masks to `output_dir`.

    Args:
        config: names the weights in `model.weights`.
        model: evaluated instead of the configured one.

    Raises:
        ValueError: if data, weights or output folder are not usable.
    """
    world = read_world()
    setup_logging(world)
    device = choose_device(config.device, world)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    seed_everything(config.train.seed)
    folder = config.output_dir
    benchmark = benchmark_of(config.data)
    build_eval_dataset(config.data)  # a mistake in the data shows before the model is built
    if config.eval.zip_submission:
        benchmark.submission_folders(folder)  # raises where there is none
    with process_group(world, device):
        if world.is_main:
            claim_output(folder, markers=("report.json", "Annotations", "anno_0"), overwrite=config.overwrite)
        wait_for_all(world)
        if model is None:
            model = load_model_for_inference(config)
        report = evaluate_model(config, model.to(device), folder=folder, world=world, device=device)
        if world.is_main:
            _write_report(config, report)
    return report


def load_model_for_inference(config: Config) -> SOC:
    """The configured model with its weights; random ones, with a warning, where none are named."""
    if config.model.weights is None:
        logger.warning("model.weights is not set: the model has random weights and its masks mean nothing")
    return build_model(config.model, data_root=config.data.root)


def evaluate_model(config: Config, model: SOC, *, folder: Path | None, world: World, device: torch.device) -> Report:
    """Runs a model over the evaluation videos, which are split over the processes.

    Args:
        config: sections `data` and `eval` are read.
        model: already on `device`.
        folder: where masks are written, if `eval.write_masks`; None writes nothing.
        world: the processes; each returns the same report.
        device: of this process.
    """
    dataset = build_eval_dataset(config.data)
    benchmark, data = benchmark_of(config.data), config.data.for_evaluation()
    masks_folder = folder if config.eval.write_masks else None
    mine = range(world.rank, len(dataset), world.size)
    found: list[tuple[int, int, list[Any]]] = []
    model.eval()
    with torch.no_grad(), progress_bar(total=len(mine), title="evaluate", world=world, unit="video") as bar:
        for index in mine:
            video = dataset[index]
            scores = benchmark.score_video(model, video, data, device, masks_folder)
            found.append((index, len(video.sentences), scores))
            bar.update()
    every = sorted((part for parts in gather(found, world) for part in parts), key=lambda part: part[0])
    return benchmark.report(
        len(dataset),
        sum(count for _, count, _ in every),
        [score for _, _, scores in every for score in scores],
        data,
    )


def _answer_windows(
    model: SOC, video: EvalVideo, data: DataConfig, device: torch.device
) -> Iterator[tuple[ClipAnswer, ...]]:
    """Window by window, one answer per sentence; every sentence and every window is encoded once."""
    texts = encode_sentences(model, video.sentences, group=data.eval_sentences, device=device)
    for start, stop in windows(len(video.frame_names), data.eval_num_frames):
        frames = resize_frames(video.load_frames(start, stop), short_side=data.short_side, long_side=data.long_side)
        yield segment_window(model, frames, texts, device=device)


def _read_baselines(data: DataConfig) -> Mapping[str, Mapping[str, float]]:
    """What guessing reaches, where the generator of the data wrote it down for this split."""
    path = Path(data.root or ".") / "statistics.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(f"{data.eval_split}_j_of_guessing", {})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None


def _write_report(config: Config, report: Report) -> None:
    folder = config.output_dir
    benchmark, data = benchmark_of(config.data), config.data.for_evaluation()
    if config.eval.write_masks:
        benchmark.write_results(report, folder)
        if config.eval.zip_submission:
            _zip(benchmark.submission_folders(folder), folder / "submission.zip")
    about = {
        "checkpoint": None if config.model.weights is None else str(config.model.weights),
        "git": git_revision(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / "report.json", report.as_dict() | about)
    lines = [
        f"# {data.dataset}, {data.eval_split}\n",
        f"{report.num_videos} videos, {report.num_sentences} sentences; checkpoint: {about['checkpoint']}; "
        f"code: {about['git']}. {report.legend}\n",
        report.as_table(),
    ]
    write_text(folder / "report.md", "\n".join(lines))
    logger.info("report in %s\n%s", folder / "report.md", report.as_table())


def _zip(folders: Sequence[Path], path: Path) -> None:
    """Packs folders as the benchmark servers want them: paths relative to the folder that holds them."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*.png")):
                archive.write(file, file.relative_to(folder.parent))
