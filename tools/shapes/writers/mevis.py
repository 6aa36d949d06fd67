"""Referring Shapes as MeViS: sentences that refer to one or several objects, masks as run lengths in one file.

    {train,valid_u,valid}/JPEGImages/<video>/<frame>.jpg
    {train,valid_u,valid}/meta_expressions.json      videos.<video>.{vid_id, frames, expressions}
    {train,valid_u}/mask_dict.json                   <anno_id>: one COCO run-length mask per frame, null without pixels

An expression: exp, and but for `valid` obj_id and anno_id, lists of the same length.

The second release has more sentences, in {train,valid_u}/meta_expressions_v2.json and
valid/meta_expressions_v2_release.json; obj_id and anno_id are empty for those that mean nothing in their video.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as mask_utils

from tools.shapes.clip import ShapesClip
from tools.shapes.plurals import plural_sentences
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_frame,
    write_json,
)

_MAX_PLURALS = 4


class MevisWriter(LayoutWriter):
    """Split `valid` keeps its objects and masks secret; the truth about its sentences is in `truth/hidden`."""

    name = "mevis"
    scored_split = "valid_u"
    loader_splits: ClassVar[Mapping[str, str]] = {"train": "train", "valid": "valid_u", "hidden": "valid"}
    sentences_file: ClassVar[str] = "meta_expressions.json"
    secret_sentences_file: ClassVar[str] = "meta_expressions.json"

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """As many clips without annotation as there are valid ones."""
        return {"train": num_train, "valid": num_valid, "hidden": num_valid}

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes the frames; the masks are part of the index."""
        names = [f"{t:05d}" for t in range(len(clip.frames))]
        frames = folder / self.loader_splits[clip.split] / "JPEGImages" / clip.video
        frames.mkdir(parents=True)
        for name, frame in zip(names, clip.frames, strict=True):
            write_frame(frames / f"{name}.jpg", frame)
        plurals = list(plural_sentences(clip.facts))
        clip.generator().shuffle(plurals)
        expressions = [ExpressionTruth(str(k), s.text, s.kind, (s.index + 1,)) for k, s in enumerate(clip.sentences)]
        for plural in plurals[:_MAX_PLURALS]:
            expressions.append(
                ExpressionTruth(str(len(expressions)), plural.text, plural.kind, tuple(i + 1 for i in plural.indices))
            )
        for absent in clip.absent_sentences(len(expressions)):
            expressions.append(ExpressionTruth(str(len(expressions)), absent.text, absent.kind, ()))
        runs = [[_run_lengths(ids == i + 1) for ids in clip.object_ids] for i in range(clip.num_objects)]
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=names,
            object_ids=clip.object_ids,
            appearances=appearances_of(clip),
            expressions=expressions,
            index_entry=runs,
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the sentences and masks of each split; masks are numbered through the split."""
        for split, clip_records in records.items():
            is_secret = split == "hidden"
            masks: dict[str, Any] = {}
            videos = {}
            for number, record in enumerate(clip_records):
                first = len(masks)
                masks |= {str(first + i): runs for i, runs in enumerate(record.index_entry)}
                expressions = {}
                for truth in record.truth["expressions"]:
                    entry: dict[str, Any] = {"exp": truth["text"]}
                    if not is_secret:
                        entry["obj_id"] = [i - 1 for i in truth["objects"]]
                        entry["anno_id"] = [first + i - 1 for i in truth["objects"]]
                    expressions[truth["name"]] = entry
                frames = record.truth["frames"]
                videos[record.video] = {"vid_id": number, "frames": frames, "expressions": expressions}
            name = self.secret_sentences_file if is_secret else self.sentences_file
            write_json(folder / self.loader_splits[split] / name, {"videos": videos})
            if not is_secret:
                write_json(folder / self.loader_splits[split] / "mask_dict.json", masks, indent=None)


class MevisV2Writer(MevisWriter):
    """The second release: some sentences mean nothing in their clip."""

    name = "mevis_v2"
    default_absent_share = 0.2
    sentences_file = "meta_expressions_v2.json"
    secret_sentences_file = "meta_expressions_v2_release.json"


def _run_lengths(mask: np.ndarray) -> dict[str, Any] | None:
    if not mask.any():
        return None
    encoded = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
