"""What a format of output is: it takes the frames of a video one after the other, with what was found in them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as mask_utils

from media.colours import ObjectColours
from media.files import output_path
from media.overlay import resized_mask
from media.sound import Sound
from media.video import Frame
from prediction.inputs import ObjectToFind
from prediction.stream import WindowPrediction


@dataclass(frozen=True, slots=True)
class OutputVideo:
    """What all formats know about the video from its start on.

    Attributes:
        folder: where files go.
        name: of the video.
        size: (height, width) of its frames.
        objects: that are looked for, in their order.
        fps: frames per second of videos that are written.
        sound: for videos that are written; None: they have none.
        colours: of the objects.
    """

    folder: Path
    name: str
    size: tuple[int, int]
    objects: tuple[ObjectToFind, ...]
    fps: float
    sound: Sound | None
    colours: ObjectColours

    def path(self, *names: str) -> Path:
        """A file that is written, by the names of the folders on the way and its own; see `output_path`."""
        return output_path(self.folder, *names, what=f"video {self.name}: output")

    @property
    def captions(self) -> list[str]:
        """Of each object its sentence, after its name where it has one."""
        return [f"{each.name}: {each.sentence}" if each.name else each.sentence for each in self.objects]


Masks = list[Bool[np.ndarray, "height width"]]


@dataclass(frozen=True)
class FrameResult:
    """A frame and what was found in it. Masks are made once, when they are first asked for, for all formats.

    Attributes:
        frame: as it was read.
        found: of each sentence whether it was found in the window of the frame.
        scores: of each object the probability that the frame shows it.
        draw: makes the mask of each object, at the size of the frame.
        draw_at: makes masks at any (height, width) from what the model drew; None: masks are all that is known.
    """

    frame: Frame
    found: list[bool]
    scores: list[float]
    draw: Callable[[], Masks]
    draw_at: Callable[[tuple[int, int]], Masks] | None = None

    @classmethod
    def of(cls, window: WindowPrediction, position: int) -> "FrameResult":
        """One of the frames of a window."""
        objects = window.objects
        return cls(
            frame=window.frames[position],
            found=[each.is_found for each in objects],
            scores=[float(each.frame_scores[position]) for each in objects],
            draw=lambda: [each.mask(position) for each in objects],
            draw_at=lambda size: [each.logits(position, size) > each.logit_threshold for each in objects],
        )

    @cached_property
    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """Of the frame."""
        return self.frame.pixels

    @cached_property
    def masks(self) -> Masks:
        """Of each object, at the size of the frame."""
        return self.draw()

    def masks_at(self, size: tuple[int, int]) -> Masks:
        """Of each object, at any (height, width), with smooth edges."""
        if size == self.frame.size:
            return self.masks
        if self.draw_at is not None:
            return self.draw_at(size)
        return [resized_mask(mask, size) for mask in self.masks]

    @cached_property
    def run_lengths(self) -> list[dict[str, Any]]:
        """Of each object the mask as pycocotools encodes it, with `counts` as text."""
        # pycocotools reads column by column; OpenCV turns masks around ten times as fast as NumPy
        encoded = [mask_utils.encode(cv2.transpose(mask.view(np.uint8)).T) for mask in self.masks]
        return [{"size": list(each["size"]), "counts": each["counts"].decode("ascii")} for each in encoded]


class Output(ABC):
    """Writes one format. Files appear whole or not at all; memory does not grow with the length of the video.

    Args:
        video: that is written.
        stack: closes what the format opens; when it is left by an error, unfinished files disappear.

    Attributes:
        patterns: of its files in the output folder, for `Path.glob`; an earlier run's are deleted.
        in_order: whether `add` takes one frame after the other; where not, threads may call it for several at once.
    """

    patterns: ClassVar[tuple[str, ...]]
    in_order: ClassVar[bool] = True

    def __init__(self, video: OutputVideo, stack: ExitStack) -> None:
        self.video = video
        self.open(stack)

    def open(self, stack: ExitStack) -> None:  # noqa: B027  # most formats have nothing to open
        """Opens what is written to while frames come."""

    @abstractmethod
    def add(self, result: FrameResult) -> None:
        """Takes the next frame; any frame where the format is not `in_order`."""

    def finish(self) -> None:  # noqa: B027  # formats of one file per frame are finished
        """Writes what could not be written before the last frame."""

    @classmethod
    def markers(cls) -> list[str]:
        """Files and folders of the output folder that say that the format has been written there."""
        return [pattern.split("/")[0] for pattern in cls.patterns]


def remove_files(folder: Path, patterns: Sequence[str]) -> None:
    """Deletes the files of a folder that match, and folders that have become empty by that.

    Raises:
        ValueError: a link leads to files outside of the folder.
    """
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            output_path(folder, *path.parent.relative_to(folder).parts, what="output")
            path.unlink()
            for parent in path.parents:
                if parent == folder or any(parent.iterdir()):
                    break
                parent.rmdir()
