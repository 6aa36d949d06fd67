"""Evaluation: run benchmarks, write their submissions, score them where the masks are known."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from configs.schema import Config
from engine.allocator import LARGEST_OF_EVALUATION
from engine.distributed import World, gather, process_group, read_world, wait_for_all
from engine.provenance import file_digest, provenance
from engine.run_folder import claimed_folder
from engine.seeding import seed_everything
from engine.startup import start_process
from evaluation.benchmarks import EvaluatedSet, evaluated_sets
from evaluation.journal import Journal, remove_journal
from evaluation.origin import origin_of
from evaluation.output_folder import SUBMISSION, claim, drop_if_changed, folder_of, forget_without_masks
from evaluation.results import (
    EXPRESSIONS_CSV,
    RESULTS_JSON,
    RESULTS_MARKDOWN,
    Results,
    describe_speed,
    peak_memory,
    write_rows,
)
from evaluation.runner import SetResult, run_benchmark
from evaluation.submission import pack, require_complete
from media.files import flush_disk, write_json, write_text
from models.build import build_model_for_inference, resolve_min_score
from models.soc import SOC
from structures.state_dicts import state_digest

logger = logging.getLogger(__name__)


def evaluate(config: Config) -> Results:
    """Evaluates the data sets of `data.evaluated`.

    Writes `results.json`, `results.md` and, for each data set, masks, `expressions.csv` and `videos.jsonl` to
    `output_dir`; with several data sets each has a folder of its own there. An evaluation that was interrupted goes on
    where it stopped, if nothing has changed on which its results depend.

    Raises:
        ValueError: if data, weights or output folder are not usable.
    """
    world = read_world()
    device = start_process(config, world, largest_kept=LARGEST_OF_EVALUATION, is_mixed=config.eval.amp != "off")
    seed_everything(config.train.seed)
    min_score = resolve_min_score(config)
    # before the model is built
    sets = evaluated_sets(config.data, runners_up=config.eval.runners_up, min_score=min_score)
    _require_submission(config, sets)
    results: dict[str, SetResult] = {}
    with ExitStack() as stack:
        stack.enter_context(process_group(world, device, peer_timeout=config.train.peer_timeout))
        if world.is_main:
            stack.enter_context(claimed_folder(config.output_dir))
            claim(config, sets)
        wait_for_all(world)
        model = build_model_for_inference(config).to(device)
        weights = state_digest(model.state_dict())
        start = time.perf_counter()
        for one in sets:
            folder = folder_of(config, one)
            origin = origin_of(config, one, model, weights=weights, min_score=min_score)
            if world.is_main:
                drop_if_changed(one, folder, origin)
            wait_for_all(world)
            with Journal(folder, origin, one.benchmark.score_type, world) as journal:
                if config.eval.write_masks:
                    forget_without_masks(one, folder, journal)
                    wait_for_all(world)  # before the first process writes masks, which the others would find
                if journal.finished:
                    logger.info("%s: %d videos are finished already", one.settings.eval_name, len(journal.finished))
                result = run_benchmark(
                    model,
                    one.dataset,
                    one.benchmark,
                    folder=folder if config.eval.write_masks else None,
                    journal=journal,
                    workers=config.eval.workers,
                    world=world,
                    device=device,
                )
                if world.is_main:
                    journal.write_videos(result.scores)
                    _write_set(config, one, result, folder)
            results[one.settings.eval_name] = result
        seconds, memory = time.perf_counter() - start, gather(peak_memory(device), world)
        if world.is_main:
            _write_results(config, sets, results, seconds=seconds, memory=memory, weights=weights)
    return Results({name: result.report for name, result in results.items()})


def validate_model(
    model: SOC, sets: Sequence[EvaluatedSet], *, workers: int, world: World, device: torch.device
) -> Results:
    """Scores a model that is being trained; writes nothing.

    Args:
        model: on `device`.
        sets: to validate on.
        workers: threads that score.
        world: the processes; each returns the same results.
        device: of this process.
    """
    return Results(
        {
            one.settings.eval_name: run_benchmark(
                model,
                one.dataset,
                one.benchmark,
                folder=None,
                journal=None,
                workers=workers,
                world=world,
                device=device,
            ).report
            for one in sets
        }
    )


def _require_submission(config: Config, sets: Sequence[EvaluatedSet]) -> None:
    """Raises ValueError if a submission is wanted that cannot be made."""
    if not config.eval.zip_submission:
        return
    for one in sets:
        one.benchmark.require_submission()
        if not config.eval.partial_submission:
            require_complete(config.data, one.settings, one.dataset)


# ---- what is written ----


def _write_set(config: Config, one: EvaluatedSet, result: SetResult, folder: Path) -> None:
    """The table of expressions, results that need all videos, and the submission."""
    write_rows(folder / EXPRESSIONS_CSV, result.report.rows())
    if config.eval.write_masks:
        one.benchmark.write_results(result.report, folder)
        if config.eval.zip_submission:
            masks = (mask for video in one.dataset for mask in one.benchmark.submission(video))
            number = pack(folder, folder / SUBMISSION, masks)
            logger.info("%d masks in %s", number, folder / SUBMISSION)


def _write_results(
    config: Config,
    sets: Sequence[EvaluatedSet],
    results: dict[str, SetResult],
    *,
    seconds: float,
    memory: list[dict[str, float]],
    weights: str,
) -> None:
    """`results.json` last: where it exists, everything does, on the disk, too."""
    reports = Results({name: result.report for name, result in results.items()})
    speeds = [speed for result in results.values() for speed in result.speed]
    speed = describe_speed(speeds, num_processes=len(memory), seconds=seconds)
    origin = provenance(config)
    checkpoint = config.model.weights
    origin["checkpoint"] = {
        "path": origin["checkpoint"],
        "sha256": None if checkpoint is None else file_digest(checkpoint),
        "weights_sha256": weights,
    }
    shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in speed["share_of_time"].items() if share)
    head = (
        f"# Evaluation\n\nCheckpoint: {origin['checkpoint']['path']}; code: {origin['git']}. "
        f"{seconds:.0f} s ({shares}).\n"
    )
    notes = {one.settings.eval_name: [one.dataset.note] if one.dataset.note else [] for one in sets}
    write_text(config.output_dir / RESULTS_MARKDOWN, head + "\n" + reports.as_markdown(notes))
    flush_disk(config.output_dir)
    write_json(
        config.output_dir / RESULTS_JSON,
        reports.as_dict() | {"speed": speed, "peak_memory": memory, "notes": notes} | origin,
    )
    for one in sets:
        remove_journal(folder_of(config, one))
    logger.info("%.0f s: %s", seconds, shares)
    logger.info("results in %s\n%s", config.output_dir / RESULTS_MARKDOWN, reports.as_markdown(notes))
