"""What an evaluation has finished, video by video, so that an interrupted one goes on where it stopped.

Below the output folder:

    unfinished/origin.json     what the results depend on: weights, code, settings, data
    unfinished/<n>.jsonl       a line per finished video, written after its masks; one file per process
    videos.jsonl               the same for all videos, once all are finished; `read_videos` reads it
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from pydantic import TypeAdapter

from engine.distributed import World, wait_for_all
from media.files import atomic_path, named_errors, output_path, write_json

logger = logging.getLogger(__name__)

UNFINISHED, VIDEOS = "unfinished", "videos.jsonl"
ORIGIN = "origin.json"

Score = TypeVar("Score")


def is_unfinished(folder: Path) -> bool:
    """Whether an interrupted evaluation lies in a folder."""
    return (folder / UNFINISHED / ORIGIN).is_file()


def changes(folder: Path, origin: Mapping[str, Any]) -> list[str]:
    """What the results of the interrupted evaluation in a folder depend on, and is different now."""
    try:
        before = json.loads((folder / UNFINISHED / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["its record is not readable"]
    return [
        f"{key}: {_short(before.get(key))} before, {_short(origin.get(key))} now"
        for key in sorted(before.keys() | origin.keys())
        if before.get(key) != origin.get(key)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Journal(Generic[Score]):
    """The finished videos of one data set; use it in a `with` block.

    Args:
        folder: of the output.
        origin: what the results depend on; JSON can hold it.
        score_type: of a single score.
        world: the processes; all of them make the journal at the same time.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], score_type: type[Score], world: World) -> None:
        self._folder, self._world = output_path(folder, UNFINISHED, what="journal"), world
        self._scores: TypeAdapter[list[Score]] = TypeAdapter(list[score_type])  # type: ignore[valid-type]
        if world.is_main:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / ORIGIN, origin)
            self._gather_lines()
        wait_for_all(world)
        self.finished: dict[str, list[Score]] = {
            line["video"]: self._scores.validate_python(line["scores"]) for line in self._lines()
        }
        wait_for_all(world)  # before the first process writes
        self._file: TextIO = (self._folder / f"{world.rank + 1}.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> "Journal[Score]":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, video: str, scores: Sequence[Score]) -> None:
        """Notes a finished video; its masks are on disk."""
        line = {"video": video, "scores": self._scores.dump_python(list(scores), mode="json")}
        with named_errors(Path(self._file.name)):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.finished[video] = list(scores)

    def write_videos(self, scores: Mapping[str, Sequence[Score]]) -> None:
        """Writes what is known of all videos; called by one process at the end."""
        with atomic_path(self._folder.parent / VIDEOS) as temporary, temporary.open("w", encoding="utf-8") as file:
            for video, own in scores.items():
                file.write(json.dumps({"video": video, "scores": self._scores.dump_python(list(own), mode="json")}))
                file.write("\n")

    def _gather_lines(self) -> None:
        """Puts the lines of all processes of earlier runs into one file: there may be fewer processes now."""
        lines = list(self._lines())
        others = sorted(self._folder.glob("[1-9]*.jsonl"))
        with atomic_path(self._folder / "0.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for path in others:
            path.unlink()

    def _lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("*.jsonl")):
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(text)
                except ValueError:
                    logger.info("%s: the last line was not finished; its video is evaluated again", path)


def read_videos(folder: Path, score_type: type[Score]) -> dict[str, list[Score]]:
    """The scores of every video of a finished evaluation, in the order of the data.

    Args:
        folder: of the output for one data set.
        score_type: of a single score.

    Raises:
        ValueError: the evaluation is not finished, or its file is damaged or of another version.
    """
    path, videos = folder / VIDEOS, {}
    scores: TypeAdapter[list[Score]] = TypeAdapter(list[score_type])  # type: ignore[valid-type]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        hint = "the evaluation was interrupted; start it again" if is_unfinished(folder) else "evaluate again"
        raise ValueError(f"{path}: no such file ({hint})") from None
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            videos[line["video"]] = scores.validate_python(line["scores"])
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}:{number}: not the scores of a video ({reason}); evaluate again") from None
    return videos


def remove_journal(folder: Path) -> None:
    """Once the results are written, or are to be replaced."""
    if (folder / UNFINISHED).exists():
        shutil.rmtree(folder / UNFINISHED)
