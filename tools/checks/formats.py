"""All formats, and where they lie below a folder."""

from collections.abc import Iterator
from pathlib import Path

from configs.schema import DataConfig
from tools.checks.a2d import A2D_SENTENCES
from tools.checks.jhmdb import JHMDB_SENTENCES
from tools.checks.refcoco import REFCOCO
from tools.checks.split import Format
from tools.checks.video_folders import MEVIS, REF_DAVIS17, REF_YOUTUBE_VOS

__all__ = ["FORMATS", "Format", "configurations_below"]

FORMATS = {
    format.dataset: format for format in (A2D_SENTENCES, JHMDB_SENTENCES, REF_YOUTUBE_VOS, REF_DAVIS17, REFCOCO, MEVIS)
}
"""By `data.dataset`."""

MAX_DEPTH = 3
"""Folders below the given one that are searched for data sets."""


def configurations_below(root: Path) -> Iterator[tuple[Format, DataConfig, tuple[str, ...]]]:
    """Every data set in a folder or below it, with settings that open it, and its splits."""
    level = [root]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            found = [format for format in FORMATS.values() if format.recognises(folder)]
            for format in found:
                for changes, splits in format.configurations(folder):
                    yield (
                        format,
                        DataConfig.model_validate({"dataset": format.dataset, "root": folder, **changes}),
                        splits,
                    )
            if not found:  # folders of videos inside a data set are many
                deeper += sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        level = deeper
