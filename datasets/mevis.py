"""MeViS: sentences about motion, which may refer to several objects at once.

    ROOT/<split>/meta_expressions.json      see `datasets.meta_expressions`; obj_id[] and anno_id[]
    ROOT/<split>/meta_expressions_v2.json   the same of the second release; valid: meta_expressions_v2_release.json
    ROOT/<split>/mask_dict.json             <anno_id>: for each frame of its video a run-length mask, or null
    ROOT/<split>/JPEGImages/<video>/<frame>.jpg

<split> is train, valid_u or valid; `valid` has no objects and no masks, predictions for it are scored by a server. An
object of this project is an `anno_id`. A sentence's target is the union of its objects, in training as in evaluation:
the model predicts one mask per sentence, and that is what the benchmark scores.

The second release has the same videos and more sentences, some of which mean nothing in their video: their `anno_id` is
empty. They are trained on as sentences that no query answers (`data.absent`), and scored by N-acc instead of J and F.

Sources: https://github.com/henghuiding/MeViS (README), https://huggingface.co/datasets/FudanCVL/MeViSv2 (names of the
files of the second release; that of `valid` from scripts of its users only: not confirmed).
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from datasets.counts import Counts
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    MaskPerSentence,
    SplitContents,
    SplitRequest,
)
from datasets.index_file import AnyMapping, Place, read_json, validate
from datasets.index_text import IndexFileError, shown
from datasets.listing import FolderListing
from datasets.meta_expressions import (
    ExpressionEntry,
    describe_videos,
    missing_folders,
    read_videos,
    unclaimed_videos,
    video_names,
)
from datasets.problems import Problem
from datasets.readers import image_frames
from datasets.records import Expression, VideoRecord
from datasets.run_lengths import RunLengthMasks, RunLengths, Track, pack_track
from media.files import path_inside

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid_u", "valid")

FILES = {
    "v1": ("meta_expressions.json",),
    "v2": ("meta_expressions_v2.json", "meta_expressions_v2_release.json"),
}
"""Of each release, where its sentences are: the first of these files that is there."""

PUBLISHED = {
    "mevis v1": {
        "train": Counts(videos=1662, expressions=23051),
        "valid_u": Counts(videos=50, expressions=793),
        "valid": Counts(videos=140, expressions=2236),
    },
    "mevis v2": {
        "train": Counts(videos=1662, expressions=27502),
        "valid_u": Counts(videos=50, expressions=907),
        "valid": Counts(videos=140, expressions=2523),
    },
}
"""By release, from the README of https://github.com/henghuiding/MeViS: v2 as it stands, v1 as it stood at b8bbace."""


class MevisSettings(DatasetSettings):
    """MeViS."""

    dataset: Literal["mevis"] = "mevis"
    """Format of the data."""

    release: Literal["auto", "v1", "v2"] = "auto"
    """Which sentences are read: `v1` those of `meta_expressions.json`, `v2` those of `meta_expressions_v2.json` (or
    `meta_expressions_v2_release.json`), `auto` those of `v2` where there are any. Scores of the two do not compare."""

    eval_split: str = "valid_u"
    """Split that is evaluated; `valid_u` has masks to score against, `valid` is scored by a server."""


MASKS_FILE = "mask_dict.json"
_MOST_DIGITS = 18
"""Of an anno_id."""


