"""Questions about a video, and what the page shows of the answers. Knows nothing of the browser."""

import base64
import html
import io
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from media.colours import Colour, ObjectColours
from media.overlay import GREY, Overlay
from prediction.video_outputs import OVERLAY
from soc_rvos import Result, ResultStream, Segmenter
from soc_rvos.frames import RereadFrames
from soc_rvos.result import joined

Progress = Callable[[float, str], None]
"""Takes the share that is done, from 0 to 1, and what is being done."""

ARCHIVE = "segmentation.zip"

SHARE_OF_MODEL = 0.8
"""Of the time; the rest goes into drawing and writing."""

JPEG_QUALITY = 90

THRESHOLD = "threshold"
"""Name of the line in the plot of scores below which sentences are refused."""


class ScoreRow(NamedTuple):
    """A point of the plot of scores.

    Attributes:
        time: of the frame in the video, in seconds.
        score: probability that the frame shows what the sentence means.
        sentence: or the name of the threshold.
    """

    time: float
    score: float
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The answers about a video, with what has been written of them.

    Attributes:
        result: masks and scores.
        colours: of the objects, the same as in the overlay video.
        min_score: below which a sentence was refused.
        overlay: the video.
        archive: everything, as a ZIP archive.
    """

    result: Result
    colours: tuple[Colour, ...]
    min_score: float
    overlay: Path
    archive: Path

    @property
    def found(self) -> list[int]:
        """Positions of the sentences that were found in some part of the video."""
        return np.flatnonzero(self.result.found).tolist()

    def fullest_frame(self) -> int:
        """The first of the frames in which most objects can be seen."""
        result = self.result
        visible = [sum(bool(mask.any()) for mask in result.masks[:, time]) for time in range(len(result))]
        return int(np.argmax(visible))

    def picture(self, position: int, shown: Collection[int]) -> UInt8[np.ndarray, "height width 3"]:
        """A frame with some of the objects drawn into it.

        Args:
            position: of the frame.
            shown: positions of the sentences whose objects are drawn.

        Raises:
            ValueError: the frame cannot be read any more.
        """
        result = self.result
        if result.frames is None:
            raise ValueError("the frames of this video are not kept")
        chosen = [index for index in range(len(result.tracks)) if index in shown]
        colours = _FixedColours([self.colours[index] for index in chosen])
        height, width = result.size
        overlay = Overlay([result.sentences[index] for index in chosen], height=height, width=width, colours=colours)
        picture = overlay.render(
            result.frames.one(position),
            [result.masks[index, position] for index in chosen],
            [bool(result.found_in_frames[index, position]) for index in chosen],
            [float(result.scores[index, position]) for index in chosen],
        )
        # sentences and what was not found stand beside the picture, see `verdicts`
        return overlay.picture_in(picture)

    def picture_html(self, position: int, shown: Collection[int]) -> str:
        """`picture` as an element of a page, with the pixels in it, so that no file is left behind."""
        stream = io.BytesIO()
        Image.fromarray(self.picture(position, shown)).save(stream, format="JPEG", quality=JPEG_QUALITY)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        names = ", ".join(self.result.sentences[index] for index in sorted(shown)) or "no object"
        text = html.escape(f"frame {self.result.frame_indices[position]} with {names}", quote=True)
        return f'<img class="frame" alt="{text}" src="data:image/jpeg;base64,{data}">'

    def verdicts(self) -> str:
        """Each sentence with its colour and where it was found, as elements of a page."""
        lines = []
        for index, track in enumerate(self.result.tracks):
            num_found, num_frames = int(track.is_found.sum()), len(track.is_found)
            where = "in all frames" if num_found == num_frames else f"in {num_found} of {num_frames} frames"
            best = float(track.scores.max())
            verdict = (
                f"found {where}"
                if num_found
                else f"<b>not found</b> (score at most {best:.2f}, threshold {self.min_score:.2f})"
            )
            colour = self.colours[index] if num_found else GREY
            style = f"background:{_css(colour)}" if num_found else f"border:2px solid {_css(colour)}"
            lines.append(
                f'<li><span class="swatch" style="{style}"></span><span>{html.escape(track.sentence)}</span> '
                f'<span class="verdict">{verdict}</span></li>'
            )
        return f'<ul class="verdicts">{"".join(lines)}</ul>'

    def score_rows(self) -> list[ScoreRow]:
        """The scores of all sentences, and the threshold as two points."""
        result = self.result
        times = [index / result.fps for index in result.frame_indices]
        rows = [
            ScoreRow(time, float(score), track.sentence)
            for track in result.tracks
            for time, score in zip(times, track.scores, strict=True)
        ]
        if self.min_score > 0:
            rows += [ScoreRow(time, self.min_score, THRESHOLD) for time in (times[0], times[-1])]
        return rows

    def line_colours(self) -> dict[str, str]:
        """Of the lines in the plot, in the words of CSS; a refused sentence has a shade of grey."""
        found = set(self.found)
        greys = iter((110, 150, 180) * len(self.result.tracks))
        lines = {
            sentence: _css(self.colours[index] if index in found else (next(greys),) * 3)
            for index, sentence in enumerate(self.result.sentences)
        }
        return {**lines, THRESHOLD: _css((60, 60, 60))}


class _FixedColours(ObjectColours):
    """Colours that were chosen before."""

    def __init__(self, colours: Sequence[Colour]) -> None:
        super().__init__(len(colours))
        self._chosen = list(colours)


def ask(
    segmenter: Segmenter, video: Path, sentences: Sequence[str], *, num_frames: int, folder: Path, progress: Progress
) -> Answered:
    """Segments a video and writes masks, JSON files and the overlay.

    Args:
        segmenter: with the model.
        video: a file.
        sentences: to find.
        num_frames: of the video, for the progress.
        folder: where the files go; must not exist.
        progress: told after each window.

    Raises:
        ValueError: the video or a sentence cannot be used.
    """
    progress(0.0, "reading the video")
    result = joined(_watched(segmenter.stream(video, sentences), num_frames, progress))
    result = replace(result, frames=RereadFrames(video, result.frame_indices))
    progress(SHARE_OF_MODEL, "drawing")
    colours = choose_colours(result)
    folder.mkdir(parents=True)
    files = folder / "segmentation"
    result.save(files)
    progress(0.97, "packing")
    archive = pack_folder(files, folder / ARCHIVE)
    return Answered(result, colours, segmenter.settings.min_score, files / OVERLAY, archive)


def _watched(stream: ResultStream, num_frames: int, progress: Progress) -> Iterator[Result]:
    done = 0
    for number, part in enumerate(stream, start=1):
        done += len(part)
        share = min(1.0, done / max(1, num_frames))
        progress(SHARE_OF_MODEL * share, f"window {number}: {done} of {num_frames} frames")
        yield part


def choose_colours(result: Result) -> tuple[Colour, ...]:
    """The colours that the overlay video has: each object's is chosen in the frame in which it is first seen."""
    colours = ObjectColours(len(result.tracks))
    first = [_first_seen(result, index) for index in range(len(result.tracks))]
    if result.frames is None:
        return colours.of_all()
    for position in sorted({position for position in first if position is not None}):
        colours.look([result.frames.one(position)], [[mask] for mask in result.masks[:, position]])
    return colours.of_all()


def _first_seen(result: Result, index: int) -> int | None:
    return next((time for time in range(len(result)) if result.masks[index, time].any()), None)


def pack_folder(folder: Path, archive: Path) -> Path:
    """A folder as a ZIP archive, under its own name; PNG and MP4 files are stored as they are.

    Returns:
        The archive.
    """
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                method = zipfile.ZIP_DEFLATED if file.suffix in (".json", ".md", ".yaml") else zipfile.ZIP_STORED
                opened.write(file, f"{folder.name}/{file.relative_to(folder)}", compress_type=method)
    return archive


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
