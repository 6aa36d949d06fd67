"""A plain variant of the model that works as the published code is described to work, to be compared with.

Same weights, same results, other ways: window attention with explicit products and a mask for every window, deformable
attention by `grid_sample`, mask features repeated for every query and convolved in groups, masks of all decoder layers
also in evaluation, the words attending to the maps of every level, losses layer by
layer, dropout of PyTorch's. It is not the published code,
whose own speed was compared by hand; see docs/performance.md.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from models.criterion import Criterion, Losses, Totals
from models.dropout import Dropout
from models.dynamic_mask_head import DynamicMaskHead, coordinates_px
from models.frame_objects import FrameObjects
from models.layers import FeedForwardLayer
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.outputs import LayerOutput, SOCOutput, TextFeatures, VideoFeatures
from models.soc import SOC
from models.trajectory import Trajectory
from models.video_swin import FeedForward
from models.window_attention import (
    MASKED_LOGIT,
    Size3,
    WindowAttention,
    WindowLayout,
    clip_window,
    relative_position_index,
)
from structures.samples import ClipTarget


def make_plain(model: SOC) -> SOC:
    """Makes a model work the plain way, with the weights that it has."""
    for module in model.modules():
        for ours, other in PLAIN.items():
            if type(module) is ours:
                # The parameters stay, only what is computed from them changes.
                module.__class__ = other
    return model


class PlainSOC(SOC):
    """All decoder layers draw masks in evaluation, too, and the words attend to all levels."""

    def predict(
        self, objects: FrameObjects, video: VideoFeatures, text: TextFeatures, *, trajectory: Trajectory | None = None
    ) -> SOCOutput:
        """See `SOC.predict`."""
        for level, position, is_padding in zip(video.levels[:2], video.positions, video.is_padding, strict=False):
            self.fusion.words(level, position, is_padding, text)
        return super().predict(objects, video, text, trajectory=trajectory)

    def choose(  # type: ignore[override]  # what is drawn already has the same methods
        self, objects: FrameObjects, video: VideoFeatures, text: TextFeatures, *, trajectory: Trajectory | None = None
    ) -> LayerOutput:
        """See `SOC.choose`."""
        output = self.predict(objects, video, text, trajectory=trajectory)
        self.sentence_feature(video, text)
        decoded = objects.decoded
        for of_layer, references in zip(decoded.objects[1:], decoded.references[1:], strict=True):
            queries = of_layer + output.final.cluster[:, None]
            self._predict_masks(queries[None], references[None], objects.mask_features, video.sizes_px)
        return output.final


class PlainWindowAttention(WindowAttention):
    """Every window has a mask of its own, and products and softmax are one operator each."""

    def forward(
        self, x: Tensor, shift: Size3, layout: WindowLayout | None = None, *, overwrites: bool = False
    ) -> Tensor:
        """See `WindowAttention.forward`."""
        size: Size3 = (x.shape[1], x.shape[2], x.shape[3])
        window, shift = clip_window(self.window, shift, size)
        padding = [(-n) % w for n, w in zip(size, window, strict=True)]
        x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
        if any(shift):
            x = x.roll([-s for s in shift], dims=(1, 2, 3))
        padded: Size3 = (x.shape[1], x.shape[2], x.shape[3])
        cut = {"wd": window[0], "wh": window[1], "ww": window[2]}
        tokens = rearrange(x, "b (d wd) (h wh) (w ww) c -> (b d h w) (wd wh ww) c", **cut)
        query, key, value = rearrange(self.qkv(tokens), "w n (three m c) -> three w m n c", three=3, m=self.num_heads)
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        index = relative_position_index(self.window, tokens.shape[1], x.device)
        bias = self.relative_position_bias_table[index.flatten()]
        logits = logits + rearrange(bias, "(n k) m -> 1 m n k", n=tokens.shape[1])
        if any(shift):
            mask = _masks(padded, window, shift).to(x)
            logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        attended = rearrange(logits.softmax(dim=-1) @ value, "w m n c -> w n (m c)")
        grid = {"d": padded[0] // window[0], "h": padded[1] // window[1], "w": padded[2] // window[2]}
        x = rearrange(self.proj(attended), "(b d h w) (wd wh ww) c -> b (d wd) (h wh) (w ww) c", **cut, **grid)
        if any(shift):
            x = x.roll(list(shift), dims=(1, 2, 3))
        return x[:, : size[0], : size[1], : size[2]]


def _masks(size: Size3, window: Size3, shift: Size3) -> Tensor:
    """(window, token, token): which tokens of each window the shift brought together."""
    region = torch.zeros(size)
    for axis, (w, s) in enumerate(zip(window, shift, strict=True)):
        if s:
            labels = torch.zeros(size[axis])
            labels[-w:-s], labels[-s:] = 1, 2
            region += labels.view([-1 if i == axis else 1 for i in range(3)]) * 3**axis
    cut = {"wd": window[0], "wh": window[1], "ww": window[2]}
    region = rearrange(region, "(d wd) (h wh) (w ww) -> (d h w) (wd wh ww)", **cut)
    return (region[:, :, None] != region[:, None, :]).float() * MASKED_LOGIT


class PlainFeedForward(FeedForward):
    """All tokens at once."""

    def forward(self, x: Tensor) -> Tensor:
        """See `FeedForward.forward`."""
        return self.fc2(F.gelu(self.fc1(x)))


class PlainFeedForwardLayer(FeedForwardLayer):
    """All tokens at once."""

    def forward(self, x: Tensor) -> Tensor:
        """See `FeedForwardLayer.forward`."""
        return self.norm(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class PlainDropout(Dropout):
    """A Bernoulli number for every value."""

    def forward(self, x: Tensor) -> Tensor:
        """See `Dropout.forward`."""
        return F.dropout(x, self.p, self.training)


class PlainMSDeformAttn(MSDeformAttn):
    """`grid_sample` for each level, then the samples of all levels times their weights."""

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        level_shapes: Sequence[tuple[int, int]],
        *,
        memory_is_padding: Tensor | None = None,
    ) -> Tensor:
        """See `MSDeformAttn.forward`."""
        value = self.value_proj(memory)
        if memory_is_padding is not None:
            value = value.masked_fill(memory_is_padding[..., None], 0.0)
        layout = {"m": self.num_heads, "l": self.num_levels, "p": self.num_points}
        offsets = rearrange(self.sampling_offsets(query), "b q (m l p xy) -> b q m l p xy", xy=2, **layout)
        weights = rearrange(self.attention_weights(query), "b q (m lp) -> b q m lp", m=self.num_heads).softmax(dim=-1)
        reference = rearrange(reference, "b q l ref -> b q 1 l 1 ref")
        if reference.shape[-1] == 2:
            sizes = torch.tensor([(width, height) for height, width in level_shapes], dtype=reference.dtype)
            locations = reference + offsets / sizes[:, None]
        else:
            locations = reference[..., :2] + offsets / self.num_points * reference[..., 2:] * 0.5
        value = rearrange(value, "b s (m c) -> b s m c", m=self.num_heads)
        grids = rearrange(2 * locations - 1, "b q m l p xy -> l (b m) q p xy")
        levels = value.split([height * width for height, width in level_shapes], dim=1)
        samples = [
            F.grid_sample(rearrange(level, "b (h w) m c -> (b m) c h w", h=height), grid, align_corners=False)
            for level, (height, _), grid in zip(levels, level_shapes, grids, strict=True)
        ]
        weighted = torch.stack(samples, dim=-2).flatten(-2) * rearrange(weights, "b q m lp -> (b m) 1 q lp")
        return self.output_proj(rearrange(weighted.sum(dim=-1), "(b m) c q -> b q (m c)", m=self.num_heads))


class PlainMaskHead(DynamicMaskHead):
    """The features are repeated for every query, and one convolution has a group for each."""

    def forward(self, queries: Tensor, reference_px: Tensor, features: Tensor) -> Tensor:
        """See `DynamicMaskHead.forward`."""
        batch, time, num_queries = queries.shape[:3]
        height, width = features.shape[-2:]
        weight0, weight1, weight2, bias0, bias1, bias2 = self.controller(queries).flatten(0, 2).split(self.sizes, -1)
        offsets = reference_px[..., None, None] - coordinates_px(height, width, features)
        repeated = repeat(features, "b t c h w -> b t q c h w", q=num_queries)
        x = torch.cat([repeated, offsets / self.offset_scale], dim=3)
        x = rearrange(x, "b t q c h w -> 1 (b t q c) h w")
        groups = batch * time * num_queries
        kernels = ((weight0, bias0, self.dim), (weight1, bias1, self.dim), (weight2, bias2, 1))
        for number, (weight, bias, channels) in enumerate(kernels):
            x = F.conv2d(x, weight.reshape(groups * channels, -1, 1, 1), bias.flatten(), groups=groups)
            x = F.relu(x) if number < 2 else x
        return rearrange(x, "1 (b t q) h w -> b t q h w", b=batch, t=time)


class PlainCriterion:
    """Matches and scores one decoder layer after the other."""

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion

    def __call__(self, output: SOCOutput, targets: tuple[ClipTarget, ...], *, totals: Totals | None = None) -> Losses:
        """See `Criterion.__call__`."""
        layers = [self._criterion(replace(output, layers=(layer,)), targets, totals=totals) for layer in output.layers]
        return Losses(
            per_layer=tuple(terms for losses in layers for terms in losses.per_layer),
            total=torch.stack([losses.total for losses in layers]).sum(),
        )


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    SOC: PlainSOC,
    WindowAttention: PlainWindowAttention,
    FeedForward: PlainFeedForward,
    FeedForwardLayer: PlainFeedForwardLayer,
    Dropout: PlainDropout,
    MSDeformAttn: PlainMSDeformAttn,
    DynamicMaskHead: PlainMaskHead,
}
"""Ours -> the plain way."""
