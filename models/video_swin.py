"""Video Swin Transformer without temporal down-sampling: one feature map per frame and stage."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models.checkpoint_names import kinetics_to_video_swin
from models.parts import in_parts, is_split, token_by_token
from models.visual_encoder import VisualEncoder
from models.window_attention import Size3, WindowAttention, WindowLayout
from structures.checkpoint_file import load_strictly
from structures.clips import Normalisation, normalise

PATCH = 4


@dataclass(frozen=True, slots=True)
class VideoSwinSize:
    """What distinguishes tiny, small and base."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window_size: Size3 = (8, 7, 7)


SIZES = {
    "video-swin-t": VideoSwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "video-swin-s": VideoSwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "video-swin-b": VideoSwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels of one frame; frames are padded to whole patches.

    Args:
        dim: of a token.
        normalisation: of frames that come as bytes.
    """

    def __init__(self, dim: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.proj = nn.Conv3d(3, dim, kernel_size=(1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, frames: Float[Tensor, "batch time 3 height width"] | UInt8[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch time _ _ dim"]:
        """One normalised token per patch."""
        return in_parts(self._of_frames, frames.flatten(0, 1), size=1).unflatten(0, frames.shape[:2])

    def _of_frames(self, frames: Tensor) -> Float[Tensor, "frame _ _ dim"]:
        if frames.dtype == torch.uint8:
            frames = normalise(frames, self.normalisation).to(self.proj.weight.dtype)
        height, width = frames.shape[-2:]
        frames = F.pad(frames, (0, -width % PATCH, 0, -height % PATCH))
        # Kernel and stride agree, so the convolution is one matrix product over flattened patches.
        patches = rearrange(frames, "f c (h p) (w q) -> f h w (c p q)", p=PATCH, q=PATCH)
        return self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))


class PatchMerging(nn.Module):
    """2 x 2 neighbours become one token of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "batch time height width dim"]) -> Float[Tensor, "batch time _ _ dim2"]:
        """Odd sizes are padded with zeros. Channels of the neighbours: column slow, row fast, as in the weights."""
        return in_parts(self._of_frames, x.flatten(0, 1), size=1).unflatten(0, x.shape[:2])

    def _of_frames(self, x: Float[Tensor, "frame height width dim"]) -> Float[Tensor, "frame _ _ dim2"]:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = rearrange(x, "f (h row) (w col) c -> f h w (col row c)", row=2, col=2)
        return self.reduction(self.norm(x))


class VideoSwinBlock(nn.Module):
    """Window attention and feed-forward, each after a norm and with a residual."""

    def __init__(self, dim: int, num_heads: int, *, window: Size3, is_shifted: bool) -> None:
        super().__init__()
        self.shift: Size3 = (window[0] // 2, window[1] // 2, window[2] // 2) if is_shifted else (0, 0, 0)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim)

    def forward(
        self,
        x: Float[Tensor, "batch time height width dim"],
        keep: Float[Tensor, "2 batch"] | None = None,
        layout: WindowLayout | None = None,
    ) -> Float[Tensor, "batch time height width dim"]:
        """Same shape out as in.

        Args:
            x: the tokens.
            keep: what attention and feed-forward of each clip are multiplied with; None: 1.
            layout: of the windows, made here if it is not given; a compiled block does not look into how it is made.
        """
        if keep is None and is_split(x):
            # Beside `x` one tensor of this size: of a long clip there is no room for more.
            x = self.attn(self.norm1(x), self.shift, layout, overwrites=True).add_(x)
            return token_by_token(self._feed_forward, x, overwrites=True)
        attention, feed_forward = (None, None) if keep is None else keep.unbind()
        x = _add(x, self.attn(self.norm1(x), self.shift, layout), attention)
        if feed_forward is None:
            return self._feed_forward(x)
        return _add(x, self.mlp(self.norm2(x)), feed_forward)

    def _feed_forward(self, tokens: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        return tokens + self.mlp(self.norm2(tokens))


def _add(
    x: Float[Tensor, "batch time height width dim"],
    branch: Float[Tensor, "batch time height width dim"],
    keep: Float[Tensor, " batch"] | None,
) -> Float[Tensor, "batch time height width dim"]:
    return x + branch if keep is None else _AddKept.apply(x, branch, keep[:, None, None, None, None])


class _AddKept(torch.autograd.Function):
    """`torch.addcmul(x, branch, keep)`, whose gradient would multiply `keep` with 1 first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        return torch.addcmul(x, branch, keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad, grad * keep, None


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Token by token."""
        return self.fc2(F.gelu(self.fc1(x)))


class VideoSwin(VisualEncoder):
    """Four stages; each returns its map before down-sampling, without a final norm.

    Args:
        size: dimensions; `SIZES` holds the published ones.
        drop_path_rate: of the last block; earlier ones grow linearly from 0.

    Attributes:
        channels: of the maps of strides 4, 8, 16 and 32.

    Source: arXiv:2106.13230; patch size (1, 4, 4), so that every frame keeps its own map.
    """

    takes_bytes = True

    def __init__(self, size: VideoSwinSize, *, drop_path_rate: float = 0.2) -> None:
        super().__init__()
        self.channels = tuple(size.embed_dim * 2**stage for stage in range(4))
        self.drop_path_rate = drop_path_rate
        self.patch_embed = PatchEmbedding(size.embed_dim, self.normalisation)
        self.stages = nn.ModuleList()
        for dim, depth, heads in zip(self.channels, size.depths, size.num_heads, strict=True):
            self.stages.append(
                nn.ModuleList(
                    VideoSwinBlock(dim, heads, window=size.window_size, is_shifted=i % 2 == 1) for i in range(depth)
                )
            )
        self.downsamples = nn.ModuleList(PatchMerging(dim) for dim in self.channels[:3])

    def forward(
        self, frames: Float[Tensor, "batch time 3 height width"] | UInt8[Tensor, "batch time 3 height width"]
    ) -> tuple[Float[Tensor, "batch time _ _ _"], ...]:
        """Maps of strides 4, 8, 16 and 32, sizes rounded up."""
        x = self.patch_embed(frames)
        keep = iter(self._kept_branches(x))
        maps = []
        for stage, blocks in enumerate(self.stages):
            if stage > 0:
                x = self.downsamples[stage - 1](x)
            for block in blocks:  # type: ignore[attr-defined]  # ModuleList of ModuleList
                x = block(x, next(keep), block.attn.layout(x, block.shift))
            maps.append(rearrange(x, "b t h w c -> b t c h w"))
        return tuple(maps)

    def _kept_branches(self, x: Float[Tensor, "batch time height width dim"]) -> Iterable[Tensor | None]:
        """What the branches of each block are multiplied with: stochastic depth, drawn for all blocks at once.

        In training a clip leaves out a branch with the probability of its block; those that stay are scaled up.
        """
        depth = sum(isinstance(module, VideoSwinBlock) for module in self.modules())
        if not (self.training and self.drop_path_rate):
            return [None] * depth
        probability = torch.linspace(1, 1 - self.drop_path_rate, depth, device=x.device, dtype=x.dtype)[:, None, None]
        return torch.bernoulli(probability.expand(-1, 2, len(x))).div_(probability)

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a Kinetics Video-Swin file, strictly.

        Its patches span two frames: as every frame stands for itself here, the two halves are added up, which gives a
        still video the features it had. The final norm and the classifier are left out.

        Raises:
            ValueError: if a weight is missing, unknown or of another shape.
        """
        load_strictly(self, kinetics_to_video_swin(state), source="Kinetics Video-Swin file")
