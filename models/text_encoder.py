"""RoBERTa from a folder or the hub, and the projection of its words to the model's width."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
)

from models.outputs import Tokens

logger = logging.getLogger(__name__)

ROBERTA_BASE = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)


class TextEncoder(nn.Module):
    """RoBERTa with its pooler, and the tokenizer that belongs to it.

    Args:
        roberta: the encoder.
        tokenizer: None where only ids are fed (tests of the numerics).
        frozen: keep the weights as they are.
        eval_mode_when_frozen: no dropout in a frozen encoder.
    """

    def __init__(
        self,
        roberta: RobertaModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        frozen: bool = False,
        eval_mode_when_frozen: bool = False,
    ) -> None:
        super().__init__()
        self.roberta = roberta
        self.tokenizer = tokenizer
        self.stays_in_eval_mode = frozen and eval_mode_when_frozen
        self._warned_of_length = False
        self.roberta.requires_grad_(not frozen)

    @property
    def dim(self) -> int:
        """Width of the word features."""
        return int(self.roberta.config.hidden_size)

    def train(self, mode: bool = True) -> "TextEncoder":
        """As usual, except that a frozen encoder may be told to keep its dropout off."""
        super().train(mode and not self.stays_in_eval_mode)
        return self

    def tokenize(self, sentences: Sequence[str]) -> Tokens:
        """Sentences to ids, padded to the longest; what exceeds the encoder's positions is cut off, with one warning.

        Raises:
            ValueError: if a sentence is empty.
        """
        if self.tokenizer is None:
            raise ValueError("this text encoder was built without a tokenizer; feed Tokens instead of sentences")
        for sentence in sentences:
            if not sentence.strip():
                raise ValueError(f"sentence {sentence!r} is empty; describe the object to segment")
        encoded = self.tokenizer(list(sentences), padding=True, return_tensors="pt", verbose=False)
        # RoBERTa's positions start at padding_idx + 1 = 2.
        limit = self.roberta.config.max_position_embeddings - 2
        length = encoded["input_ids"].shape[1]
        if length > limit:
            if not self._warned_of_length:
                logger.warning(
                    "a sentence of %d tokens is cut to the %d that the text encoder takes; logged only once: %.200s",
                    length,
                    limit,
                    max(sentences, key=len),
                )
                self._warned_of_length = True
            encoded = self.tokenizer(
                list(sentences), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
        return Tokens(ids=encoded["input_ids"], is_padding=encoded["attention_mask"] != 1)

    def forward(self, tokens: Tokens) -> tuple[Float[Tensor, "batch word width"], Float[Tensor, "batch width"]]:
        """Features of every token, and of the sentence from the pooler."""
        output = self.roberta(input_ids=tokens.ids, attention_mask=(~tokens.is_padding).long())
        return output.last_hidden_state, output.pooler_output


class TextProjection(nn.Module):
    """From RoBERTa's width to the model's; words and sentence share the weights."""

    def __init__(self, text_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape dim"]:
        """Project, normalise, drop."""
        return self.dropout(self.norm(self.linear(text)))


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or hub id, or of a folder with vocab.json and merges.txt alone."""
    vocabulary, merges = Path(path) / "vocab.json", Path(path) / "merges.txt"
    if vocabulary.is_file() and merges.is_file() and not (Path(path) / "tokenizer_config.json").is_file():
        return RobertaTokenizerFast.from_pretrained(path, config=ROBERTA_BASE)
    return AutoTokenizer.from_pretrained(path)


def load_roberta_config(path: str) -> RobertaConfig:
    """The shape of the encoder; that of roberta-base for a folder without config.json.

    Raises:
        ValueError: if the folder describes another architecture.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return ROBERTA_BASE
    config = AutoConfig.from_pretrained(path)
    if not isinstance(config, RobertaConfig):
        raise ValueError(f"model.text_encoder.path={path} is a {config.model_type}, expected roberta")
    return config


def load_text_encoder(
    path: str,
    *,
    frozen: bool,
    eval_mode_when_frozen: bool = False,
    random_init: bool = False,
    weights_follow: bool = False,
) -> TextEncoder:
    """Encoder and tokenizer from a Hugging Face folder or hub id.

    A folder that holds a config.json but no weights gives a randomly initialised encoder: it is to be trained.

    Args:
        path: folder or hub id.
        frozen: keep the weights as they are.
        eval_mode_when_frozen: no dropout in a frozen encoder.
        random_init: ignore weights in the folder.
        weights_follow: a checkpoint will bring the weights, so a random frozen encoder is no mistake.

    Raises:
        ValueError: if the folder is incomplete, or a frozen encoder would be random.
    """
    folder = Path(path)
    is_local = folder.is_dir()
    if not is_local and (folder.is_absolute() or path.startswith(".")):
        raise ValueError(f"model.text_encoder.path={path}: no such folder")
    has_weights = not is_local or any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file()
    try:
        tokenizer = load_tokenizer(path)
        if has_weights and not random_init:
            roberta = RobertaModel.from_pretrained(path)
        elif frozen and not (random_init or weights_follow):
            raise ValueError(
                f"model.text_encoder.path={path} holds no weights, so the encoder starts at random; "
                "set model.text_encoder.frozen=false to train it"
            )
        else:
            roberta = RobertaModel(load_roberta_config(path))
    except OSError as error:
        raise ValueError(
            f"model.text_encoder.path={path}: cannot be loaded as a Hugging Face folder or hub id ({error}). "
            "Give a folder with config.json, tokenizer files and weights."
        ) from error
    return TextEncoder(roberta, tokenizer, frozen=frozen, eval_mode_when_frozen=eval_mode_when_frozen)
