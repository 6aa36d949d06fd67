"""Submissions to the servers of benchmarks: exactly the masks that belong to them, checked before they are packed."""

import zipfile
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import DataConfig
from datasets.definition import DatasetSettings
from datasets.generated import read_statistics
from datasets.table import definition_of
from loading.loaders import split_request
from loading.videos import EvalDataset
from media.files import atomic_path, path_inside, plain_name
from media.mask_png import read_index_png

MOST_NAMED = 5
"""Faults that a message lists."""


@dataclass(frozen=True, slots=True)
class ExpectedMask:
    """A mask of a submission.

    Attributes:
        path: below the output folder.
        name: in the archive, with its folders; each of them is a plain name, so that it unpacks in one place.
        size: (height, width) in pixels.
        values: that its pixels may have.
    """

    path: str
    name: str
    size: tuple[int, int]
    values: Set[int]

    def __post_init__(self) -> None:
        """Raises ValueError if a part of the name is none."""
        for part in self.name.split("/"):
            plain_name(part, what=f"{self.path}: submission")

    def below(self, folder: Path) -> Path:
        """Where it lies in an output folder."""
        return path_inside(folder, *self.path.split("/"), what="mask of the submission")


def require_complete(data: DataConfig, settings: DatasetSettings, dataset: EvalDataset) -> None:
    """Raises ValueError unless there are as many videos and sentences as the published split has.

    Generated data, and splits without published sizes, pass.
    """
    root = split_request(data, settings, settings.eval_split, for_training=False).root
    if read_statistics(root) is not None:
        return
    published = definition_of(settings).published.get(dataset.label, {}).get(settings.eval_split)
    if published is None:
        return
    count = definition_of(settings).count(dataset.videos)
    wrong = [
        f"{own} {what} instead of {wanted}"
        for what, own, wanted in (
            ("videos", count.videos, published.videos),
            ("sentences", count.expressions, published.expressions),
        )
        if wanted is not None and own != wanted
    ]
    if wrong:
        raise ValueError(
            f"eval.zip_submission: {settings.eval_name} has {' and '.join(wrong)}, which its server refuses; complete "
            "the data (python -m tools.check_data says what is missing; data.max_eval_videos must be 0), or set "
            "eval.partial_submission=true"
        )


def pack(folder: Path, path: Path, masks: Iterable[ExpectedMask]) -> int:
    """Checks all masks and packs them; the archive appears whole or not at all.

    Args:
        folder: of the output.
        path: of the archive.
        masks: all of the submission. Nothing else is packed, whatever lies in the folder.

    Returns:
        The number of masks.

    Raises:
        ValueError: a mask is missing, or has a wrong size or wrong pixels; the message counts and names them.
    """
    wanted = sorted(masks, key=lambda mask: mask.name)
    with ThreadPoolExecutor() as threads:
        faults = [fault for fault in threads.map(lambda mask: _fault(folder, mask), wanted) if fault]
    if faults:
        shown = "\n  ".join(faults[:MOST_NAMED])
        more = f"\n  and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        raise ValueError(f"{path.name} was not packed: {len(faults)} of {len(wanted)} masks are wrong\n  {shown}{more}")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for mask in wanted:
            archive.write(mask.below(folder), mask.name)
    return len(wanted)


def _fault(folder: Path, mask: ExpectedMask) -> str | None:
    path = mask.below(folder)
    try:
        pixels = read_index_png(path)
    except ValueError as error:
        return str(error)
    if pixels.shape != mask.size:
        return f"{path}: (height, width) {pixels.shape}, but the frame has {mask.size}"
    foreign = set(np.flatnonzero(np.bincount(pixels.ravel())).tolist()) - mask.values
    return f"{path}: pixels of {sorted(foreign)}" if foreign else None
