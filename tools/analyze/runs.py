"""Reads the output folders of `python main.py eval`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from configs.schema import DataConfig
from datasets.definition import AnnotatedFrames, DatasetSettings, MaskPerSentence, MergedObjects, RankedImages
from datasets.table import definition_of
from evaluation.journal import read_videos
from evaluation.output_folder import folder_of_set
from evaluation.ranked_report import RankedScore
from evaluation.report import EntryScore
from evaluation.results import RESULTS_JSON
from loading.loaders import build_eval_dataset
from loading.videos import EvalVideo
from media.files import path_inside
from media.folders import MASK_SUFFIXES, listing
from tools.analyze.comparison import in_order_of, require_same_samples
from tools.analyze.samples import Sample, sample_of_video, samples_of_frames


@dataclass(frozen=True)
class RunSet:
    """One data set of a run.

    Attributes:
        name: of the data set and its split.
        folder: of its masks and scores.
        settings: its entry of the configuration.
        samples: its scored sentences, or objects; without sentences that mean nothing in their video.
        ranked: in single frames, the masks of all queries by (video, frame, expression).
    """

    name: str
    folder: Path
    settings: DatasetSettings
    samples: tuple[Sample, ...]
    ranked: dict[tuple[str, str, str], RankedScore]

    @property
    def measure(self) -> str:
        """What `Sample.score` is."""
        return "IoU" if self.ranked else "J&F"

    @property
    def unit(self) -> str:
        """What a sample is, in the plural."""
        if self.ranked:
            return "samples"
        return "objects" if isinstance(definition_of(self.settings).protocol, MergedObjects) else "expressions"

    @property
    def video_unit(self) -> str:
        """What samples belong to, in the plural."""
        return "images" if isinstance(definition_of(self.settings).protocol, RankedImages) else "videos"

    def mask_path(self, sample: Sample, frame: str) -> Path:
        """The predicted mask of a sample of a whole video in one frame."""
        protocol = definition_of(self.settings).protocol
        if isinstance(protocol, MaskPerSentence):
            names = [protocol.folder, sample.video, sample.expression]
        else:
            names = [sample.group, sample.video]
        return path_inside(self.folder, *names, f"{frame}.png", what=f"{self.folder}: mask")


@dataclass(frozen=True)
class Run:
    """An evaluation.

    Attributes:
        label: short name on the page.
        results: content of `results.json`.
        sets: the data sets with scores, by name.
        videos: of each data set, by name, to look at.
        without_pictures: why there are no videos of a data set, by its name.
    """

    label: str
    results: dict[str, Any]
    sets: dict[str, RunSet]
    videos: dict[str, dict[str, EvalVideo]]
    without_pictures: dict[str, str]


def read_runs(folders: Sequence[Path], data_root: Path | None) -> list[Run]:
    """One run, or two on the same sentences.

    Args:
        folders: of the runs.
        data_root: where the data lies now; None: where it was evaluated.

    Raises:
        ValueError: a folder holds no finished evaluation, nothing was scored, or the runs do not fit together.
    """
    labels = _labels(folders)
    runs = [_read_run(folder, label, data_root) for folder, label in zip(folders, labels, strict=True)]
    if len(runs) == 1:
        return runs
    first, second = runs
    if set(first.sets) != set(second.sets):
        raise ValueError(
            f"the runs evaluate different data sets: {', '.join(first.sets)} and {', '.join(second.sets)}; "
            "compare runs on the same ones"
        )
    sets = {}
    for name, own in second.sets.items():
        require_same_samples(name, first.sets[name].samples, own.samples)
        sets[name] = replace(own, samples=tuple(in_order_of(first.sets[name].samples, own.samples)))
    return [first, replace(second, sets=sets)]


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with those above them as far as that tells them apart."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        return [f"{folder.resolve().name} ({number})" for number, folder in enumerate(folders, start=1)]
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]


def _read_run(folder: Path, label: str, data_root: Path | None) -> Run:
    path = folder / RESULTS_JSON
    if not path.is_file():
        raise ValueError(f"{path}: no such file; RUN is the output folder of a finished `python main.py eval`")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        data = DataConfig.model_validate(results["config"]["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the results of this version ({error}); evaluate again") from None
    if data_root is not None:
        data = data.model_copy(update={"root": data_root})
    sets: dict[str, RunSet] = {}
    videos: dict[str, dict[str, EvalVideo]] = {}
    without_pictures: dict[str, str] = {}
    for settings in data.evaluated:
        name = settings.eval_name
        try:
            videos[name] = {video.record.name: video for video in build_eval_dataset(data, settings)}
        except (ValueError, OSError) as error:
            videos[name], without_pictures[name] = {}, str(error)
        one = _read_set(folder_of_set(folder, name) if len(data.evaluated) > 1 else folder, settings, videos[name])
        if one.samples:
            sets[name] = one
    if not sets:
        raise ValueError(f"{folder}: nothing was scored there, because the annotations are secret; nothing to analyse")
    return Run(label, results, sets, videos, without_pictures)


def _read_set(folder: Path, settings: DatasetSettings, videos: dict[str, EvalVideo]) -> RunSet:
    if isinstance(definition_of(settings).protocol, AnnotatedFrames | RankedImages):
        ranked = read_videos(folder, RankedScore)
        return RunSet(
            name=settings.eval_name,
            folder=folder,
            settings=settings,
            samples=tuple(sample for scores in ranked.values() for sample in samples_of_frames(scores)),
            ranked={(s.video, s.frame, s.expression): s for scores in ranked.values() for s in scores},
        )
    empty = RunSet(settings.eval_name, folder, settings, (), {})
    samples = []
    for video, entries in read_videos(folder, EntryScore).items():
        size = videos[video].original_size if video in videos else _size_of_masks(empty, video, entries)
        samples += [sample_of_video(entry, size) for entry in entries if not entry.is_absent]
    return replace(empty, samples=tuple(samples))


def _size_of_masks(one: RunSet, video: str, entries: Sequence[EntryScore]) -> tuple[int, int] | None:
    """(height, width) of the masks that were written for a video; None without."""
    for entry in entries[:1]:
        folder = one.mask_path(sample_of_video(entry, None), "").parent
        for path in listing(folder, MASK_SUFFIXES)[:1] if folder.is_dir() else ():
            with Image.open(path) as image:
                return image.height, image.width
    return None
