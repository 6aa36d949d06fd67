"""Which frame of a video a label belongs to, from the name of its file.

Tools that label frames rename them: CVAT writes `frame_000012.png`, Label Studio puts letters and a dash before the
name, Roboflow writes `frame_0012_jpg.rf.<letters>.jpg`. `FrameNames.position_of` undoes that, see there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

_ROBOFLOW_ENDING = re.compile(r"(_(jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9a-zA-Z]+$", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_SEPARATORS = "-_. "


@dataclass(frozen=True)
class FrameNames:
    """The names of the frames of one video.

    Attributes:
        stems: of the images in a folder of frames, in order of time; of a video file, five digits of the index.
        is_video_file: whether frames are counted instead of named.
        first_index: number that the names of labels give to the first frame of a video file.
    """

    stems: Sequence[str]
    is_video_file: bool = False
    first_index: int = 0

    def position_of(self, name: str) -> int:
        """The position of the frame that a label is of.

        Of the name only the last part counts, without its folders, its suffix and the ending that Roboflow adds. In a
        folder of frames it is the frame of exactly this name; otherwise the only one whose name ends it, after one of
        `-_. `; otherwise the only one with the same number, which is the last run of digits. In a video file it is
        this number, counted from `first_index`.

        Raises:
            ValueError: there is no such frame, or there are several.
        """
        stem = plain_stem(name)
        number = last_number(stem)
        if self.is_video_file:
            return self._position_in_file(name, number)
        if stem in self._position:
            return self._position[stem]
        ending = [p for own, p in self._position.items() if any(stem.endswith(mark + own) for mark in _SEPARATORS)]
        if len(ending) == 1:
            return ending[0]
        same_number = [] if number is None else self._with_number.get(number, [])
        if len(same_number) == 1:
            return same_number[0]
        frames = f"{len(self.stems)} frames {self.stems[0]} to {self.stems[-1]}"
        if ending or same_number:
            several = ", ".join(self.stems[p] for p in (ending or same_number)[:3])
            raise ValueError(f"label {name!r} may belong to several of the {frames} ({several}, ...)")
        raise ValueError(f"label {name!r} belongs to none of the {frames}")

    def _position_in_file(self, name: str, number: int | None) -> int:
        if number is None:
            raise ValueError(f"label {name!r} has no number in its name, which would say the frame of the video file")
        position = number - self.first_index
        if not 0 <= position < len(self.stems):
            last = self.first_index + len(self.stems) - 1
            raise ValueError(
                f"label {name!r} is of frame {number}, but the {len(self.stems)} frames of the video are counted from "
                f"{self.first_index} to {last}"
            )
        return position

    @cached_property
    def _position(self) -> dict[str, int]:
        return {stem: position for position, stem in enumerate(self.stems)}

    @cached_property
    def _with_number(self) -> dict[int, list[int]]:
        positions: dict[int, list[int]] = {}
        for position, stem in enumerate(self.stems):
            number = last_number(stem)
            if number is not None:
                positions.setdefault(number, []).append(position)
        return positions


def plain_stem(name: str) -> str:
    """A file name without folders, suffix, and the ending that Roboflow adds."""
    # Windows paths occur in exports, too
    stem = PurePosixPath(name.replace("\\", "/")).name
    stem = re.sub(r"\.(jpe?g|png|bmp|webp|tiff?)$", "", stem, flags=re.IGNORECASE)
    return _ROBOFLOW_ENDING.sub("", stem)


def last_number(stem: str) -> int | None:
    """The last run of digits in a name."""
    runs = _NUMBER.findall(stem)
    return int(runs[-1]) if runs else None
