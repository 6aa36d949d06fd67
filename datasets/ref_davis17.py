"""Ref-DAVIS17: the 480p videos of DAVIS-2017 with sentences by two annotators, each twice.

    ROOT/JPEGImages/480p/<video>/<frame>.jpg      or ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/Annotations/480p/<video>/<frame>.png     or ROOT/<split>/Annotations/<video>/<frame>.png; 255 is void
    ROOT/meta_expressions/<split>/meta_expressions.json, or the four original files in ROOT/davis_text_annotations;
        or `expressions`, such a file or such a folder
    ROOT/ImageSets/2017/{train,val}.txt           the videos of a split, for the original files in the first layout

Expression 4 * o + k is what annotator slot k says about object o, objects in the order of their ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import DataConfig
from datasets.davis_text import read_text_annotations
from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from datasets.ref_youtube_vos import read_videos
from datasets.visibility import visible_objects
from loading.text import clean_sentence
from structures.object_maps import VOID_INDEX

NUM_ANNOTATORS = 4


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "RefDavis17":
    """The split as configured; see `loading.loaders`."""
    if data.num_classes_from_categories:
        raise ValueError("data.num_classes_from_categories: Ref-DAVIS17 has no categories")
    return RefDavis17(
        root,
        split,
        expressions=data.expressions,
        sequences=data.sequences,
        lower_case=data.lower_case,
        raw_sentences=raw_sentences,
        cache=data.cache,
    )


class RefDavis17:
    """One split on disk. A sentence's kind is its annotator slot, `anno_0` to `anno_3`.

    Args:
        root: folder of the data.
        split: "valid" or "train".
        expressions: file with the sentences, or folder with those of the annotators; None looks for them below `root`.
        sequences: only these videos; empty for all in the file.
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.
        cache: folder for the list of where objects are visible; None keeps it beside the data.

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
        cache: Path | None = None,
    ) -> None:
        self._root, self._split, self._cache = root, split, cache
        self._lower_case, self._raw_sentences = lower_case, raw_sentences
        self._frames = _first_folder(root / "JPEGImages" / "480p", root / split / "JPEGImages")
        self._masks = _first_folder(root / "Annotations" / "480p", root / split / "Annotations")
        prepared = root / "meta_expressions" / split / "meta_expressions.json"
        texts = root / "davis_text_annotations"
        self._file = expressions or (prepared if prepared.is_file() or not texts.is_dir() else texts)
        described = self._read_texts() if self._file.is_dir() else read_videos(self._file)
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
        for video in self.videos:
            if video.masks is None:
                raise ValueError(
                    f"{self._masks / video.name}: no such folder; a video without masks cannot be trained on"
                )
        visibility = visible_objects(
            self._masks,
            frames={video.name: video.frame_names for video in self.videos},
            keep_in=self._root / f"visible_objects_{self._split}.json",
            cache=self._cache,
        )
        return tuple(replace(video, visible=visibility[video.name]) for video in self.videos)

    def _read_texts(self) -> dict[str, Any]:
        """The sentences of the original files, for the videos of this split."""
        listed = self._root / "ImageSets" / "2017" / f"{'val' if self._split == 'valid' else self._split}.txt"
        if listed.is_file():
            names = listed.read_text(encoding="utf-8-sig").split()
        elif self._frames == self._root / self._split / "JPEGImages":
            names = sorted(path.name for path in self._frames.iterdir() if path.is_dir())
        else:
            raise ValueError(f"{listed}: no such file; the original sentences do not say which videos are in a split")
        frames = {name: sorted(path.stem for path in (self._frames / name).glob("*.jpg")) for name in names}
        return read_text_annotations(self._file, frames, is_complete=self._split != "train")

    def _record(self, video: str, content: Mapping[str, Any]) -> VideoRecord:
        try:
            frames = tuple(sorted(content["frames"]))
            described = sorted(content["expressions"].items(), key=lambda item: int(item[0]))
            expressions = tuple(self._expression(video, name, entry) for name, entry in described)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._file}: video {video}: bad or missing entry ({error})") from None
        is_complete = self._split == "train" or len(expressions) % NUM_ANNOTATORS == 0
        if not frames or not expressions or not is_complete:
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
