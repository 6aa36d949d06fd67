"""Evaluation: run a benchmark, write its submission, score it where the masks are known."""

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from configs.schema import Config, DataConfig
from datasets.base import EvalVideo
from datasets.loaders import build_eval_dataset
from datasets.transforms import resize_frames
from engine.checkpoint import git_revision, versions
from engine.distributed import World, choose_device, gather, process_group, read_world, wait_for_all
from engine.files import atomic_path, claim_output, write_json, write_text
from engine.logging import setup_logging
from engine.progress import progress_bar
from engine.seeding import seed_everything
from metrics.region_boundary import SequenceMasks, frame_statistics, score_unsupervised
from metrics.report import EntryScore, EvalReport, score_sentence
from models.build import build_model
from models.inference import ClipAnswer, encode_sentences, segment_window, windows
from models.postprocess import merge_objects
from models.soc import SOC
from structures.masks_io import write_binary_png, write_index_png

logger = logging.getLogger(__name__)

Answers = Sequence[Sequence[ClipAnswer]]
"""Per sentence, the answers for the windows of the video, in order."""


class Benchmark(Protocol):
    """How a data set wants its masks: post-processing, files, and metric."""

    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """Turns answers into masks, writes them below `folder` if there is one, scores them if that is possible."""

    def submission_folders(self, folder: Path) -> list[Path]:
        """The folders that a submission packs."""


class OneMaskPerSentence:
    """Ref-YouTube-VOS: `Annotations/<video>/<expression>/<frame>.png` of 0 and 255; J and F of every sentence."""

    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """See `Benchmark`."""
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
                region, boundary = score_sentence(annotation.numpy(), masks)
                scores.append(
                    EntryScore(video.video, video.expressions[i], video.sentences[i], video.kinds[i], region, boundary)
                )
        return scores

    def submission_folders(self, folder: Path) -> list[Path]:
        """See `Benchmark`."""
        return [folder / "Annotations"]


class MergedObjectsPerAnnotator:
    """Ref-DAVIS17: the objects of each annotator's sentences merged into `<annotator>/<video>/<frame>.png`.

    Each annotator is scored by the unsupervised protocol of DAVIS-2017; the result is the mean over annotators.
    """

    def finish_video(self, video: EvalVideo, answers: Answers, folder: Path | None) -> list[EntryScore]:
        """See `Benchmark`."""
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


BENCHMARKS: dict[str, Benchmark] = {
    "ref_youtube_vos": OneMaskPerSentence(),
    "ref_davis17": MergedObjectsPerAnnotator(),
}
"""By the name of the data set in the configuration."""


def evaluate(config: Config, model: SOC | None = None) -> EvalReport:
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
    build_eval_dataset(config.data)  # a mistake in the data shows before the model is built
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


def evaluate_model(
    config: Config, model: SOC, *, folder: Path | None, world: World, device: torch.device
) -> EvalReport:
    """Runs a model over the evaluation videos, which are split over the processes.

    Args:
        config: sections `data` and `eval` are read.
        model: already on `device`.
        folder: where masks are written, if `eval.write_masks`; None writes nothing.
        world: the processes; each returns the same report.
        device: of this process.
    """
    dataset = build_eval_dataset(config.data)
    benchmark = BENCHMARKS[config.data.dataset]
    masks_folder = folder if config.eval.write_masks else None
    mine = range(world.rank, len(dataset), world.size)
    found: list[tuple[int, int, list[EntryScore]]] = []
    model.eval()
    with torch.no_grad(), progress_bar(total=len(mine), title="evaluate", world=world, unit="video") as bar:
        for index in mine:
            video = dataset[index]
            answers = list(zip(*_answer_windows(model, video, config.data, device), strict=True))
            found.append((index, len(video.sentences), benchmark.finish_video(video, answers, masks_folder)))
            bar.update()
    every = sorted((part for parts in gather(found, world) for part in parts), key=lambda part: part[0])
    return EvalReport(
        num_videos=len(dataset),
        num_sentences=sum(count for _, count, _ in every),
        entries=tuple(entry for _, _, entries in every for entry in entries),
        baselines=_read_baselines(config.data),
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


def _write_report(config: Config, report: EvalReport) -> None:
    folder = config.output_dir
    if config.eval.write_masks and config.eval.zip_submission:
        _zip(BENCHMARKS[config.data.dataset].submission_folders(folder), folder / "submission.zip")
    about = {
        "checkpoint": None if config.model.weights is None else str(config.model.weights),
        "git": git_revision(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / "report.json", report.as_dict() | about)
    lines = [
        f"# {config.data.dataset}, {config.data.eval_split}\n",
        f"{report.num_videos} videos, {report.num_sentences} sentences; checkpoint: {about['checkpoint']}; "
        f"code: {about['git']}. J, F and J&F in percent.\n",
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
