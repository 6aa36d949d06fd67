"""The formats that a prediction can be written in, and one writer for several of them at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from media.colours import ObjectColours
from media.video import Frame, FrameSource, sound_of
from prediction.image_outputs import ContactSheet, Cutouts, MaskFolders, PaletteMasks
from prediction.inputs import ObjectToFind
from prediction.json_outputs import Coco, RunLengths, YouTubeVis
from prediction.outputs import FrameResult, Output, OutputVideo, remove_files
from prediction.stream import WindowPrediction
from prediction.video_outputs import CutoutMov, CutoutWebm, OverlayVideo

FORMATS: dict[str, type[Output]] = {
    "masks": MaskFolders,
    "palette": PaletteMasks,
    "rle": RunLengths,
    "coco": Coco,
    "ytvis": YouTubeVis,
    "cutouts": Cutouts,
    "cutouts_webm": CutoutWebm,
    "cutouts_mov": CutoutMov,
    "contact_sheet": ContactSheet,
    "overlay": OverlayVideo,
}

DEFAULT_FORMATS = ("masks", "overlay")


def outputs_of(names: Sequence[str]) -> tuple[type[Output], ...]:
    """The formats of these names.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"no format is called {', '.join(unknown)}" if unknown else "no format is named"
        raise ValueError(f"{what}; the formats are {', '.join(FORMATS)}")
    return tuple(FORMATS[name] for name in dict.fromkeys(names))


def output_markers() -> tuple[str, ...]:
    """Files and folders by which an output folder is known to hold a prediction of whatever format."""
    return tuple(dict.fromkeys(marker for output in FORMATS.values() for marker in output.markers()))


class OutputWriter:
    """Writes one video in several formats, window by window or frame by frame.

    Args:
        formats: that are written.
        folder: of the output. Files of all formats that an earlier run has left there are deleted when the first
            frame comes.
        video: name of the video.
        objects: that are looked for.
        fps: frames per second of videos that are written.
        source: of the frames; None: videos that are written have no sound.
        step: every so many frames are written.
        stack: closes the formats.

    Attributes:
        colours: of the objects, in everything that shows them.
    """

    def __init__(
        self,
        formats: Sequence[type[Output]],
        *,
        folder: Path,
        video: str,
        objects: Sequence[ObjectToFind],
        fps: float,
        source: FrameSource | None,
        step: int,
        stack: ExitStack,
    ) -> None:
        self.colours = ObjectColours(len(objects))
        self._formats, self._folder, self._video, self._objects = formats, folder, video, tuple(objects)
        self._fps, self._source, self._step, self._stack = fps, source, step, stack
        self._outputs: list[Output] | None = None
        self._opening = Lock()

    def add(self, window: WindowPrediction) -> list[list[int]]:
        """Writes the new frames of a window.

        Returns:
            For each object the pixels of its mask in these frames.
        """
        areas = [self.add_frame(FrameResult.of(window, position)) for position in range(len(window.frames))]
        return [list(own) for own in zip(*areas, strict=True)]

    def add_frame(self, result: FrameResult) -> list[int]:
        """Writes one frame.

        Returns:
            For each object the pixels of its mask.
        """
        areas = self.write_apart(result)
        self.write_next(result)
        return areas

    def write_apart(self, result: FrameResult) -> list[int]:
        """Writes of a frame what no other frame matters for; threads may do so with several frames at once.

        Returns:
            For each object the pixels of its mask.
        """
        with self._opening:
            if self._outputs is None:
                self._outputs = self._open(result.frame)
        areas = [int(np.count_nonzero(mask)) for mask in result.masks]
        for output in self._outputs:
            if not output.in_order:
                output.add(result)
        return areas

    def write_next(self, result: FrameResult) -> None:
        """Writes the rest, of one frame after the other, each after `write_apart`."""
        if None in self.colours.chosen:
            self.colours.look([result.pixels], [[mask] for mask in result.masks])
        for output in self._outputs or ():
            if output.in_order:
                output.add(result)

    def finish(self) -> None:
        """Writes what could not be written before the last frame."""
        for output in self._outputs or ():
            output.finish()

    def _open(self, first: Frame) -> list[Output]:
        sound = None
        if self._source is not None and OverlayVideo in self._formats:
            sound = sound_of(self._source, first_frame=first.index, step=self._step, fps=self._fps)
        video = OutputVideo(self._folder, self._video, first.size, self._objects, self._fps, sound, self.colours)
        remove_files(self._folder, [pattern for output in FORMATS.values() for pattern in output.patterns])
        return [output(video, self._stack) for output in self._formats]


@contextmanager
def write_outputs(
    formats: Sequence[type[Output]],
    *,
    folder: Path,
    video: str,
    objects: Sequence[ObjectToFind],
    fps: float,
    source: FrameSource | None = None,
    step: int = 1,
) -> Iterator[OutputWriter]:
    """A writer of several formats; see `OutputWriter`. Files that are not finished when an error comes disappear."""
    with ExitStack() as stack:
        writer = OutputWriter(
            formats, folder=folder, video=video, objects=objects, fps=fps, source=source, step=step, stack=stack
        )
        yield writer
        writer.finish()
