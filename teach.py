"""Teaching: a few labelled frames and sentences become a model of one's own objects, as a saved model folder."""

import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import Config, StageConfig
from datasets.records import VideoRecord
from engine.distributed import World
from engine.provenance import git_revision
from engine.startup import start_process
from engine.stop import StopSignals
from evaluation.benchmarks import EvaluatedSet
from evaluation.report import EvalReport, presence_scores
from evaluation.runner import run_benchmark
from evaluation.whole_videos import OneMaskPerSentence
from metrics.rejection import OperatingPoint, best_point, operating_points
from models.encoder_files import fetch_named, named_in
from models.model_card import Measure, ModelCard, Source
from models.saved_model import require_free, save_model
from train import Run, prepare_run, train_stages

logger = logging.getLogger(__name__)

ALL_FRAMES = "all"
"""The split with the held-out frames in it; stages from the first that trains on it run after the model is scored."""

SCORED_FRAMES = 1
"""Frames of a window in scoring: masks are known of single frames, and each neighbour would cost as much time."""

MOST_SENTENCES = 20
"""Sentences that the model card shows."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What teaching gave.

    Attributes:
        folder: of the saved model.
        held_out: labelled frames that were held out, as "video/frame".
        untaught: scores on them before teaching; no sentence is rejected.
        taught: scores on them after training on the other frames, with `min_score`.
        min_score: below which sentences are rejected.
        seconds: that everything took.
    """

    folder: Path
    held_out: tuple[str, ...]
    untaught: EvalReport
    taught: EvalReport
    min_score: float
    seconds: float


def teach(config: Config) -> Lesson:
    """Trains on labelled frames, scores on those that are held out, and saves the model to `output_dir`.

    The scores are those of the model before it sees the held-out frames; the saved model has then been trained on all
    of them (stages whose data have `train_split: all`), and so has no score of its own.

    Raises:
        ValueError: labels, encoders, stages or output folder are not usable.
    """
    start = time.monotonic()
    world = World()
    device = start_process(config, world)
    learning, refitting = split_stages(config.stages)
    require_free(config.output_dir, overwrite=config.overwrite)
    fetch_named(*encoder_paths(config))
    scored = config.data.model_copy(update={"eval_num_frames": SCORED_FRAMES, "eval_identity": "independent"})
    with ExitStack() as stack:
        folder = config.teach.run_folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="soc_teach_"))
        run_config = config.model_copy(update={"output_dir": Path(folder), "stages": learning, "data": scored})
        run = prepare_run(run_config, world, device)
        (held_out,) = run.validation
        run = replace(run, validation=())  # scored here, and not at the end of each stage
        untaught = score(run, held_out, min_score=0.0)
        logger.info("before teaching: J&F %s on the held-out frames", _percent(untaught.main_score))
        stop = StopSignals()  # not entered: Ctrl-C ends the lesson, there is nothing to go on with
        train_stages(run, stop)
        min_score = choose_min_score(score(run, held_out, min_score=0.0), min_t_acc=config.teach.min_t_acc)
        taught = score(run, held_out, min_score=min_score)
        if refitting:
            train_stages(replace(run, config=run_config.model_copy(update={"stages": refitting})), stop)
    records = held_out.dataset.videos
    lesson = Lesson(
        folder=config.output_dir,
        held_out=tuple(f"{record.name}/{name}" for record in records for name in _annotated_names(record)),
        untaught=untaught,
        taught=taught,
        min_score=min_score,
        seconds=time.monotonic() - start,
    )
    saved = config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": min_score})})
    save_model(config.output_dir, run.model, saved, card=describe(lesson, config, records), overwrite=config.overwrite)
    logger.info("%s", summary(lesson))
    return lesson


def split_stages(stages: Sequence[StageConfig]) -> tuple[tuple[StageConfig, ...], tuple[StageConfig, ...]]:
    """The stages before the model is scored, and those after, which see the held-out frames.

    Raises:
        ValueError: the first stage sees them already, or there is no stage.
    """
    sees_all = [any(settings.train_split == ALL_FRAMES for settings in stage.data.sets) for stage in stages]
    first = sees_all.index(True) if True in sees_all else len(stages)
    if first == 0:
        raise ValueError(
            "stages: teaching needs a stage that trains on split `train`, without the held-out frames, as in "
            "configs/teach.yaml"
        )
    return tuple(stages[:first]), tuple(stages[first:])


