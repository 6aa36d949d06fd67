"""Whether exported files say what the model says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from models.answers import Answer, Answers
from models.identity import QueryChoice
from models.inference import encode_sentences, segment_clip
from models.soc import SOC
from tools.export.run import ExportedModel

MOST_FLIPPED = 1e-4
"""Share of the pixels, at stride 4 and of all queries, that may change sides, in floats."""

LARGEST_DIFFERENCE = 1e-3
"""Of any output, as a share of its largest value, in floats."""

SMALLEST_IOU = 0.95
"""Of the masks with those of the model, mean over the sentences, in eight bits."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far exported files are from the model.

    Attributes:
        differences: the largest of each output, as a share of its largest value.
        flipped: share of the pixels of all masks, at stride 4, that changed sides.
        ious: with the model's mask, of each sentence that it finds; over all frames together.
        same_found: whether the same sentences are found.
    """

    differences: dict[str, float]
    flipped: float
    ious: tuple[float, ...]
    same_found: bool

    @property
    def mean_iou(self) -> float:
        """Over the sentences that the model finds; 1 where it finds none."""
        return float(np.mean(self.ious)) if self.ious else 1.0


@torch.no_grad()
def compare(
    model: SOC,
    exported: ExportedModel,
    windows: Sequence[UInt8[np.ndarray, "time height width 3"]],
    sentences: Sequence[str],
) -> Comparison:
    """Runs both on the same frames and sentences.

    Args:
        model: in evaluation mode, on the CPU.
        exported: made from it.
        windows: of the size that was exported.
        sentences: as the model reads them.
    """
    cpu = torch.device("cpu")
    texts = encode_sentences(model, sentences, group=len(sentences), device=cpu)
    text = exported.encode_text(sentences)
    largest: dict[str, list[tuple[float, float]]] = {}
    num_flipped = num_pixels = 0
    overlaps = np.zeros((len(sentences), 2))
    same_found = True
    for window in windows:
        outputs = exported.segment(exported.encode_video(window), text)
        frames = torch.from_numpy(window).movedim(-1, 1)
        (layer,) = segment_clip(model, frames, texts, device=cpu)
        mask_logits = torch.stack([layer.masks_in(sample) for sample in range(len(sentences))])
        for name, one, other in (
            ("class_logits", layer.class_logits, outputs.class_logits),
            ("boxes", layer.boxes_cxcywh_norm, outputs.boxes_cxcywh_norm),
            ("mask_logits", mask_logits, outputs.mask_logits),
            ("embeddings", layer.cluster, outputs.embeddings),
        ):
            largest.setdefault(name, []).append(_difference(one, other))
        flipped = (mask_logits.numpy() > 0) != (outputs.mask_logits > 0)
        num_flipped, num_pixels = num_flipped + int(flipped.sum()), num_pixels + flipped.size
        choice = QueryChoice(overlap=0, follow=False)
        wanted = list(Answers(choice=choice, min_score=exported.about["min_score"]).of(layer))
        for number, (answer, own) in enumerate(zip(wanted, exported.choose(outputs), strict=True)):
            same_found = same_found and answer.is_found == own.is_found
            if answer.is_found:
                overlaps[number] += _overlap(answer, own.masks(exported.size), own.logit_threshold)
    differences = {
        name: max(difference for difference, _ in pairs) / max(size for _, size in pairs)
        for name, pairs in largest.items()
    }
    ious = tuple(float(inside / union) for inside, union in overlaps if union)
    return Comparison(differences, num_flipped / num_pixels, ious, same_found)


def _difference(one: Tensor, other: np.ndarray) -> tuple[float, float]:
    """The largest difference, and the largest value."""
    return float(np.abs(one.numpy() - other).max()), float(one.abs().max())


def _overlap(answer: Answer, masks: np.ndarray, logit_threshold: float) -> tuple[int, int]:
    """Pixels of the intersection and of the union with the masks of the model."""
    wanted = answer.masks_at(masks.shape[1:3], logit_threshold=logit_threshold).numpy()
    return int((wanted & masks).sum()), int((wanted | masks).sum())


def require_equal(comparison: Comparison, *, what: str) -> None:
    """Raises ValueError unless the files say what the model says, in floats."""
    worst = max(comparison.differences, key=lambda name: comparison.differences[name])
    # `not <=`, so that an output that is no number does not pass
    if not comparison.differences[worst] <= LARGEST_DIFFERENCE or not comparison.flipped <= MOST_FLIPPED:
        raise ValueError(
            f"{what} differs from the model: {worst} by {comparison.differences[worst]:.1e} of its largest value "
            f"(bound {LARGEST_DIFFERENCE:g}), {comparison.flipped:.1e} of the pixels changed sides (bound "
            f"{MOST_FLIPPED:g}); nothing is written"
        )


def require_similar(comparison: Comparison, sentences: Sequence[str]) -> None:
    """Raises ValueError unless the masks are nearly those of the model, in eight bits."""
    if not comparison.ious:
        raise ValueError(
            f"the model finds none of the sentences {', '.join(map(repr, sentences))} in the video, so the masks in "
            "eight bits cannot be checked; give --sentence for what can be seen in it"
        )
    if not comparison.mean_iou >= SMALLEST_IOU or not comparison.same_found:
        found = "the same sentences are found" if comparison.same_found else "other sentences are found"
        raise ValueError(
            f"in eight bits the masks are too far from those of the model: IoU {comparison.mean_iou:.3f} (bound "
            f"{SMALLEST_IOU:g}), {found}; leave out --int8, or give a video that is more like what it will see"
        )
