"""RoBERTa and BERT as encoders of sentences, for prediction: the arithmetic of transformers, to the bit.

transformers takes two seconds to import its models, longer than all else that `predict` does before it looks at a
video. Names of parameters are those of transformers. Training, and every other encoder, go through its `AutoModel`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class EncodedSentences:
    """What the encoder says, by the names of transformers.

    Attributes:
        last_hidden_state: features of every token.
        pooler_output: of every sentence; None without a pooler.
    """

    last_hidden_state: Float[Tensor, "batch word width"]
    pooler_output: Float[Tensor, "batch width"] | None


def is_covered(config: PreTrainedConfig) -> bool:
    """Whether `Bert` is the encoder of this configuration."""
    return (
        config.model_type in ("bert", "roberta")
        and config.hidden_act == "gelu"
        and not (config.is_decoder or config.add_cross_attention)
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
    )


class Embeddings(nn.Module):
    """Words, their positions, and the one kind of token that sentences have."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        width, padding = config.hidden_size, config.pad_token_id
        self.padding_id = padding
        self.counts_words = config.model_type == "roberta"
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=padding)
        self.position_embeddings = nn.Embedding(
            config.max_position_embeddings, width, padding_idx=padding if self.counts_words else None
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Int[Tensor, "batch word"]) -> Float[Tensor, "batch word width"]:
        """RoBERTa counts positions from the id of padding on, and leaves out padding; BERT counts from 0."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        if self.counts_words:
            is_word = (ids != self.padding_id).int()
            positions = (is_word.cumsum(dim=1) * is_word).long() + self.padding_id
        words = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class ProjectedSum(nn.Module):
    """New features at the width of the encoder, added to those before, and normalised."""

    def __init__(self, inputs: int, config: PreTrainedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, new: Float[Tensor, "batch word inputs"], before: Float[Tensor, "batch word width"]
    ) -> Float[Tensor, "batch word width"]:
        """The normalised sum."""
        return self.LayerNorm(self.dropout(self.dense(new)) + before)


class SelfAttention(nn.Module):
    """Every token looks at the tokens of its sentence."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "batch word width"], is_word: Bool[Tensor, "batch 1 1 word"] | None
    ) -> Float[Tensor, "batch word width"]:
        """What each token has seen; without `is_word` all tokens are words."""
        query, key, value = (
            rearrange(project(x), "b s (h c) -> b h s c", h=self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=is_word, dropout_p=self.dropout if self.training else 0.0
        )
        return rearrange(seen, "b h s c -> b s (h c)")


class Attention(nn.Module):
    """`SelfAttention`, added to what was before."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ProjectedSum(config.hidden_size, config)

    def forward(
        self, x: Float[Tensor, "batch word width"], is_word: Bool[Tensor, "batch 1 1 word"] | None
    ) -> Float[Tensor, "batch word width"]:
        """As `SelfAttention`."""
        return self.output(self.self(x, is_word), x)


class Intermediate(nn.Module):
    """The hidden features of the feed-forward part."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Float[Tensor, "batch word width"]) -> Float[Tensor, "batch word hidden"]:
        """Projected, with the exact GELU."""
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """Attention and feed-forward part."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ProjectedSum(config.intermediate_size, config)

    def forward(
        self, x: Float[Tensor, "batch word width"], is_word: Bool[Tensor, "batch 1 1 word"] | None
    ) -> Float[Tensor, "batch word width"]:
        """As `SelfAttention`."""
        x = self.attention(x, is_word)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, x: Float[Tensor, "batch word width"], is_word: Bool[Tensor, "batch 1 1 word"] | None
    ) -> Float[Tensor, "batch word width"]:
        """As `SelfAttention`."""
        for layer in self.layer:
            x = layer(x, is_word)
        return x


class Pooler(nn.Module):
    """The feature of a sentence: of its first token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch word width"]) -> Float[Tensor, "batch width"]:
        """Between -1 and 1."""
        return self.dense(x[:, 0]).tanh()


class Bert(nn.Module):
    """The encoder.

    Args:
        config: of a kind that `is_covered`.

    Attributes:
        config: as given.
        pooler: None after mean pooling has removed it.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler: Pooler | None = Pooler(config.hidden_size)

    def forward(
        self, input_ids: Int[Tensor, "batch word"], attention_mask: Int[Tensor, "batch word"]
    ) -> EncodedSentences:
        """Features of tokens and sentences; `attention_mask` is 0 where padding is."""
        is_word = (attention_mask != 0)[:, None, None, :]  # (batch, head, query, word)
        is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        # Without padding PyTorch has a kernel without a mask, with other rounding; transformers takes it, too.
        keeps_mask = is_traced or not bool(is_word.all())
        words = self.encoder(self.embeddings(input_ids), is_word if keeps_mask else None)
        return EncodedSentences(words, None if self.pooler is None else self.pooler(words))
