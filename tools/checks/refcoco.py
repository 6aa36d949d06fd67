"""RefCOCO, RefCOCO+ and RefCOCOg: references, annotations and the images of COCO."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema import DataConfig
from datasets.readers import ImageFrames
from datasets.records import Expression, VideoRecord
from datasets.refcoco import SPLITS_BY, Referral, RunLengthMasks, find_images, find_referrals, read_plain_pickle
from datasets.statistics import PUBLISHED, Counts
from loading.text import clean_sentence
from tools.checks.split import Format, SplitCheck, count_videos

TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}


def _examine(check: SplitCheck) -> None:
    try:
        images = find_images(check.root)
    except ValueError:
        return  # the loader has said so
    check.shared.add(images)  # COCO has many more
    if check.source is not None:
        return
    try:
        file, referrals = find_referrals(check.root, check.data.variant, check.split, check.data.split_by)
        by_image: dict[str, list[Referral]] = {}
        for referral in referrals:
            by_image.setdefault(referral.image, []).append(referral)
    except ValueError:
        return
    for image, found in by_image.items():
        for name in _empty_sentences(found):
            check.add("empty_sentences", file, f"image {image}, sentence {name}")
    check.records = tuple(_salvage(file, images, image, by_image[image]) for image in sorted(by_image))


def _empty_sentences(referrals: Sequence[Referral]) -> Iterator[str]:
    for referral in referrals:
        for name, text in referral.sentences:
            if not clean_sentence(text, lower_case=False):
                yield name


def _salvage(file: Path, images: Path, image: str, referrals: Sequence[Referral]) -> VideoRecord:
    stem, suffix = Path(image).stem, Path(image).suffix
    masks = RunLengthMasks(file, tuple(referral.counts for referral in referrals), referrals[0].size)
    expressions = tuple(
        Expression(name, text, (number,))
        for number, referral in enumerate(referrals, start=1)
        for name, text in referral.sentences
    )
    return VideoRecord(stem, (stem,), ImageFrames(images, (stem,), suffix), masks, expressions)


def _folder(root: Path, name: str) -> Path | None:
    """The folder with the index files of one of the sets."""
    for folder in (root / name, root / "coco" / name):
        if any(folder.glob("instances*.json")) or any(folder.glob("refs(*).p")):
            return folder
    return None


def _configurations(root: Path) -> list[tuple[dict[str, object], tuple[str, ...]]]:
    """What lies in the folders of the three sets: splits of prepared files, otherwise those of the references."""
    found: list[tuple[dict[str, object], tuple[str, ...]]] = []
    for name, (split_by, *_) in SPLITS_BY.items():
        folder = _folder(root, name)
        if folder is None:
            continue
        prepared = [split for split in PUBLISHED[name] if (folder / f"instances_{name}_{split}.json").is_file()]
        found.append(
            ({"variant": name}, tuple(prepared or _splits_of_references(folder / f"refs({split_by}).p", name)))
        )
    return found


def _splits_of_references(path: Path, name: str) -> list[str]:
    try:
        there = {ref["split"] for ref in read_plain_pickle(path)}
    except (ValueError, KeyError, TypeError):
        return ["train"]  # opening it will say what is wrong
    return [split for split in PUBLISHED[name] if split in there]


def _count(videos: Sequence[VideoRecord]) -> Counts:
    counts = count_videos(videos)
    # objects with the same mask are one here, references to them are not: the number cannot be compared
    return replace(counts, images=counts.videos, objects=None, videos=None, frames=None)


def _published(data: DataConfig) -> str:
    """Other divisions than those of the papers have other counts."""
    return data.variant if data.split_by in ("", SPLITS_BY[data.variant][0]) else f"{data.variant} ({data.split_by})"


REFCOCO = Format(
    dataset="refcoco",
    title="RefCOCO/+/g",
    title_of=lambda data: TITLES[data.variant],
    recognises=lambda root: any(_folder(root, name) is not None for name in SPLITS_BY),
    configurations=_configurations,
    examine=_examine,
    published=_published,
    count=_count,
)