def _different(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


class _Expression(ExpressionEntry):
    """An expression of the file."""

    anno_id: Annotated[list[Annotated[int, Field(ge=0, lt=10**_MOST_DIGITS)]], AfterValidator(_different)] | None = None
    obj_id: list[object] | None = None


def read(request: SplitRequest[MevisSettings]) -> SplitContents:
    """One split; videos are sorted by name."""
    folder, file = request.root / request.split, _expressions_file(request)
    described = dict(sorted(read_videos(file).items()))
    problems = list(missing_folders(folder / "JPEGImages", list(described)))

    def make_expression(video: str, name: str, entry: _Expression) -> Expression:
        objects = entry.anno_id
        if objects is None:
            if request.for_training:
                raise ValueError("has no anno_id; this split cannot be trained on")
            return Expression(name, entry.exp)
        if not objects and entry.obj_id:
            raise ValueError(f"anno_id is empty, although obj_id={shown(entry.obj_id)} names an object")
        return Expression(name, entry.exp, tuple(objects))

    videos = [
        VideoRecord(
            name=video.name,
            frame_names=video.frames,  # the masks are in the order of the file
            frames=image_frames(path_inside(folder / "JPEGImages", video.name, what="video"), video.frames),
            masks=None,
            expressions=video.expressions,
        )
        for video in describe_videos(file, described, _Expression, make_expression, problems)
    ]
    if any(video.object_ids for video in videos):
        masks_file = folder / MASKS_FILE
        tracks = _read_tracks(masks_file, problems)
        videos = [_with_masks(video, masks_file, tracks, problems) for video in videos]
    elif (
        any(expression.is_secret for video in videos for expression in video.expressions)
        and (folder / MASKS_FILE).is_file()
    ):
        detail = f"no expression has an anno_id, although {MASKS_FILE} beside it has masks; expected a list of its keys"
        problems.append(Problem("expressions", str(file), detail))
    # only the second release has sentences that mean nothing, whatever its file is called here
    is_second = file.name in FILES["v2"] or any(e.is_absent for video in videos for e in video.expressions)
    release = "v2" if is_second else "v1"
    logger.info("MeViS %s, split %s: sentences of %s", release, request.split, file)
    usable = tuple(video for video in videos if video.expressions)
    return SplitContents(usable, tuple(problems), label=f"mevis {release}")


def _with_masks(video: VideoRecord, file: Path, tracks: Mapping[int, Track], problems: list[Problem]) -> VideoRecord:
    """The video with the masks of its objects, without the expressions whose object has none that fit."""
    num_frames, usable = len(video.frame_names), []
    for expression in video.expressions:
        for number in expression.known_ids:
            where = f"anno_id {number} (video {video.name}, expression {expression.name})"
            if number not in tracks:
                problems.append(Problem("objects", str(file), f"{where} is missing"))
            elif len(tracks[number].of_frames()) != num_frames:
                detail = (
                    f"{where} has masks for {len(tracks[number].of_frames())} frames, the video has {num_frames} frames"
                )
                problems.append(Problem("mismatched", str(file), detail))
            else:
                continue
            break
        else:
            usable.append(expression)
    own = {number: tracks[number] for expression in usable for number in expression.known_ids}
    visible = {number: track.visible() for number, track in own.items()}
    for number in sorted(number for number, positions in visible.items() if not positions):
        names = ", ".join(expression.name for expression in usable if number in expression.known_ids)
        detail = f"no pixel in any mask (expressions {names})"
        problems.append(Problem("unseen", f"video {video.name}, object {number}", detail))
    return replace(video, masks=RunLengthMasks(file, own), expressions=tuple(usable), visible=visible)


def _read_tracks(path: Path, problems: list[Problem]) -> dict[int, Track]:
    logger.info("reading %s", path)
    tracks = {}
    for number, masks in validate(AnyMapping, read_json(path), Place(path)).root.items():
        place = Place(path).at(number)
        try:
            if not (number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
                raise place.error(f"got the key {shown(number)}, expected an anno_id, a whole number")
            tracks[int(number)] = pack_track(validate(RunLengths, masks, place).root)
        except IndexFileError as error:
            problems.append(Problem("objects", str(path), error.detail))
        except ValueError as error:
            problems.append(place.problem("objects", str(error)))
    return tracks


def _expressions_file(request: SplitRequest[MevisSettings]) -> Path:
    """The file of the release that is asked for; with `auto` that of the first one where the second is not there."""
    folder, release = request.root / request.split, request.settings.release
    own = folder / FILES["v1"][0]
    if release == "v1":
        return own
    found = [path for name in FILES["v2"] if (path := folder / name).is_file()]
    if not found and release == "v2":
        hint = f"; {own.name} is there, and release=v1 reads it" if own.is_file() else ""
        raise ValueError(f"release=v2: {folder} has neither {' nor '.join(FILES['v2'])}{hint}")
    return found[0] if found else own


def _notes(request: SplitRequest[MevisSettings], contents: SplitContents, listing: FolderListing) -> Iterator[Problem]:
    file = _expressions_file(request)
    yield from unclaimed_videos(listing, (request.root / request.split / "JPEGImages",), video_names(file))


def _find(root: Path) -> list[FoundDataset]:
    """Each release whose sentences are there, with its splits."""
    found = []
    for release, names in FILES.items():
        splits = tuple(split for split in SPLITS if any((root / split / name).is_file() for name in names))
        if splits:
            found.append(FoundDataset(MevisSettings.model_validate({"release": release}), splits))
    return found


MEVIS = DatasetDefinition(
    title="MeViS",
    settings=MevisSettings,
    read=read,
    find=_find,
    protocol=MaskPerSentence(zip_folder=""),
    published=PUBLISHED,
    notes=_notes,
)
