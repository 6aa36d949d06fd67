"""Formats with a folder of frames per video and `meta_expressions.json`: Ref-YouTube-VOS, Ref-DAVIS17 and MeViS."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from datasets.ref_youtube_vos import read_videos
from loading.text import clean_sentence
from tools.checks.files import has_windows_line_ends, repeated_keys
from tools.checks.split import Format, SplitCheck

SPLITS = ("train", "valid", "test")


def expressions_file(root: Path, split: str) -> Path:
    """The usual place of the sentences."""
    return root / "meta_expressions" / split / "meta_expressions.json"


def examine_videos(
    check: SplitCheck, file: Path, frames: Path, masks: Path | None, *, neighbours: set[str]
) -> dict[str, Any]:
    """Looks at the file of sentences and at the folders of frames and masks.

    Where the loader refused the data, the videos that can be made out become `check.records`, so that the other files
    are looked at all the same.

    Args:
        check: takes the problems.
        file: with the sentences.
        frames: folder with a folder per video.
        masks: the same for the masks; None where they are elsewhere.
        neighbours: videos of other splits in the same folders.

    Returns:
        What the file says about each video of the split.
    """
    if not file.is_file():
        return {}  # the loader has said so
    try:
        videos = read_videos(file)
        for name in repeated_keys(file):
            check.add("duplicates", file, f"{name!r} occurs more than once in one place")
    except ValueError:
        return {}
    if check.split == "valid":
        videos = {name: content for name, content in videos.items() if name not in neighbours}
    if check.data.sequences:
        neighbours = neighbours | set(videos)
        videos = {name: content for name, content in videos.items() if name in check.data.sequences}
    for video, content in videos.items():
        for name in _empty_sentences(content):
            check.add("empty_sentences", file, f"video {video}, expression {name}")
    if check.source is None:
        check.records = tuple(_salvage(videos, frames, masks))
    for folder in (frames,) if masks is None else (frames, masks):
        for name in sorted(check.names.inside(folder) - set(videos) - neighbours):
            check.add("surplus", folder / name, "no sentence is about it")
    return videos


def _empty_sentences(content: Any) -> Iterator[str]:
    if isinstance(content, dict) and isinstance(content.get("expressions"), dict):
        for name, entry in content["expressions"].items():
            sentence = entry.get("exp") if isinstance(entry, dict) else None
            if isinstance(sentence, str) and not clean_sentence(sentence, lower_case=False):
                yield name


def _salvage(videos: Mapping[str, Any], frames: Path, masks: Path | None) -> Iterator[VideoRecord]:
    """The videos of a file that the loader refuses, without those that cannot be understood."""
    for video, content in sorted(videos.items()):
        try:
            names = tuple(sorted(map(str, content["frames"])))
            described = content["expressions"].items()
            expressions = tuple(_salvage_expression(*item, has_masks=masks is not None) for item in described)
        except (KeyError, TypeError, AttributeError, ValueError):
            continue  # the loader names such entries one by one
        has_masks = any(expression.object_ids for expression in expressions)
        reader = PngMasks(masks / video, names) if masks is not None and has_masks else None
        yield VideoRecord(video, names, ImageFrames(frames / video, names), reader, expressions)


def _salvage_expression(name: str, entry: Mapping[str, Any], *, has_masks: bool) -> Expression:
    number = entry.get("obj_id") if has_masks else None
    return Expression(name, entry["exp"], () if number is None else (int(number),))


# --- Ref-YouTube-VOS ---


def _examine_ref_youtube_vos(check: SplitCheck) -> None:
    folder = check.root / check.split
    valid, test = (videos_of(expressions_file(check.root, split)) for split in ("valid", "test"))
    # the released valid file names the test videos, too
    neighbours = {"valid": test, "test": valid - test}.get(check.split, set())
    file = expressions_file(check.root, check.split)
    examine_videos(check, file, folder / "JPEGImages", folder / "Annotations", neighbours=neighbours)
    if check.split == "valid" and not expressions_file(check.root, "test").is_file() and len(check.records) == 507:
        check.add(
            "counts",
            expressions_file(check.root, "test"),
            "no such file; without it the test videos are taken for valid ones",
        )
    meta = folder / "meta.json"
    if meta.is_file():
        try:
            check.known_objects = {
                video: set(map(int, content["objects"])) for video, content in read_videos(meta).items()
            }
        except (ValueError, KeyError, TypeError) as error:
            check.add("loader", meta, f"damaged ({error})")
    else:
        check.known_objects = {video.name: set() for video in check.records}


def videos_of(file: Path) -> set[str]:
    """Names of the videos in a file of sentences; none if it cannot be read."""
    try:
        return set(read_videos(file)) if file.is_file() else set()
    except ValueError:
        return set()


def _has_split(root: Path, split: str) -> bool:
    return expressions_file(root, split).is_file() or (root / split / "JPEGImages").is_dir()


def _is_ref_youtube_vos(root: Path) -> bool:
    return (
        (root / "meta_expressions").is_dir()
        and any((root / split / "JPEGImages").is_dir() for split in SPLITS)
        and not _is_ref_davis17(root)
    )


REF_YOUTUBE_VOS = Format(
    dataset="ref_youtube_vos",
    title="Ref-YouTube-VOS",
    recognises=_is_ref_youtube_vos,
    configurations=lambda root: [({}, tuple(split for split in SPLITS if _has_split(root, split)))],
    examine=_examine_ref_youtube_vos,
)


# --- Ref-DAVIS17 ---


def _examine_ref_davis17(check: SplitCheck) -> None:
    file = check.data.expressions or expressions_file(check.root, check.split)
    if not file.exists() and _texts(check.root).is_dir():
        file = _texts(check.root)
    at_480p = (check.root / "JPEGImages" / "480p").is_dir()
    frames, masks = (
        check.root / kind / "480p" if at_480p else check.root / check.split / kind
        for kind in ("JPEGImages", "Annotations")
    )
    lists = sorted((check.root / "ImageSets").glob("*/*.txt"))
    for path in (*lists, *(sorted(file.glob("*.txt")) if file.is_dir() else ())):
        if has_windows_line_ends(path):
            check.add("line_ends", path)
    neighbours = {name for path in lists for name in path.read_text(encoding="utf-8", errors="replace").split()}
    if file.is_dir():
        _examine_texts(check, frames, masks, neighbours)
        return
    for other in SPLITS:
        if at_480p and other != check.split:
            neighbours |= videos_of(expressions_file(check.root, other))
    examine_videos(check, file, frames, masks, neighbours=neighbours - videos_of(file))


def _examine_texts(check: SplitCheck, frames: Path, masks: Path, neighbours: set[str]) -> None:
    """With the annotators' files, the list of the split says which videos there should be."""
    listed = _list_of(check.root, check.split)
    wanted = set(listed.read_text(encoding="utf-8", errors="replace").split()) if listed.is_file() else set()
    for folder in (frames, masks):
        for name in sorted(wanted - check.names.inside(folder)):
            check.add("missing", f"{check.names.show(folder / name)}/", "no such folder")
        known = neighbours | {video.name for video in check.records}
        for name in sorted(check.names.inside(folder) - known):
            check.add("surplus", folder / name, "no sentence is about it")


