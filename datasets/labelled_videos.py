"""Labelled videos: one's own, with masks on some frames and a few sentences; docs/your_own_data.md shows how.

    ROOT/<video>/<any name>.mp4, or ROOT/<video>/frames/*.jpg
    ROOT/<video>/labels/*.png        masks of the labelled frames, pixel value = object id
    ROOT/<video>/labels/sentences.json

Instead of PNG files `labels` may hold one JSON file of COCO or of YouTube-VIS, and one `ROOT/labels.json` may have the
labels of all videos that have no folder of their own. `videos` names files that lie elsewhere.

Only labelled frames are frames with masks. The splits are `all`, and of these frames `train` and `valid`, those that
are held out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from datasets.absent_words import absent_phrases, may_fit, nouns, with_other_nouns
from datasets.counts import Counts, count_videos
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    FoundDataset,
    MaskPerSentence,
    SplitContents,
    SplitRequest,
)
from datasets.label_sources import (
    LABELS_FOLDER,
    SHARED_LABELS,
    LabelledRecord,
    LabelledVideo,
    find_videos,
    holds_a_video,
    open_json_files,
    read_video,
)
from datasets.problems import Problem
from datasets.readers import KeptFrames
from datasets.records import Expression, VideoRecord
from media.folders import listing

SPLITS = ("all", "train", "valid")


NEAR_MISS, OTHER_VIDEO, OTHER_NOUN, WORD = "near miss", "other video", "other noun", "word"
"""Kinds of absent sentences: from `absent` of the video; about another video; about an object, but with a noun of the
list of words in place of its own; from this list."""

NOUNS_IN_TRAINING, NOUNS_IN_EVALUATION = 8, 1
"""Sentences of `OTHER_NOUN` that are made of each sentence."""


class LabelledVideosSettings(DatasetSettings):
    """Labelled videos."""

    dataset: Literal["labelled_videos"] = "labelled_videos"
    """Format of the data."""

    videos: tuple[LabelledVideo, ...] = ()
    """The videos; none: those in the folder of the data set, see docs/your_own_data.md."""

    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labelled frames of each video that split `valid` has and split `train` has not, at least one of
    them, spread evenly over the video."""

    absent_words: bool = True
    """Take everyday things from a built-in list for absent sentences, alone and in the place of nouns of sentences
    about objects, without those that a sentence about the video mentions. Switch it off where such things can be seen,
    but are not labelled."""

    max_eval_absent: NonNegativeInt = 20
    """Most absent sentences of a video in evaluation: near misses first, then those about the other videos, then
    sentences with another noun, then words; words are others than in training."""

    first_index: NonNegativeInt = 0
    """Number of the first frame of a video file in the names of its labels."""


def read(request: SplitRequest[LabelledVideosSettings]) -> SplitContents:
    """One split; videos are in the order of `videos`, or sorted by name.

    Raises:
        ValueError: there is no such split, or no video.
    """
    if request.split not in SPLITS:
        raise ValueError(f"split {request.split!r} of labelled videos: expected one of {', '.join(SPLITS)}")
    problems: list[Problem] = []
    found = find_videos(request.root, request.settings.videos, problems)
    files = open_json_files(found, problems)
    first_index = request.settings.first_index
    opened = (read_video(each, files, first_index=first_index, problems=problems) for each in found)
    read_videos = [one for one in opened if one is not None]
    videos = []
    for one in read_videos:
        others = [other for other in read_videos if other is not one]
        record = _in_split(_with_absent(one, others, request, problems), request, problems)
        if record is not None:
            videos.append(record)
    return SplitContents(tuple(videos), tuple(problems))


# ---- absent sentences ----


