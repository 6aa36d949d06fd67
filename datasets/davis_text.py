"""The original sentences of Ref-DAVIS17: four text files, one per annotator and viewing.

    Davis17_annot1.txt, Davis17_annot1_full_video.txt, Davis17_annot2.txt, Davis17_annot2_full_video.txt
    <video> <object> "<sentence>"

The first of each pair was written by someone who saw only the first frame. The files of the second annotator are in
Latin-1, and some videos are misspelt.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.index_text import read_text, shown
from datasets.problems import Problem

logger = logging.getLogger(__name__)

TEXT_FILES = (
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
)
"""In the order of the four sentences of an object."""

MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
"""Videos as the files spell them, and as their folders are called."""

_LINE = re.compile(r"(?P<video>\S+)\s+(?P<object>\d+)\s+(?P<sentence>.*)")


def read_text_annotations(
    folder: Path, frames: Mapping[str, Sequence[str]], *, is_complete: bool, problems: list[Problem]
) -> dict[str, Any]:
    """The videos of a split, as a prepared `meta_expressions.json` describes them.

    Args:
        folder: with the four files.
        frames: names of the frames of each video of the split.
        is_complete: every object needs all four sentences (evaluation); otherwise missing ones leave a gap.
        problems: takes lines that cannot be read and sentences that are missing.

    Raises:
        ValueError: a file is missing.
    """
    slots = [_read_file(folder / name, problems) for name in TEXT_FILES]
    videos: dict[str, Any] = {}
    for video, names in frames.items():
        # as strings, as published: an object 10 would come before 2
        objects = sorted({number for slot in slots for name, number in slot if name == video})
        if not objects:
            problems.append(Problem("expressions", str(folder), f"no sentence about video {video}"))
            continue
        expressions = {}
        for index, number in enumerate(objects):
            for k, slot in enumerate(slots):
                sentence = slot.get((video, number))
                if sentence is not None:
                    expressions[str(len(slots) * index + k)] = {"exp": sentence, "obj_id": number}
                elif is_complete:
                    detail = f"no sentence about object {number} of video {video}"
                    problems.append(Problem("expressions", str(folder / TEXT_FILES[k]), detail))
                else:
                    logger.warning("%s: no sentence about object %s of video %s", TEXT_FILES[k], number, video)
        videos[video] = {"frames": list(names), "expressions": expressions}
    return videos


def _read_file(path: Path, problems: list[Problem]) -> dict[tuple[str, str], str]:
    """Sentences by video and object."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; the sentences are in {', '.join(TEXT_FILES)}")
    text = read_text(path, or_latin_1=True)
    sentences: dict[tuple[str, str], str] = {}
    # Not splitlines(): it would also cut at the control characters of Latin-1.
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            detail = f'got {shown(line)}, expected <video> <object> "<sentence>"'
            problems.append(Problem("expressions", f"{path}:{number}", detail))
            continue
        key = MISSPELT.get(match["video"], match["video"]), match["object"]
        sentence = match["sentence"].removeprefix('"').removesuffix('"')
        if sentences.setdefault(key, sentence) != sentence:
            detail = f"a second sentence about object {key[1]} of video {key[0]} is left out"
            problems.append(Problem("duplicates", f"{path}:{number}", detail))
    return sentences
