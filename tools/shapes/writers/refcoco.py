"""Referring Shapes as RefCOCO, RefCOCO+ and RefCOCOg: single images, polygons, in both layouts in use.

    coco/train2014/COCO_train2014_<12 digits>.jpg
    coco/<name>/instances.json, refs(unc).p            as published (RefCOCOg: refs(umd).p): references with sentences
    coco/<name>/instances_<name>_{train,val}.json      as ReferFormer converts these: an image entry for every sentence

<name> is refcoco, refcoco+ or refcocog. The three share the images, and differ in the kinds of their sentences:
appearance and place, only appearance, or appearance and relation.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.counts import Counts
from tools.shapes.clip import ShapesClip, boxes_of
from tools.shapes.polygons import mask_to_polygons
from tools.shapes.scene import SHAPES
from tools.shapes.sentences import all_sentences
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_frame,
    write_json,
)

REFS_FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}

_KINDS = {"refcoco": ("appearance", "place"), "refcoco+": ("appearance",), "refcocog": ("appearance", "relation")}
_SPLITS = {"train": "train", "valid": "val"}
_FIRST_IMAGE = {"train": 1, "valid": 100_001}
_MAX_SENTENCES = 3
"""About one object in one of the sets."""

_INFO = {"description": "Referring Shapes", "version": "1.0"}
_LICENCES = [{"id": 1, "name": "generated", "url": ""}]
_CATEGORIES = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]


class RefcocoWriter(LayoutWriter):
    """One frame of every clip, the one that shows the most objects, with sentences that are true of a single image."""

    name = "refcoco"
    scored_split = "val_of_three_sets"  # read by no evaluation: that is of one of the three sets
    loader_splits = _SPLITS

    def counts(self, records: Sequence[ClipRecord]) -> Counts:
        """Only the images, which the three sets have in common."""
        return Counts(images=len(records))

    def is_usable(self, clip: ShapesClip) -> bool:
        """Each of the three sets must get a sentence."""
        sources = {expression.source for expression in _expressions_of_frame(clip, _best_frame(clip))}
        return sources == set(_KINDS)

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes the image; its objects are part of the index."""
        t = _best_frame(clip)
        image_id = _FIRST_IMAGE[clip.split] + clip.index
        file_name = f"COCO_train2014_{image_id:012d}.jpg"
        path = folder / "coco" / "train2014" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frame(path, clip.frames[t])
        ids = clip.object_ids[t]
        boxes = boxes_of(ids[None], clip.num_objects)[:, 0]
        objects: dict[int, dict[str, Any]] = {}
        for i in np.flatnonzero(clip.has_pixels[:, t]).tolist():
            left, top, right, bottom = boxes[i].tolist()
            objects[i + 1] = {
                "segmentation": mask_to_polygons(ids == i + 1),
                "area": float((ids == i + 1).sum()),
                "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top],
                "category_id": SHAPES.index(clip.facts.shapes[i]) + 1,
            }
        height, width = ids.shape
        image = {"file_name": file_name, "height": height, "width": width, "id": image_id, "license": 1}
        return make_record(
            folder,
            clip,
            video=Path(file_name).stem,
            frame_names=[Path(file_name).stem],
            object_ids=ids[None],
            appearances=appearances_of(clip),
            expressions=_expressions_of_frame(clip, t),
            index_entry=(image, objects),
            positions=[t],
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes images and objects, and the sentences of the three sets in both layouts."""
        instances = _coco_file()
        numbers: dict[tuple[str, int], int] = {}
        for record in (r for clip_records in records.values() for r in clip_records):
            image, objects = record.index_entry
            instances["images"].append(image)
            for i, content in objects.items():
                numbers[record.video, i] = len(numbers) + 1
                instances["annotations"].append(
                    {**content, "image_id": image["id"], "id": numbers[record.video, i]},
                )
        for name, refs_file in REFS_FILES.items():
            write_json(folder / "coco" / name / "instances.json", instances, indent=None)
            # the newest protocol that Python 2 knows
            refs = _references(name, records, numbers)
            (folder / "coco" / name / refs_file).write_bytes(pickle.dumps(refs, protocol=2))
            for split, clip_records in records.items():
                path = folder / "coco" / name / f"instances_{name}_{_SPLITS[split]}.json"
                write_json(path, _one_image_per_sentence(name, clip_records, numbers), indent=None)


def _best_frame(clip: ShapesClip) -> int:
    return int(clip.facts.is_visible.sum(axis=0).argmax())


def _expressions_of_frame(clip: ShapesClip, t: int) -> list[ExpressionTruth]:
    """The sentences about frame `t`, set by set; relations only where every object is well visible."""
    visible = clip.facts.is_visible[:, t]
    lasting = [s for s in all_sentences(clip.generator(), clip.facts) if s.is_lasting and visible[s.index]]
    expressions: list[ExpressionTruth] = []
    for source, kinds in _KINDS.items():
        usable = [s for s in lasting if s.kind in kinds and (s.kind != "relation" or visible.all())]
        counts: dict[int, int] = {}
        for sentence in usable:
            counts[sentence.index] = counts.get(sentence.index, 0) + 1
            if counts[sentence.index] <= _MAX_SENTENCES:
                name = str(sum(expression.source == source for expression in expressions))
                expressions.append(
                    ExpressionTruth(name, sentence.text, sentence.kind, (sentence.index + 1,), source=source)
                )
    return expressions


def _references(
    name: str, records: Mapping[str, Sequence[ClipRecord]], numbers: Mapping[tuple[str, int], int]
) -> list[dict[str, Any]]:
    """One entry per object with its sentences; its file name has a number behind that of the image, as published."""
    references: list[dict[str, Any]] = []
    num_sentences = 0
    for split, clip_records in records.items():
        for record in clip_records:
            image, objects = record.index_entry
            truths = [e for e in record.truth["expressions"] if e["source"] == name]
            for number in dict.fromkeys(e["objects"][0] for e in truths):
                texts = [e["text"] for e in truths if e["objects"] == (number,)]
                ids = list(range(num_sentences, num_sentences + len(texts)))
                num_sentences += len(texts)
                references.append(
                    {
                        "sent_ids": ids,
                        "file_name": f"{record.video}_{len(references)}.jpg",
                        "ann_id": numbers[record.video, number],
                        "ref_id": len(references),
                        "image_id": image["id"],
                        "split": _SPLITS[split],
                        "sentences": [
                            {"tokens": text.split(), "raw": text.upper(), "sent_id": i, "sent": text}
                            for i, text in zip(ids, texts, strict=True)
                        ],
                        "category_id": objects[number]["category_id"],
                    }
                )
    return references


def _one_image_per_sentence(
    name: str, records: Sequence[ClipRecord], numbers: Mapping[tuple[str, int], int]
) -> dict[str, Any]:
    """What the conversion makes: entries numbered from 1, image and annotation of a sentence alike."""
    content = _coco_file()
    for record in records:
        image, objects = record.index_entry
        for truth in record.truth["expressions"]:
            if truth["source"] != name:
                continue
            number, sentence = truth["objects"][0], len(content["images"]) + 1
            content["images"].append(
                {
                    "file_name": image["file_name"],
                    "height": image["height"],
                    "width": image["width"],
                    "original_id": image["id"],
                    "id": sentence,
                    "caption": truth["text"],
                    "dataset_name": name,
                }
            )
            content["annotations"].append(
                {
                    **objects[number],
                    "image_id": sentence,
                    "id": sentence,
                    "original_id": numbers[record.video, number],
                }
            )
    return content


def _coco_file() -> dict[str, Any]:
    """A file of COCO without images."""
    return {"info": _INFO, "images": [], "annotations": [], "licenses": _LICENCES, "categories": _CATEGORIES}
