"""Settings of the data: which sets, how clips are made of them, and how they are read."""

from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from configs.model_schema import Count, Probability
from configs.predict_schema import Pixels
from datasets.definition import DatasetSettings
from datasets.ref_youtube_vos import RefYoutubeVosSettings
from datasets.table import DATASETS
from structures.config_node import ConfigNode

if TYPE_CHECKING:
    AnyDatasetSettings = DatasetSettings
else:
    AnyDatasetSettings = Annotated[
        reduce(or_, (definition.settings for definition in DATASETS.values())), Field(discriminator="dataset")
    ]


Processes = Annotated[int, Field(ge=0, le=256)]
"""Or threads."""

Zoom = Annotated[float, Field(ge=0.1, le=10)]


class DataConfig(ConfigNode):
    """Which clips, how large, how many at a time."""

    sets: tuple[AnyDatasetSettings, ...] = (RefYoutubeVosSettings(dataset="ref_youtube_vos"),)
    """The data sets that are trained on, concatenated; the first is evaluated, unless `eval_sets` names others. The
    keys of an entry depend on its `dataset`; `python main.py config` prints them all."""

    eval_sets: tuple[AnyDatasetSettings, ...] = ()
    """Data sets that are evaluated, one after the other, each by its `eval_split`; none: the first of `sets`."""

    root: Path | None = None
    """Folder of the data; given on the command line, by SOC_DATA_ROOT, or in a YAML file that you own."""

    cache: Path | None = None
    """Folder for files that are derived from the data and can be deleted; None: `soc` in the user's cache folder.
    A list of where objects are visible goes beside the data of Ref-YouTube-VOS, where that can be written."""

    on_error: Literal["raise", "skip"] = "raise"
    """Reaction to a damaged training sample: `raise` ends the run and names the file, `skip` leaves the sample out,
    counts it, and writes file and reason to the log."""

    max_skipped_share: Probability = 0.01
    """With `on_error: skip`: the run ends when more than this share of an epoch's samples was skipped."""

    num_frames: Count = 8
    """Frames of a training clip."""

    frame_sampling: Literal["windows", "random"] = "windows"
    """`windows`: consecutive, not overlapping, fixed (published). `random`: a random start in every epoch."""

    supervised_frames: Literal["all", "one"] = "all"
    """`one`: one frame, chosen at random, is decoded and supervised, as A2D-Sentences annotates one frame per clip;
    the visual encoder still sees the whole clip. Motion is learned several times faster per second."""

    sentences_per_clip: Count = 1
    """Sentences per training clip, chosen at random; they share the visual encoder's work. 1 as published: every
    sentence and window is one sample."""

    absent: Literal["train", "leave_out"] = "train"
    """What becomes of sentences that are known to mean nothing in their video: `train` the model to find nothing, in
    every window of the video, or `leave_out`."""

    absent_share: Probability | None = None
    """With several `sentences_per_clip`: this share of them are absent ones, drawn from each kind alike; None: all
    sentences are drawn alike. Where few sentences are about something, more of a clip may be absent."""

    word_dropout: Probability = 0.0
    """Probability of leaving each word out of a training sentence, so that other wordings are understood. A word that
    says something always stays, and a sentence stays whole where the rest of it could be about another object."""

    kinds: tuple[str, ...] = ()
    """Train only on sentences with these tags (single frames cannot show motion); none: on all. Only for data whose
    expressions carry a `kind`."""

    short_side: Pixels = 360
    """Pixels of the shorter side after resizing."""

    long_side: Pixels = 640
    """Limit of the longer side, in pixels."""

    flip_probability: Probability = 0.3085
    """Probability of a left-right flip in training; words for the sides are swapped, too. As published for videos,
    which are flipped where a normal number exceeds 0.5; the published pretraining on images has 0.5."""

    scale_jitter: tuple[Zoom, Zoom] = (1.0, 1.0)
    """Smallest and greatest random zoom of training clips: above 1 a part of the frames fills the picture, and at least
    half of every object is in it; below 1 the picture is smaller. As published there is none."""

    colour_jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Greatest random change of brightness, contrast and saturation of training clips, as a share; hue stays, because
    sentences name colours. As published there is none."""

    batch_size: Count = 1
    """Training clips per process and step."""

    eval_num_frames: NonNegativeInt = 36
    """Longest clip in evaluation and prediction, in frames; longer videos go window by window. 0: no limit."""

    eval_identity: Literal["independent", "matched"] = "independent"
    """How the windows of a long video belong together. `independent`: each chooses its own query for a sentence, as
    published. `matched`: queries are followed from window to window (`models.identity`), and the choice is made over
    all frames so far."""

    eval_overlap: PositiveInt = 4
    """With `matched`: frames that a window shares with the one before."""

    eval_sentences: Count = 2
    """Sentences segmented at a time in evaluation (memory)."""

    max_eval_videos: NonNegativeInt = 0
    """Evaluate only the first so many videos; 0: all."""

    num_workers: Processes = 4
    """Processes that read frames; 0 reads in the main process."""

    prefetch: Count = 4
    """Batches that each of these processes prepares ahead."""

    worker_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    """Seconds after which a batch that these processes do not finish ends the run; 0: never."""

    pin_memory: bool = True
    """Hand batches over in page-locked memory, from which they are copied to a GPU while it computes. Without a GPU
    this does nothing."""

    @field_validator("sets")
    @classmethod
    def names_a_data_set(cls, sets: tuple[AnyDatasetSettings, ...]) -> tuple[AnyDatasetSettings, ...]:
        """Raises ValueError if there is nothing to read."""
        if not sets:
            raise ValueError(f"must name at least one data set; there are {', '.join(DATASETS)}")
        return sets

    @model_validator(mode="after")
    def draws_absent_sentences_beside_others(self) -> "DataConfig":
        """Raises ValueError if a share of one sentence is asked for."""
        if self.absent_share is not None and self.sentences_per_clip == 1:
            raise ValueError(f"absent_share={self.absent_share} needs sentences_per_clip of 2 or more")
        return self

    @field_validator("scale_jitter")
    @classmethod
    def zooms_between_two_factors(cls, factors: tuple[float, float]) -> tuple[float, float]:
        """Raises ValueError if the smallest zoom is not the first."""
        if factors[0] > factors[1]:
            raise ValueError(f"{list(factors)}: the smallest zoom comes first")
        return factors

    @model_validator(mode="after")
    def windows_move_on(self) -> "DataConfig":
        """Raises ValueError if windows that overlap would never reach the end of a video."""
        if 0 < self.eval_num_frames <= self.window_overlap:
            raise ValueError(
                f"eval_overlap={self.eval_overlap} must be smaller than eval_num_frames={self.eval_num_frames}"
            )
        return self

    @field_validator("eval_sets")
    @classmethod
    def evaluates_each_split_once(cls, sets: tuple[AnyDatasetSettings, ...]) -> tuple[AnyDatasetSettings, ...]:
        """Raises ValueError if two entries would write to the same folder."""
        names = [settings.eval_name for settings in sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is named more than once")
        return sets

    @property
    def window_overlap(self) -> int:
        """Frames that a window of a long video shares with the one before, in evaluation and prediction."""
        return self.eval_overlap if self.eval_identity == "matched" else 0

    @property
    def evaluated(self) -> tuple[AnyDatasetSettings, ...]:
        """The data sets that are evaluated."""
        return self.eval_sets or self.sets[:1]
