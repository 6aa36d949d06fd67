"""Data that `tools.make_shapes` generated carry a file of numbers about themselves; no other data set has it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATISTICS_FILE = "statistics.json"
DATASET_NAME = "Referring Shapes"


def read_statistics(root: Path) -> dict[str, Any] | None:
    """What the generator wrote; None where the data in a folder are not generated.

    Raises:
        ValueError: the file is damaged.
    """
    path = root / STATISTICS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None
    return content if isinstance(content, dict) and content.get("dataset") == DATASET_NAME else None


def j_of_guessing(root: Path, split: str) -> Mapping[str, Mapping[str, float]]:
    """J that guessing reaches on generated data, by kind of sentence and name of the guess; nothing on other data.

    Raises:
        ValueError: the file of numbers is damaged.
    """
    statistics = read_statistics(root) or {}
    return statistics.get(f"{split}_j_of_guessing", {})
