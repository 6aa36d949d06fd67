"""Two runs on the same sentences."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tools.analyze.samples import Sample

CHANGE = 0.01
"""A score that differs by more than this has changed."""

Key = tuple[str, str, str]


class Changes(NamedTuple):
    """How many samples changed.

    Attributes:
        better: by more than `CHANGE`.
        worse: by more than `CHANGE`.
        same: the others.
    """

    better: int
    worse: int
    same: int


def count_changes(differences: Float[np.ndarray, " sample"]) -> Changes:
    """Counts samples by the sign of the difference, second run minus first."""
    better, worse = int((differences > CHANGE).sum()), int((differences < -CHANGE).sum())
    return Changes(better, worse, len(differences) - better - worse)


def require_same_samples(name: str, first: Sequence[Sample], second: Sequence[Sample]) -> None:
    """Makes sure that two runs evaluate the same, in the same order.

    Args:
        name: of the data set, for the message.
        first: samples of the first run.
        second: samples of the second run.

    Raises:
        ValueError: they do not; the message names an example.
    """
    ours, theirs = ({_key(sample): sample for sample in samples} for samples in (first, second))
    for mine, others, which in ((ours, theirs, "first"), (theirs, ours, "second")):
        missing = [key for key in mine if key not in others]
        if missing:
            raise ValueError(
                f"{name}: the runs evaluate different sentences: {len(missing)} of {len(mine)} are in the {which} run "
                f"only, for instance {_show(mine[missing[0]])}; compare runs on the same data and split"
            )
    for key, sample in ours.items():
        other = theirs[key]
        if _plain(sample.sentence) != _plain(other.sentence):
            raise ValueError(
                f"{name}: the runs evaluate different sentences: {_show(sample)} reads {sample.sentence!r} in the "
                f"first run and {other.sentence!r} in the second"
            )
        if len(sample.frame_regions) != len(other.frame_regions):
            raise ValueError(
                f"{name}: the runs evaluate different frames: {_show(sample)} has {len(sample.frame_regions)} frames "
                f"in the first run and {len(other.frame_regions)} in the second"
            )


def in_order_of(first: Sequence[Sample], second: Iterable[Sample]) -> list[Sample]:
    """The samples of the second run in the order of the first."""
    theirs = {_key(sample): sample for sample in second}
    return [theirs[_key(sample)] for sample in first]


def changed_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys of two configurations whose values differ, with both values."""
    ours, theirs = _flat(first), _flat(second)
    return [
        (key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys((*ours, *theirs))
        if ours.get(key) != theirs.get(key)
    ]


def _key(sample: Sample) -> Key:
    # objects of several annotators have the same numbers
    return sample.video, sample.frame, sample.expression if sample.sentence else f"{sample.group}/{sample.expression}"


def _show(sample: Sample) -> str:
    where = f"video {sample.video}, expression {sample.expression}"
    return f"{where}, frame {sample.frame}" if sample.frame else where


def _plain(sentence: str) -> str:
    """Without case and punctuation, which runs may treat differently on purpose."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    items: Iterable[tuple[Any, Any]]
    if isinstance(values, Mapping):
        items = values.items()
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        items = enumerate(values)
    else:
        return {prefix: values}
    return {key: value for name, inner in items for key, value in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()}
