"""Mixtures of data sets: pretraining on RefCOCO, RefCOCO+ and RefCOCOg; Ref-YouTube-VOS with pseudo-clips of images.

The parts stand in `data.parts`. The samples of all parts make one list, shuffled as a whole, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import DataConfig
from datasets.records import VideoRecord
from loading.loaders import VideoSource
from loading.loaders import open_split as open_split_of_part


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of a mixture.

    Attributes:
        name: put before the names of its videos, because sets share images and so names.
        source: its training split.
        repeat: how often it counts in an epoch; what is random differs from one time to the next.
    """

    name: str
    source: VideoSource
    repeat: int = 1


class Joint:
    """Several data sets, one after the other.

    Args:
        parts: at least one.

    Attributes:
        videos: of all parts.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.videos = tuple(video for part in parts for video in _named(part, part.source.videos))

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with what training needs."""
        return tuple(video for part in self.parts for video in _named(part, part.source.training_videos()))


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> VideoSource:
    """Opens the training splits of all parts.

    Evaluation does not come here: it opens the first part by itself, see `DataConfig.for_evaluation`.
    """
    del root, split  # each part has its own
    parts = []
    for index, part in enumerate(data.parts):
        settings = data.of_part(part)
        try:
            source = open_split_of_part(settings, settings.train_split, raw_sentences=raw_sentences)
        except ValueError as error:
            raise ValueError(f"data.parts.{index}: {error}") from None
        parts.append(Part(part.name, source, part.repeat))
    return Joint(parts)


def _named(part: Part, videos: Sequence[VideoRecord]) -> list[VideoRecord]:
    return [replace(video, name=f"{part.name}/{video.name}") for video in videos] * part.repeat
