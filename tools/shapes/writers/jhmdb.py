"""Referring Shapes as JHMDB-Sentences: PNG frames, one MATLAB file of masks and one sentence for each video.

    jhmdb_annotation.txt                                 video_id,query
    Rename_Images/<action>/<video>/<frame from 1>.png
    puppet_mask/<action>/<video>/puppet_mask.mat         part_mask: height x width x frame
    jhmdb_sentences_samples_metadata_new.json            the three frames of each sentence that are evaluated

The last file is not part of JHMDB: it has the name and the form of the list with which SOC is published.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.io

from tools.shapes.clip import ShapesClip
from tools.shapes.sentences import Sentence
from tools.shapes.writers.base import (
    ClipRecord,
    ExpressionTruth,
    LayoutWriter,
    appearances_of,
    make_record,
    write_frame,
    write_json,
    write_lines,
)

METADATA_FILE = "jhmdb_sentences_samples_metadata_new.json"
FRAMES_PER_SENTENCE = 3

_HEADER = b"MATLAB 5.0 MAT-file, Referring Shapes".ljust(116)
"""Replaces the time of day that SciPy writes."""


class JhmdbWriter(LayoutWriter):
    """For evaluation only: there is no train split. The "action" is the shape of the referred object."""

    name = "jhmdb"
    scored_split = "test"
    loader_splits: ClassVar[Mapping[str, str]] = {"valid": "test"}

    def num_clips(self, num_train: int, num_valid: int) -> dict[str, int]:
        """No clips to train on."""
        return {"valid": num_valid}

    def is_usable(self, clip: ShapesClip) -> bool:
        """The object must be visible in every frame, as the person is in the real clips."""
        return _sentence(clip) is not None

    def write_clip(self, clip: ShapesClip, folder: Path) -> ClipRecord:
        """Writes frames and masks."""
        sentence = _sentence(clip)
        assert sentence is not None
        video_folder = Path(clip.facts.shapes[sentence.index]) / clip.video
        names = [f"{t + 1:05d}" for t in range(len(clip.frames))]
        (folder / "Rename_Images" / video_folder).mkdir(parents=True)
        for name, frame in zip(names, clip.frames, strict=True):
            write_frame(folder / "Rename_Images" / video_folder / f"{name}.png", frame)
        mask = clip.object_ids == sentence.index + 1
        mat = folder / "puppet_mask" / video_folder / "puppet_mask.mat"
        mat.parent.mkdir(parents=True)
        part_mask = np.ascontiguousarray(mask.transpose(1, 2, 0)).astype(np.uint8)
        scipy.io.savemat(mat, {"part_mask": part_mask}, do_compression=True)
        with mat.open("r+b") as file:
            file.write(_HEADER)
        chosen = sorted(clip.generator().choice(len(names), FRAMES_PER_SENTENCE, replace=False).tolist())
        samples = [
            [
                clip.video,
                f"./jhmdb_sentences/Rename_Images/{video_folder.as_posix()}/{names[t]}.png",
                f"./jhmdb_sentences/puppet_mask/{video_folder.as_posix()}/puppet_mask.mat",
                len(names),
                sentence.text,
            ]
            for t in chosen
        ]
        return make_record(
            folder,
            clip,
            video=clip.video,
            frame_names=names,
            object_ids=clip.object_ids,
            appearances=appearances_of(clip),
            expressions=[ExpressionTruth("0", sentence.text, sentence.kind, (sentence.index + 1,), tuple(chosen))],
            index_entry=samples,
        )

    def write_index(self, folder: Path, records: Mapping[str, Sequence[ClipRecord]]) -> None:
        """Writes the sentences, and the chosen frames with paths of another machine, as in the published file."""
        clip_records = records["valid"]
        rows = [f"{record.video},{record.truth['expressions'][0]['text']}" for record in clip_records]
        write_lines(folder / "jhmdb_annotation.txt", ["video_id,query", *rows])
        write_json(
            folder / METADATA_FILE, [sample for record in clip_records for sample in record.index_entry], indent=None
        )


def _sentence(clip: ShapesClip) -> Sentence | None:
    """The first one about an object that every frame shows."""
    is_always_visible = [bool(has_pixels.all()) for has_pixels in clip.has_pixels]
    return next((s for s in clip.sentences if is_always_visible[s.index]), None)
