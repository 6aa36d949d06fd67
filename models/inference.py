"""Answers for whole videos: windows of frames against any number of sentences. Evaluation and prediction share it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from models.outputs import TextFeatures
from models.postprocess import boxes_to_pixels, resize_logits, segment_all_queries, trajectory_scores
from models.soc import SOC
from structures.clips import one_clip
from structures.predictions import FrameCandidates


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """What the model says to one sentence about one window of frames.

    Attributes:
        mask_logits: of the chosen query, before the sigmoid, at stride 4 of the resized frames.
        boxes_xyxy_norm: left, top, right and bottom as shares of the frame, as the model predicts them.
        frame_scores: probability in each frame that the query shows what is meant (best class).
        score: of the chosen query for the window.
        query: the chosen one.
    """

    mask_logits: Float[Tensor, "time height4 width4"]
    boxes_xyxy_norm: Float[Tensor, "time 4"]
    frame_scores: Float[Tensor, " time"]
    score: float
    query: int

    def logits_at(self, size: tuple[int, int]) -> Float[Tensor, "time height width"]:
        """Mask logits at (height, width), resized once, as the published inference does."""
        return resize_logits(self.mask_logits, size)

    def masks_at(self, size: tuple[int, int], *, logit_threshold: float = 0.0) -> Bool[Tensor, "time height width"]:
        """Masks at (height, width), a frame at a time, so that only one is held as numbers."""
        masks = torch.empty(len(self.mask_logits), *size, dtype=torch.bool)
        for frame, logits in enumerate(self.mask_logits):
            masks[frame] = resize_logits(logits[None], size)[0] > logit_threshold
        return masks


def windows(num_frames: int, longest: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive windows of at most `longest` frames; one window if `longest` is 0."""
    step = longest or max(1, num_frames)
    for start in range(0, num_frames, step):
        yield start, min(start + step, num_frames)


def encode_sentences(
    model: SOC, sentences: Sequence[str], *, group: int, device: torch.device
) -> tuple[TextFeatures, ...]:
    """The sentences, encoded once, in groups of at most `group`."""
    groups = [sentences[start : start + group] for start in range(0, len(sentences), group)]
    return tuple(model.encode_text(model.tokenize(part).to(device)) for part in groups)


def segment_window(
    model: SOC, frames: UInt8[Tensor, "time 3 height width"], texts: Sequence[TextFeatures], *, device: torch.device
) -> tuple[ClipAnswer, ...]:
    """One answer per sentence, on the CPU; the visual encoder runs once.

    Args:
        model: in evaluation mode.
        frames: RGB in [0, 255], resized; normalised on the device.
        texts: groups of sentences, see `encode_sentences`.
        device: of the model.
    """
    video = model.encode_video(one_clip(frames).to(device).normalised())
    answers: list[ClipAnswer] = []
    for text in texts:
        count = len(text.sentence)
        output = model.segment(video.for_sentences(torch.zeros(count, dtype=torch.long, device=device)), text)
        layer = output.final
        scores = trajectory_scores(layer.class_logits)
        queries = scores.argmax(dim=-1)
        sentence = torch.arange(count, device=device)
        masks = layer.mask_logits[sentence, :, queries].float().cpu()
        boxes = boxes_to_pixels(layer.boxes_cxcywh_norm[sentence, :, queries].float().cpu(), (1, 1))
        per_frame = layer.class_logits[sentence, :, queries].float().sigmoid().amax(dim=-1).cpu()
        best = scores.amax(dim=-1)
        for i, (score, query) in enumerate(zip(best.tolist(), queries.tolist(), strict=True)):
            answers.append(ClipAnswer(masks[i].clone(), boxes[i], per_frame[i], score, query))
    return tuple(answers)


def segment_annotated_frame(
    model: SOC,
    frames: UInt8[Tensor, "time 3 height width"],
    texts: Sequence[TextFeatures],
    *,
    annotated_frame: int,
    original: tuple[int, int],
    device: torch.device,
) -> tuple[FrameCandidates, ...]:
    """Every query's mask in one frame of a clip, sentence by sentence, on the CPU; the visual encoder runs once.

    Args:
        model: in evaluation mode.
        frames: RGB in [0, 255], resized; normalised on the device.
        texts: groups of sentences, see `encode_sentences`.
        annotated_frame: place of the frame in the clip.
        original: (height, width) of the frames on disk.
        device: of the model.
    """
    clips = one_clip(frames).to(device).normalised()
    video = model.encode_video(clips, annotated_frame=torch.tensor([annotated_frame], device=device))
    size = clips.sizes_px[0]
    candidates: list[FrameCandidates] = []
    for text in texts:
        count = len(text.sentence)
        layer = model.segment(video.for_sentences(torch.zeros(count, dtype=torch.long, device=device)), text).final
        found = segment_all_queries(layer, padded=size, unpadded=[size] * count, original=[original] * count)
        candidates += [FrameCandidates(masks=one.masks.cpu(), scores=one.scores.float().cpu()) for one in found]
    return tuple(candidates)
