"""Referring Shapes as MeViS: sentences that mean one or several objects, masks as run lengths in one file.

    {train,valid_u,valid}/JPEGImages/<video>/<frame>.jpg
    {train,valid_u,valid}/meta_expressions.json      videos.<video>.{vid_id, frames, expressions}
    {train,valid_u}/mask_dict.json                   <anno_id>: one COCO run-length mask per frame, null where unseen

An expression: exp, and but for `valid` obj_id and anno_id, lists of the same length.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from tools.shapes.clip import ShapesClip
from tools.shapes.plurals import plural_sentences
from tools.shapes.writers.base import ClipRecord, Layout, Said, looks_of, make_record, write_frame, write_json

_FOLDERS = {"train": "train", "valid": "valid_u", "hidden": "valid"}
_MAX_PLURALS = 4


class Mevis(Layout):
    """Split `valid` keeps its objects and masks secret; the truth of its sentences lies in `truth/hidden`."""

    name = "mevis"
    scored_split = "valid_u"

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """As many secret clips as there are valid ones."""
        return {"train": num_train, "valid": num_valid, "hidden": num_valid}

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Frames; the masks go to the index."""
        names = [f"{t:05d}" for t in range(len(clip.frames))]
        frames = folder / _FOLDERS[clip.split] / "JPEGImages" / clip.video
        frames.mkdir(parents=True)
        for name, frame in zip(names, clip.frames, strict=True):
            write_frame(frames / f"{name}.jpg", frame)
        plurals = list(plural_sentences(clip.facts))
        clip.generator().shuffle(plurals)
        said = [Said(str(k), s.text, s.kind, (s.index + 1,)) for k, s in enumerate(clip.sentences)]
        for plural in plurals[:_MAX_PLURALS]:
            said.append(Said(str(len(said)), plural.text, plural.kind, tuple(i + 1 for i in plural.indices)))
        runs = [[_run_lengths(ids == i + 1) for ids in clip.object_ids] for i in range(clip.num_objects)]
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=names,
            object_ids=clip.object_ids,
            looks=looks_of(clip),
            said=said,
            entry=runs,
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Sentences and masks of each split; masks are numbered through the split."""
        for split, found in records.items():
            is_secret = split == "hidden"
            masks: dict[str, Any] = {}
            videos = {}
            for number, record in enumerate(found):
                first = len(masks)
                masks |= {str(first + i): runs for i, runs in enumerate(record.entry)}
                expressions = {}
                for said in record.truth["expressions"]:
                    entry: dict[str, Any] = {"exp": said["text"]}
                    if not is_secret:
                        entry["obj_id"] = [i - 1 for i in said["objects"]]
                        entry["anno_id"] = [first + i - 1 for i in said["objects"]]
                    expressions[said["name"]] = entry
                frames = record.truth["frames"]
                videos[record.video] = {"vid_id": number, "frames": frames, "expressions": expressions}
            write_json(folder / _FOLDERS[split] / "meta_expressions.json", {"videos": videos})
            if not is_secret:
                write_json(folder / _FOLDERS[split] / "mask_dict.json", masks, indent=None)


def _run_lengths(mask: np.ndarray) -> dict[str, Any] | None:
    if not mask.any():
        return None
    encoded = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
