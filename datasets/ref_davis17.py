"""Ref-DAVIS17: the 480p videos of DAVIS-2017 with sentences by two annotators, each twice.

    ROOT/JPEGImages/480p/<video>/<frame>.jpg      or ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/Annotations/480p/<video>/<frame>.png     or ROOT/<split>/Annotations/<video>/<frame>.png; 255 is void
    ROOT/meta_expressions/<split>/meta_expressions.json, or the file `expressions`

Expression 4 * o + k is what annotator slot k says about object o, objects in the order of their ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import DataConfig
from datasets.base import Expression, VideoRecord
from datasets.readers import ImageFrames, PngMasks
from datasets.ref_youtube_vos import read_videos
from datasets.text import clean_sentence
from structures.masks_io import VOID_INDEX, read_index_png

NUM_ANNOTATORS = 4


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "RefDavis17":
    """The split as configured; see `datasets.loaders`."""
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: Ref-DAVIS17 has no categories")
    return RefDavis17(
        root,
        split,
        expressions=data.expressions,
        sequences=data.sequences,
        lower_case=data.lower_case,
        raw_sentences=raw_sentences,
    )


class RefDavis17:
    """One split on disk. A sentence's kind is its annotator slot, `anno_0` to `anno_3`.

    Args:
        root: folder of the data.
        split: "valid" or "train".
        expressions: file with the sentences; None looks for it below `root`.
        sequences: only these videos; empty for all in the file.
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.

    Attributes:
        videos: sorted by name.

    Raises:
        ValueError: a file or folder is missing or damaged, or a sentence is empty.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        expressions: Path | None = None,
        sequences: Sequence[str] = (),
        lower_case: bool = True,
        raw_sentences: bool = False,
    ) -> None:
        self._file = expressions or root / "meta_expressions" / split / "meta_expressions.json"
        self._lower_case, self._raw_sentences = lower_case, raw_sentences
        self._frames = _first_folder(root / "JPEGImages" / "480p", root / split / "JPEGImages")
        self._masks = _first_folder(root / "Annotations" / "480p", root / split / "Annotations")
        described = read_videos(self._file)
        unknown = sorted(set(sequences) - set(described))
        if unknown:
            raise ValueError(f"data.sequences: {', '.join(unknown)} not in {self._file}")
        names = sorted(set(sequences) or described)
        missing = [name for name in names if not (self._frames / name).is_dir()]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"{self._frames}: folders of {len(missing)} videos are missing: {shown}; data.sequences=[...] names "
                "the videos to use"
            )
        self.videos = tuple(self._record(name, described[name]) for name in names)

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with the frames in which each object is visible."""
        return tuple(replace(video, visible=_visible_frames(video)) for video in self.videos)

    def _record(self, video: str, content: Mapping[str, Any]) -> VideoRecord:
        try:
            frames = tuple(sorted(content["frames"]))
            described = sorted(content["expressions"].items(), key=lambda item: int(item[0]))
            expressions = tuple(self._expression(video, name, entry) for name, entry in described)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._file}: video {video}: bad or missing entry ({error})") from None
        if not frames or not expressions or len(expressions) % NUM_ANNOTATORS:
            raise ValueError(
                f"{self._file}: video {video} has {len(frames)} frames and {len(expressions)} expressions; expected at "
                f"least one frame and {NUM_ANNOTATORS} expressions per object"
            )
        return VideoRecord(
            name=video,
            frame_names=frames,
            frames=ImageFrames(self._frames / video, frames),
            masks=PngMasks(self._masks / video, frames) if (self._masks / video).is_dir() else None,
            expressions=expressions,
        )

    def _expression(self, video: str, name: str, content: Mapping[str, Any]) -> Expression:
        sentence = clean_sentence(content["exp"], lower_case=self._lower_case)
        if not sentence:
            raise ValueError(f"{self._file}: video {video}, expression {name}: the sentence is empty")
        number = content["obj_id"]
        if not (str(number).isdecimal() and 1 <= int(number) < VOID_INDEX):
            raise ValueError(
                f"{self._file}: video {video}, expression {name}: obj_id={number!r} must be a pixel value from 1 to 254"
            )
        return Expression(
            name=name,
            sentence=content["exp"] if self._raw_sentences else sentence,
            object_ids=(int(number),),
            kind=f"anno_{int(name) % NUM_ANNOTATORS}",
        )


def _first_folder(*candidates: Path) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no such folder: {' or '.join(map(str, candidates))}")


def _visible_frames(video: VideoRecord) -> dict[int, frozenset[int]]:
    """Positions of the frames in which each object has a pixel."""
    if not isinstance(video.masks, PngMasks):
        raise ValueError(f"video {video.name} has no masks; it cannot be trained on")
    present = [
        set(np.unique(read_index_png(video.masks.path(position))).tolist())
        for position in range(len(video.frame_names))
    ]
    return {
        number: frozenset(position for position, ids in enumerate(present) if number in ids)
        for number in {number for expression in video.expressions for number in expression.object_ids}
    }