def _with_absent(
    one: LabelledRecord,
    others: Sequence[LabelledRecord],
    request: SplitRequest[LabelledVideosSettings],
    problems: list[Problem],
) -> VideoRecord:
    """The video with sentences about what is not in it, and with the synonyms of all videos."""
    present = [expression.sentence for expression in one.record.expressions]
    both = sorted(set(present) & set(one.sentences.absent))
    if both:
        problems.append(Problem("labels", str(one.sentence_file), f"{both[0]!r} is both present and absent"))
    kind_of = dict.fromkeys(one.sentences.absent, NEAR_MISS)
    own_texts = one.own_texts
    mentioned = frozenset[str]().union(*map(nouns, own_texts))
    for other in others:
        for expression in other.record.expressions:
            if not may_fit(expression.sentence, mentioned):
                kind_of.setdefault(expression.sentence, OTHER_VIDEO)
    if request.settings.absent_words:
        phrases = absent_phrases(own_texts, for_training=request.for_training)
        most = NOUNS_IN_TRAINING if request.for_training else NOUNS_IN_EVALUATION
        for sentence in present:
            for changed in with_other_nouns(sentence, phrases, most=most):
                kind_of.setdefault(changed, OTHER_NOUN)
        for phrase in phrases:
            kind_of.setdefault(phrase, WORD)
    absent = [(text, kind) for text, kind in kind_of.items() if text not in present]
    if not request.for_training:
        absent = _chosen(absent, request.settings.max_eval_absent)
    expressions = [*one.record.expressions, *(Expression("", text, (), kind=kind) for text, kind in absent)]
    synonyms: dict[str, tuple[str, ...]] = {}
    for each in (one, *others):
        for word, texts in each.sentences.synonyms.items():
            synonyms[word] = tuple(dict.fromkeys((*synonyms.get(word, ()), *texts)))
    named = tuple(replace(expression, name=str(index)) for index, expression in enumerate(expressions))
    return replace(one.record, expressions=named, synonyms=synonyms)


def _chosen(absent: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """At most `count`, those of a kind that does not fit as a whole spread evenly over it."""
    chosen: list[tuple[str, str]] = []
    for kind in (NEAR_MISS, OTHER_VIDEO, OTHER_NOUN, WORD):
        own = [item for item in absent if item[1] == kind]
        room = min(count - len(chosen), len(own))
        chosen += [own[index * len(own) // room] for index in range(room)]
    return chosen


# ---- splits ----


def held_out_positions(labelled: Sequence[int], share: float) -> frozenset[int]:
    """The labelled frames that are held out: spread evenly over the video, at least one, the same every time.

    Args:
        labelled: positions of all labelled frames, ascending.
        share: of them.
    """
    count = max(1, round(share * len(labelled)))
    return frozenset(labelled[(2 * index + 1) * len(labelled) // (2 * count)] for index in range(count))


def _in_split(
    record: VideoRecord, request: SplitRequest[LabelledVideosSettings], problems: list[Problem]
) -> VideoRecord | None:
    """The video with the labelled frames of the split; None where it has none."""
    labelled = sorted(record.annotated or ())
    positions = frozenset(labelled)
    if request.split != "all" and labelled:
        held_out = held_out_positions(labelled, request.settings.held_out_share)
        positions = held_out if request.split == "valid" else positions - held_out
        if not positions:
            detail = f"{len(labelled)} labelled frame, so none is left for split `{request.split}`; label one more"
            problems.append(Problem("labels", f"video {record.name}", detail))
    if not positions:
        return None
    visible = {number: shown & positions for number, shown in record.visible.items()}
    if request.for_training:
        for number in record.object_ids:
            if not visible[number]:
                problems.append(Problem("unseen", f"video {record.name}, object {number}", "only in held-out frames"))
        record = replace(record, frames=KeptFrames(record.frames))  # the same few are read in every step
    return replace(record, visible=visible, annotated=positions)


def _count(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes; of the frames only the labelled ones."""
    counts = count_videos(videos)
    return replace(counts, frames=sum(len(video.annotated or ()) for video in videos)) if videos else counts


def _shared_folders(request: SplitRequest[LabelledVideosSettings]) -> Iterator[Path]:
    """Labels of all splits lie together, with sentences and whatever else a tool exports."""
    for one in find_videos(request.root, request.settings.videos, problems=[]):
        yield from (one.labels, one.labels.parent, one.video, one.video.parent)


def _find(root: Path) -> list[FoundDataset]:
    folders = [folder for folder in listing(root) if folder.is_dir()]
    has_labels = any((folder / LABELS_FOLDER).is_dir() for folder in folders) or (root / SHARED_LABELS).is_file()
    is_here = has_labels and any(holds_a_video(folder) for folder in folders)
    return [FoundDataset(LabelledVideosSettings(), ("train", "valid"))] if is_here else []


LABELLED_VIDEOS = DatasetDefinition(
    title="Labelled videos",
    settings=LabelledVideosSettings,
    read=read,
    find=_find,
    protocol=MaskPerSentence(),
    published={},
    count=_count,
    shared_folders=_shared_folders,
)
