"""The post-norm transformer layers that fusion, decoder and object cluster are made of."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.dropout import Dropout
from models.parts import token_by_token


class Attention(nn.Module):
    """Multi-head attention, batch first; never returns its weights, so it runs as one fused kernel.

    Its parameters, their names and first values are those of PyTorch's layer. What it computes, too, in half as many
    operators: no copy of a projection or mask is made, and a weight that is used in parts has one gradient.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.num_heads = num_heads

    def forward(
        self,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        value: Float[Tensor, "batch key dim"],
        *,
        key_is_padding: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attention output of each query; padded keys are masked."""
        projected = self._project(query, key, value)
        queries, keys, values = (rearrange(x, "b n (m c) -> b m n c", m=self.num_heads) for x in projected)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if key_is_padding is None else ~key_is_padding[:, None, None],  # (b, 1, 1, key)
            dropout_p=self.attention.dropout if self.training else 0.0,
        )
        return self.attention.out_proj(rearrange(attended, "b m n c -> b n (m c)"))

    def _project(
        self,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        value: Float[Tensor, "batch key dim"],
    ) -> tuple[Tensor, ...]:
        """Queries, keys and values; what is projected from the same tensor is one matrix product."""
        weight, bias, dim = self.attention.in_proj_weight, self.attention.in_proj_bias, query.shape[-1]
        if query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, dim=-1)
        sources = [(query, 2), (value, 1)] if query is key else [(query, 1), (key, 1), (value, 1)]
        if key is value:
            sources = [(query, 1), (key, 2)]
        sizes = [count * dim for _, count in sources]
        weights, biases = weight.split(sizes), bias.split(sizes)
        projected = [F.linear(x, w, b) for (x, _), w, b in zip(sources, weights, biases, strict=True)]
        return tuple(part for x in projected for part in x.split(dim, dim=-1))


class AttentionLayer(nn.Module):
    """Attention, residual, norm."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.attend = Attention(dim, num_heads, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch query dim"],
        *,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        value: Float[Tensor, "batch key dim"],
        key_is_padding: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """`x` plus the attention output of `query`, normalised; padded keys are masked."""
        return self.norm(x + self.dropout(self.attend(query, key, value, key_is_padding=key_is_padding)))


class FeedForwardLayer(nn.Module):
    """Two linear layers with a ReLU between, residual, norm."""

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Token by token."""
        return token_by_token(self._of_tokens, x)

    def _of_tokens(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        # Of rows the hidden layer is a tensor of its own, which may be overwritten. Of more axes it would be a view,
        # and each gradient through an overwritten view is copied three times.
        hidden = self.dropout.of_relu(self.linear1(x.flatten(0, -2)))
        return self.norm(x + self.dropout(self.linear2(hidden).view(x.shape)))


class MLP(nn.Module):
    """Three linear layers with ReLUs between."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape out"]:
        """Token by token."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


def xavier_matrices(module: nn.Module) -> None:
    """Xavier-uniform for every parameter with more than one axis."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
