"""What the page accepts: sizes, lengths, and archives that stay in their folder."""

import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from datasets.sentence_file import FILE_NAME
from media.folders import listing
from media.video import VideoFile, open_video
from media.video_seek import VideoFileFrames

MEGABYTE = 1_000_000

LABEL_SUFFIXES = (".png", ".json")
MAX_LABEL_FILES = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        max_mb: size of an uploaded file, in megabytes.
        max_seconds: length of a video.
        max_sentences: of one question.
        max_objects: that are taught.
        queue: visitors that may wait while one is served.
        teach_minutes: after which teaching is stopped.

    Raises:
        ValueError: one of them is not positive.
    """

    max_mb: float = 200.0
    max_seconds: float = 60.0
    max_sentences: int = 12
    max_objects: int = 8
    queue: int = 4
    teach_minutes: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0")

    @property
    def max_bytes(self) -> int:
        """Size of an uploaded file."""
        return int(self.max_mb * MEGABYTE)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is known of a video before the model sees it.

    Attributes:
        num_frames: of the whole video.
        fps: frames per second.
    """

    num_frames: int
    fps: float


def check_video(path: Path, limits: Limits) -> VideoFacts:
    """Refuses what is too large, too long or no video.

    Raises:
        ValueError: with the number and the limit.
    """
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise ValueError(f"the video has {size / MEGABYTE:.1f} MB, more than the {limits.max_mb:g} MB of --max-mb")
    source = open_video(path)
    if not isinstance(source, VideoFile):
        raise ValueError(f"{path.name} is an image; upload a video")
    try:
        num_frames = VideoFileFrames(path).num_frames
    except ValueError:
        # a file that breaks off; up to there it can be used
        most = int(limits.max_seconds * source.fps) + 1
        num_frames = sum(1 for _ in source.frames(stop=most))
        if not num_frames:
            raise
    seconds = num_frames / source.fps
    if seconds > limits.max_seconds:
        raise ValueError(f"the video lasts {seconds:.1f} s, more than the {limits.max_seconds:g} s of --max-seconds")
    return VideoFacts(num_frames, source.fps)


def clean_lines(text: str, *, most: int, what: str = "sentences") -> list[str]:
    """The lines of a text box that are not empty.

    Raises:
        ValueError: there is none, or there are more than `most`, or two are alike.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"there are no {what}: write at least one, one on a line")
    if len(lines) > most:
        raise ValueError(f"there are {len(lines)} {what}, at most {most} can be asked at a time")
    seen: set[str] = set()
    for line in lines:
        if line.lower() in seen:
            raise ValueError(f"{line!r} stands there twice")
        seen.add(line.lower())
    return lines


def collect_labels(files: list[Path], folder: Path, limits: Limits) -> Path:
    """Puts uploaded labels (PNG, JSON, or one ZIP archive of them) into an empty folder, by their bare names.

    Folders inside an archive are dropped, so that nothing can be written elsewhere; links and other kinds of files are
    refused. What unpacks to more than the size limit is refused before it is unpacked.

    Args:
        files: as they were uploaded.
        folder: is made.
        limits: of the page.

    Returns:
        The labels as `teach` takes them: the folder, or the one JSON file in it.

    Raises:
        ValueError: there is nothing, or something that is no label, or two files of one name, or too much.
    """
    folder.mkdir(parents=True)
    if not files:
        raise ValueError("no labels were uploaded: give palette PNG files and sentences.json, or a ZIP archive of them")
    for file in files:
        if file.suffix.lower() == ".zip":
            _unpack(file, folder, limits)
        else:
            with file.open("rb") as source:
                _write(source, file.name, folder, limits)
    collected = listing(folder)
    tables = [path for path in collected if path.suffix == ".json" and path.name != FILE_NAME]
    if any(path.suffix.lower() == ".png" for path in collected) or len(tables) != 1:
        return folder
    return tables[0]


def _unpack(archive: Path, folder: Path, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not _is_ignored(entry)]
            size = sum(entry.file_size for entry in entries)
            if size > limits.max_bytes or len(entries) > MAX_LABEL_FILES:
                raise ValueError(
                    f"{archive.name} unpacks to {len(entries)} files of {size / MEGABYTE:.1f} MB; at most "
                    f"{MAX_LABEL_FILES} files of {limits.max_mb:g} MB are accepted"
                )
            for entry in entries:
                if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise ValueError(f"{archive.name}: {entry.filename} is no regular file")
                with opened.open(entry) as source:
                    _write(source, entry.filename, folder, limits)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{archive.name} is no ZIP archive that can be read ({error})") from None


def _is_ignored(entry: zipfile.ZipInfo) -> bool:
    """Folders, and what macOS adds to archives."""
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    return entry.is_dir() or "__MACOSX" in parts or (bool(parts) and parts[-1].startswith("."))


def _write(source: IO[bytes], name: str, folder: Path, limits: Limits) -> None:
    bare = PurePosixPath(name.replace("\\", "/")).name
    if PurePosixPath(bare).suffix.lower() not in LABEL_SUFFIXES:
        raise ValueError(f"{bare} is no label: expected {', '.join(LABEL_SUFFIXES)} or a ZIP archive of these")
    target = folder / bare
    if target.exists():
        raise ValueError(f"two of the files are called {bare}")
    content = source.read(limits.max_bytes + 1)  # the size that an archive states may be wrong
    if len(content) > limits.max_bytes:
        raise ValueError(f"{bare} has more than the {limits.max_mb:g} MB of --max-mb")
    target.write_bytes(content)
