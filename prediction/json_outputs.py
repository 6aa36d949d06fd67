"""Outputs of one JSON file per video, with masks as run lengths: of ours, of COCO, and of YouTube-VIS."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from datasets.run_lengths import mask_area, mask_box
from media.files import atomic_path, named_errors
from prediction.outputs import FrameResult, Output

DIGITS = 5
"""Of scores."""


class JsonList:
    """A list that grows in a temporary file instead of in memory.

    Args:
        stack: deletes it.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._folder = Path(tempfile.gettempdir())
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._folder)  # noqa: SIM115
        stack.callback(self._close)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, value: Any) -> None:
        """Appends something that JSON has."""
        with named_errors(self._folder):
            self._file.write((", " if self._length else "") + _text(value))
        self._length += 1

    def copy_to(self, file: IO[str]) -> None:
        """Writes its items, separated by commas."""
        with named_errors(self._folder):
            self._file.seek(0)  # writes what is left
        shutil.copyfileobj(self._file, file)

    def _close(self) -> None:
        with suppress(OSError):  # what a full disk did not take was reported when it was written
            self._file.close()


class JsonOutput(Output):
    """What the formats share: names of frames and, for each object, masks, scores and boxes of all frames."""

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        self._stack = stack
        self._num_frames = 0
        self._score_sums = [0.0] * len(self.video.objects)
        self._seen = [False] * len(self.video.objects)

    def lists(self) -> list[JsonList]:
        """An empty list for each object."""
        return [JsonList(self._stack) for _ in self.video.objects]

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        self._num_frames += 1
        for index, (score, mask) in enumerate(zip(result.scores, result.masks, strict=True)):
            self._score_sums[index] += score
            self._seen[index] |= bool(mask.any())

    def mean_score(self, index: int) -> float:
        """Of an object over all frames."""
        return round(self._score_sums[index] / self._num_frames, DIGITS)

    def write(self, name: str, parts: Sequence[str | JsonList]) -> None:
        """Writes the file of this name: texts and the items of lists, one after the other."""
        with atomic_path(self.video.path(name)) as temporary, temporary.open("w", encoding="utf-8") as file:
            for part in parts:
                if isinstance(part, str):
                    file.write(part)
                else:
                    part.copy_to(file)

    def file_name(self, result: FrameResult) -> str:
        """Of a frame, as data sets name them; the image need not exist."""
        return f"{self.video.name}/{result.frame.name}.jpg"

    def size_keys(self) -> dict[str, int]:
        """Height and width of the frames."""
        return {"height": self.video.size[0], "width": self.video.size[1]}

    def categories(self) -> list[dict[str, Any]]:
        """One for each object: what is looked for is a sentence, not a class."""
        return [
            {"id": index + 1, "name": each.label, "sentence": each.sentence}
            for index, each in enumerate(self.video.objects)
        ]


class RunLengths(JsonOutput):
    """`masks_rle.json`: one entry per object with the run lengths of its mask in every frame."""

    patterns = ("masks_rle.json",)

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        super().open(stack)
        self._names, self._indices = JsonList(stack), JsonList(stack)
        self._masks, self._scores = self.lists(), self.lists()

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        super().add(result)
        self._names.append(result.frame.name)
        self._indices.append(result.frame.index)
        for index, (mask, score) in enumerate(zip(result.run_lengths, result.scores, strict=True)):
            self._masks[index].append(mask)
            self._scores[index].append(round(score, DIGITS))

    def finish(self) -> None:
        """Writes the file."""
        head = {"video": self.video.name, **self.size_keys()}
        parts: list[str | JsonList] = [_open(head), ',\n"frame_names": [', self._names]
        parts += ['],\n"frame_indices": [', self._indices, '],\n"objects": [']
        for index, each in enumerate(self.video.objects):
            entry = {"id": index + 1, "name": each.name, "sentence": each.sentence}
            parts += [",\n" if index else "\n", _open(entry), ', "scores": [', self._scores[index]]
            parts += ['], "segmentations": [', self._masks[index], "]}"]
        self.write(self.patterns[0], [*parts, "\n]}\n"])


