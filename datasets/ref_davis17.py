"""Ref-DAVIS17: the 480p videos of DAVIS-2017 with sentences by two annotators, each twice.

    ROOT/JPEGImages/480p/<video>/<frame>.jpg                  or ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/Annotations_unsupervised/480p/<video>/<frame>.png    or ROOT/<split>/Annotations/<video>/<frame>.png
        255 is void
    ROOT/meta_expressions/<split>/meta_expressions.json, or the four original files in ROOT/davis_text_annotations;
        or `expressions`, such a file or such a folder
    ROOT/ImageSets/2017/{train,val}.txt           the videos of a split, for the original files in the first layout

Expression 4 * o + k is what annotator slot k says about object o, objects in the order of their ids.

The masks are those of the unsupervised task, by which Ref-DAVIS17 is scored (davis2017/davis.py:32 of the official
evaluator). `Annotations/480p` has those of the semi-supervised task, with other objects, and is not read. The second
layout is that of ReferFormer, whose conversion moves the masks of the unsupervised task to `<split>/Annotations`
(tools/data/convert_davis_to_ytvos.py:62,72 there).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from datasets.counts import Counts
from datasets.davis_text import read_text_annotations
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    MergedObjects,
    SplitContents,
    SplitRequest,
)
from datasets.index_file import Place
from datasets.index_text import read_names, shown
from datasets.listing import FolderListing, first_folder, has_windows_line_ends
from datasets.meta_expressions import (
    ExpressionEntry,
    describe_videos,
    expressions_file,
    missing_folders,
    read_videos,
    unclaimed_videos,
    video_names,
)
from datasets.problems import Problem, any_stops
from datasets.readers import PngMasks, image_frames, pixel_value
from datasets.records import Expression, VideoRecord
from datasets.visibility import objects_in_no_mask, records_with_visibility
from media.files import path_inside
from media.folders import IMAGE_SUFFIXES, is_clutter, listing
from structures.object_maps import VOID_INDEX

SPLITS = ("train", "valid")
UNSUPERVISED_MASKS = "Annotations_unsupervised"
"""Folder of DAVIS with the masks of the unsupervised task, of the train and val sequences alike."""

PROTOCOL = MergedObjects(num_annotators=4)

PUBLISHED = {
    "ref_davis17": {
        "train": Counts(videos=60, objects=144, expressions=576, frames=4209),
        "valid": Counts(videos=30, objects=61, expressions=244, frames=1999),
    }
}


class RefDavis17Settings(DatasetSettings):
    """Ref-DAVIS17."""

    dataset: Literal["ref_davis17"] = "ref_davis17"
    """Format of the data."""

    eval_as_written: bool = True
    """As of every data set; on, because the published inference reads the sentences as they stand."""

    expressions: Path | None = None
    """File with the sentences, or folder with the original four, where it is not in its usual place below `root`."""

    sequences: tuple[str, ...] = ()
    """Only these videos; none: all."""

    @property
    def is_partial(self) -> bool:
        """See `DatasetSettings`."""
        return bool(self.sequences)


MOST_DIGITS = 9
"""Of the name of an expression."""


def _object_of(value: object) -> int:
    return pixel_value(value, largest=VOID_INDEX - 1)


class _Expression(ExpressionEntry):
    """An expression of the prepared file."""

    obj_id: Annotated[int, BeforeValidator(_object_of)]


@dataclass(frozen=True, slots=True)
class DavisFiles:
    """Where the files of a split are.

    Attributes:
        frames: holds a folder of frames per video.
        masks: holds a folder of masks per video, of the unsupervised task.
        expressions: the prepared file, or the folder with the original four.
        list_of_videos: of the split; needed for the original files unless the split has a folder of its own.
    """

    frames: Path
    masks: Path
    expressions: Path
    list_of_videos: Path


def find_files(request: SplitRequest[RefDavis17Settings]) -> DavisFiles:
    """The files of a split, in whichever layout is there.

    Raises:
        ValueError: neither layout is there, or only the masks of the semi-supervised task are.
    """
    root, split = request.root, request.split
    prepared, texts = expressions_file(root, split), root / "davis_text_annotations"
    usual = prepared if prepared.is_file() or not texts.is_dir() else texts
    return DavisFiles(
        frames=first_folder(root / "JPEGImages" / "480p", root / split / "JPEGImages"),
        masks=_mask_folder(root, split),
        expressions=request.settings.expressions.expanduser() if request.settings.expressions else usual,
        list_of_videos=_list_of_videos(root, split),
    )


def _mask_folder(root: Path, split: str) -> Path:
    """The masks of the unsupervised task, in whichever layout is there.

    Raises:
        ValueError: there are none; the message names those of the other task if they are there.
    """
    folders = (root / UNSUPERVISED_MASKS / "480p", root / split / "Annotations")
    of_other_task = root / "Annotations" / "480p"
    if of_other_task.is_dir() and not any(folder.is_dir() for folder in folders):
        raise ValueError(
            f"{folders[0]}: no such folder; the masks of the unsupervised task, by which Ref-DAVIS17 is scored, are "
            f"missing (DAVIS-2017-Unsupervised-trainval-480p.zip has them), and those of the semi-supervised task in "
            f"{of_other_task} show other objects"
        )
    return first_folder(*folders)


def read(request: SplitRequest[RefDavis17Settings]) -> SplitContents:
    """One split; videos are sorted by name. A sentence's kind is its annotator slot, `anno_0` to `anno_3`."""
    files, wanted = find_files(request), request.settings.sequences
    problems: list[Problem] = []
    has_texts = files.expressions.is_dir()
    described = _read_texts(request, files, problems) if has_texts else read_videos(files.expressions)
    unknown = sorted(set(wanted) - set(described))
    if unknown:
        raise ValueError(f"sequences: {', '.join(unknown)} not in {files.expressions}")
    described = {name: described[name] for name in sorted(wanted or described)}
    hint = "; `sequences` names the videos to use"
    problems += missing_folders(files.frames, list(described), hint)
    if request.for_training:
        problems += missing_folders(files.masks, list(described), "; a video without masks cannot be trained on")

    def make_expression(video: str, name: str, entry: _Expression) -> Expression:
        if not (name.isascii() and name.isdecimal() and len(name) <= MOST_DIGITS):
            raise ValueError(f"got the name {shown(name)}, expected a whole number, which says whose sentence it is")
        return Expression(name, entry.exp, (entry.obj_id,), kind=f"anno_{int(name) % PROTOCOL.num_annotators}")

    videos = []
    for video in describe_videos(files.expressions, described, _Expression, make_expression, problems):
        frames = tuple(sorted(video.frames))
        num_described = len(described[video.name]["expressions"])
        if request.split != "train" and num_described % PROTOCOL.num_annotators:
            detail = f"{num_described} expressions, expected {PROTOCOL.num_annotators} per object"
            problems.append(Place(files.expressions, "videos").at(video.name).problem("expressions", detail))
        masks = path_inside(files.masks, video.name, what="video")
        videos.append(
            VideoRecord(
                name=video.name,
                frame_names=frames,
                frames=image_frames(path_inside(files.frames, video.name, what="video"), frames),
                masks=PngMasks(masks, frames) if masks.is_dir() else None,
                expressions=tuple(sorted(video.expressions, key=lambda expression: int(expression.name))),
                # Nothing lists objects, so each one must be in a mask, to train on it.
                listed_objects=frozenset() if request.for_training else None,
            )
        )
    if request.for_training and request.scan_masks and not any_stops(problems):
        videos = list(
            records_with_visibility(
                videos,
                mask_folder=files.masks,
                keep_in=request.root / f"visible_objects_{request.split}.json",
                cache=request.cache,
                expressions_file=files.expressions,
                problems=problems,
            )
        )
    if not request.for_training:
        # One that only some masks lack is scored as another proposal, as the official evaluation does.
        problems += objects_in_no_mask(videos, files.expressions, all_of_a_video=True)
    return SplitContents(tuple(videos), tuple(problems))


