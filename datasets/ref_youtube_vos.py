"""Ref-YouTube-VOS, and everything in its format (Referring Shapes).

    ROOT/meta_expressions/<split>/meta_expressions.json   videos.<video>.{frames, expressions.<id>.{exp, obj_id, kind}}
    ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/<split>/Annotations/<video>/<frame>.png          pixel value = object id
    ROOT/<split>/meta.json                                videos.<video>.objects.<id>.category

The published `valid` file has no `obj_id` and contains the test videos, too.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import DataConfig
from datasets.categories import CATEGORY_INDEX
from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from datasets.visibility import FILE_NAME, visible_objects
from loading.text import clean_sentence


def open_split(data: DataConfig, root: Path, split: str, *, raw_sentences: bool) -> "RefYoutubeVos":
    """The split as configured; see `loading.loaders`."""
    if data.sequences or data.expressions is not None:
        raise ValueError("data.sequences and data.expressions are only read with data.dataset=ref_davis17")
    return RefYoutubeVos(
        root,
        split,
        lower_case=data.lower_case,
        raw_sentences=raw_sentences,
        label_categories=data.num_classes_from_categories,
        cache=data.cache,
    )


class RefYoutubeVos:
    """One split on disk. The index files are read here, once; images are read by whoever needs them.

    Args:
        root: folder of the data.
        split: "train", "valid" or "test".
        lower_case: lower-case the sentences.
        raw_sentences: keep the sentences exactly as they stand in the file.
        label_categories: label objects with the 65 categories instead of class 0.
        cache: folder for the list of where objects are visible; None keeps it beside the data.

    Attributes:
        videos: sorted by name; valid videos that are also test videos are left out.

    Raises:
        ValueError: a file or folder is missing or damaged, or a sentence is empty.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        lower_case: bool = True,
        raw_sentences: bool = False,
        label_categories: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.root = root
        self._cache = cache
        self.folder = root / split
        self._expressions_file = root / "meta_expressions" / split / "meta_expressions.json"
        self._lower_case, self._raw_sentences = lower_case, raw_sentences
        described = read_videos(self._expressions_file)
        if split == "valid":
            test_file = root / "meta_expressions" / "test" / "meta_expressions.json"
            test_videos = read_videos(test_file) if test_file.exists() else {}
            described = {video: content for video, content in described.items() if video not in test_videos}
        self._require_folders(described)
        meta_file = self.folder / "meta.json"
        self._categories = None
        if label_categories or meta_file.exists():
            self._categories = _read_categories(meta_file)
        self._label_categories = label_categories
        self.videos = tuple(self._record(video, described[video]) for video in sorted(described))

    def training_videos(self) -> tuple[VideoRecord, ...]:
        """The videos with what training needs: the object of each sentence and where it is visible.

        Raises:
            ValueError: a sentence has no object, or one that is in no mask and not in meta.json; a mask is unreadable.
        """
        visibility = visible_objects(
            self.folder / "Annotations",
            frames={video.name: video.frame_names for video in self.videos},
            keep_in=self.folder / FILE_NAME,
            cache=self._cache,
        )
        for video in self.videos:
            known = set(visibility[video.name]) | self._objects_in_meta(video.name)
            for expression in video.expressions:
                if not expression.object_ids:
                    raise ValueError(
                        f"{self._expressions_file}: video {video.name}, expression {expression.name} has no obj_id; "
                        "this split cannot be trained on"
                    )
                if not known.issuperset(expression.object_ids):
                    raise ValueError(
                        f"{self._expressions_file}: video {video.name}, expression {expression.name}: object "
                        f"{expression.object_ids[0]} is in no mask of the video (objects there: {sorted(known)})"
                    )
        return tuple(replace(video, visible=visibility[video.name]) for video in self.videos)

    def _require_folders(self, described: Mapping[str, Any]) -> None:
        frames = self.folder / "JPEGImages"
        if not frames.is_dir():
            raise ValueError(f"{frames}: no such folder")
        present = {path.name for path in frames.iterdir()}
        missing = sorted(set(described) - present)
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(f"{frames}: folders of {len(missing)} videos are missing: {shown}")

    def _record(self, video: str, content: Mapping[str, Any]) -> VideoRecord:
        try:
            frames, described = tuple(sorted(content["frames"])), content["expressions"]
            expressions = tuple(self._expression(video, name, described[name]) for name in described)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._expressions_file}: video {video}: bad or missing entry ({error})") from None
        if not frames or not expressions:
            raise ValueError(f"{self._expressions_file}: video {video} has no frames or no expressions")
        has_masks = any(expression.object_ids for expression in expressions)
        return VideoRecord(
            name=video,
            frame_names=frames,
            frames=ImageFrames(self.folder / "JPEGImages" / video, frames),
            masks=PngMasks(self.folder / "Annotations" / video, frames) if has_masks else None,
            expressions=expressions,
        )

    def _expression(self, video: str, name: str, content: Mapping[str, Any]) -> Expression:
        sentence = clean_sentence(content["exp"], lower_case=self._lower_case)
        if not sentence:
            raise ValueError(f"{self._expressions_file}: video {video}, expression {name}: the sentence is empty")
        number = content.get("obj_id")
        if number is not None and not (str(number).isdecimal() and 1 <= int(number) <= 255):
            raise ValueError(
                f"{self._expressions_file}: video {video}, expression {name}: obj_id={number!r} must be a pixel value "
                "from 1 to 255"
            )
        object_id = None if number is None else int(number)
        return Expression(
            name=name,
            sentence=content["exp"] if self._raw_sentences else sentence,
            object_ids=() if object_id is None else (object_id,),
            kind=str(content.get("kind", "")),
            label=self._label(video, object_id),
        )

    def _label(self, video: str, object_id: int | None) -> int:
        if not self._label_categories or object_id is None or self._categories is None:
            return 0
        category = self._categories.get(video, {}).get(object_id)
        if category not in CATEGORY_INDEX:
            raise ValueError(
                f"{self.folder / 'meta.json'}: video {video}, object {object_id}: category {category!r} is none of the "
                f"{len(CATEGORY_INDEX)} of YouTube-VOS"
            )
        return CATEGORY_INDEX[category]

    def _objects_in_meta(self, video: str) -> set[int]:
        return set() if self._categories is None else set(self._categories.get(video, {}))


def read_videos(path: Path) -> dict[str, Any]:
    """What a file of expressions (or meta.json) says about each video.

    Raises:
        ValueError: the file is missing or damaged, or has no `videos`.
    """
    try:
        videos = json.loads(path.read_bytes())["videos"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a readable JSON file with `videos` ({error!r})") from None
    if not isinstance(videos, dict):
        raise ValueError(f"{path}: `videos` must be a mapping, not {type(videos).__name__}")
    return videos


def _read_categories(path: Path) -> dict[str, dict[int, str]]:
    """Category of each object of each video."""
    try:
        return {
            video: {int(number): item.get("category", "") for number, item in content["objects"].items()}
            for video, content in read_videos(path).items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: bad or missing entry ({error})") from None
