"""What a prediction is asked for: which videos, and which sentences with which names."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.predict_schema import PredictConfig
from datasets.index_text import is_blank, is_usable, shown
from loading.text import clean_sentence
from media.folders import IMAGE_SUFFIXES, listing
from media.video import is_image, natural_order
from prediction.sources import expand_glob, is_glob

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".ts"),
    *(".mts", ".m2ts", ".gif"),
)
"""By these names a folder's videos are found; a file that is named itself may have any."""

_NAMED = re.compile(r"\s*([\w-]+)\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class VideoToSegment:
    """One of the videos.

    Attributes:
        path: a file or folder, or a glob of the images that are its frames.
        name: unlike that of any other, fit for a folder.
    """

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class ObjectToFind:
    """One of the sentences.

    Attributes:
        sentence: as the model reads it.
        name: given by the user; empty where none was.
    """

    sentence: str
    name: str = ""

    @property
    def label(self) -> str:
        """What people read: the name, or else the sentence."""
        return self.name or self.sentence

    def folder(self, index: int) -> str:
        """For files of this object: the name, or else its number."""
        return self.name or f"{index:02d}"


def find_videos(paths: Sequence[str]) -> tuple[VideoToSegment, ...]:
    """The videos at the paths, in their order, see `predict.video`.

    Raises:
        ValueError: there is nothing at a path, or no video in it.
    """
    found = [video for path in paths for video in _videos_at(path)]
    taken: dict[str, int] = {}
    videos = []
    for path in found:
        stem = path.parent.name if is_glob(path) else path.name if path.is_dir() else path.stem
        if stem in ("", ".."):  # the folder that one is in, or the one above
            stem = path.resolve().name or "video"
        taken[stem] = taken.get(stem, 0) + 1
        videos.append(VideoToSegment(path, stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"))
    names = [video.name for video in videos]
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"several videos would be called {', '.join(repeated)}; rename one of the files")
    return tuple(videos)


def _videos_at(path: str) -> list[Path]:
    if is_glob(path):
        matches = expand_glob(path)
        if all(is_image(match) for match in matches):
            return [Path(path)]  # frames of one video
        return [video for match in matches for video in _videos_at(str(match))]
    if not Path(path).is_dir():
        return [Path(path)]  # a missing file is reported when it is opened
    inside = sorted(listing(Path(path)), key=natural_order)
    videos = [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES or _holds_images(file)]
    if not any(map(is_image, inside)):
        if not videos:
            suffixes = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise ValueError(f"video {path}: the folder holds no image and no video ({suffixes})")
        return videos
    files = [file.name for file in videos if not file.is_dir()]
    if files:
        raise ValueError(f"video {path}: the folder holds images and videos ({', '.join(files[:3])}); name one of them")
    return [Path(path)]


def _holds_images(path: Path) -> bool:
    return path.is_dir() and bool(listing(path, IMAGE_SUFFIXES))


def find_objects(settings: PredictConfig, *, lower_case: bool) -> tuple[ObjectToFind, ...]:
    """The sentences of the configuration or of its file, and their names.

    Args:
        settings: the section `predict`.
        lower_case: whether the model reads sentences in lower case.

    Raises:
        ValueError: there is none, one is empty, the file cannot be read, or names repeat.
    """
    source = "predict.sentences"
    if settings.sentences_file is not None:
        source = str(settings.sentences_file)
        objects = _read_sentences(settings.sentences_file)
    else:
        objects = [_named(text) for text in settings.sentences]
    if not objects:
        hint = 'give --sentence "what to look for", once per object'
        raise ValueError(
            f"{source} is empty: {hint if settings.sentences_file is None else 'write a sentence into it'}"
        )
    cleaned = tuple(
        ObjectToFind(clean_sentence(each.sentence, lower_case=lower_case), each.name.strip()) for each in objects
    )
    for number, each in enumerate(cleaned, start=1):
        if not is_usable(each.sentence):
            detail = f"got {shown(each.sentence)}, expected text that can be written as UTF-8"
            raise ValueError(f"{source}: sentence {number} of {len(cleaned)}: {detail}")
        if is_blank(each.sentence):
            raise ValueError(f"{source}: sentence {number} of {len(cleaned)} is empty")
        if each.name and not _is_file_name(each.name):
            raise ValueError(
                f"{source}: the name {each.name!r} cannot be that of a folder; use letters, digits, - and _"
            )
    _require_unlike_names([each.folder(index) for index, each in enumerate(cleaned)], source)
    return cleaned


def _read_sentences(path: Path) -> list[ObjectToFind]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"predict.sentences_file={path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"predict.sentences_file={path}: cannot be read as text ({error})") from None
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    lines = (line.strip() for line in text.splitlines())
    return [_named(line) for line in lines if line and not line.startswith("#")]


def _read_json(path: Path, text: str) -> list[ObjectToFind]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if isinstance(content, dict) and all(isinstance(sentence, str) for sentence in content.values()):
        return [ObjectToFind(sentence, name) for name, sentence in content.items()]
    if isinstance(content, list) and all(isinstance(sentence, str) for sentence in content):
        return [_named(sentence) for sentence in content]
    raise ValueError(f'{path}: expected {{"name": "sentence", ...}} or ["sentence", ...]')


def _named(text: str) -> ObjectToFind:
    """Reads `name = sentence`; names are single words, so that a sentence is hardly ever taken for one."""
    match = _NAMED.fullmatch(text)
    return ObjectToFind(text) if match is None else ObjectToFind(match[2], match[1])


def _is_file_name(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w .-]*", name) is not None and not name.endswith((".", " ")) and len(name) <= 100


def _require_unlike_names(names: Iterable[str], source: str) -> None:
    """Upper and lower case are the same file on some systems."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f"{source}: two objects are called {name}; names must differ")
        seen.add(name.lower())
