"""Referring Shapes as Ref-YouTube-VOS: JPEG frames, palette masks, `meta.json`, `meta_expressions.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.shapes.clip import ShapesClip
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_frame,
    write_json,
    write_mask,
)


class RefYoutubeVosWriter(LayoutWriter):
    """The layout of the quick start; every sentence has its kind. It has no folder `truth`: its masks are exact.

    `obj_id` is an empty list for a sentence that means nothing in its clip.
    """

    name = "ref_youtube_vos"
    has_truth = False
    default_absent_share = 0.0

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes frames and masks."""
        names = [f"{t:05d}" for t in range(len(clip.frames))]
        root = folder / clip.split
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / clip.video).mkdir(parents=True)
        for name, frame, ids in zip(names, clip.frames, clip.object_ids, strict=True):
            write_frame(root / "JPEGImages" / clip.video / f"{name}.jpg", frame)
            write_mask(root / "Annotations" / clip.video / f"{name}.png", ids)
        has_pixels = clip.has_pixels
        objects = {
            str(i + 1): {"category": actor.shape, "frames": [n for n, s in zip(names, has_pixels[i], strict=True) if s]}
            for i, actor in enumerate(clip.scene.actors)
        }
        truths = [ExpressionTruth(str(k), s.text, s.kind, (s.index + 1,)) for k, s in enumerate(clip.sentences)]
        for absent in clip.absent_sentences(len(truths)):
            truths.append(ExpressionTruth(str(len(truths)), absent.text, absent.kind, ()))
        expressions = {
            t.name: {"exp": t.text, "obj_id": str(t.objects[0]) if t.objects else [], "kind": t.kind} for t in truths
        }
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=names,
            object_ids=clip.object_ids,
            appearances=appearances_of(clip),
            expressions=truths,
            index_entry=(objects, {"expressions": expressions, "frames": names}),
            has_truth=self.has_truth,
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the objects and expressions of each split."""
        for split, clip_records in records.items():
            objects = {r.video: {"objects": r.index_entry[0]} for r in clip_records}
            write_json(folder / split / "meta.json", {"videos": objects})
            expressions = {r.video: r.index_entry[1] for r in clip_records}
            write_json(folder / "meta_expressions" / split / "meta_expressions.json", {"videos": expressions})
