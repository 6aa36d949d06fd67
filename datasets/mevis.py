"""MeViS: sentences about motion, which may mean several objects at once.

    ROOT/<split>/meta_expressions.json      videos.<video>.{frames, expressions.<id>.{exp, obj_id[], anno_id[]}}
    ROOT/<split>/mask_dict.json             <anno_id>: for each frame of its video a run-length mask, or null
    ROOT/<split>/JPEGImages/<video>/<frame>.jpg

<split> is train, valid_u or valid; `valid` has no objects and no masks, its answers are scored by a server. An object
of this project is an `anno_id`. A sentence's target is the union of its objects, in training as in evaluation: the
model answers with one mask per sentence, and that is what the benchmark scores.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from configs.schema import DataConfig
from datasets.coco_masks import decode_mask, encode_segmentation, mask_area
from datasets.readers import ImageFrames, SizeMismatchError
from datasets.records import Expression, VideoRecord
from datasets.ref_youtube_vos import read_videos
from loading.text import clean_sentence

logger = logging.getLogger(__name__)

_LAST_BYTES = range(48, 48 + 32)
"""Bytes that end a number of compressed run lengths; greater ones say that more follows."""


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "Mevis":
    """See `OpenSplit`."""
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: MeViS has no categories")
    return Mevis(root, split, lower_case=data.lower_case, raw_sentences=raw_sentences)


@dataclass(frozen=True, slots=True)
class Track:
    """The masks of one object, as run lengths.

    Attributes:
        size: (height, width) that they were made for.
        counts: of every frame, separated by blanks, which they cannot contain; empty where the object is not seen.
            One object in memory instead of hundreds, because worker processes share pages, not objects.
    """

    size: tuple[int, int]
    counts: bytes

    def of_frames(self) -> list[bytes]:
        """The run lengths of each frame, empty where the object is not seen."""
        return self.counts.split(b" ")


@dataclass(frozen=True, slots=True)
class TrackMasks:
    """The masks of the objects of one video.

    Attributes:
        source: file that they come from, for messages.
        tracks: by `anno_id`.
    """

    source: Path
    tracks: Mapping[int, Track]

    def read(
        self, positions: Sequence[int], *, size: tuple[int, int], objects: Sequence[int]
    ) -> Bool[Tensor, "object time height width"]:
        """See `MaskReader`."""
        masks = np.zeros((len(objects), len(positions), *size), dtype=np.uint8)
        for place, number in enumerate(objects):
            track = self.tracks[number]
            counts = track.of_frames()
            for time, position in enumerate(positions):
                if not counts[position]:
                    continue
                where = f"{self.source}: anno_id {number}, frame {position}"
                if track.size != size:
                    raise SizeMismatchError(f"{where}: mask of (height, width) {track.size}, but its frame has {size}")
                try:
                    # what pycocotools would not notice
                    checked = encode_segmentation({"size": list(size), "counts": counts[position]}, size=size)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
                masks[place, time] = decode_mask(checked, size=size)
        return torch.from_numpy(masks).view(torch.bool)


class Mevis:
    """One split on disk. The index files are read here, once; images are read by whoever needs them.

    Args:
        root: folder of the data.
        split: "train", "valid_u" or "valid".
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.

    Attributes:
        videos: sorted by name.

    Raises:
        ValueError: a file or folder is missing or damaged, a sentence is empty, or an object has no masks.
    """

    def __init__(self, root: Path, split: str, *, lower_case: bool = True, raw_sentences: bool = False) -> None:
        folder = root / split
        self._expressions_file, self._masks_file = folder / "meta_expressions.json", folder / "mask_dict.json"
        self._frames = folder / "JPEGImages"
        self._lower_case, self._raw_sentences = lower_case, raw_sentences
        described = read_videos(self._expressions_file)
        if not self._frames.is_dir():
            raise ValueError(f"{self._frames}: no such folder")
        missing = sorted(set(described) - {path.name for path in self._frames.iterdir()})
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(f"{self._frames}: folders of {len(missing)} videos are missing: {shown}")
        videos = [self._record(video, described[video]) for video in sorted(described)]
        if any(expression.object_ids for video in videos for expression in video.expressions):
            tracks = self._read_tracks()
            videos = [self._with_masks(video, tracks) for video in videos]
        self.videos = tuple(videos)

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with the frames in which each object is visible.

        Raises:
            ValueError: the split keeps its objects secret.
        """
        return tuple(replace(video, visible=self._visible(video)) for video in self.videos)

    def _visible(self, video: VideoRecord) -> dict[int, frozenset[int]]:
        if not isinstance(video.masks, TrackMasks):
            raise ValueError(
                f"{self._expressions_file}: video {video.name} has no anno_id; this split cannot be trained on"
            )
        return {
            number: frozenset(
                position
                for position, counts in enumerate(track.of_frames())
                if counts and mask_area(counts, size=track.size)
            )
            for number, track in video.masks.tracks.items()
        }

    def _record(self, video: str, content: Mapping[str, Any]) -> VideoRecord:
        try:
            # Masks are in the order of the file.
            frames, described = tuple(content["frames"]), content["expressions"]
            expressions = tuple(self._expression(video, name, described[name]) for name in described)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._expressions_file}: video {video}: bad or missing entry ({error})") from None
        if not frames or not expressions:
            raise ValueError(f"{self._expressions_file}: video {video} has no frames or no expressions")
        return VideoRecord(
            name=video,
            frame_names=frames,
            frames=ImageFrames(self._frames / video, frames),
            masks=None,
            expressions=expressions,
        )

    def _expression(self, video: str, name: str, content: Mapping[str, Any]) -> Expression:
        place = f"{self._expressions_file}: video {video}, expression {name}"
        sentence = clean_sentence(content["exp"], lower_case=self._lower_case)
        if not sentence:
            raise ValueError(f"{place}: the sentence is empty")
        objects = content.get("anno_id")
        if objects is not None and not (objects and all(str(number).isdecimal() for number in objects)):
            raise ValueError(f"{place}: anno_id={objects!r} must be a list with at least one number")
        return Expression(
            name=name,
            sentence=content["exp"] if self._raw_sentences else sentence,
            object_ids=tuple(dict.fromkeys(map(int, objects or ()))),
        )

    def _with_masks(self, video: VideoRecord, tracks: Mapping[int, Track]) -> VideoRecord:
        mine = {}
        for expression in video.expressions:
            for number in expression.object_ids:
                place = f"{self._masks_file}: anno_id {number} (video {video.name}, expression {expression.name})"
                if number not in tracks:
                    raise ValueError(f"{place} is missing")
                if len(tracks[number].of_frames()) != len(video.frame_names):
                    raise ValueError(
                        f"{place} has masks for {len(tracks[number].of_frames())} frames, the video has "
                        f"{len(video.frame_names)}"
                    )
                mine[number] = tracks[number]
        return replace(video, masks=TrackMasks(self._masks_file, mine))

    def _read_tracks(self) -> dict[int, Track]:
        logger.info("reading %s", self._masks_file)
        try:
            content = json.loads(self._masks_file.read_bytes())
            return {int(number): _track(masks) for number, masks in content.items()}
        except FileNotFoundError:
            raise ValueError(f"{self._masks_file}: no such file") from None
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ValueError(f"{self._masks_file}: not a readable file of run-length masks ({error!r})") from None


def _track(masks: Sequence[Mapping[str, Any] | None]) -> Track:
    """Packs the masks of one object.

    Raises:
        ValueError: they were made for different sizes, or one is cut off.
    """
    sizes = {(int(mask["size"][0]), int(mask["size"][1])) for mask in masks if mask is not None}
    if len(sizes) > 1:
        raise ValueError(f"masks of one object with different sizes {sorted(sizes)}")
    counts = [b"" if mask is None else mask["counts"].encode("ascii") for mask in masks]
    if any(code and code[-1] not in _LAST_BYTES for code in counts):
        raise ValueError("a run-length mask is cut off in the middle of a number")
    return Track(next(iter(sizes), (0, 0)), b" ".join(counts))
