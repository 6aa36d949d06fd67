"""Data that `tools.make_shapes` generated carry a file of numbers about themselves; no other data set has it."""

import json
import logging
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

logger = logging.getLogger(__name__)

STATISTICS_FILE = "statistics.json"
DATASET_NAME = "Referring Shapes"

_GUESSES: TypeAdapter[dict[str, dict[str, float]]] = TypeAdapter(
    dict[str, dict[str, Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]]]
)


def read_statistics(root: Path) -> dict[str, Any] | None:
    """What the generator wrote; None where the data in a folder are not generated.

    Any data set may have a file of this name: one that is not the generator's is left alone. A damaged one of the
    generator counts as missing, with a line in the log.
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
    return content if isinstance(content, dict) and content.get("dataset") == DATASET_NAME else None


def j_of_guessing(root: Path, split: str) -> Mapping[str, Mapping[str, float]]:
    """J that guessing reaches on generated data, by kind of sentence and name of the guess; nothing on other data.

    Raises:
        ValueError: the file of the generator has something else there. Evaluation asks before it starts, because it
            writes these numbers in the end.
    """
    key = f"{split}_j_of_guessing"
    try:
        return _GUESSES.validate_python((read_statistics(root) or {}).get(key, {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([key, *map(str, first["loc"])])
        raise ValueError(
            f"{root / STATISTICS_FILE}: {place}: got {reprlib.repr(first['input'])}, expected numbers from 0 to 1 by "
            "kind of sentence and name of the guess; generate the data again, or remove this entry"
        ) from None
