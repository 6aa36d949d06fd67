"""Referring Shapes as Ref-DAVIS17: the folders of DAVIS-2017, with four sentences for every object.

    JPEGImages/480p/<video>/<frame>.jpg        (whatever the number of lines)
    Annotations_unsupervised/480p/<video>/<frame>.png       palette PNG; 255 is void
    Annotations/480p/<video>/<frame>.png       of the semi-supervised task: the same objects, numbered backwards
    ImageSets/2017/train.txt, val.txt
    davis_text_annotations/Davis17_annot{1,2}[_full_video].txt       <video> <object> "<sentence>", all splits
    meta_expressions/{train,valid}/meta_expressions.json             the same, prepared

Without a folder of the split's name: all splits share the folders, as in DAVIS. There the masks of the two tasks show
other objects; here their numbers differ, so that whoever reads the wrong folder finds the wrong objects.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from structures.object_maps import VOID_INDEX
from tools.shapes.clip import ShapesClip
from tools.shapes.sentences import Sentence, all_sentences
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_frame,
    write_json,
    write_lines,
    write_mask,
)

TEXT_FILES = (
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
)
"""In the order of the four sentences of an object; their annotators saw the first frame, or the whole video."""

_SETS = {"train": "train", "valid": "val"}
_VIDEO_KINDS_FIRST = ({"motion"}, {"change", "spin"}, {"relation", "passing"}, {"place"}, {"appearance"})


class DavisWriter(LayoutWriter):
    """Objects that no sentence identifies are not annotated; the others are numbered anew, without gaps.

    In clips of odd index the lowest row is void.
    """

    name = "davis"
    scored_split = "valid_sentences"  # read by no evaluation: that of DAVIS scores objects, not sentences

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes frames and masks."""
        candidates: dict[int, list[Sentence]] = {}
        for sentence in (*clip.sentences, *all_sentences(clip.generator(), clip.facts)):
            candidates.setdefault(sentence.index, []).append(sentence)
        objects = sorted(candidates)
        object_ids = np.zeros_like(clip.object_ids)
        for number, i in enumerate(objects, start=1):
            object_ids[clip.object_ids == i + 1] = number
        stored = object_ids.copy()
        if clip.index % 2:
            object_ids[:, -1] = 0
            stored[:, -1] = VOID_INDEX
        names = [f"{t:05d}" for t in range(len(clip.frames))]
        frames, masks, semi_supervised = (
            folder / kind / "480p" / clip.video for kind in ("JPEGImages", "Annotations_unsupervised", "Annotations")
        )
        for path in (frames, masks, semi_supervised):
            path.mkdir(parents=True)
        is_object = (stored > 0) & (stored < VOID_INDEX)
        backwards = np.where(is_object, len(objects) + 1 - stored, stored)
        for name, frame, ids, other_ids in zip(names, clip.frames, stored, backwards, strict=True):
            write_frame(frames / f"{name}.jpg", frame)
            write_mask(masks / f"{name}.png", ids)
            write_mask(semi_supervised / f"{name}.png", other_ids)
        expressions = [
            ExpressionTruth(str(4 * (number - 1) + slot), sentence.text, sentence.kind, (number,))
            for number, i in enumerate(objects, start=1)
            for slot, sentence in enumerate(_four_sentences(candidates[i]))
        ]
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=names,
            object_ids=object_ids,
            appearances=[appearances_of(clip)[i] for i in objects],
            expressions=expressions,
            index_entry=None,
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the sets, the four text files and the prepared ones."""
        lines: dict[str, list[str]] = {name: [] for name in TEXT_FILES}
        for split, clip_records in records.items():
            write_lines(
                folder / "ImageSets" / "2017" / f"{_SETS[split]}.txt", [record.video for record in clip_records]
            )
            videos = {}
            for record in clip_records:
                truths = record.truth["expressions"]
                for number, entry in enumerate(truths):
                    lines[TEXT_FILES[number % 4]].append(f'{record.video} {entry["objects"][0]} "{entry["text"]}"')
                expressions = {e["name"]: {"exp": e["text"], "obj_id": str(e["objects"][0])} for e in truths}
                videos[record.video] = {"expressions": expressions, "frames": record.truth["frames"]}
            write_json(folder / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
        for name, content in lines.items():
            write_lines(folder / "davis_text_annotations" / name, content, encoding="latin-1")


def _four_sentences(candidates: Sequence[Sentence]) -> list[Sentence]:
    """Two annotators, each with a sentence about the appearance (if there is one) and one about the video."""
    appearance = [s for s in candidates if s.kind == "appearance"] or list(candidates)
    video = [s for kinds in _VIDEO_KINDS_FIRST for s in candidates if s.kind in kinds]
    return [appearance[0], video[0], appearance[-1], video[1 % len(video)]]
