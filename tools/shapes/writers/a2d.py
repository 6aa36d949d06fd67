"""Referring Shapes as A2D-Sentences: mp4 clips, sentences in a csv, and masks of a few frames as h5.

    Release/videoset.csv                      a row per clip, see below
    Release/clips320H/<video>.mp4
    text_annotations/a2d_annotation.txt       video_id,instance_id,query
    text_annotations/a2d_missed_videos.txt    videos of videoset.csv without a sentence
    text_annotations/a2d_annotation_with_instances/<video>/<frame from 1>.h5

A row of videoset.csv: id, label, start, end, height, width, frames, annotated frames, 0 for train or 1 for test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import av
import h5py
import numpy as np
from jaxtyping import UInt8

from tools.shapes.clip import ShapesClip, boxes_of
from tools.shapes.scene import SHAPES
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_lines,
)

FRAMES_PER_SECOND = 25
KEYFRAME_INTERVAL = 12
"""Frames from one key frame to the next."""

_CRF = "16"
"""Quality of x264; lower is better, 23 is its default."""

_SUBSETS = {"train": 0, "missed": 0, "valid": 1}


class A2DWriter(LayoutWriter):
    """As in the real data, a frame's h5 names only some of the objects; for a single one, `reMask` has two axes.

    Clips of odd index annotate one object, the others every object that a sentence refers to.
    """

    name = "a2d"
    scored_split = "test"
    loader_splits: ClassVar[Mapping[str, str]] = {"train": "train", "valid": "test"}
    size = (320, 480)
    size_multiple = 16  # x264 pads incomplete blocks differently in each run

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """One clip more, which has no sentence."""
        return {"train": num_train, "valid": num_valid, "missed": 1}

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes the clip, and the masks of its first, middle and last frame."""
        write_mp4(folder / "Release" / "clips320H" / f"{clip.video}.mp4", clip.frames)
        num_frames = len(clip.frames)
        expressions: list[ExpressionTruth] = []
        annotated: list[int] = []
        if clip.split != "missed":
            annotated = sorted({0, num_frames // 2, num_frames - 1})
            first_of = {s.index: s for s in reversed(clip.sentences)}
            referred = sorted(first_of)[:1] if clip.index % 2 else sorted(first_of)
            for i in referred:
                shown = tuple(t for t in annotated if clip.has_pixels[i, t])
                expressions.append(ExpressionTruth(str(i), first_of[i].text, first_of[i].kind, (i + 1,), shown))
            for t in annotated:
                self._write_masks(folder, clip, t, referred)
        label = SHAPES.index(clip.facts.shapes[0]) + 1
        height, width = clip.frames.shape[1:3]
        seconds = num_frames // FRAMES_PER_SECOND
        start, end = "0:00:00", f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        row = (clip.video, label, start, end, height, width, num_frames, len(annotated), _SUBSETS[clip.split])
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=[f"{t + 1:05d}" for t in range(num_frames)],
            object_ids=clip.object_ids,
            appearances=appearances_of(clip),
            expressions=expressions,
            index_entry=",".join(map(str, row)),
        )

    def _write_masks(self, folder: Path, clip: ShapesClip, t: int, objects: Sequence[int]) -> None:
        """As MATLAB stores them: last axis first, so that masks come as (instance, width, height)."""
        shown = [i for i in objects if clip.has_pixels[i, t]]
        if not shown:
            return
        masks = np.stack([clip.object_ids[t] == i + 1 for i in shown]).transpose(0, 2, 1).astype(np.uint8)
        corners = boxes_of(clip.object_ids[t : t + 1], clip.num_objects)[shown, 0] + [1, 1, 0, 0]
        path = folder / "text_annotations" / "a2d_annotation_with_instances" / clip.video / f"{t + 1:05d}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["instance"] = np.array(shown, np.int64)
            file["reMask"] = masks[0] if len(shown) == 1 else masks
            file["reBBox"] = corners.T

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the lists; the sentences contain one malformed row, as in the real file."""
        clip_records = [record for of_split in records.values() for record in of_split]
        rows = [
            f"{r.video},{expression['name']},{expression['text']}"
            for r in sorted(clip_records, key=lambda r: r.video)
            for expression in r.truth["expressions"]
        ]
        video, _, text = rows[0].split(",", 2)
        rows.insert(1, f"{video},1 (copy),{text}")
        texts = folder / "text_annotations"
        write_lines(folder / "Release" / "videoset.csv", [record.index_entry for record in clip_records])
        write_lines(texts / "a2d_annotation.txt", ["video_id,instance_id,query", *rows])
        write_lines(texts / "a2d_missed_videos.txt", [record.video for record in records["missed"]])


def write_mp4(path: Path, frames: UInt8[np.ndarray, "time height width 3"]) -> None:
    """Writes an H.264 clip with B-frames, as cameras and web sites do.

    Args:
        path: of the file; its folder is made.
        frames: RGB; height and width multiples of 16, or the bytes may differ between runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        # The same bytes in every run: one thread, and no macroblock tree, whose result differs from run to run.
        options = {"crf": _CRF, "preset": "fast", "bf": "2", "threads": "1", "sc_threshold": "0", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = KEYFRAME_INTERVAL
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
