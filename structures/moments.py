"""Moments of a video as people write them: `3.5` or `01:02` in seconds, `120f` as the number of a frame."""

import re
from dataclasses import dataclass

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")
_FORMS = "expected seconds such as 3.5, a time such as 00:01:02 or 1:02.5, or a frame such as 120f"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a video, counted from its start.

    Attributes:
        value: in seconds, or the number of a frame.
        is_frame: whether it is the number of a frame.
    """

    value: float
    is_frame: bool

    def frame(self, fps: float) -> int:
        """The number of the frame, from 0, in a video of so many frames per second."""
        return int(self.value) if self.is_frame else round(self.value * fps)


def parse_moment(text: str) -> Moment:
    """Reads `120f`, `3.5`, `1:02.5` or `00:01:02`.

    Raises:
        ValueError: it is none of these.
    """
    written = text.strip()
    if re.fullmatch(r"\d+f", written):
        return Moment(float(written[:-1]), is_frame=True)
    if re.fullmatch(r"\d+\.?\d*|\.\d+", written):
        return Moment(float(written), is_frame=False)
    clock = _CLOCK.fullmatch(written)
    if clock is None or int(clock[2]) >= 60 or float(clock[3]) >= 60:
        raise ValueError(f"{text!r} is no moment of a video; {_FORMS}")
    return Moment(3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]), is_frame=False)
