"""The folders of a prediction: what an earlier one has left there goes before anything new comes."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from media.files import claim_output, output_path, remove_temporary, write_json
from prediction.outputs import remove_files
from prediction.writers import FORMATS, output_markers

logger = logging.getLogger(__name__)

SUMMARY = "prediction.json"

UNFINISHED = ".unfinished.json"
"""Folders, relative to the output folder, in which something of an unfinished prediction may lie."""


def claim(output_dir: Path, folders: Sequence[Path], *, overwrite: bool) -> None:
    """Makes the output folders of a prediction; what an earlier one has written there goes, all of it.

    That is also what lies in folders of videos that are not segmented again: of two predictions in one output folder,
    nobody could say later what belongs together. The report goes first, then what it speaks of; and until the new
    prediction is complete, a list says where something may lie, so that the next one can clean up after a kill.

    Args:
        output_dir: of the prediction.
        folders: of the videos: `output_dir` itself, or folders in it.
        overwrite: accept folders with results.

    Raises:
        ValueError: a folder holds results that are not to be overwritten, or a link leads out of it.
    """
    for folder in dict.fromkeys([output_dir, *folders]):
        claim_output(folder, markers=(*output_markers(), SUMMARY), overwrite=overwrite)
    summaries = sorted(output_dir.glob(f"*/{SUMMARY}")) if overwrite else []
    earlier = [output_path(output_dir, path.parent.name, what="folder of a video") for path in summaries]
    left = [output_dir / name for name in _unfinished(output_dir)]
    all_folders = list(dict.fromkeys([output_dir, *folders, *left, *earlier]))
    write_json(output_dir / UNFINISHED, [folder.relative_to(output_dir).as_posix() for folder in all_folders])
    for folder in all_folders:
        (folder / SUMMARY).unlink(missing_ok=True)
        remove_files(folder, [pattern for output in FORMATS.values() for pattern in output.patterns])
        if folder not in folders and folder != output_dir and not any(folder.iterdir()):
            folder.rmdir()
    remove_temporary(output_dir)


def finish(output_dir: Path) -> None:
    """Notes that the prediction is complete."""
    (output_dir / UNFINISHED).unlink(missing_ok=True)


def _unfinished(output_dir: Path) -> list[str]:
    """The folders of a prediction that was interrupted here; none where there was none.

    Raises:
        ValueError: the list is none, or leads out of the folder.
    """
    path = output_dir / UNFINISHED
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        folders = [name for name in names if name != "."]
        existing = [
            name for name in folders if output_path(output_dir, *name.split("/"), what=f"{path}: folder").is_dir()
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a list of folders here ({error}); delete it, or name another output_dir"
        ) from None
    return existing
