"""The files of JHMDB-Sentences: what is in them, and which frames the published lists name."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool
from pydantic import BeforeValidator, PositiveInt

from datasets.index_file import IndexContent, Place, Sentence, Text, read_json, validate
from datasets.index_text import read_csv, shown
from datasets.problems import Problem
from datasets.readers import require_size
from media.files import UnavailableError, plain_name, reading, regular_file
from media.folders import IMAGE_SUFFIXES, listing
from media.limits import require_pixels

PERSON = 1
"""Object id of the only person."""


@dataclass(frozen=True, slots=True)
class MatMasks:
    """The masks of a video in one MATLAB file; a `MaskReader` that knows one object, the person.

    Attributes:
        file: with `part_mask` of height x width x frame.
    """

    file: Path

    def path(self, position: int) -> Path:
        """The file that holds the mask of this frame."""
        return self.file

    def num_frames(self) -> int:
        """Frames with a mask, without reading these.

        Raises:
            ValueError: the file is missing or damaged.
        """
        with _named_in_errors(self.file):
            return self._shape()[2]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[np.ndarray, "object time height width"]:
        """See `MaskReader`."""
        import scipy.io  # here, because configurations are read without it

        with _named_in_errors(self.file):
            *sides, num_frames = self._shape()
        require_pixels(*(sides if len(sides) == 2 else (0, 0)), layers=num_frames, what=f"{self.file}: part_mask")
        with _named_in_errors(self.file):
            masks = np.asarray(scipy.io.loadmat(regular_file(self.file), variable_names=["part_mask"])["part_mask"])
        if masks.dtype.kind not in "biuf":
            raise ValueError(f"{self.file}: part_mask: got an array of {masks.dtype}, expected real numbers")
        if masks.ndim != 3 or max(positions) >= masks.shape[2]:
            raise ValueError(
                f"{self.file}: part_mask has shape {masks.shape}, but frame {max(positions) + 1} is needed"
            )
        require_size(masks.shape[:2], size, self.file)
        person = masks.transpose(2, 0, 1)[list(positions)] != 0
        return np.stack([person if number == PERSON else np.zeros_like(person) for number in objects])

    def _shape(self) -> tuple[int, ...]:
        """(height, width, frames) that the file claims."""
        import scipy.io  # here, because configurations are read without it

        return {name: shape for name, shape, _ in scipy.io.whosmat(regular_file(self.file))}["part_mask"]


@contextmanager
def _named_in_errors(file: Path) -> Iterator[None]:
    """Turns what SciPy raises about a missing or damaged file into a ValueError that names the file."""
    from scipy.io.matlab import MatReadError

    try:
        with reading(file):
            yield
    except UnavailableError:
        raise
    except (
        OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError, zlib.error
    ) as error:  # fmt: skip
        if not file.exists():
            raise ValueError(f"{file}: no such mask file") from None
        raise ValueError(f"{file}: not a readable mask file ({type(error).__name__}: {error})") from None


def read_sentences(path: Path, problems: list[Problem]) -> dict[str, str]:
    """Sentence of each video, in the order of the file.

    Args:
        path: of the file.
        problems: takes lines that are not as expected or name a video again; they are left out.

    Raises:
        ValueError: the file cannot be read, has another header or no sentence.
    """
    if not path.exists():
        layout = f"the folder of the data set must hold {path.name}, Rename_Images/ and puppet_mask/"
        raise ValueError(f"{path}: no such file; {layout}")
    lines = read_csv(path)
    header = next(lines, (1, []))[1]
    if header != ["video_id", "query"]:
        raise ValueError(f"{path}:1: got {shown(','.join(header))}, expected the header video_id,query")
    sentences: dict[str, str] = {}
    is_empty = True
    for number, row in lines:
        is_empty = False
        line = f"{path}:{number}"
        if len(row) != 2 or not row[1].strip():
            problems.append(Problem("expressions", line, f"got {shown(','.join(row))}, expected video_id,query"))
        elif row[0] in sentences:
            problems.append(Problem("expressions", line, f"video {row[0]} is listed twice"))
        else:
            try:
                sentences[plain_name(row[0], what="video_id")] = row[1]
            except ValueError as error:
                problems.append(Problem("expressions", line, str(error)))
    if is_empty:
        raise ValueError(f"{path}: no sentence")
    return sentences


class ListedSample(NamedTuple):
    """An entry of a published list of samples.

    Attributes:
        frame: name of the file, without its suffix.
        num_frames: of the video; the published windows end there, even if its folder holds more.
        sentence: as it stands there.
    """

    frame: str
    num_frames: int
    sentence: str


_SAMPLE = ("video", "path of the frame", "path of the masks", "number of frames", "sentence")


def _as_tuple(entry: object) -> object:
    """JSON has no tuples."""
    if isinstance(entry, list) and len(entry) == len(_SAMPLE):
        return tuple(entry)
    raise ValueError(f"a list of {len(_SAMPLE)}: {', '.join(_SAMPLE)}")


_Sample = Annotated[tuple[Text, Text, Text, PositiveInt, Sentence], BeforeValidator(_as_tuple)]


class _Samples(IndexContent[list[_Sample]]):
    """Entries of a published list."""


def read_choice(path: Path) -> dict[str, tuple[ListedSample, ...]]:
    """The samples of a published list, by video.

    An entry is (video, path of the frame, path of the masks, number of frames, sentence); of paths only file names are
    looked at, because they are those of another machine.

    Raises:
        ValueError: the file cannot be read, or has other entries.
    """
    chosen: dict[str, list[ListedSample]] = {}
    for video, frame, _, num_frames, sentence in validate(_Samples, read_json(path), Place(path)).root:
        chosen.setdefault(video, []).append(ListedSample(PurePosixPath(frame).stem, num_frames, sentence))
    return {video: tuple(samples) for video, samples in chosen.items()}


def video_folders(folder: Path) -> list[Path]:
    """<action>/<video>."""
    if not folder.is_dir():
        return []
    return [path for action in listing(folder) if action.is_dir() for path in listing(action) if path.is_dir()]


def frame_names(folder: Path, problems: list[Problem]) -> tuple[str, ...]:
    """Names of the frames of a video, which are numbered without a gap; none where one is missing."""
    names = {path.stem for path in listing(folder, IMAGE_SUFFIXES)}
    if not names:
        problems.append(Problem("missing", f"{folder}/", "no frames (*.png)"))
        return ()
    highest = max(int(name) if name.isdecimal() and len(name) == 5 else 0 for name in names)
    expected = tuple(f"{number:05d}" for number in range(1, max(highest, len(names)) + 1))
    missing = [name for name in expected if name not in names]
    problems += [
        Problem("missing", str(folder / f"{name}.png"), f"no such frame; the folder has {len(names)}")
        for name in missing
    ]
    return () if missing else expected
