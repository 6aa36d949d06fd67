"""What every data set is made of: records of videos, and the two ways to read them, for training and evaluation."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image

from datasets.sampling import Visit, consecutive_windows, draw, random_index, random_window, visit_generator
from datasets.transforms import (
    AnnotatedClip,
    annotate_clip,
    masks_of_objects,
    normalise,
    random_flip_left_right,
    resize,
)
from structures.boxes import xyxy_to_cxcywh
from structures.masks_io import read_index_png
from structures.samples import ClipTarget, SentenceMeta, VideoSample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expression:
    """One sentence about a video.

    Attributes:
        name: its identifier within the video.
        sentence: cleaned, not empty.
        object_id: pixel value of the object in the mask files; None where that is secret.
        kind: tag of the sentence, empty where the data has none.
        label: class of the object.
    """

    name: str
    sentence: str
    object_id: int | None = None
    kind: str = ""
    label: int = 0


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """What is known about a video before any of its images is read.

    Attributes:
        name: of its folder.
        frame_names: stems of the frames, sorted.
        frame_folder: where `<frame>.jpg` are.
        mask_folder: where `<frame>.png` are; None where there are no masks.
        expressions: in the order of the file.
        visible: positions of the frames in which each object has a pixel; only filled in for training.
    """

    name: str
    frame_names: tuple[str, ...]
    frame_folder: Path
    mask_folder: Path | None
    expressions: tuple[Expression, ...]
    visible: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def frame_path(self, position: int) -> Path:
        """The image of the frame at this position."""
        return self.frame_folder / f"{self.frame_names[position]}.jpg"

    def read_frames(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames in [0, 255]; a position may repeat and is then read once."""
        images = {position: read_frame(self.frame_path(position)) for position in dict.fromkeys(positions)}
        sizes = {tuple(image.shape) for image in images.values()}
        if len(sizes) > 1:
            raise ValueError(f"{self.frame_folder}: frames of different sizes {sorted(s[1:] for s in sizes)}")
        return torch.stack([images[position] for position in positions])

    def read_object_map(self, positions: Sequence[int], *, size: tuple[int, int]) -> UInt8[Tensor, "time height width"]:
        """Object ids at each pixel; the masks must have the `size` (height, width) of the frames."""
        if self.mask_folder is None:
            raise ValueError(f"video {self.name} has no masks")
        maps = {}
        for position in dict.fromkeys(positions):
            path = self.mask_folder / f"{self.frame_names[position]}.png"
            maps[position] = read_index_png(path)
            if maps[position].shape != size:
                raise ValueError(f"{path}: mask of (height, width) {maps[position].shape}, but its frame has {size}")
        return torch.from_numpy(np.stack([maps[position] for position in positions]))


