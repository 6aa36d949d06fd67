"""Data that `tools.make_shapes` generated carry a file of numbers about themselves; no other data set has it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from datasets.index_file import IndexContent, Place, validate

logger = logging.getLogger(__name__)

STATISTICS_FILE = "statistics.json"
DATASET_NAME = "Referring Shapes"
GUESSING = "_j_of_guessing"
"""End of the keys with the scores of guessing; the split is before it."""


class _Guesses(IndexContent[dict[str, dict[str, Annotated[FiniteFloat, Field(ge=0, le=1)]]]]):
    """J of each guess, by kind of sentence."""


def read_statistics(root: Path) -> dict[str, Any] | None:
    """What the generator wrote; None where the data in a folder are not generated.

    Any data set may have a file of this name: one that is not the generator's is left alone. A damaged one of the
    generator counts as missing, with a line in the log.

    Raises:
        ValueError: the scores of guessing in it are none.
    """
    path = root / STATISTICS_FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if DATASET_NAME in text:
            logger.warning("%s: not a readable JSON file (%s); it is left out of account", path, error)
        return None
    if not isinstance(content, dict):
        return None
    guesses = {key: value for key, value in content.items() if key.endswith(GUESSING)}
    for key, value in guesses.items():
        validate(_Guesses, value, Place(path).at(key))
    return content if content.get("dataset") == DATASET_NAME else None


def j_of_guessing(root: Path, split: str) -> Mapping[str, Mapping[str, float]]:
    """J that guessing reaches on generated data, by kind of sentence and name of the guess; nothing on other data.

    Raises:
        ValueError: as `read_statistics`. Evaluation asks before it starts, because it writes these numbers in the end.
    """
    statistics = read_statistics(root) or {}
    return statistics.get(f"{split}{GUESSING}", {})
