"""What a protocol of evaluation has to say; `evaluation.runner` runs it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from configs.schema import DataConfig
from datasets.records import Expression
from evaluation.report import Report
from evaluation.submission import ExpectedMask
from loading.videos import EvalVideo
from models.identity import QueryChoice
from models.outputs import Predictions

Score = TypeVar("Score")

Part = Any
"""What is known of a video after one of its clips; each protocol has a type of its own."""

Job = Callable[[], Part]
"""Work without the model: writing and scoring. It may run in another thread, while the model goes on."""


@dataclass(frozen=True, slots=True)
class EvalClip:
    """Frames that the model sees together.

    Attributes:
        positions: of the frames in their video; one may repeat.
        expressions: what is looked for.
        annotated_frame: index of the only frame that is segmented; None segments all.
    """

    positions: tuple[int, ...]
    expressions: tuple[Expression, ...]
    annotated_frame: int | None = None


class VideoRun(ABC, Generic[Score]):
    """The evaluation of one video, clip by clip."""

    @property
    def choice(self) -> QueryChoice | None:
        """What follows the queries from clip to clip; None where clips have nothing to do with each other."""
        return None

    @abstractmethod
    def clips(self) -> Sequence[EvalClip]:
        """In order; decoded ahead."""

    @abstractmethod
    def jobs(self, clip: EvalClip, layers: Iterable[Predictions], size: tuple[int, int]) -> Iterator[Job]:
        """Takes what the model says about a clip; everything that needs its device happens here.

        Args:
            clip: the next of `clips`.
            layers: predictions, one entry per group of expressions, computed when asked for.
            size: (height, width) of the frames that the model saw.
        """

    @abstractmethod
    def scores(self, parts: Sequence[Part]) -> list[Score]:
        """The scores of the video, from the results of all jobs in order; none where nothing is annotated."""


@dataclass(frozen=True)
class Benchmark(ABC, Generic[Score]):
    """A protocol of evaluation, applied to one of the configured data sets.

    Attributes:
        data: the section `data` of the configuration.
        outputs: names of the folders, or of the file, that it writes below the output folder.
    """

    data: DataConfig
    outputs: tuple[str, ...]

    @property
    @abstractmethod
    def score_type(self) -> type[Score]:
        """Of a single score; a dataclass that JSON can hold."""

    @abstractmethod
    def open(self, video: EvalVideo, *, folder: Path | None) -> VideoRun[Score]:
        """Starts a video; its masks are written below `folder` unless that is None."""

    @abstractmethod
    def report(self, num_videos: int, num_sentences: int, scores: Sequence[Score]) -> Report:
        """The report on the scores of all videos."""

    def write_results(self, report: Any, folder: Path) -> None:  # most protocols write nothing here
        """Writes results that need all videos."""

    def require_submission(self) -> None:
        """Raises ValueError if there is no server for the results."""

    def submission(self, video: EvalVideo) -> Iterator[ExpectedMask]:
        """The masks of a video that belong to a submission; none where there is no server."""
        return iter(())