class YouTubeVis(JsonOutput):
    """`youtube_vis.json` as YouTube-VIS has its annotations, and `youtube_vis_results.json` as it wants results.

    An object has `null` where it has no pixel; one that never has any is left out.
    """

    patterns = ("youtube_vis.json", "youtube_vis_results.json")

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        super().open(stack)
        self._files = JsonList(stack)
        self._masks, self._boxes, self._areas = self.lists(), self.lists(), self.lists()

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        super().add(result)
        self._files.append(self.file_name(result))
        for index, mask in enumerate(result.run_lengths):
            area = _area(mask)
            self._masks[index].append(mask if area else None)
            self._boxes[index].append(_box(mask) if area else None)
            self._areas[index].append(area or None)

    def finish(self) -> None:
        """Writes both files."""
        numbers = [index for index, seen in enumerate(self._seen) if seen]
        video = {"id": 1, **self.size_keys(), "length": self._num_frames}
        parts: list[str | JsonList] = ['{"info": {"description": ', _text(self.video.name), '},\n"videos": [']
        parts += [_open(video), ', "file_names": [', self._files, ']}],\n"categories": ', _text(self.categories())]
        parts += [',\n"annotations": [']
        for place, index in enumerate(numbers):
            entry: dict[str, Any] = {"id": index + 1, "video_id": 1, "category_id": index + 1, "iscrowd": 0}
            entry |= {**self.size_keys(), "length": self._num_frames}
            parts += [",\n" if place else "\n", _open(entry), ', "areas": [', self._areas[index]]
            parts += ['], "bboxes": [', self._boxes[index], '], "segmentations": [', self._masks[index], "]}"]
        self.write(self.patterns[0], [*parts, "\n]}\n"])
        parts = ["["]
        for place, index in enumerate(numbers):
            result = {"video_id": 1, "category_id": index + 1, "score": self.mean_score(index)}
            parts += [",\n" if place else "\n", _open(result), ', "segmentations": [', self._masks[index], "]}"]
        self.write(self.patterns[1], [*parts, "\n]\n"])


class Coco(JsonOutput):
    """`coco.json`: every frame an image, every mask an annotation; `track_id` says which object it belongs to."""

    patterns = ("coco.json",)

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        super().open(stack)
        self._images, self._annotations = JsonList(stack), JsonList(stack)

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        super().add(result)
        image = self._num_frames
        self._images.append({"id": image, "file_name": self.file_name(result), **self.size_keys()})
        for index, (mask, score) in enumerate(zip(result.run_lengths, result.scores, strict=True)):
            area = _area(mask)
            if area:
                entry: dict[str, Any] = {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": index + 1,
                    "iscrowd": 0,
                }
                entry |= {"track_id": index + 1, "score": round(score, DIGITS), "area": area, "bbox": _box(mask)}
                self._annotations.append(entry | {"segmentation": mask})

    def finish(self) -> None:
        """Writes the file."""
        parts: list[str | JsonList] = ['{"info": {"description": ', _text(self.video.name), '},\n"categories": ']
        parts += [_text(self.categories()), ',\n"images": [', self._images, '],\n"annotations": [', self._annotations]
        self.write(self.patterns[0], [*parts, "]}\n"])


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _open(entry: dict[str, Any]) -> str:
    """An object that goes on."""
    return _text(entry).removesuffix("}")


def _size(mask: dict[str, Any]) -> tuple[int, int]:
    return mask["size"][0], mask["size"][1]


def _area(mask: dict[str, Any]) -> int:
    return mask_area(mask["counts"].encode("ascii"), size=_size(mask))


def _box(mask: dict[str, Any]) -> list[float]:
    return list(mask_box(mask["counts"].encode("ascii"), size=_size(mask)))
