"""Deformable transformer on single frames: encoder over four levels, decoder from queries to objects.

Source: Deformable DETR (arXiv:2010.04159), with iterative box refinement and post-norm layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.dropout import Dropout
from models.layers import MLP, AttentionLayer, FeedForwardLayer, xavier_matrices
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.parts import is_split
from structures.kept import kept
from structures.transfer import send


def inverse_sigmoid(x: Float[Tensor, "*shape"], epsilon: float = 1e-5) -> Float[Tensor, "*shape"]:
    """Logit of a probability; both odds are kept above `epsilon`."""
    # Limits of one type: ONNX knows no others.
    return torch.log(x.clamp(epsilon, 1.0) / (1 - x).clamp(epsilon, 1.0))


def refine_box(delta: Float[Tensor, "*shape 4"], reference: Float[Tensor, "*shape ref"]) -> Float[Tensor, "*shape 4"]:
    """Move a reference, point or box in [0, 1], by `delta` in logit space; a point leaves the size to `delta`."""
    moved = inverse_sigmoid(reference)
    if moved.shape[-1] == 4:
        return (delta + moved).sigmoid()
    return torch.cat([delta[..., :2] + moved, delta[..., 2:]], dim=-1).sigmoid()


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """Objects that the decoder detects in every frame.

    Attributes:
        objects: embeddings of the queries after each decoder layer.
        first_reference: reference points (x, y) of the first layer.
        references: boxes (cx, cy, w, h) after each layer, detached; all relative to the unpadded frame.
    """

    objects: Float[Tensor, "layer batch time query dim"]
    first_reference: Float[Tensor, "batch time query 2"]
    references: Float[Tensor, "layer batch time query 4"]


@dataclass(frozen=True, slots=True)
class TransformerOutput:
    """What the transformer makes of every frame.

    Attributes:
        decoded: the objects.
        memory: encoder maps of strides 8, 16 and 32.
    """

    decoded: DecoderOutput
    memory: tuple[Float[Tensor, "batch time dim _ _"], ...]


class EncoderLayer(nn.Module):
    """Deformable self-attention over the tokens of all levels, then a feed-forward layer."""

    def __init__(
        self, dim: int, *, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = MSDeformAttn(dim, num_levels=num_levels, num_heads=num_heads, num_points=num_points)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForwardLayer(dim, ffn_dim, dropout=dropout)

    def forward(
        self,
        tokens: Float[Tensor, "frame token dim"],
        positions: Float[Tensor, "frame token dim"],
        reference: Float[Tensor, "frame token level 2"],
        level_shapes: Sequence[tuple[int, int]],
        is_padding: Bool[Tensor, "frame token"],
    ) -> Float[Tensor, "frame token dim"]:
        """Same shape out as in."""
        if is_split(tokens) and len(tokens) > 1:
            frames = zip(*(x.split(1) for x in (tokens, positions, reference, is_padding)), strict=True)
            return torch.cat([self.forward(x, where, centre, level_shapes, pad) for x, where, centre, pad in frames])
        attended = self.self_attention(
            tokens + positions, reference, tokens, level_shapes, memory_is_padding=is_padding
        )
        return self.feed_forward(self.norm(tokens + self.dropout(attended)))


class DecoderLayer(nn.Module):
    """Self-attention among the queries of a frame, deformable cross-attention to the tokens, feed-forward."""

    def __init__(
        self, dim: int, *, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = AttentionLayer(dim, num_heads, dropout=dropout)
        self.cross_attention = MSDeformAttn(dim, num_levels=num_levels, num_heads=num_heads, num_points=num_points)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForwardLayer(dim, ffn_dim, dropout=dropout)

    def forward(
        self,
        objects: Float[Tensor, "frame query dim"],
        query_positions: Float[Tensor, "frame query dim"],
        reference: Float[Tensor, "frame query level ref"],
        memory: Float[Tensor, "frame token dim"],
        level_shapes: Sequence[tuple[int, int]],
        is_padding: Bool[Tensor, "frame token"],
    ) -> Float[Tensor, "frame query dim"]:
        """Queries after attention to each other and to the frame."""
        query = objects + query_positions
        objects = self.self_attention(objects, query=query, key=query, value=objects)
        attended = self.cross_attention(
            objects + query_positions, reference, memory, level_shapes, memory_is_padding=is_padding
        )
        return self.feed_forward(self.norm(objects + self.dropout(attended)))


class DeformableTransformer(nn.Module):
    """Encoder and decoder; every frame is on its own.

    Args:
        dim: width.
        num_queries: objects per frame.
        num_levels: maps that come in, finest first.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of the configuration
        self,
        dim: int,
        *,
        num_queries: int,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
        num_encoder_layers: int = 3,
        num_decoder_layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()

        def layers(layer_type: type[EncoderLayer] | type[DecoderLayer], count: int) -> nn.ModuleList:
            return nn.ModuleList(
                layer_type(
                    dim,
                    num_heads=num_heads,
                    num_levels=num_levels,
                    num_points=num_points,
                    ffn_dim=ffn_dim,
                    dropout=dropout,
                )
                for _ in range(count)
            )

        self.encoder_layers = layers(EncoderLayer, num_encoder_layers)
        self.decoder_layers = layers(DecoderLayer, num_decoder_layers)
        self.level_embedding = nn.Parameter(torch.empty(num_levels, dim))
        self.query_embedding = nn.Embedding(num_queries, dim)
        self.reference_points = nn.Linear(dim, 2)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for layer in (*self.encoder_layers, *self.decoder_layers, self.reference_points):
            xavier_matrices(layer)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embedding)

    def forward(
        self,
        levels: Sequence[Float[Tensor, "batch time dim _ _"]],
        positions: Sequence[Float[Tensor, "batch time dim _ _"]],
        is_padding: Sequence[Bool[Tensor, "batch time _ _"]],
        box_heads: Sequence[MLP],
    ) -> TransformerOutput:
        """Detect objects in every frame.

        Args:
            levels: fused maps, finest first.
            positions: of the same shapes.
            is_padding: True where a pixel of the map lies in the padding.
            box_heads: one per decoder layer, shared with the final prediction of boxes.
        """
        batch = levels[0].shape[0]
        level_shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        tokens = torch.cat([rearrange(level, "b t c h w -> (b t) (h w) c") for level in levels], dim=1)
        embedded = [
            rearrange(position, "b t c h w -> (b t) (h w) c") + embedding
            for position, embedding in zip(positions, self.level_embedding, strict=True)
        ]
        token_is_padding = torch.cat([rearrange(mask, "b t h w -> (b t) (h w)") for mask in is_padding], dim=1)
        valid_ratio = torch.stack([_valid_ratio(mask, tokens.dtype) for mask in is_padding], dim=1)  # (bt, l, 2)

        memory = self._encode(tokens, torch.cat(embedded, dim=1), valid_ratio, level_shapes, token_is_padding)
        objects, first_reference, references = self._decode(
            memory, valid_ratio, level_shapes, token_is_padding, box_heads
        )
        maps = memory.split([h * w for h, w in level_shapes], dim=1)[:-1]
        return TransformerOutput(
            decoded=DecoderOutput(
                objects=rearrange(objects, "l (b t) q c -> l b t q c", b=batch),
                first_reference=rearrange(first_reference, "(b t) q xy -> b t q xy", b=batch),
                references=rearrange(references, "l (b t) q box -> l b t q box", b=batch),
            ),
            memory=tuple(
                rearrange(part, "(b t) (h w) c -> b t c h w", b=batch, h=h, w=w)
                for part, (h, w) in zip(maps, level_shapes, strict=False)
            ),
        )

    def _encode(
        self,
        tokens: Float[Tensor, "frame token dim"],
        positions: Float[Tensor, "frame token dim"],
        valid_ratio: Float[Tensor, "frame level 2"],
        level_shapes: Sequence[tuple[int, int]],
        is_padding: Bool[Tensor, "frame token"],
    ) -> Float[Tensor, "frame token dim"]:
        centres_px, sizes, level = _pixel_centres(tuple(level_shapes), tokens.device, tokens.dtype)
        centres = centres_px / (valid_ratio * sizes).index_select(1, level)  # (frame, token, 2)
        reference = centres[:, :, None] * valid_ratio[:, None]
        for layer in self.encoder_layers:
            tokens = layer(tokens, positions, reference, level_shapes, is_padding)
        return tokens

    def _decode(
        self,
        memory: Float[Tensor, "frame token dim"],
        valid_ratio: Float[Tensor, "frame level 2"],
        level_shapes: Sequence[tuple[int, int]],
        is_padding: Bool[Tensor, "frame token"],
        box_heads: Sequence[MLP],
    ) -> tuple[
        Float[Tensor, "layer frame query dim"], Float[Tensor, "frame query 2"], Float[Tensor, "layer frame query 4"]
    ]:
        num_frames = memory.shape[0]
        query_positions = repeat(self.query_embedding.weight, "q c -> f q c", f=num_frames)
        first_reference = self.reference_points(query_positions).sigmoid()
        objects, reference = torch.zeros_like(query_positions), first_reference
        all_objects, all_references = [], []
        for layer, box_head in zip(self.decoder_layers, box_heads, strict=True):
            ratio = valid_ratio if reference.shape[-1] == 2 else torch.cat([valid_ratio, valid_ratio], dim=-1)
            on_levels = reference[:, :, None] * ratio[:, None]
            objects = layer(objects, query_positions, on_levels, memory, level_shapes, is_padding)
            # Each layer learns its own step: the gradient does not run through the boxes of earlier layers.
            reference = refine_box(box_head(objects), reference).detach()
            all_objects.append(objects)
            all_references.append(reference)
        return torch.stack(all_objects), first_reference, torch.stack(all_references)


def _valid_ratio(is_padding: Bool[Tensor, "batch time height width"], dtype: torch.dtype) -> Float[Tensor, "frame 2"]:
    """Unpadded share (of the width, of the height) of each frame, read off the first row and column."""
    is_valid = rearrange(~is_padding, "b t h w -> (b t) h w").to(dtype)
    return torch.stack([is_valid[:, 0].mean(dim=-1), is_valid[:, :, 0].mean(dim=-1)], dim=-1)


@kept(number=16)
def _pixel_centres(
    level_shapes: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "token 2"], Float[Tensor, "level 2"], Int[Tensor, " token"]]:
    """Of the pixels of all maps, row by row, the centres (x, y) in pixels; (width, height) of the maps; whose map."""
    centres = [torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1) + 0.5 for h, w in level_shapes]
    sizes = torch.tensor([(width, height) for height, width in level_shapes])
    level = torch.cat([torch.full((h * w,), number) for number, (h, w) in enumerate(level_shapes)])
    return send(torch.cat(centres).to(dtype), device), send(sizes.to(dtype), device), send(level, device)
