"""Settings of videos of one's own, the sections `predict` and `teach` of `configs.schema`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from configs.model_schema import Probability
from structures.config_node import ConfigNode
from structures.moments import parse_moment
from structures.user_path import expand_home


def _as_list(value: object) -> object:
    """A single path stands for a list with this one."""
    if value is None:
        return ()
    return (str(value),) if isinstance(value, str | Path) else value


def _as_moment(value: object) -> object:
    """A number is a moment in seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(value, "f").rstrip("0").rstrip(".")
    return value


def _checked_moment(text: str) -> str:
    parse_moment(text)
    return text


Pixels = Annotated[int, Field(ge=16, le=16384)]
"""The length of a side; of smaller pictures nothing is left at the strides of the model."""

LEAST_FPS = 0.1

MomentText = Annotated[str, BeforeValidator(_as_moment), AfterValidator(_checked_moment)]


class TeachConfig(ConfigNode):
    """Teaching a model one's own objects; docs/your_own_data.md."""

    min_t_acc: Probability = 0.95
    """Share of the sentences about objects that must be found on the held-out frames; among the thresholds of which
    that is true, the one that best refuses sentences about nothing is chosen."""

    licence: str | None = None
    """Of the taught weights, for the model card, such as `apache-2.0`."""

    data_licence: str = "not stated"
    """Of the video and its labels, for the model card."""

    run_folder: Path | None = None
    """Keeps `metrics.jsonl`, which grows as it learns, and the checkpoints; None: they go when the model is saved."""


OutputFormat = Literal[
    "masks",
    "palette",
    "rle",
    "coco",
    "ytvis",
    "cutouts",
    "cutouts_webm",
    "cutouts_mov",
    "contact_sheet",
    "overlay",
]
"""The names of `prediction.writers`, see docs/output_formats.md."""


class PredictConfig(ConfigNode):
    """Prediction on videos of one's own."""

    video: Annotated[tuple[Annotated[str, AfterValidator(expand_home)], ...], BeforeValidator(_as_list)] = ()
    """One or several videos: a video file, a folder of frames, a single image, a folder of videos (each of them), or a
    glob (images that it matches are the frames of one video). Several write to a folder each."""

    sentences: tuple[str, ...] = ()
    """What to look for, one sentence per object; `name = sentence` gives the object a name."""

    sentences_file: Path | None = None
    """A file with sentences in place of `sentences`: text with one on a line, or JSON: a list of sentences, or
    `{"name": "sentence"}`."""

    start: MomentText | None = None
    """Where in the video to begin: in seconds (3.5, or 00:01:02), or the number of a frame (120f)."""

    end: MomentText | None = None
    """Where to end; the frame at this moment is not looked at."""

    size: Pixels | None = None
    """Pixels of the shorter side of what the model sees, in place of `data.short_side`; the limit of the longer side
    changes by the same factor. Masks have the size of the video, whatever the model sees."""

    frame_step: PositiveInt = 1
    """Use every so many frames."""

    identity: Literal["matched", "independent"] = "matched"
    """How the windows of a long video belong together, see `data.eval_identity`. Here objects are followed, so that
    none jumps where a window ends; benchmarks have the published `independent`."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability above which a pixel belongs to an object; 0 and 1 would select all pixels and none."""

    min_score: Probability | None = None
    """A sentence whose best query has a lower score in a window is rejected there: its mask is empty. In evaluation of
    whole videos, too. None: what `tools.calibrate` has stored in the checkpoint, or else 0, which rejects none, as
    published."""

    formats: tuple[OutputFormat, ...] = ("masks", "overlay")
    """What is written, beside `prediction.json`: see docs/output_formats.md."""

    fps: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Frames per second of videos that are written, from 0.1 to 1000; 0: as the source, or 10 for a folder. At another
    speed than that of the source they have no sound."""

    @field_validator("fps")
    @classmethod
    def moves(cls, fps: float) -> float:
        """Raises ValueError for videos of which a frame would stand for hours."""
        if 0 < fps < LEAST_FPS:
            raise ValueError(f"expected 0 (as the source), or {LEAST_FPS} to 1000, got {fps}")
        return fps

    @model_validator(mode="after")
    def looks_for_something_somewhere(self) -> "PredictConfig":
        """Raises ValueError if sentences come from two places, or the video ends before it starts."""
        if self.sentences and self.sentences_file is not None:
            raise ValueError(f"sentences and sentences_file={self.sentences_file} are both given; give one of them")
        start, end = (None if text is None else parse_moment(text) for text in (self.start, self.end))
        if start is not None and end is not None and start.is_frame == end.is_frame and end.value <= start.value:
            raise ValueError(f"end={self.end} must lie after start={self.start}")
        return self
