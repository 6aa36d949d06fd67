"""Whether a run would start: what it would build is built of what the check has read, and samples of it are read.

The code is that of training and evaluation. Opening files finds what is wrong with each of them; this finds what only
shows in a sample, such as a split in which no object is ever visible.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from configs.schema import DataConfig
from datasets.definition import DatasetSettings, SplitContents
from datasets.generated import j_of_guessing
from datasets.records import VideoRecord
from loading.frames import resize_frames
from loading.loaders import evaluated_videos, mixed, split_request, training_clips
from loading.sampling import SampleKey
from loading.videos import EvalVideo


@dataclass(frozen=True, slots=True)
class RunReport:
    """What came of building a run.

    Attributes:
        what: would run.
        num_samples: that were read.
        problem: what keeps it from running; empty where nothing does.
    """

    what: str
    num_samples: int
    problem: str = ""

    @property
    def fails(self) -> bool:
        """Whether the run would be refused."""
        return bool(self.problem)

    def as_json(self) -> dict[str, object]:
        """Everything, for programs."""
        return {"what": self.what, "fails": self.fails, "samples": self.num_samples, "problem": self.problem}

    def as_text(self) -> str:
        """The report for people."""
        found = f"ERROR: {self.problem}" if self.problem else f"{self.num_samples:,} samples read, nothing wrong"
        return f"{self.what}\n  {found}\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is read.

    Attributes:
        most_videos: of which a sample is read; 0: all.
        num_workers: threads that read.
    """

    most_videos: int
    num_workers: int


def check_training(data: DataConfig, splits: Sequence[Sequence[VideoRecord]], *, what: str, pace: Pace) -> RunReport:
    """Builds the samples of training and reads one of each video.

    Args:
        data: the section `data`.
        splits: the training splits of `data.sets`, with what is known about visible objects.
        what: is trained, for the report.
        pace: of reading.
    """
    try:
        clips = training_clips(data, mixed(data, splits), seed=0)
        first = {sample.video.name: index for index, sample in reversed(list(enumerate(clips.samples)))}
        chosen = _evenly(sorted(first.values()), pace.most_videos)
        with ThreadPoolExecutor(max(1, pace.num_workers)) as threads:
            # as the data loader asks for samples, so that `data.on_error: skip` counts
            list(threads.map(lambda index: clips.__getitems__([SampleKey(sample=index, epoch=0)]), chosen))
    except (ValueError, OSError) as error:
        return RunReport(what, 0, str(error))
    return RunReport(what, len(chosen))


def check_evaluation(
    data: DataConfig, settings: DatasetSettings, videos: Sequence[VideoRecord], *, pace: Pace
) -> RunReport:
    """Builds what is evaluated, and reads frames and masks of each video.

    Args:
        data: the section `data`.
        settings: one of `data.evaluated`.
        videos: of its split.
        pace: of reading.
    """
    what = f"evaluation of {settings.eval_name}"
    try:
        j_of_guessing(split_request(data, settings, settings.eval_split, for_training=False).root, settings.eval_split)
        dataset = evaluated_videos(data, settings, SplitContents(tuple(videos)))
        chosen = _evenly(range(len(dataset)), pace.most_videos)
        with ThreadPoolExecutor(max(1, pace.num_workers)) as threads:
            list(threads.map(lambda index: _read_video(dataset[index], data), chosen))
    except (ValueError, OSError) as error:
        return RunReport(what, 0, str(error))
    return RunReport(what, len(chosen))


def _read_video(video: EvalVideo, data: DataConfig) -> None:
    """The frames of a window at the size that the model sees, and the masks that they are scored against."""
    record = video.record
    start = min(record.annotated) if record.annotated else 0
    window = range(len(record.frame_names))[start : start + data.num_frames]
    resize_frames(video.load_frames(window.start, window.stop), short_side=data.short_side, long_side=data.long_side)
    scored = [position for position in window if record.annotated is None or position in record.annotated]
    for expression in record.expressions:
        for position in scored:
            video.load_masks(expression, [position])


def _evenly(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, at even distances; 0: all."""
    if not most or len(indices) <= most:
        return list(indices)
    return [indices[number * len(indices) // most] for number in range(most)]
