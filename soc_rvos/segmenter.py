"""A model in memory that answers sentences about videos."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.schema import Config
from engine.distributed import World, choose_device
from models.model_card import ModelCard, with_threshold
from models.saved_model import CARD, load_saved_model, save_model
from models.soc import SOC
from prediction.sources import FrameRange, VideoInput, open_source
from prediction.stream import PredictionSettings, VideoPredictor, clean_sentences
from soc_rvos.frames import RereadFrames
from soc_rvos.hub import find_folder, upload
from soc_rvos.result import Result, joined
from structures.moments import Moment, parse_moment
from structures.user_path import user_path

AnyVideo = VideoInput | Image.Image
"""What `prediction.sources` takes, or a single image of Pillow."""

WholeVideo = str | Path | np.ndarray | Tensor | Image.Image | Sequence[Any]
"""Videos that have an end."""

AnyMoment = float | str | None
"""Seconds, or `1:02.5` or `120f`; None: start or end of the video."""


class ResultStream(Iterator[Result]):
    """Answers that come window by window, while the video is read; nothing of earlier windows is kept.

    Args:
        windows: gives the result of each window.
    """

    def __init__(self, windows: Iterator[Result]) -> None:
        self._windows = windows

    def __next__(self) -> Result:
        return next(self._windows)

    def collect(self) -> Result:
        """All that is still to come as one result, without frames. Does not return where the video never ends.

        Raises:
            ValueError: there is nothing to come.
        """
        return joined(self)


class Segmenter:
    """Finds what sentences mean in videos.

    Several segmenters may be used in one process, and one may be used by several threads at the same time. The backend
    of deformable attention (`model.ms_deform_attn`) is chosen for the whole process; saved models leave it at `auto`.

    Args:
        model: SOC with its tokenizer; is put on the device, in evaluation mode.
        config: that it was built from.
        device: `auto` takes a GPU where there is one; otherwise as PyTorch names devices.
        settings: how it looks at videos; None: as the configuration says.
        card: text of the model card that it came with.
    """

    def __init__(
        self,
        model: SOC,
        config: Config,
        *,
        device: str | torch.device = "auto",
        settings: PredictionSettings | None = None,
        card: str | None = None,
    ) -> None:
        self.device = choose_device("auto", World()) if device == "auto" else torch.device(device)
        self.config = config
        self.settings = PredictionSettings.of_config(config) if settings is None else settings
        self._predictor = VideoPredictor(model, settings=self.settings, device=self.device)
        self._card = card

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Segmenter":
        """A saved model from a folder, or from the Hugging Face hub.

        Args:
            name: folder that `teach`, `tools.export_model` or `save_pretrained` wrote, or an id such as `user/model`.
            device: `auto` takes a GPU where there is one; otherwise as PyTorch names devices.
            revision: branch, tag or commit of a model on the hub.
            token: of the hub; None: the one that is stored on this machine, False: none.
            cache_dir: folder of downloads; None: that of `huggingface_hub`.
            local_files_only: do not ask the hub, use what was downloaded before.

        Raises:
            ValueError: there is no such model, or it is incomplete or damaged.
        """
        folder = find_folder(
            name,
            revision=revision,
            token=token,
            cache=None if cache_dir is None else user_path(cache_dir),
            local_files_only=local_files_only,
        )
        model, config = load_saved_model(folder)
        card = folder / CARD
        return cls(model, config, device=device, card=card.read_text(encoding="utf-8") if card.is_file() else None)

    @property
    def model(self) -> SOC:
        """The model itself."""
        return self._predictor.model

    def with_settings(self, **changes: Any) -> "Segmenter":
        """A segmenter with the same model in memory, and other settings, such as `min_score=0.4`.

        Args:
            changes: attributes of `prediction.stream.PredictionSettings`.

        Raises:
            ValueError: there is no such setting, or its value cannot be used.
        """
        known = [field.name for field in fields(PredictionSettings)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ValueError(f"{unknown[0]} is no setting; there are {', '.join(known)}")
        settings = replace(self.settings, **changes)
        return Segmenter(self.model, self.config, device=self.device, settings=settings, card=self._card)

    @overload
    def __call__(
        self,
        video: WholeVideo,
        sentences: str | Sequence[str],
        *,
        start: AnyMoment = ...,
        end: AnyMoment = ...,
        step: int = ...,
        fps: float | None = ...,
    ) -> Result: ...
    @overload
    def __call__(
        self,
        video: Iterator[Any],
        sentences: str | Sequence[str],
        *,
        start: AnyMoment = ...,
        end: AnyMoment = ...,
        step: int = ...,
        fps: float | None = ...,
    ) -> ResultStream: ...
    def __call__(
        self,
        video: AnyVideo,
        sentences: str | Sequence[str],
        *,
        start: AnyMoment = None,
        end: AnyMoment = None,
        step: int = 1,
        fps: float | None = None,
    ) -> Result | ResultStream:
        """Segments a whole video, in memory that grows by some hundred bytes per mask.

        An iterator (anything that has no length) may never end, so its answers come window by window, as those of
        `stream`; `.collect()` makes one result of them.

        Args:
            video: a path of a file, a folder, an image, or a glob; an array of bytes (time, height, width, 3), or of
                one image; a tensor of bytes (time, 3, height, width); an image of Pillow; a list of frames; an
                iterator of frames (height, width, 3).
            sentences: what to look for, one for each object.
            start: first moment, in seconds, or as `1:02.5` or `120f`; None: the start.
            end: the moment before which it ends; None: the end.
            step: looks at every so many frames.
            fps: frames per second; None: those of the file, or what is usual.

        Raises:
            ValueError: video or sentences cannot be used.
        """
        windows = self.stream(video, sentences, start=start, end=end, step=step, fps=fps)
        if not _has_an_end(video):
            return windows
        result = windows.collect()
        return replace(result, frames=RereadFrames(_as_video(video), result.frame_indices))

    def stream(
        self,
        video: AnyVideo,
        sentences: str | Sequence[str],
        *,
        start: AnyMoment = None,
        end: AnyMoment = None,
        step: int = 1,
        fps: float | None = None,
    ) -> ResultStream:
        """Segments a video window by window, in memory that does not grow; it may never end, like a camera.

        A window is answered when its last frame is there: `with_settings(window_frames=8)` answers sooner, and sees
        less of the motion.

        Args:
            video: as of a call, or any iterator of frames (height, width, 3) in bytes.
            sentences: what to look for, one for each object.
            start: as of a call.
            end: as of a call.
            step: as of a call.
            fps: as of a call.

        Raises:
            ValueError: video or sentences cannot be used.
        """
        given = (sentences,) if isinstance(sentences, str) else tuple(sentences)
        for sentence in given:
            if not isinstance(sentence, str):
                raise ValueError(f"a sentence of type {type(sentence).__name__}: expected text")
        clean_sentences(given, lower_case=self.settings.lower_case)
        if step < 1:
            raise ValueError(f"step={step} must be 1 or more")
        source = open_source(_as_video(video), fps=None if fps is None else float(fps))
        frames = FrameRange(_moment(start), _moment(end), step).of(source, name=_name_of(video))
        windows = self._predictor.stream(frames, given)
        return ResultStream(Result.of_window(window, given, fps=source.fps) for window in windows)

    def save_pretrained(self, folder: str | Path, *, card: ModelCard | None = None, overwrite: bool = False) -> None:
        """Writes a saved model, with the settings of this segmenter; the folder appears whole or not at all.

        Args:
            folder: must not exist, or be empty; with `overwrite` it may be an earlier saved model.
            card: what is known about the training; None: the card that the model came with.
            overwrite: replace an earlier saved model.

        Raises:
            ValueError: the folder holds something else.
        """
        text: ModelCard | str | None = card
        if card is None and self._card is not None:
            text = with_threshold(self._card, self.config.predict.min_score, self.settings.min_score)
        save_model(user_path(folder), self.model, self._config_with_settings(), card=text, overwrite=overwrite)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str = "Model of soc-rvos",
    ) -> str:
        """Uploads the saved model to the Hugging Face hub; the repository is made where it is not there yet.

        Args:
            repo_id: such as `user/model`.
            card: what is known about the training; None: the card that the model came with.
            revision: branch that takes it; None: the main one.
            token: of the hub; None: the one that is stored on this machine.
            private: whether a new repository is private; None: as the account has it.
            commit_message: of the commit.

        Returns:
            The address of the commit.

        Raises:
            ValueError: the hub cannot be reached, or refuses.
        """
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, card=card)
            return upload(folder, repo_id, revision=revision, token=token, private=private, message=commit_message)

    def _config_with_settings(self) -> Config:
        """The configuration, changed so that its settings are those of this segmenter."""
        settings = self.settings
        predict = {
            "size": None,
            "threshold": settings.threshold,
            "min_score": settings.min_score,
            "identity": settings.identity,
        }
        first, *others = self.config.data.sets
        data = {
            "sets": (first.model_copy(update={"lower_case": settings.lower_case}), *others),
            "short_side": settings.short_side,
            "long_side": settings.long_side,
            "eval_num_frames": settings.window_frames,
            "eval_overlap": settings.overlap,
            "eval_sentences": settings.sentence_group,
        }
        config = self.config
        return config.model_copy(
            update={
                "predict": config.predict.model_copy(update=predict),
                "data": config.data.model_copy(update=data),
            }
        )


def _as_video(video: AnyVideo) -> VideoInput:
    """The video as `prediction.sources` takes it."""
    return np.array(video.convert("RGB")) if isinstance(video, Image.Image) else video


def _has_an_end(video: AnyVideo) -> bool:
    """Whether the video has a length, and can be read again; an iterator may never end."""
    return isinstance(video, Path | Image.Image | Sized)


def _moment(value: AnyMoment) -> Moment | None:
    if value is None:
        return None
    return parse_moment(value) if isinstance(value, str) else Moment(float(value), is_frame=False)


def _name_of(video: AnyVideo) -> str:
    return str(video) if isinstance(video, str | Path) else type(video).__name__
