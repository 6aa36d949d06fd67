"""What both tabs of the page share: samples, sessions, and how a mistake of the user arrives."""

import html
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from datasets.sentence_file import FILE_NAME, read_sentence_file
from media.folders import MASK_SUFFIXES, listing
from soc_rvos import Segmenter
from tools.web.limits import Limits
from tools.web.sessions import Session, Sessions

EXPIRED = "there is no answer any more: it was deleted after an hour without use; press Segment again"


@dataclass(frozen=True, slots=True)
class Sample:
    """A video that everybody may pick.

    Attributes:
        video: a file.
        labels: a folder of labels with `sentences.json` beside it; None: there is none.
    """

    video: Path
    labels: Path | None

    @classmethod
    def copied(cls, video: Path, folder: Path) -> "Sample":
        """The video with the PNG labels in the folder `labels` beside it, where there is one; in a folder of ours.

        Nothing is given out from where the video lies.

        Args:
            video: a file.
            folder: is made.

        Raises:
            ValueError: there is no such file.
        """
        if not video.is_file():
            raise ValueError(f"--examples {video}: no such file")
        folder.mkdir(parents=True)
        shutil.copyfile(video, folder / video.name)
        labels = video.parent / "labels"
        if not (labels / FILE_NAME).is_file():
            return cls(folder / video.name, None)
        (folder / "labels").mkdir()
        for file in (labels / FILE_NAME, *listing(labels, MASK_SUFFIXES)):
            shutil.copyfile(file, folder / "labels" / file.name)
        return cls(folder / video.name, folder / "labels")

    def sentences(self) -> list[str]:
        """The first sentence about each object, and an absent one."""
        if self.labels is None:
            return []
        content = read_sentence_file(self.labels / FILE_NAME)
        return [*(sentences[0] for sentences in content.objects.values() if sentences), *content.absent[:1]]


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """What the tabs work with.

    Attributes:
        sessions: of the visitors.
        limits: of what they may ask.
        segmenter: the model that the page was started with.
        model_name: of this model.
        samples: to pick.
        teach_overrides: settings for teaching.
    """

    sessions: Sessions
    limits: Limits
    segmenter: Segmenter | None
    model_name: str
    samples: tuple[Sample, ...]
    teach_overrides: tuple[str, ...] = ()

    def session(self, request: gr.Request) -> Session:
        """The session of whoever asks."""
        return self.sessions.get(str(request.session_hash))

    def uploaded(self, path: str | None, *, what: str) -> Path:
        """A file that the browser has sent.

        Raises:
            ValueError: there is none, or it lies outside of the uploads.
        """
        if not path:
            raise ValueError(f"there is no {what}: upload one, or pick a sample")
        file = Path(path).resolve()
        if not file.is_relative_to(self.sessions.uploads.resolve()) or not file.is_file():
            raise ValueError(f"the {what} is not there any more: upload it again")
        return file


@contextmanager
def mistakes_shown() -> Iterator[None]:
    """Mistakes of the user become messages of the page."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from None


def sample_buttons(samples: Sequence[Sample], *, what: str) -> list[tuple[gr.Button, Sample]]:
    """A button for each sample."""
    with gr.Row():
        return [(gr.Button(f"{what}: {sample.video.name}", size="sm"), sample) for sample in samples]
