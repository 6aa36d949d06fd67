"""The post-norm transformer layers that fusion, decoder and object cluster are made of."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention, batch first; never returns its weights, so it runs as one fused kernel."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)

    def forward(
        self,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        value: Float[Tensor, "batch key dim"],
        *,
        key_is_padding: Bool[Tensor, "batch key"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """Attention output of each query; padded keys are masked."""
        return self.attention(query, key, value, key_padding_mask=key_is_padding, need_weights=False)[0]


class AttentionLayer(nn.Module):
    """Attention, residual, norm."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.attend = Attention(dim, num_heads, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

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
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Token by token."""
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


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
