"""Running the model on clips with any number of sentences; `models.postprocess` makes masks of what it says."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from models.identity import QueryChoice
from models.outputs import TextFeatures, UndrawnOutput
from models.parts import is_split
from models.soc import SOC
from structures.clips import one_clip


def windows(num_frames: int, longest: int, *, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive windows that share `overlap` frames with the one before.

    Args:
        num_frames: of the video.
        longest: frames of a window at most; 0: the whole video in one.
        overlap: fewer than `longest`.
    """
    start, stop = 0, min(longest or num_frames, num_frames)
    while True:
        yield start, stop
        if stop >= num_frames:
            return
        start = stop - overlap
        stop = min(start + longest, num_frames)


def encode_sentences(
    model: SOC, sentences: Sequence[str], *, group: int, device: torch.device
) -> tuple[TextFeatures, ...]:
    """The sentences, encoded once, in groups of at most `group`."""
    groups = [sentences[start : start + group] for start in range(0, len(sentences), group)]
    with _precision(model, device):
        return tuple(model.encode_text(model.tokenize(part).to(device)) for part in groups)


def segment_clip(
    model: SOC,
    frames: UInt8[Tensor, "time 3 height width"],
    texts: Sequence[TextFeatures],
    *,
    device: torch.device,
    annotated_frame: int | None = None,
    choice: QueryChoice | None = None,
) -> Iterator[UndrawnOutput]:
    """The predictions for each group of sentences about one clip; the visual encoder runs once.

    A model that sees trajectories, and whose queries are followed from window to window, predicts twice: from the
    window alone, by which its queries are matched with those before, and with the trajectories of all windows.

    Args:
        model: in evaluation mode.
        frames: RGB in [0, 255], resized; normalised on the device.
        texts: groups of sentences, see `encode_sentences`.
        device: of the model.
        annotated_frame: index of the only frame that is segmented; None segments all.
        choice: follows the queries for these sentences, all of them, through the windows of a video; the caller goes
            on with `QueryChoice.rank` for each group before it asks for the next.
    """
    done = 0
    only = None if annotated_frame is None else torch.tensor([annotated_frame], device=device)
    clip = one_clip(frames).to(device)
    as_bytes = model.visual_encoder.takes_bytes and is_split(clip.frames)
    with _precision(model, device):
        video = model.encode_video(clip if as_bytes else clip.normalised(model.normalisation), annotated_frame=only)
    for text in texts:
        clip_of_sentence = torch.zeros(len(text.sentence), dtype=torch.long)
        video_of_sentence = video.for_sentences(clip_of_sentence)
        with _precision(model, device):
            objects = model.detect(video_of_sentence, text)
            layer = _in_single_precision(model.choose(objects, video_of_sentence, text))
        if choice is not None and model.sees_trajectories:
            longer = choice.continued(layer, objects.trajectory, first_sentence=done)
            if longer is not None:
                with _precision(model, device):
                    layer = _in_single_precision(model.choose(objects, video_of_sentence, text, trajectory=longer))
        # Outside of the blocks above: what the caller does until it asks for the next is none of their business.
        yield layer
        done += len(text.sentence)


def _precision(model: SOC, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where the model asks for it; else whatever the caller has set."""
    return nullcontext() if model.inference_dtype is None else torch.autocast(device.type, model.inference_dtype)


def _in_single_precision(layer: UndrawnOutput) -> UndrawnOutput:
    """Scores and boxes, from which choices are made and which NumPy must know, in at least float32."""

    def cast(x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32))

    return replace(
        layer,
        class_logits=cast(layer.class_logits),
        boxes_cxcywh_norm=cast(layer.boxes_cxcywh_norm),
        cluster=cast(layer.cluster),
    )
