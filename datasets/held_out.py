"""Training videos that are left out of training, so that a model can be validated on them.

Some data sets keep the masks of their evaluation split secret. A text file of video names, one a line, takes some
videos out of the training split; `tools.prepare_data --held-out` makes one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets.index_text import IndexFileError, read_names, shown_name

HELD_OUT = "held_out"
"""As `eval_split`: the videos of `train_split` that the file names."""


def choose_held_out(videos: Iterable[str], *, share: float, seed: int) -> tuple[str, ...]:
    """The names of the videos to hold out, sorted.

    The choice is by a hash of seed and name: the same on every machine, and little changed where videos are added.

    Args:
        videos: names of all training videos.
        share: of the videos, in (0, 1); at least one is chosen.
        seed: another one gives another choice.

    Raises:
        ValueError: there are too few videos to leave one for training.
    """
    names = sorted(set(videos))
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise ValueError(f"{count} of {len(names)} videos held out leave none to train on")
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return tuple(sorted(ranked[:count]))


def read_held_out(path: Path) -> tuple[str, ...]:
    """The names in a file of held-out videos.

    Raises:
        ValueError: it is missing, unreadable or empty.
    """
    try:
        names = tuple(dict.fromkeys(read_names(path)))
    except IndexFileError as error:
        raise ValueError(f"held_out={path}: {error.detail}; expected a text file of video names, one a line") from None
    if not names:
        raise ValueError(f"held_out={path}: names no video, expected one name a line")
    return names


def require_known(names: Sequence[str], videos: Iterable[str], *, path: Path, split: str) -> None:
    """Raises ValueError if a held-out video is not in the split."""
    known = set(videos)
    unknown = [name for name in names if name not in known]
    if unknown:
        examples = ", ".join(map(shown_name, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"held_out={path}: {len(unknown)} of {len(names)} names are not videos of split {split!r}: {examples}"
        )