def read_frame(path: Path) -> UInt8[Tensor, "3 height width"]:
    """An image file as RGB in [0, 255].

    Raises:
        ValueError: the file is missing or no image.
    """
    try:
        data = path.read_bytes()
        return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such frame") from None
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A training sample: a video, the expressions to draw from, and a fixed window where there is one."""

    video: VideoRecord
    expressions: tuple[Expression, ...]
    window: tuple[int, ...]


class ClipDataset(Dataset[VideoSample]):
    """Training clips of `num_frames` frames, each with sentences about objects that occur in it.

    With `sentences_per_clip` 1 every pair of sentence and window is a sample (as published); otherwise every window
    is, with up to that many of its sentences, drawn anew at each visit. Windows are consecutive; with `random`
    sampling there are as many samples, but each visit draws the start of its window anew.

    Args:
        videos: with `visible` filled in and an object for every expression.
        num_frames: frames of a clip.
        frame_sampling: "windows" or "random".
        supervised_frames: "all", or "one" drawn at random at each visit, with the sentences whose object it shows.
        sentences_per_clip: most sentences of a sample.
        short_side: pixels of the shorter side after resizing.
        long_side: limit of the longer side, in pixels.
        flip_probability: of a left-right flip.
        seed: of everything that is drawn; mixed with epoch and index of a visit.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of the configuration
        self,
        videos: Sequence[VideoRecord],
        *,
        num_frames: int,
        frame_sampling: str = "windows",
        supervised_frames: str = "all",
        sentences_per_clip: int = 1,
        short_side: int,
        long_side: int,
        flip_probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        if frame_sampling not in ("windows", "random"):
            raise ValueError(f"frame_sampling={frame_sampling!r} must be 'windows' or 'random'")
        if supervised_frames not in ("all", "one"):
            raise ValueError(f"supervised_frames={supervised_frames!r} must be 'all' or 'one'")
        self.num_frames = num_frames
        self.random_windows = frame_sampling == "random"
        self.supervises_one_frame = supervised_frames == "one"
        self.sentences_per_clip = sentences_per_clip
        self.short_side = short_side
        self.long_side = long_side
        self.flip_probability = flip_probability
        self.seed = seed
        self.entries = [entry for video in videos for entry in self._entries_of(video)]
        if not self.entries:
            raise ValueError(f"none of the {len(videos)} videos shows an object that a sentence is about")
        logger.info("%d training samples from %d videos", len(self.entries), len(videos))

    def _entries_of(self, video: VideoRecord) -> list[_Entry]:
        entries = []
        for window in consecutive_windows(len(video.frame_names), self.num_frames):
            visible = _expressions_in(video.expressions, video, window)
            if self.sentences_per_clip == 1:
                entries += [_Entry(video, (expression,), window) for expression in visible]
            elif visible:
                entries.append(_Entry(video, video.expressions, window))
        return entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, visit: Visit | int) -> VideoSample:
        if isinstance(visit, int):
            visit = Visit(sample=visit, epoch=0)
        entry = self.entries[visit.sample]
        generator = visit_generator(self.seed, visit)
        window = self._window(entry, generator)
        supervised = self._supervised_frame(entry, window, generator)
        shown = window if supervised is None else (window[supervised],)
        expressions = _expressions_in(entry.expressions, entry.video, shown)
        if self.sentences_per_clip > 1:
            expressions = draw(expressions, self.sentences_per_clip, generator)
        clip = read_clip(entry.video, window, expressions)
        original_size = (clip.frames.shape[-2], clip.frames.shape[-1])
        clip = resize(clip, short_side=self.short_side, long_side=self.long_side)
        clip = random_flip_left_right(clip, probability=self.flip_probability, generator=generator)
        targets = make_targets(clip, expressions)
        if supervised is not None:
            targets = tuple(_target_of_frame(target, supervised) for target in targets)
        return VideoSample(
            frames=normalise(clip.frames),
            sentences=clip.sentences,
            targets=targets,
            meta=tuple(_meta(entry.video, expression, window, original_size) for expression in expressions),
            annotated_frame=supervised,
        )

    def _supervised_frame(self, entry: _Entry, window: tuple[int, ...], generator: torch.Generator) -> int | None:
        """Place in the window of the one frame to supervise, which shows at least one object; None for all frames."""
        if not self.supervises_one_frame:
            return None
        visible = frozenset[int]().union(
            *(_visible_frames(entry.video, expression) for expression in entry.expressions)
        )
        places = [place for place, position in enumerate(window) if position in visible]
        return places[random_index(len(places), generator)]

    def _window(self, entry: _Entry, generator: torch.Generator) -> tuple[int, ...]:
        if not self.random_windows:
            return entry.window
        video = entry.video
        visible = frozenset[int]().union(*(_visible_frames(video, expression) for expression in entry.expressions))
        return random_window(len(video.frame_names), self.num_frames, visible=visible, generator=generator)


def read_clip(video: VideoRecord, positions: Sequence[int], expressions: Sequence[Expression]) -> AnnotatedClip:
    """Frames, object maps and boxes of the expressions' objects, as they are on disk.

    Raises:
        ValueError: an object does not occur in these frames, although `video.visible` says so.
    """
    frames = video.read_frames(positions)
    object_map = video.read_object_map(positions, size=(frames.shape[-2], frames.shape[-1]))
    objects = tuple(dict.fromkeys(e.object_id for e in expressions if e.object_id is not None))
    pixels = torch.bincount(object_map.flatten(), minlength=256).tolist()
    missing = [number for number in objects if pixels[number] == 0]
    if missing:
        raise ValueError(
            f"objects {missing} do not occur in frames {[video.frame_names[p] for p in positions]} of video "
            f"{video.name}: have the masks changed since the list of visible objects was made? Delete that list."
        )
    return annotate_clip(frames, object_map, objects=objects, sentences=tuple(e.sentence for e in expressions))


def make_targets(clip: AnnotatedClip, expressions: Sequence[Expression]) -> tuple[ClipTarget, ...]:
    """One target per expression; expressions of one object share its mask."""
    time, _, height, width = clip.frames.shape
    masks = masks_of_objects(clip.object_map, clip.objects)  # (object, time, height, width)
    visible = masks.view(torch.uint8).flatten(2).amax(dim=2).bool()  # (object, time); any() takes 20 times as long
    boxes = clip.boxes_xyxy_px.as_subclass(Tensor) / torch.tensor([width, height, width, height])
    boxes = xyxy_to_cxcywh(boxes).reshape(-1, time, 4)  # (object, time, 4)
    boxes = torch.where(visible[..., None], boxes, 0)
    targets = []
    for expression in expressions:
        place = clip.objects.index(expression.object_id)
        targets.append(
            ClipTarget(
                masks=masks[place : place + 1],
                boxes_cxcywh_norm=boxes[place : place + 1],
                is_visible=visible[place : place + 1],
                labels=torch.tensor([expression.label]),
            )
        )
    return tuple(targets)


