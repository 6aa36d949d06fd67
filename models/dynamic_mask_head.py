"""Mask head with dynamic convolutions: each query predicts the weights of its own."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import MLP

STRIDE = 4


class DynamicMaskHead(nn.Module):
    """Three 1 x 1 convolutions per query over the mask features and the offsets to the query's reference point.

    Args:
        query_dim: width of the queries.
        dim: channels of the mask features and of the two hidden maps.
        offset_scale: divisor of the pixel offsets; 1 as published.

    Source: CondInst (arXiv:2003.05664), section 3.1.
    """

    def __init__(self, query_dim: int, *, dim: int = 8, offset_scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.offset_scale = dim, offset_scale
        # Layout of a query's vector: the three weights, row-major (out, in), then the three biases.
        self.sizes = [dim * (dim + 2), dim * dim, dim, dim, dim, 1]
        self.controller = MLP(query_dim, sum(self.sizes))
        for layer in self.controller.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        queries: Float[Tensor, "batch time query dim"],
        reference_px: Float[Tensor, "batch time query 2"],
        features: Float[Tensor, "batch time channel height4 width4"],
    ) -> Float[Tensor, "batch time query height4 width4"]:
        """Mask logits of every query at stride 4.

        Args:
            queries: embeddings of the objects.
            reference_px: (x, y) of each query in pixels of the resized frame.
            features: of each frame.

        The first convolution acts on [features, reference - coordinates]. It is linear, so the reference moves into
        the bias and all queries of a frame share one matrix product over [features, coordinates].
        """
        height, width = features.shape[-2:]
        kernel = self.controller(queries).split(self.sizes, dim=-1)
        weight0 = rearrange(kernel[0], "b t q (o i) -> b t q o i", o=self.dim)
        on_features, on_offset = weight0[..., : self.dim], weight0[..., self.dim :] / self.offset_scale
        bias0 = kernel[3] + (on_offset * reference_px[..., None, :]).sum(dim=-1)
        coordinates = coordinates_px(height, width, features)
        inputs = torch.cat([features, coordinates.expand(*features.shape[:2], -1, -1, -1)], dim=2).flatten(3)
        stacked = rearrange(torch.cat([on_features, -on_offset], dim=-1), "b t q o i -> b t (q o) i")
        x = F.relu(stacked @ inputs + rearrange(bias0, "b t q o -> b t (q o) 1"))
        x = rearrange(x, "b t (q o) p -> b t q o p", o=self.dim)
        weight1 = rearrange(kernel[1], "b t q (o i) -> b t q o i", o=self.dim)
        x = F.relu(weight1 @ x + kernel[4][..., None])
        logits = (kernel[2][..., None, :] @ x).squeeze(-2) + kernel[5]
        return logits.unflatten(-1, (height, width))


def coordinates_px(height: int, width: int, like: Tensor) -> Float[Tensor, "2 {height} {width}"]:
    """(x, y) of the centre of every pixel of the map, in pixels of the frame."""
    y = torch.arange(height, device=like.device, dtype=like.dtype) * STRIDE + STRIDE // 2
    x = torch.arange(width, device=like.device, dtype=like.dtype) * STRIDE + STRIDE // 2
    return torch.stack([x[None, :].expand(height, -1), y[:, None].expand(-1, width)])
