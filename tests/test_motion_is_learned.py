"""A tiny model learns which of two equal squares "moves left" and which "moves right", from scratch, in some seconds.

The paths of both are the same set of places, run through in opposite directions: no frame, and no set of frames without
their order, tells the squares apart.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW, Muon

from models.criterion import Criterion, LossWeights
from models.outputs import Tokens
from models.postprocess import best_queries
from models.soc import SOC
from structures.boxes import xyxy_to_cxcywh
from structures.clips import PaddedClips
from structures.samples import ClipTarget
from tests.tiny_model import tiny_soc

HEIGHT, WIDTH, SIDE, NUM_FRAMES, STEP = 32, 48, 10, 4, 4
LEFT, RIGHT = 0, 1
SENTENCES = torch.tensor([[0, 7, 8, 2], [0, 7, 9, 2]])
"""Token ids of "moves left" and "moves right"."""

NUM_STEPS, CLIPS_PER_STEP = 170, 8


@dataclass(frozen=True)
class Squares:
    """Clips of two squares.

    Attributes:
        frames: (clip, time, 3, height, width).
        masks: (clip, sentence, time, height, width).
        boxes: (clip, sentence, time, 4), centre and size as shares of the frame.
    """

    frames: Tensor
    masks: Tensor
    boxes: Tensor

    def reversed(self) -> "Squares":
        """The same frames from last to first: who moved left moves right."""
        return Squares(self.frames.flip(1), self.masks.flip(1, 2), self.boxes.flip(1, 2))

    def answers(self, model: SOC) -> Tensor:
        """Masks (clip, sentence, time, height, width) of the query that the model chooses."""
        with torch.no_grad():
            layer = self.run(model).final
        masks = torch.stack([best.masks_at((HEIGHT, WIDTH)) for best in best_queries(layer)])
        return masks.unflatten(0, (-1, 2))

    def run(self, model: SOC):
        """The output of the model for both sentences about each clip."""
        count = len(self.frames)
        clips = PaddedClips(
            self.frames, torch.zeros(count, NUM_FRAMES, HEIGHT, WIDTH, dtype=torch.bool), ((HEIGHT, WIDTH),) * count
        )
        tokens = Tokens(SENTENCES.repeat(count, 1), torch.zeros(2 * count, SENTENCES.shape[1], dtype=torch.bool))
        return model(clips, tokens, clip_of_sentence=torch.arange(count).repeat_interleave(2))

    def targets(self) -> tuple[ClipTarget, ...]:
        """Of both sentences about each clip."""
        visible, label = torch.ones(1, NUM_FRAMES, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        pairs = zip(self.masks.flatten(0, 1), self.boxes.flatten(0, 1), strict=True)
        return tuple(ClipTarget(mask[None], box[None], visible, label) for mask, box in pairs)


def squares(count: int, generator: torch.Generator) -> Squares:
    frames = torch.full((count, NUM_FRAMES, 3, HEIGHT, WIDTH), -0.5)
    masks = torch.zeros(count, 2, NUM_FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    corners = torch.zeros(count, 2, NUM_FRAMES, 4)
    for clip in range(count):
        upper = int(torch.randint(2, (1,), generator=generator))
        for sentence in (LEFT, RIGHT):
            direction = 1 if sentence == RIGHT else -1
            y = int(torch.randint(3, (1,), generator=generator)) + (4 if sentence == upper else 18)
            middle = int(torch.randint(14, 22, (1,), generator=generator))
            for time in range(NUM_FRAMES):
                x = middle + int(direction * STEP * (time - (NUM_FRAMES - 1) / 2))
                rows, columns = slice(y, y + SIDE), slice(x, x + SIDE)
                frames[clip, time, :, rows, columns] = 0.5
                masks[clip, sentence, time, rows, columns] = True
                corners[clip, sentence, time] = torch.tensor([x, y, x + SIDE, y + SIDE])
    boxes = xyxy_to_cxcywh(corners / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
    return Squares(frames, masks, boxes)


def mean_iou(masks: Tensor, others: Tensor) -> float:
    """Over clips, sentences and frames."""
    intersection, union = (masks & others).flatten(3).sum(3), (masks | others).flatten(3).sum(3)
    return (intersection / union.clamp(min=1)).mean().item()


def train(model: SOC) -> SOC:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [
        Muon(matrices, lr=6e-3, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=2e-3),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(one, one.param_groups[0]["lr"], NUM_STEPS, cycle_momentum=False)
        for one in optimizers
    ]
    criterion = Criterion(weights=LossWeights(classification=5.0, contrastive=2.0))
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(NUM_STEPS):
        batch = squares(CLIPS_PER_STEP, generator)
        model.zero_grad()
        criterion(batch.run(model), batch.targets()).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for schedule in schedules:
            schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> SOC:
    return train(tiny_soc(trajectory=True, window_frames=1, output_layer="last"))


@pytest.fixture(scope="module")
def unseen() -> Squares:
    return squares(24, torch.Generator().manual_seed(99))


@pytest.mark.slow
def test_left_and_right_are_told_apart(model: SOC, unseen: Squares):
    answers = unseen.answers(model)
    assert mean_iou(answers, unseen.masks) > 0.5
    assert mean_iou(answers, unseen.masks.flip(1)) < 0.05, "these are the squares that move the other way"


@pytest.mark.slow
def test_a_reversed_clip_exchanges_left_and_right(model: SOC, unseen: Squares):
    backwards = unseen.reversed()
    assert torch.equal(backwards.frames[:, 0], unseen.frames[:, -1])
    answers = backwards.answers(model)
    assert mean_iou(answers, backwards.masks) > 0.5
    # Frame by frame the same pixels: the square that was the answer to the other sentence is now that to this one.
    assert mean_iou(answers.flip(1, 2), unseen.answers(model)) > 0.8


@pytest.mark.slow
def test_without_the_trajectory_the_order_of_frames_is_not_seen(model: SOC, unseen: Squares):
    blind = tiny_soc(window_frames=1, output_layer="last").eval()
    blind.load_state_dict({name: weight for name, weight in model.state_dict().items() if "trajectory" not in name})
    answers = unseen.answers(blind)
    assert torch.equal(unseen.reversed().answers(blind).flip(2), answers)