def encoder_paths(config: Config) -> tuple[str, str]:
    """Where the pretrained encoders come from, as the settings say."""
    return str(config.model.visual_encoder.weights), config.model.text_encoder.path


def score(run: Run, held_out: EvaluatedSet, *, min_score: float) -> EvalReport:
    """The report on the held-out frames.

    Args:
        run: with the model.
        held_out: these frames.
        min_score: below which sentences are rejected.
    """
    assert isinstance(held_out.benchmark, OneMaskPerSentence)  # of labelled videos
    result = run_benchmark(
        run.model,
        held_out.dataset,
        replace(held_out.benchmark, min_score=min_score),
        folder=None,
        journal=None,
        workers=run.config.eval.workers,
        world=run.world,
        device=run.device,
    )
    assert isinstance(result.report, EvalReport)
    return result.report


def choose_min_score(report: EvalReport, *, min_t_acc: float) -> float:
    """The threshold between sentences about objects and those about nothing; 0, which rejects none, without the latter.

    Args:
        report: on the held-out frames, nothing rejected.
        min_t_acc: share of the sentences about objects that must stay found.
    """
    present, absent = (presence_scores(report.entries, absent=is_absent) for is_absent in (False, True))
    if not len(absent) or not len(present):
        logger.warning("no sentence about nothing was scored: the model will reject no sentence")
        return 0.0
    best: OperatingPoint | None = best_point(operating_points(present, absent), min_t_acc=min_t_acc)
    if best is None:
        logger.warning(
            "fewer than %s of the sentences have any pixel on the held-out frames: the model will reject no sentence",
            _percent(min_t_acc),
        )
        return 0.0
    return best.threshold


def describe(lesson: Lesson, config: Config, records: Sequence[VideoRecord]) -> ModelCard:
    """The model card, from what was done."""
    present = [e.sentence for record in records for e in record.expressions if not e.is_absent]
    names = ", ".join(record.name for record in records)
    where = f"{len(lesson.held_out)} labelled frames that were held out, before the last training on all frames"
    rejection = lesson.taught.rejection
    measures = [
        Measure("J&F", _percent(lesson.taught.main_score), where),
        Measure("J&F before teaching", _percent(lesson.untaught.main_score), where),
    ]
    if rejection is not None and rejection.n_acc is not None:
        measures.append(Measure("N-acc", _percent(rejection.n_acc), f"{rejection.absent} sentences about nothing"))
    if rejection is not None and rejection.t_acc is not None:
        measures.append(Measure("T-acc", _percent(rejection.t_acc), f"{rejection.present} sentences about objects"))
    return ModelCard(
        title=f"A model of {names}",
        summary=f"Taught with labelled frames of {names}. It knows the objects of these videos and little else.",
        licence=config.teach.licence,
        data=(Source(names, config.teach.data_licence, f"labelled frames of {len(records)} videos"),),
        encoders=tuple(Source(each.name, each.licence, "pretrained") for each in named_in(*encoder_paths(config))),
        sentences=tuple(dict.fromkeys(present))[:MOST_SENTENCES],
        measures=tuple(measures),
        command=f"python main.py {shlex.join(Path(a).name if '/' in a else a for a in sys.argv[1:])}",
        revision=git_revision(),
    )


def summary(lesson: Lesson) -> str:
    """What the user reads in the end."""
    rejection = lesson.taught.rejection
    lines = [
        f"held-out frames: {', '.join(lesson.held_out)}",
        f"J&F on them: {_percent(lesson.untaught.main_score)} before teaching, "
        f"{_percent(lesson.taught.main_score)} after",
    ]
    if rejection is not None and rejection.n_acc is not None:
        lines.append(
            f"of {rejection.absent} sentences about nothing {_percent(rejection.n_acc)} are refused, of "
            f"{rejection.present} about objects {_percent(rejection.t_acc)} are found; threshold {lesson.min_score:.3f}"
        )
    lines += [
        f"{lesson.seconds:.0f} s; the model is in {lesson.folder}",
        f'try it: python main.py predict --model {lesson.folder} --video VIDEO --sentence "..." --output RESULTS',
    ]
    return "\n  ".join(lines)


def _annotated_names(record: VideoRecord) -> list[str]:
    return [record.frame_names[position] for position in sorted(record.annotated or ())]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