def _is_davis(root: Path) -> bool:
    """Whether a folder holds DAVIS, in either layout."""
    has_masks = any((root / kind / "480p").is_dir() for kind in (UNSUPERVISED_MASKS, "Annotations"))
    if (root / "JPEGImages" / "480p").is_dir() and has_masks:
        return True
    return _has_split(root, "valid") and (root / "valid" / "Annotations" / "blackswan").is_dir()


def _read_texts(
    request: SplitRequest[RefDavis17Settings], files: DavisFiles, problems: list[Problem]
) -> dict[str, Any]:
    """The sentences of the original files, for the videos of this split."""
    if files.list_of_videos.is_file():
        names = _videos_of_list(files.list_of_videos)
    elif files.frames == request.root / request.split / "JPEGImages":
        names = [path.name for path in listing(files.frames) if path.is_dir()]
    else:
        raise ValueError(
            f"{files.list_of_videos}: no such file; the original sentences do not say which videos are in a split"
        )
    folders = {name: path_inside(files.frames, name, what=f"{files.list_of_videos}: video") for name in names}
    problems += missing_folders(files.frames, names)
    frames = {
        name: sorted({path.stem for path in listing(folder, IMAGE_SUFFIXES)}) if folder.is_dir() else []
        for name, folder in folders.items()
    }
    is_complete = request.split != "train"
    described = read_text_annotations(files.expressions, frames, is_complete=is_complete, problems=problems)
    return {video: content for video, content in described.items() if folders[video].is_dir()}


