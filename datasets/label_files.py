"""Labels of one's own: what they say about a video, and labels as PNG files of object ids.

`datasets.coco_labels` reads those of labelling tools.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.frame_names import FrameNames
from datasets.problems import Problem, ProblemKind
from datasets.readers import IndexPngs, MaskReader
from media.files import UnavailableError, path_inside
from media.folders import MASK_SUFFIXES, listing
from media.mask_png import read_index_png
from structures.object_maps import VOID_INDEX

MOST_IDS = 64
"""More ids than that in one mask are soft edges, not objects."""


@dataclass(frozen=True, slots=True)
class VideoLabels:
    """The labels of one video.

    Attributes:
        masks: of the labelled frames.
        positions: of the labelled frames.
        visible: positions of the frames that show each object, by its id.
        keys: ids of the objects that a key of `sentences.json` means, such as a palette index or the name of a
            category.
        names: sentences that the labels themselves give, by key: names of categories. A key without an entry in
            `sentences.json` is described by them.
        elsewhere: keys that are known, but mean no object of this video.
        is_shared: whether they come from a file for several videos, so that other keys may be those of the others.
    """

    masks: MaskReader
    positions: frozenset[int]
    visible: Mapping[int, frozenset[int]]
    keys: Mapping[str, tuple[int, ...]]
    names: Mapping[str, str] = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class LabelPngs(IndexPngs):
    """PNG files of object ids for some frames of a video; an `ObjectMapReader`.

    Attributes:
        folder: of the files.
        names: file of each labelled position.
    """

    folder: Path
    names: Mapping[int, str]

    def path(self, position: int) -> Path:
        """The file that holds the masks of this frame.

        Raises:
            ValueError: the frame is not labelled.
        """
        if position not in self.names:
            raise ValueError(f"{self.folder}: frame {position} is not labelled")
        return path_inside(self.folder, self.names[position], what=f"{self.folder}: label")


def read_label_pngs(folder: Path, *, frames: FrameNames, size: tuple[int, int], problems: list[Problem]) -> VideoLabels:
    """The PNG files of a folder: each labels the frame that its name belongs to.

    Args:
        folder: of the files.
        frames: of the video.
        size: (height, width) of its frames.
        problems: takes files that cannot be used; they are left out.
    """
    names: dict[int, str] = {}
    shown: dict[int, list[int]] = {}
    for path in listing(folder, MASK_SUFFIXES):
        try:
            position = frames.position_of(path.name)
        except ValueError as error:
            problems.append(Problem("labels", str(path), str(error)))
            continue
        if position in names:
            detail = f"a second label of frame {frames.stems[position]}, which {names[position]} is of already"
            problems.append(Problem("labels", str(path), detail))
            continue
        try:
            object_map = read_index_png(path)
        except ValueError as error:
            hint = ""
            if "mode RGB" in str(error):
                hint = (
                    "; this is a picture of colours, not of ids: save it with its palette, or export COCO JSON instead"
                )
            kind: ProblemKind = "unavailable" if isinstance(error, UnavailableError) else "unreadable"
            problems.append(Problem(kind, str(path), str(error).removeprefix(f"{path}: ") + hint))
            continue
        ids = [number for number in np.flatnonzero(np.bincount(object_map.ravel())).tolist() if number]
        if object_map.shape != size:
            detail = f"mask of (height, width) {object_map.shape}, but its frame has {size}"
            problems.append(Problem("mismatched", str(path), detail))
        elif len(ids) > MOST_IDS:
            detail = f"{len(ids)} different ids, which looks like soft edges: save the mask without smoothing"
            problems.append(Problem("labels", str(path), detail))
        else:
            names[position] = path.name
            for number in ids:
                shown.setdefault(number, []).append(position)
    return VideoLabels(
        masks=LabelPngs(folder, names),
        positions=frozenset(names),
        visible={number: frozenset(positions) for number, positions in sorted(shown.items())},
        keys={str(number): (number,) for number in range(1, VOID_INDEX + 1)},
    )
