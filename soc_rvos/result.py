"""What the model said about a video: masks, boxes and scores of every sentence in every frame."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from media.files import atomic_folder, write_json
from media.folders import listing
from media.overlay import Overlay
from media.video import Frame
from prediction.inputs import ObjectToFind
from prediction.outputs import FrameResult
from prediction.stream import WindowPrediction
from prediction.writers import output_markers, outputs_of, write_outputs
from soc_rvos.exports import coco_dataset, supervision_detections
from soc_rvos.frames import KeptFrames, ResultFrames
from soc_rvos.tracks import Masks, Track
from structures.user_path import user_path

if TYPE_CHECKING:
    import supervision

SUMMARY = "result.json"
DEFAULT_FORMATS = ("masks", "coco", "overlay")
BLIND = ("masks", "palette", "rle", "coco", "ytvis")
"""Formats that can be written without the pixels of the frames."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answers about a video, or about one window of a stream.

    Attributes:
        size: (height, width) of the frames, in pixels.
        fps: frames per second of the video, as it says.
        frame_names: of the frames that were looked at: stems of their files, or five digits of the index.
        frame_indices: their numbers in the video.
        tracks: the answer to each sentence, in the order of the sentences.
        frames: where their pixels are; None where they were not kept.
    """

    size: tuple[int, int]
    fps: float
    frame_names: tuple[str, ...]
    frame_indices: tuple[int, ...]
    tracks: tuple[Track, ...]
    frames: ResultFrames | None = None

    @classmethod
    def of_window(cls, window: WindowPrediction, sentences: Sequence[str], *, fps: float) -> "Result":
        """The answers in one window, with its frames."""
        height, width = window.frames[0].size
        return cls(
            size=(height, width),
            fps=fps,
            frame_names=tuple(frame.name for frame in window.frames),
            frame_indices=tuple(frame.index for frame in window.frames),
            tracks=tuple(
                Track.of(answer, sentence) for answer, sentence in zip(window.objects, sentences, strict=True)
            ),
            frames=KeptFrames([frame.pixels for frame in window.frames]),
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """As they were given; the first axis of everything else."""
        return tuple(track.sentence for track in self.tracks)

    @property
    def masks(self) -> Masks:
        """Masks (object, time, height, width); decoded where they are looked at, see `Masks`."""
        return Masks(self.tracks, self.size)

    @property
    def boxes(self) -> Float[np.ndarray, "object time 4"]:
        """Left, top, right and bottom in pixels, as the model predicts them, also where a sentence was rejected."""
        return np.stack([track.boxes for track in self.tracks])

    @property
    def scores(self) -> Float[np.ndarray, "object time"]:
        """The probability, in each frame, that the object is the one that the sentence means."""
        return np.stack([track.scores for track in self.tracks])

    @property
    def found(self) -> Bool[np.ndarray, " object"]:
        """Whether a sentence was found in any part of the video."""
        return np.array([track.is_found.any() for track in self.tracks])

    @property
    def found_in_frames(self) -> Bool[np.ndarray, "object time"]:
        """Whether a sentence was found in the window of each frame; where not, its mask is empty."""
        return np.stack([track.is_found for track in self.tracks])

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frame_names)

    def __repr__(self) -> str:
        answers = ", ".join(
            f"{sentence!r}{'' if found else ' (not found)'}"
            for sentence, found in zip(self.sentences, self.found, strict=True)
        )
        return f"Result({len(self)} frames of {self.size[1]} x {self.size[0]}: {answers})"

    def to_coco(self) -> dict[str, Any]:
        """The masks as a COCO data set, which `pycocotools.coco.COCO` reads.

        It has an image per frame, a category per sentence, and an annotation, with `score` and `track_id`, per mask
        that has a pixel.
        """
        return coco_dataset(self.tracks, size=self.size, frame_names=self.frame_names)

    def to_supervision(self) -> "Sequence[supervision.Detections]":
        """The masks as `supervision.Detections`, one per frame, made when they are looked at.

        Raises:
            ImportError: the package `supervision` is not installed.
        """
        return supervision_detections(self.tracks, size=self.size)

    def overlay(self, position: int, frame: UInt8[np.ndarray, "height width 3"] | None = None) -> Image.Image:
        """A frame with the objects drawn into it, above the sentences.

        Args:
            position: of the frame in this result, from 0; negative counts from the end.
            frame: its pixels, where they are not kept: those of an iterator that was collected.

        Raises:
            IndexError: there is no such frame.
            ValueError: its pixels are not kept, or cannot be read any more, or are of another size.
        """
        if not -len(self) <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        position %= len(self)
        pixels = frame if frame is not None else self._require_frames().one(position)
        return Image.fromarray(self._drawn(self._overlay(), position, pixels))

    def save(self, folder: str | Path, formats: Sequence[str] | None = None, *, overwrite: bool = False) -> None:
        """Writes a folder, whole or not at all: `result.json` (what was found, scores and boxes) and these formats.

        Args:
            folder: must not exist, or be empty.
            formats: of docs/output_formats.md, such as `palette` or `cutouts`; None: `masks`, `coco` and, where frames
                are kept or can be read again, `overlay`.
            overwrite: replace an earlier result there.

        Raises:
            ValueError: the folder holds something else, a format is unknown, or one shows frames that are not kept.
        """
        folder = user_path(folder)
        if formats is None:
            formats = (
                DEFAULT_FORMATS if self.frames is not None else [each for each in DEFAULT_FORMATS if each in BLIND]
            )
        outputs = outputs_of(formats)
        if any(name not in BLIND for name in formats):
            self._require_frames()
        _require_free(folder, overwrite=overwrite)
        step = self.frame_indices[1] - self.frame_indices[0] if len(self) > 1 else 1
        with (
            atomic_folder(folder) as temporary,
            write_outputs(
                outputs,
                folder=temporary,
                video=folder.name,
                objects=[ObjectToFind(sentence) for sentence in self.sentences],
                fps=self.fps / step,
                source=None if self.frames is None else self.frames.source,
                step=step,
            ) as writer,
        ):
            for position, pixels in enumerate(self._all_pixels()):
                writer.add_frame(self._frame_result(position, pixels))
            write_json(temporary / SUMMARY, self._summary())

    def _all_pixels(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Of all frames; black where they are not kept, for formats that do not show them."""
        if self.frames is not None:
            return self.frames.all()
        return repeat(np.zeros((*self.size, 3), dtype=np.uint8), len(self))

    def _frame_result(self, position: int, pixels: UInt8[np.ndarray, "height width 3"]) -> FrameResult:
        return FrameResult(
            frame=Frame(self.frame_indices[position], self.frame_names[position], pixels),
            found=[bool(each[position]) for each in self.found_in_frames],
            scores=[float(each[position]) for each in self.scores],
            draw=lambda: list(self.masks[:, position]),
        )

    def _require_frames(self) -> ResultFrames:
        if self.frames is None:
            raise ValueError(
                "the frames of this video came from an iterator and are not kept; give the pixels of this one, "
                "result.overlay(i, frame), or draw while the answers come: for part in segmenter.stream(...)"
            )
        return self.frames

    def _overlay(self) -> Overlay:
        height, width = self.size
        return Overlay(self.sentences, height=height, width=width)

    def _drawn(self, overlay: Overlay, position: int, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape != (*self.size, 3):
            raise ValueError(f"a frame of shape {pixels.shape}: expected (height, width, 3) with {self.size} pixels")
        found, scores = ([each[position].item() for each in part] for part in (self.found_in_frames, self.scores))
        return overlay.render(pixels, list(self.masks[:, position]), found, scores)

    def _summary(self) -> dict[str, Any]:
        return {
            "height": self.size[0],
            "width": self.size[1],
            "fps": self.fps,
            "frame_names": self.frame_names,
            "frame_indices": self.frame_indices,
            "objects": [
                {
                    "sentence": track.sentence,
                    "found": bool(track.is_found.any()),
                    "found_in_frames": track.is_found.tolist(),
                    "scores": [round(score, 5) for score in track.scores.tolist()],
                    "boxes_xyxy_px": [[round(side, 2) for side in box] for box in track.boxes.tolist()],
                }
                for track in self.tracks
            ],
        }


def joined(parts: Iterator[Result]) -> Result:
    """The results of all windows as one, without their frames.

    Raises:
        ValueError: there is none.
    """
    windows = [replace(part, frames=None) for part in parts]
    if not windows:
        raise ValueError("the video holds no frame")
    tracks = tuple(
        Track(
            sentence=pieces[0].sentence,
            counts=tuple(code for piece in pieces for code in piece.counts),
            scores=np.concatenate([piece.scores for piece in pieces]),
            boxes=np.concatenate([piece.boxes for piece in pieces]),
            is_found=np.concatenate([piece.is_found for piece in pieces]),
        )
        for pieces in zip(*(window.tracks for window in windows), strict=True)
    )
    return replace(
        windows[0],
        frame_names=tuple(name for window in windows for name in window.frame_names),
        frame_indices=tuple(index for window in windows for index in window.frame_indices),
        tracks=tracks,
    )


def _require_free(folder: Path, *, overwrite: bool) -> None:
    """Raises ValueError unless a result may be written there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder")
    found = {path.name for path in listing(folder)} if folder.is_dir() else set()
    foreign = sorted(found - {*output_markers(), SUMMARY})
    if foreign or (found and SUMMARY not in found):
        raise ValueError(
            f"{folder} holds {(foreign or sorted(found))[0]} and is no earlier result; name another folder"
        )
    if found and not overwrite:
        raise ValueError(f"{folder} holds an earlier result; name another folder, or give overwrite=True")
