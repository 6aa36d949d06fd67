"""Evaluation: run benchmarks, write their submissions, score them where the masks are known."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from engine.distributed import World, gather, process_group, read_world, wait_for_all
from engine.provenance import code_digest, file_digest, provenance, state_digest
from engine.seeding import seed_everything
from engine.startup import start_process
from evaluation.benchmarks import EvaluatedSet, all_outputs, evaluated_sets
from evaluation.journal import UNFINISHED, VIDEOS, Journal, changes, is_unfinished, remove_journal
from evaluation.results import (
    ANALYSIS_PAGE,
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
from media.files import claim_output, write_json, write_text
from models.build import build_model_for_inference
from models.soc import SOC

logger = logging.getLogger(__name__)

SUBMISSION = "submission.zip"

RESULT_SECTIONS = ("model", "data", "eval", "device")
"""Sections of the configuration on which results depend."""

WITHOUT_EFFECT = {
    "model": {"weights"},  # their content counts
    "data": {
        *("cache", "num_workers", "prefetch", "pin_memory"),
        *("batch_size", "flip_probability", "frame_sampling", "supervised_frames", "sentences_per_clip", "kinds"),
        *("on_error", "max_skipped_share"),
        *("sets", "eval_sets", "max_eval_videos"),  # the entry that is evaluated and its videos count
    },
    "eval": {"workers", "zip_submission", "partial_submission"},
}
"""Settings in these sections that change no result."""


def evaluate(config: Config) -> Results:
    """Evaluates the data sets of `data.evaluated`.

    Writes `results.json`, `results.md` and, for each data set, masks, `expressions.csv` and `videos.jsonl` to
    `output_dir`; with several data sets each has a folder of its own there. An evaluation that was interrupted goes on
    where it stopped, if nothing has changed on which its results depend.

    Raises:
        ValueError: if data, weights or output folder are not usable.
    """
    world = read_world()
    device = start_process(config, world)
    seed_everything(config.train.seed)
    sets = evaluated_sets(config.data, runners_up=config.eval.runners_up)  # before the model is built
    _require_submission(config, sets)
    results: dict[str, SetResult] = {}
    with process_group(world, device):
        if world.is_main:
            _claim(config, sets)
        wait_for_all(world)
        model = build_model_for_inference(config).to(device)
        weights = state_digest(model)
        start = time.perf_counter()
        for one in sets:
            folder = _folder_of(config, one)
            origin = _origin(config, one, model, weights)
            if world.is_main:
                _drop_if_changed(one, folder, origin)
            wait_for_all(world)
            with Journal(folder, origin, one.benchmark.score_type, world) as journal:
                if config.eval.write_masks:
                    _forget_without_masks(one, folder, journal)
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


# ---- the output folder ----


def _folder_of(config: Config, one: EvaluatedSet) -> Path:
    return config.output_dir / one.settings.eval_name if len(config.data.evaluated) > 1 else config.output_dir


def _require_submission(config: Config, sets: Sequence[EvaluatedSet]) -> None:
    """Raises ValueError if a submission is wanted that cannot be made."""
    if not config.eval.zip_submission:
        return
    if not config.eval.write_masks:
        raise ValueError("eval.zip_submission=true packs the masks that eval.write_masks=false does not write")
    for one in sets:
        one.benchmark.require_submission()
        if not config.eval.partial_submission:
            require_complete(config.data, one.settings, one.dataset)


def _claim(config: Config, sets: Sequence[EvaluatedSet]) -> None:
    """Makes the output folders; takes over those of an interrupted evaluation, and with `overwrite` any.

    What an earlier run has written goes first, so that nothing of it ever lies beside something new. An interrupted
    evaluation goes on with `overwrite`, too: whoever starts the same command again wants the rest of it.
    """
    folders = {_folder_of(config, one): one.benchmark.outputs for one in sets}
    if any(map(is_unfinished, folders)) and not (config.output_dir / RESULTS_JSON).exists():
        logger.info("going on with the evaluation in %s", config.output_dir)
        return
    claim_output(config.output_dir, markers=(RESULTS_JSON, RESULTS_MARKDOWN), overwrite=config.overwrite)
    for folder, outputs in folders.items():
        claim_output(folder, markers=(*outputs, SUBMISSION, UNFINISHED), overwrite=config.overwrite)
    earlier = dict.fromkeys([*_folders_of_earlier(config.output_dir), *folders])
    for folder in earlier:
        _require_no_data(folder)
    for folder in earlier:
        _remove_outputs(folder)
    for name in (ANALYSIS_PAGE, RESULTS_MARKDOWN, RESULTS_JSON):  # the last one says where the rest lies
        (config.output_dir / name).unlink(missing_ok=True)


def _folders_of_earlier(output_dir: Path) -> list[Path]:
    """The folders of the data sets of the finished evaluation that lies in an output folder, if one does."""
    try:
        names = json.loads((output_dir / RESULTS_JSON).read_text(encoding="utf-8"))["sets"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # none, or the file of something else
    return [output_dir / name for name in names] if len(names) > 1 else [output_dir]


def _require_no_data(folder: Path) -> None:
    """Raises ValueError if what is about to be removed belongs to a data set: masks are called alike there.

    A folder of data is told by the folders beside the masks, unless an evaluation has left its traces there.
    """
    masks = [name for name in all_outputs() if (folder / name).is_dir()]
    if not masks or any((folder / name).exists() for name in (RESULTS_JSON, VIDEOS, UNFINISHED)):
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in masks)
    if foreign:
        raise ValueError(
            f"output_dir: {folder} holds {', '.join(foreign[:3])} beside {masks[0]}, and no results: it looks like a "
            "folder of data, in which nothing is overwritten; name another output_dir"
        )


def _drop_if_changed(one: EvaluatedSet, folder: Path, origin: dict[str, Any]) -> None:
    """Removes an interrupted evaluation whose results would be others now."""
    if is_unfinished(folder) and (changed := changes(folder, origin)):
        logger.warning(
            "%s: the interrupted evaluation in %s is begun anew, because something changed: %s",
            one.settings.eval_name,
            folder,
            "; ".join(changed),
        )
        _remove_outputs(folder)


def _forget_without_masks(one: EvaluatedSet, folder: Path, journal: Journal) -> None:
    """Finished videos whose masks are no longer there are evaluated again: a power cut may lose or empty files."""
    finished = [video for video in one.dataset if video.record.name in journal.finished]
    for video in finished:
        paths = (folder / mask.path for mask in one.benchmark.submission(video))
        if not all(path.is_file() and path.stat().st_size for path in paths):
            logger.warning("%s: masks of the finished video %s are missing", one.settings.eval_name, video.record.name)
            del journal.finished[video.record.name]


def _remove_outputs(folder: Path) -> None:
    """Everything that an evaluation writes for one data set, whichever; its traces last, so that the rest shows."""
    for name in (SUBMISSION, EXPRESSIONS_CSV, *all_outputs(), VIDEOS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    remove_journal(folder)


# ---- what is written ----


def _origin(config: Config, one: EvaluatedSet, model: SOC, weights: str) -> dict[str, Any]:
    """What the results of a data set depend on; the tokenizer shows in the tokens that it makes."""
    settings: dict[str, Any] = {}
    for section in RESULT_SECTIONS:
        values = config.model_dump(mode="json", include={section})[section]
        if isinstance(values, dict):
            settings |= {f"{section}.{k}": v for k, v in values.items() if k not in WITHOUT_EFFECT.get(section, ())}
        else:
            settings[section] = values
    tokens = hashlib.sha256()
    for video in one.dataset.videos:
        sentences = [expression.sentence for expression in video.expressions]
        tokens.update(repr(model.tokenize(sentences).ids.tolist() if sentences else []).encode())
    return {
        "weights": weights,
        "code": code_digest(),
        "videos": one.dataset.digest(),
        "tokens": tokens.hexdigest(),
        "set": one.settings.model_dump(mode="json"),
    } | settings


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
    """`results.json` last: where it exists, everything does."""
    reports = Results({name: result.report for name, result in results.items()})
    speeds = [speed for result in results.values() for speed in result.speed]
    speed = describe_speed(speeds, seconds=seconds)
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
    write_json(
        config.output_dir / RESULTS_JSON,
        reports.as_dict() | {"speed": speed, "peak_memory": memory, "notes": notes} | origin,
    )
    for one in sets:
        remove_journal(_folder_of(config, one))
    logger.info("%.0f s: %s", seconds, shares)
    logger.info("results in %s\n%s", config.output_dir / RESULTS_MARKDOWN, reports.as_markdown(notes))
