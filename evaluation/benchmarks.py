"""The data sets that are evaluated, each with its protocol, which its module names (`datasets/<name>.py`)."""

import logging
from dataclasses import dataclass

from configs.schema import DataConfig
from datasets.definition import AnnotatedFrames, DatasetSettings, EvalProtocol, MergedObjects, RankedImages
from datasets.generated import j_of_guessing
from datasets.table import DATASETS, definition_of
from evaluation.protocol import Benchmark
from evaluation.single_frames import PREDICTIONS_FILE, FramesInClips, SingleImages
from evaluation.whole_videos import MergedObjectsPerAnnotator, OneMaskPerSentence
from loading.loaders import build_eval_dataset, split_request
from loading.videos import EvalDataset

logger = logging.getLogger(__name__)


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


def evaluated_sets(data: DataConfig, *, runners_up: int = 0, min_score: float = 0.0) -> tuple[EvaluatedSet, ...]:
    """The data sets of `data.evaluated`.

    Args:
        data: the section `data` of the configuration.
        runners_up: queries next to the chosen one that are compared with the annotation, too.
        min_score: below which sentences are rejected in whole videos; protocols of single frames know no rejection.

    Raises:
        ValueError: one of them cannot be read.
    """
    return tuple(
        EvaluatedSet(
            settings,
            build_eval_dataset(data, settings),
            _benchmark_for(data, settings, runners_up=runners_up, min_score=min_score),
        )
        for settings in data.evaluated
    )


def all_outputs() -> tuple[str, ...]:
    """The names below an output folder under which the evaluation of any data set writes masks, sorted."""
    return tuple(sorted({name for definition in DATASETS.values() for name in _outputs_of(definition.protocol)}))


def _outputs_of(protocol: EvalProtocol) -> tuple[str, ...]:
    if isinstance(protocol, AnnotatedFrames | RankedImages):
        return (PREDICTIONS_FILE,)
    if isinstance(protocol, MergedObjects):
        return tuple(f"anno_{k}" for k in range(protocol.num_annotators))
    return (protocol.folder,)


def _benchmark_for(data: DataConfig, settings: DatasetSettings, *, runners_up: int, min_score: float) -> Benchmark:
    protocol = definition_of(settings).protocol
    outputs = _outputs_of(protocol)
    if min_score and isinstance(protocol, AnnotatedFrames | RankedImages):
        logger.info("%s: all queries are ranked there, as published; no sentence is rejected", settings.eval_name)
    if isinstance(protocol, AnnotatedFrames):
        return FramesInClips(data, outputs, protocol.names_instances)
    if isinstance(protocol, RankedImages):
        return SingleImages(data, outputs)
    request = split_request(data, settings, settings.eval_split, for_training=False)
    baselines = j_of_guessing(request.root, settings.eval_split)
    if isinstance(protocol, MergedObjects):
        return MergedObjectsPerAnnotator(data, outputs, runners_up, baselines, min_score)
    return OneMaskPerSentence(data, outputs, runners_up, baselines, min_score, protocol.zip_folder)
