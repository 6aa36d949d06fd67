"""JHMDB-Sentences: folders of frames, a mask file for each, and the list of sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.jhmdb_sentences import METADATA_FILES, PERSON, MatMasks, read_sentences
from datasets.readers import ImageFrames
from datasets.records import Expression, VideoRecord
from datasets.statistics import JHMDB_FRAMES, Counts
from tools.checks.files import has_windows_line_ends
from tools.checks.split import Format, SplitCheck, count_videos, read_generated


def _examine(check: SplitCheck) -> None:
    annotation = check.root / "jhmdb_annotation.txt"
    try:
        sentences = read_sentences(annotation)
    except ValueError:
        return  # the loader has said so
    if has_windows_line_ends(annotation):
        check.add("line_ends", annotation)
    frames, masks = check.root / "Rename_Images", check.root / "puppet_mask"
    folders = {folder.name: folder for folder in _videos(frames)}
    if check.source is None:
        check.records = tuple(_salvage(check, sentences, folders))
    for folder in (*folders.values(), *_videos(masks)):
        if folder.name not in sentences:
            check.add("surplus", folder, "no sentence is about it")
    if read_generated(check.root) is None:
        _compare_lengths(check)
    if not any((check.root / name).is_file() for name in METADATA_FILES):
        check.add(
            "counts",
            METADATA_FILES[0],
            "no such file; frames are drawn with the seed of the published choice, which needs all videos",
        )


def _videos(folder: Path) -> list[Path]:
    """<action>/<video>."""
    return sorted(video for video in folder.glob("*/*") if video.is_dir())


def _salvage(check: SplitCheck, sentences: dict[str, str], folders: dict[str, Path]) -> Iterator[VideoRecord]:
    """The videos with frames, all of these to be opened; what the loader stumbles over is named."""
    for video, sentence in sentences.items():
        folder = folders.get(video)
        if folder is None:
            check.add("missing", f"Rename_Images/*/{video}/", "no such folder")
            continue
        there = {name.removesuffix(".png") for name in check.names.inside(folder) if name.endswith(".png")}
        numbers = [int(name) for name in there if name.isdecimal()]
        if not numbers:
            check.add("missing", f"{check.names.show(folder)}/", "no frames (*.png)")
            continue
        names = tuple(f"{number:05d}" for number in range(1, max(numbers) + 1))
        masks = MatMasks(check.root / "puppet_mask" / folder.parent.name / video / "puppet_mask.mat")
        reader = ImageFrames(folder, names, ".png")
        yield VideoRecord(video, names, reader, masks, (Expression("0", sentence, (PERSON,)),))


def _compare_lengths(check: SplitCheck) -> None:
    fewest, most = JHMDB_FRAMES
    for video in check.records:
        if not fewest <= len(video.frame_names) <= most:
            detail = f"{len(video.frame_names)} frames; the videos of JHMDB have {fewest} to {most}"
            check.add("counts", f"video {video.name}", detail)


def _count(videos: Sequence[VideoRecord]) -> Counts:
    samples = [len(video.annotated) for video in videos if video.annotated is not None]
    return replace(count_videos(videos), objects=None, samples=sum(samples) if samples else None)


JHMDB_SENTENCES = Format(
    dataset="jhmdb_sentences",
    title="JHMDB-Sentences",
    recognises=lambda root: (root / "jhmdb_annotation.txt").is_file() and (root / "puppet_mask").is_dir(),
    configurations=lambda root: [({}, ("test",))],
    examine=_examine,
    count=_count,
    is_trained_on=False,
)
