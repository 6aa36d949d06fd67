"""Evaluation: run a benchmark, write its submission, score it where the masks are known."""

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from engine.distributed import World, gather, process_group, read_world, wait_for_all
from engine.progress import progress_bar
from engine.provenance import provenance
from engine.seeding import seed_everything
from engine.startup import start_process
from evaluation.benchmarks import Benchmark, EvaluatedSet, evaluated_sets
from evaluation.report import Report
from evaluation.results import Results
from loading.videos import EvalDataset
from media.files import atomic_path, claim_output, write_json, write_text
from models.build import build_model_for_inference
from models.soc import SOC

logger = logging.getLogger(__name__)

REPORT_JSON, REPORT_MARKDOWN, SUBMISSION = "report.json", "report.md", "submission.zip"


def evaluate(config: Config) -> Results:
    """Evaluates the data sets of `data.evaluated`; writes a report of each, and the masks, to `output_dir`.

    With a single data set they lie in that folder, with several each has a folder of its own there.

    Raises:
        ValueError: if data, weights or output folder are not usable.
    """
    world = read_world()
    device = start_process(config, world)
    seed_everything(config.train.seed)
    sets = evaluated_sets(config.data)  # before the model is built
    if config.eval.zip_submission:
        if not config.eval.write_masks:
            raise ValueError("eval.zip_submission=true packs the masks that eval.write_masks=false does not write")
        for one in sets:
            one.benchmark.require_submission()
    reports = {}
    with process_group(world, device):
        if world.is_main:
            for one in sets:
                markers = (REPORT_JSON, *one.benchmark.outputs)
                claim_output(_folder_of(config, one), markers=markers, overwrite=config.overwrite)
        wait_for_all(world)
        model = build_model_for_inference(config).to(device)
        for one in sets:
            folder = _folder_of(config, one) if config.eval.write_masks else None
            report = evaluate_model(model, one.dataset, one.benchmark, folder=folder, world=world, device=device)
            reports[one.settings.eval_name] = report
            if world.is_main:
                _write_report(config, one, report)
    return Results(reports)


def _folder_of(config: Config, one: EvaluatedSet) -> Path:
    return config.output_dir / one.settings.eval_name if len(config.data.evaluated) > 1 else config.output_dir


def evaluate_model(
    model: SOC,
    dataset: EvalDataset,
    benchmark: Benchmark,
    *,
    folder: Path | None,
    world: World,
    device: torch.device,
) -> Report:
    """Runs a model over the evaluation videos, which are split over the processes.

    Args:
        model: already on `device`.
        dataset: the videos.
        benchmark: their protocol.
        folder: where masks are written; None writes nothing.
        world: the processes; each returns the same report.
        device: of this process.
    """
    own = range(world.rank, len(dataset), world.size)
    results: list[tuple[int, int, Sequence[Any]]] = []
    model.eval()
    with torch.no_grad(), progress_bar(total=len(own), title="evaluate", world=world, unit="video") as bar:
        for index in own:
            video = dataset[index]
            scores = benchmark.score_video(model, video, device=device, folder=folder)
            results.append((index, len(video.record.expressions), scores))
            bar.update()
    per_video = sorted((part for parts in gather(results, world) for part in parts), key=lambda part: part[0])
    return benchmark.report(
        len(dataset),
        sum(count for _, count, _ in per_video),
        [score for _, _, scores in per_video for score in scores],
    )


def _write_report(config: Config, one: EvaluatedSet, report: Report) -> None:
    folder, settings, benchmark = _folder_of(config, one), one.settings, one.benchmark
    if config.eval.write_masks:
        benchmark.write_results(report, folder)
        if config.eval.zip_submission:
            _zip([folder / name for name in benchmark.outputs], folder / SUBMISSION)
    origin = provenance(config)
    write_json(folder / REPORT_JSON, report.as_dict() | origin)
    lines = [
        f"# {settings.label}, {settings.eval_split}\n",
        f"{report.num_videos} videos, {report.num_sentences} sentences; checkpoint: {origin['checkpoint']}; "
        f"code: {origin['git']}. {report.legend}\n",
        report.as_table(),
    ]
    write_text(folder / REPORT_MARKDOWN, "\n".join(lines))
    logger.info("report in %s\n%s", folder / REPORT_MARKDOWN, report.as_table())


def _zip(folders: Sequence[Path], path: Path) -> None:
    """Packs folders as the benchmark servers want them: paths relative to the folder that holds them."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*.png")):
                archive.write(file, file.relative_to(folder.parent))