def _texts(root: Path) -> Path:
    return root / "davis_text_annotations"


def _list_of(root: Path, split: str) -> Path:
    return root / "ImageSets" / "2017" / f"{'val' if split == 'valid' else split}.txt"


def _has_davis_split(root: Path, split: str) -> bool:
    if expressions_file(root, split).is_file():
        return True
    return _texts(root).is_dir() and (_list_of(root, split).is_file() or (root / split / "JPEGImages").is_dir())


def _is_ref_davis17(root: Path) -> bool:
    if all((root / kind / "480p").is_dir() for kind in ("JPEGImages", "Annotations")):
        return True
    return _has_davis_split(root, "valid") and (root / "valid" / "Annotations" / "blackswan").is_dir()


REF_DAVIS17 = Format(
    dataset="ref_davis17",
    title="Ref-DAVIS17",
    recognises=_is_ref_davis17,
    configurations=lambda root: [({}, tuple(split for split in ("train", "valid") if _has_davis_split(root, split)))],
    examine=_examine_ref_davis17,
)


# --- MeViS ---


def _examine_mevis(check: SplitCheck) -> None:
    folder = check.root / check.split
    file, masks_file = folder / "meta_expressions.json", folder / "mask_dict.json"
    videos = examine_videos(check, file, folder / "JPEGImages", None, neighbours=set())
    if check.source is not None:
        return
    try:
        tracks = json.loads(masks_file.read_bytes())
        lengths = {int(number): len(masks) for number, masks in tracks.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return  # the loader says what is wrong with it
    for video, name, number, num_frames in _meant(videos):
        place = f"video {video}, expression {name}, anno_id {number}"
        if number not in lengths:
            check.add("objects", place, f"not in {check.names.show(masks_file)}")
        elif lengths[number] != num_frames:
            check.add("mismatched", place, f"masks for {lengths[number]} frames, the video has {num_frames}")


def _meant(videos: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    """Video, expression, object and number of frames of everything that sentences mean."""
    for video, content in videos.items():
        try:
            num_frames = len(content["frames"])
            for name, entry in content["expressions"].items():
                for number in entry.get("anno_id") or ():
                    yield video, name, int(number), num_frames
        except (KeyError, TypeError, AttributeError, ValueError):
            continue  # the loader names such entries one by one


MEVIS_SPLITS = ("train", "valid_u", "valid")

MEVIS = Format(
    dataset="mevis",
    title="MeViS",
    recognises=lambda root: any((root / split / "meta_expressions.json").is_file() for split in MEVIS_SPLITS),
    configurations=lambda root: [
        ({}, tuple(split for split in MEVIS_SPLITS if (root / split / "meta_expressions.json").is_file()))
    ],
    examine=_examine_mevis,
)
