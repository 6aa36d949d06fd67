"""A2D-Sentences: short clips with a few annotated frames each, and a sentence for each annotated actor.

    ROOT/Release/videoset.csv                       no header; the last column is 0 for train, 1 for test
    ROOT/Release/clips320H/<video>.mp4              or CLIPS320
    ROOT/text_annotations/a2d_annotation.txt        csv: video_id,instance_id,query
    ROOT/text_annotations/a2d_missed_videos.txt     videos of videoset.csv without sentences
    ROOT/text_annotations/a2d_annotation_with_instances/<video>/<frame>.h5

Frames are numbered from 1. An h5 file holds `instance` (the numbers of its actors), `reMask` (a mask for each, width
before height; without the first axis if there is one actor) and `reBBox`. A sample is a sentence and a frame with
its actor; a clip has that frame in its middle.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.schema import DataConfig
from datasets.a2d_files import SUBSETS, A2DFiles, H5Masks, Row, read_instances, read_missed, read_rows, read_videoset
from datasets.cache import cached, fingerprint
from datasets.records import Expression, VideoRecord
from loading.text import clean_sentence
from media.video_seek import VideoFileFrames

logger = logging.getLogger(__name__)

INDEX_FORMAT = 1
"""Raise when the meaning of the kept index changes."""

FRAMES_BEYOND_THE_END = 2
"""Annotated frames may be so far after the last frame of the clip, which is then taken, as published."""


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "A2DSentences":
    """The split as configured; see `loading.loaders`."""
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: A2D-Sentences has no categories")
    return A2DSentences(
        root,
        split,
        lower_case=data.lower_case,
        raw_sentences=raw_sentences,
        cache=data.cache,
        skip_damaged=data.on_error == "skip",
    )


class A2DSentences:
    """One split on disk. An expression is called by the number of its actor, which is its object, too.

    Args:
        root: folder of the data.
        split: "train" or "test".
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.
        cache: folder for the list of annotated frames; None: in the user's cache folder.
        skip_damaged: leave unreadable annotation files out, with a warning, instead of raising.

    Attributes:
        videos: sorted by name; with the frames that annotate each actor.
        fingerprint: changes whenever a file does that the split is made of.

    Raises:
        ValueError: a file is missing, damaged or contradicts another.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        lower_case: bool = True,
        raw_sentences: bool = False,
        cache: Path | None = None,
        skip_damaged: bool = False,
    ) -> None:
        if split not in SUBSETS:
            raise ValueError(f"split {split!r} of A2D-Sentences: expected one of {', '.join(SUBSETS)}")
        self.files = A2DFiles.below(root)
        self._lower_case, self._raw_sentences = lower_case, raw_sentences
        lengths = read_videoset(self.files.videoset)
        rows: dict[str, list[Row]] = {}
        for row in read_rows(self.files.annotation):
            rows.setdefault(row.video, []).append(row)
        missed = read_missed(self.files.missed)
        self._check_videos(rows, lengths, missed)
        names = sorted(video for video, (_, subset) in lengths.items() if subset == SUBSETS[split] and video in rows)
        if not names:
            raise ValueError(f"{self.files.videoset}: no video of split {split!r} has a sentence")
        index = self._index(split, {video: lengths[video][0] for video in names}, cache)
        self._report_damage(index, skip_damaged=skip_damaged)
        self.videos = tuple(self._record(video, rows[video], index[video]) for video in names)
        self._report_unseen(split)

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos; where an actor is visible is known anyway."""
        return self.videos

    def _check_videos(
        self, rows: Mapping[str, Sequence[Row]], lengths: Mapping[str, object], missed: frozenset[str]
    ) -> None:
        unknown = sorted(set(rows) - set(lengths))
        if unknown:
            raise ValueError(f"{self.files.annotation}: {_some(unknown)} not in {self.files.videoset}")
        both = sorted(missed & set(rows))
        if both:
            raise ValueError(f"{self.files.missed}: {_some(both)} have sentences in {self.files.annotation}")
        silent = sorted(set(lengths) - set(rows) - missed)
        if silent:
            logger.warning("%s: %s have no sentence and are left out", self.files.videoset, _some(silent))

    def _index(self, split: str, lengths: Mapping[str, int], cache: Path | None) -> Mapping[str, Any]:
        """What is in the clips and annotation files: read once, then kept until one of them changes."""
        files = [self.files.clip(video) for video in lengths]
        for video in lengths:
            files += (self.files.instances / video).glob("*.h5")
        self.fingerprint = fingerprint(
            [*files, self.files.videoset, self.files.annotation], root=self.files.root, version=INDEX_FORMAT
        )

        def make() -> dict[str, Any]:
            logger.info("reading the frame counts and annotated frames of %d videos once", len(lengths))
            with ThreadPoolExecutor() as threads:
                found = threads.map(lambda item: self._look_into(*item), lengths.items())
                return dict(zip(lengths, found, strict=True))

        return cached(cache, f"a2d_sentences_{split}", self.fingerprint, make)

    def _look_into(self, video: str, length: int) -> dict[str, Any]:
        """Number of frames, the actors in each annotated one, and what is wrong with the files."""
        folder = self.files.instances / video
        content: dict[str, Any] = {"num_frames": length, "actors": {}, "clip_damage": "", "annotation_damage": []}
        try:
            content["num_frames"] = VideoFileFrames(self.files.clip(video)).num_frames
        except ValueError as error:
            content["clip_damage"] = str(error)
        last = content["num_frames"] + FRAMES_BEYOND_THE_END
        paths = sorted(folder.glob("*.h5"))
        if not paths:
            content["annotation_damage"].append(f"{folder}: no annotation file (*.h5) of video {video}")
        for path in paths:
            try:
                if not (path.stem.isdecimal() and 1 <= int(path.stem) <= last):
                    raise ValueError(f"{path}: frame {path.stem} is not one of the {content['num_frames']} of the clip")
                content["actors"][path.stem] = list(read_instances(path))
            except ValueError as error:
                content["annotation_damage"].append(str(error))
        return content

    def _report_damage(self, index: Mapping[str, Any], *, skip_damaged: bool) -> None:
        """Raises ValueError for annotation files that cannot be used, unless these shall be left out."""
        for content in index.values():
            if content["clip_damage"]:
                # Reading its frames will fail, too, and data.on_error then decides what to do about it.
                logger.warning("%s", content["clip_damage"])
        damage = [problem for content in index.values() for problem in content["annotation_damage"]]
        if damage and not skip_damaged:
            more = f" (and {len(damage) - 1} more like this)" if len(damage) > 1 else ""
            raise ValueError(f"{damage[0]}{more}; data.on_error=skip leaves such files out")
        for problem in damage:
            logger.warning("left out: %s", problem)

    def _record(self, video: str, rows: Sequence[Row], content: Mapping[str, Any]) -> VideoRecord:
        num_frames = content["num_frames"]
        # in descending order: where two files fall on the last frame, the one with its number is kept
        files = {min(int(stem), num_frames) - 1: stem for stem in sorted(content["actors"], key=int, reverse=True)}
        visible = {
            row.instance: frozenset(p for p, stem in files.items() if row.instance in content["actors"][stem])
            for row in rows
        }
        return VideoRecord(
            name=video,
            frame_names=tuple(f"{position + 1:05d}" for position in range(num_frames)),
            frames=VideoFileFrames(self.files.clip(video)),
            masks=H5Masks(self.files.instances / video, files),
            expressions=tuple(self._expression(row) for row in rows),
            visible=visible,
            annotated=frozenset(files),
        )

    def _expression(self, row: Row) -> Expression:
        sentence = row.query if self._raw_sentences else clean_sentence(row.query, lower_case=self._lower_case)
        return Expression(name=str(row.instance), sentence=sentence, object_ids=(row.instance,))

    def _report_unseen(self, split: str) -> None:
        unseen = [
            f"{video.name} {expression.name}"
            for video in self.videos
            for expression in video.expressions
            if not video.visible[expression.object_ids[0]]
        ]
        if unseen:
            logger.warning("%s: no annotated frame shows the actors %s; no samples of them", split, _some(unseen))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