def _target_of_frame(target: ClipTarget, frame: int) -> ClipTarget:
    """The part of a target that is about one frame of its clip."""
    only = slice(frame, frame + 1)
    return replace(
        target,
        masks=target.masks[:, only],
        boxes_cxcywh_norm=target.boxes_cxcywh_norm[:, only],
        is_visible=target.is_visible[:, only],
    )


def _visible_frames(video: VideoRecord, expression: Expression) -> frozenset[int]:
    if expression.object_id is None:
        raise ValueError(f"video {video.name}, expression {expression.name}: no object, training needs one")
    return video.visible.get(expression.object_id, frozenset())


def _expressions_in(expressions: Sequence[Expression], video: VideoRecord, window: tuple[int, ...]) -> list[Expression]:
    """Those whose object occurs in at least one frame of the window."""
    return [e for e in expressions if not _visible_frames(video, e).isdisjoint(window)]


def _meta(
    video: VideoRecord, expression: Expression, window: tuple[int, ...], original_size: tuple[int, int]
) -> SentenceMeta:
    return SentenceMeta(
        video=video.name,
        expression=expression.name,
        kind=expression.kind,
        frame_names=tuple(video.frame_names[position] for position in window),
        original_size=original_size,
        object_id=expression.object_id,
    )


@dataclass(frozen=True)
class EvalVideo:
    """A whole video to evaluate; its images are read only when asked for, a window at a time.

    Attributes:
        video: its name.
        frame_names: stems of all frames.
        frame_paths: image files.
        sentences: all sentences about it.
        expressions: their identifiers.
        kinds: their tags, empty where the data has none.
        object_ids: the objects that are meant; None where that is secret.
        original_size: (height, width) of the frames on disk, in pixels.
        record: where all this comes from.
    """

    video: str
    frame_names: tuple[str, ...]
    frame_paths: tuple[Path, ...]
    sentences: tuple[str, ...]
    expressions: tuple[str, ...]
    kinds: tuple[str, ...]
    object_ids: tuple[int, ...] | None
    original_size: tuple[int, int]
    record: VideoRecord

    def load_frames(self, start: int = 0, stop: int | None = None) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames [start, stop) in [0, 255]; to the end without `stop`."""
        positions = range(len(self.frame_names))[start:stop]
        if not positions:
            raise ValueError(f"frames [{start}, {stop}) of video {self.video}: it has {len(self.frame_names)}")
        return self.record.read_frames(positions)

    def load_masks(self, object_id: int) -> Bool[Tensor, "time height width"] | None:
        """Where the object is in every frame; None where the masks are secret.

        The object maps of the video stay in memory as long as this object does.
        """
        return None if self.object_maps is None else self.object_maps == object_id

    @cached_property
    def object_maps(self) -> UInt8[Tensor, "time height width"] | None:
        """Object ids at each pixel of every frame; None where the masks are secret."""
        if self.record.mask_folder is None:
            return None
        return self.record.read_object_map(range(len(self.frame_names)), size=self.original_size)


class EvalDataset(Dataset[EvalVideo]):
    """The videos of a split, one item each.

    Args:
        videos: in the order of evaluation.
        max_videos: only the first so many; 0: all.
    """

    def __init__(self, videos: Sequence[VideoRecord], *, max_videos: int = 0) -> None:
        self.videos = tuple(videos[:max_videos] if max_videos else videos)

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[EvalVideo]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> EvalVideo:
        record = self.videos[index]
        ids = [expression.object_id for expression in record.expressions]
        known = tuple(number for number in ids if number is not None)
        if known and len(known) < len(ids):
            raise ValueError(f"video {record.name}: some expressions have an object, others do not")
        return EvalVideo(
            video=record.name,
            frame_names=record.frame_names,
            frame_paths=tuple(record.frame_path(i) for i in range(len(record.frame_names))),
            sentences=tuple(expression.sentence for expression in record.expressions),
            expressions=tuple(expression.name for expression in record.expressions),
            kinds=tuple(expression.kind for expression in record.expressions),
            object_ids=known or None,
            original_size=image_size(record.frame_path(0)),
            record=record,
        )


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
