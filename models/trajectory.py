"""What the boxes of each query do over time, read in the light of the words: "the dog that runs to the left".

The published object cluster has no encoding of time: it gives the same answer for the same frames in any order. Here
each query brings the path of its own boxes along. Ours, not published; docs/log.md tells what else was tried.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.layers import Attention, AttentionLayer, FeedForwardLayer, xavier_matrices
from models.outputs import TextFeatures

NUM_POINTS = 8
"""Points of time at which a trajectory is read, from its first frame to its last, whatever their number."""

SMALLEST_SIDE = 1e-3
"""Share of the frame; smaller boxes are read as boxes of this size, because sizes are compared by their logarithms."""

# Clips and changes of size are small numbers; these bring them to the order of one.
CENTRE_SCALE, SIZE_SCALE, MEAN_SCALE = 4.0, 2.0, 0.25


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The boxes of each query over time.

    Attributes:
        boxes_cxcywh_norm: relative to the unpadded frame.
        times: of the boxes, ascending, in frames.
        num_frames: how many of them count, from the first; the others are padding.
    """

    boxes_cxcywh_norm: Float[Tensor, "batch time query 4"]
    times: Int[Tensor, "batch time"]
    num_frames: Int[Tensor, " batch"]

    def at_points(self, num_points: int) -> Float[Tensor, "batch point query 4"]:
        """Boxes at equally spaced points of time from the first frame to the last, linearly interpolated.

        In at least single precision: steps from frame to frame are lost in half.
        """
        boxes = self.boxes_cxcywh_norm.to(torch.promote_types(self.boxes_cxcywh_norm.dtype, torch.float32))
        times, last = self.times.to(boxes.dtype).contiguous(), (self.num_frames - 1)[:, None]
        start, stop = times[:, :1], times.gather(1, last)
        share = torch.linspace(0, 1, num_points, device=boxes.device, dtype=boxes.dtype)
        points = start + (stop - start) * share  # (batch, point)
        before = torch.searchsorted(times, points, right=True) - 1
        before = torch.minimum(before, last - 1).clamp(min=0)
        after = (before + 1).clamp(max=times.shape[1] - 1)
        before_time, after_time = times.gather(1, before), times.gather(1, after)
        weight = ((points - before_time) / (after_time - before_time).clamp(min=1))[..., None, None]

        def boxes_at(index: Int[Tensor, "batch point"]) -> Float[Tensor, "batch point query 4"]:
            return boxes.gather(1, index[..., None, None].expand(-1, -1, boxes.shape[2], 4))

        return torch.lerp(boxes_at(before), boxes_at(after), weight.expand(-1, -1, boxes.shape[2], 4))


class TrajectoryEncoder(nn.Module):
    """An embedding of each query's trajectory, to be added to its query of the object cluster.

    The words attend to each other once more, because the words of motion mean nothing to the rest of the model; the
    trajectory attends to them, and is multiplied with what it finds. The last layer starts at zero, so that a model
    without this part stays what it is when the part is added. A trajectory of one frame embeds to zero.

    Args:
        dim: width.
        num_heads: of the attention.
        ffn_dim: hidden width of the feed-forward layer over the words.
        dropout: of the layers over the words.
    """

    def __init__(self, dim: int, *, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.boxes_in = nn.Linear((NUM_POINTS + 1) * 4, dim)
        self.boxes_out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.word_attention = AttentionLayer(dim, num_heads, dropout=dropout)
        self.word_feed_forward = FeedForwardLayer(dim, ffn_dim, dropout=dropout)
        self.attend_to_words = Attention(dim, num_heads)
        self.hidden = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        xavier_matrices(self)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, trajectory: Trajectory, text: TextFeatures) -> Float[Tensor, "batch query dim"]:
        """Embeddings, zero where the trajectory has a single frame.

        Args:
            trajectory: of the queries for each sentence.
            text: the sentences.
        """
        described = _describe(trajectory.at_points(NUM_POINTS)).to(text.words.dtype)
        boxes = self.norm(self.boxes_out(F.relu(self.boxes_in(described))))
        positioned = text.words + text.word_positions
        words = self.word_attention(
            text.words, query=positioned, key=positioned, value=text.words, key_is_padding=text.is_padding
        )
        words = self.word_feed_forward(words)
        found = self.attend_to_words(boxes, words + text.word_positions, words, key_is_padding=text.is_padding)
        embedding = self.output(F.relu(self.hidden(boxes * found)))
        # A product, not a branch: every process has gradients for the same parameters.
        return embedding * (trajectory.num_frames > 1)[:, None, None].to(embedding.dtype)


def _describe(boxes_cxcywh_norm: Float[Tensor, "batch point query 4"]) -> Float[Tensor, "batch query feature"]:
    """How the boxes differ from their mean over time, and this mean; sizes as logarithms."""
    size = boxes_cxcywh_norm[..., 2:].clamp(min=SMALLEST_SIDE).log()
    boxes = torch.cat([CENTRE_SCALE * boxes_cxcywh_norm[..., :2], SIZE_SCALE * size], dim=-1)
    mean = boxes.mean(dim=1, keepdim=True)
    return torch.cat([rearrange(boxes - mean, "b p q c -> b q (p c)"), MEAN_SCALE * mean[:, 0]], dim=-1)