def _videos_of_list(path: Path) -> list[str]:
    """The names in a list of videos.

    Raises:
        ValueError: it cannot be read, is empty, or has a name twice.
    """
    names = [name for line in read_names(path) for name in line.split()]
    if not names:
        raise ValueError(f"{path}: lists no video")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: video {shown(twice)} stands there twice, a duplicate; expected every video once")
    return names


def _notes(
    request: SplitRequest[RefDavis17Settings], contents: SplitContents, folders: FolderListing
) -> Iterator[Problem]:
    files = find_files(request)
    lists = [path for path in sorted((request.root / "ImageSets").glob("*/*.txt")) if not is_clutter(path.name)]
    has_texts = files.expressions.is_dir()
    for path in (*lists, *(listing(files.expressions, (".txt",)) if has_texts else ())):
        if has_windows_line_ends(path):
            yield Problem("line_ends", str(path))
    # a list of another split may be anything; that of this one has been read
    known = {name for path in lists for name in path.read_text(encoding="utf-8", errors="replace").split()}
    known |= {video.name for video in contents.videos} | video_names(files.expressions)
    known.update(*(video_names(expressions_file(request.root, split)) for split in SPLITS))
    yield from unclaimed_videos(folders, (files.frames, files.masks), known)


def _meta_expressions(request: SplitRequest[RefDavis17Settings], contents: SplitContents) -> Mapping[str, Any]:
    """The sentences as one prepared file."""
    videos = {
        video.name: {
            "frames": list(video.frame_names),
            "expressions": {e.name: {"exp": e.sentence, "obj_id": str(e.known_ids[0])} for e in video.expressions},
        }
        for video in contents.videos
    }
    return {f"ref_davis17_{request.split}_meta_expressions.json": {"videos": videos}}


def _find(root: Path) -> list[FoundDataset]:
    splits = tuple(split for split in SPLITS if _has_split(root, split))
    # with the prepared sentences, and a folder per split, the layout is that of Ref-YouTube-VOS
    return [FoundDataset(RefDavis17Settings(), splits, instead_of=("ref_youtube_vos",))] if _is_davis(root) else []


def _has_split(root: Path, split: str) -> bool:
    if expressions_file(root, split).is_file():
        return True
    has_list = _list_of_videos(root, split).is_file() or (root / split / "JPEGImages").is_dir()
    return (root / "davis_text_annotations").is_dir() and has_list


def _list_of_videos(root: Path, split: str) -> Path:
    return root / "ImageSets" / "2017" / f"{'val' if split == 'valid' else split}.txt"


REF_DAVIS17 = DatasetDefinition(
    title="Ref-DAVIS17",
    settings=RefDavis17Settings,
    read=read,
    find=_find,
    protocol=PROTOCOL,
    published=PUBLISHED,
    notes=_notes,
    derived_files=_meta_expressions,
)
