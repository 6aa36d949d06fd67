"""A text encoder of Hugging Face from a folder or the hub, and the projection of its words to the model's width."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizerFast,
    Siglip2TextModel,
    SiglipTextModel,
)

from models.outputs import Tokens

logger = logging.getLogger(__name__)

Pooling = Literal["pooler", "mean"]

ROBERTA_BASE = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)

READS_PADDING: Mapping[str, type[PreTrainedModel]] = {
    "siglip_text_model": SiglipTextModel,
    "siglip2_text_model": Siglip2TextModel,
}
"""Encoders that were trained on sentences padded to one length, without a mask, and whose pooler reads the last token.
AutoModel does not list them."""

POOLS_ITSELF = (*READS_PADDING, "clip_text_model")
"""Encoders that have no module `pooler` and yet a feature of the sentence, which was trained against images."""


class TextEncoder(nn.Module):
    """An encoder, and the tokenizer that belongs to it.

    Args:
        encoder: RoBERTa, BERT, MiniLM, DeBERTa, the text tower of CLIP or SigLIP, or any other.
        tokenizer: None where only ids are fed (tests of the numerics).
        frozen: keep the weights as they are.
        eval_mode_when_frozen: no dropout in a frozen encoder.
        pooling: the feature of the sentence: "pooler" is the encoder's own, "mean" the mean over its tokens.

    Raises:
        ValueError: if the encoder has no pooler, and "pooler" is asked for.
    """

    def __init__(  # each is a setting
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        frozen: bool = False,
        eval_mode_when_frozen: bool = False,
        pooling: Pooling = "pooler",
    ) -> None:
        super().__init__()
        self.roberta = encoder  # whichever it is: the name in checkpoints
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.stays_in_eval_mode = frozen and eval_mode_when_frozen
        self._warned_of_length = False
        kind = encoder.config.model_type
        self.reads_padding = kind in READS_PADDING
        if pooling == "mean":
            _remove_pooler(encoder)
        elif kind not in POOLS_ITSELF and getattr(encoder, "pooler", None) is None:
            raise ValueError(f"an encoder of type {kind} has no pooler; set model.text_encoder.pooling=mean")
        self.roberta.requires_grad_(not frozen)

    @property
    def dim(self) -> int:
        """Width of the word features."""
        return int(self.roberta.config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        """The longest sentence that the encoder takes, with its special tokens; None where nothing limits it."""
        positions = getattr(self.roberta.config, "max_position_embeddings", None)
        if positions is None:
            longest = getattr(self.tokenizer, "model_max_length", None)
            return None if longest is None or longest > 10**6 else int(longest)  # tokenizers say 10**30 for none
        table = getattr(getattr(self.roberta, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        # The positions of RoBERTa and its relatives start behind that of padding: at 2.
        return int(positions) if padding is None else int(positions) - padding - 1

    def train(self, mode: bool = True) -> "TextEncoder":
        """As usual, except that a frozen encoder may be told to keep its dropout off."""
        super().train(mode and not self.stays_in_eval_mode)
        return self

    def tokenize(self, sentences: Sequence[str]) -> Tokens:
        """Sentences to ids, padded to the longest; what exceeds the encoder's positions is cut off, with one warning.

        Encoders that read padding get all sentences padded to the length that they were trained with.

        Raises:
            ValueError: if a sentence is empty.
        """
        if self.tokenizer is None:
            raise ValueError("this text encoder was built without a tokenizer; feed Tokens instead of sentences")
        for sentence in sentences:
            if not sentence.strip():
                raise ValueError(f"sentence {sentence!r} is empty; describe the object to segment")
        # Some tokenizers leave out the mask unless asked.
        settings = {"return_tensors": "pt", "return_attention_mask": True}
        encoded = self.tokenizer(list(sentences), padding=True, verbose=False, **settings)
        limit = self.max_tokens
        length = encoded["input_ids"].shape[1]
        is_cut = limit is not None and length > limit
        if is_cut and not self._warned_of_length:
            logger.warning(
                "a sentence of %d tokens is cut to the %d that the text encoder takes; logged only once: %.200s",
                length,
                limit,
                max(sentences, key=len),
            )
            self._warned_of_length = True
        if is_cut or self.reads_padding:
            padding = "max_length" if self.reads_padding else True
            encoded = self.tokenizer(list(sentences), padding=padding, truncation=True, max_length=limit, **settings)
        return Tokens(ids=encoded["input_ids"], is_padding=encoded["attention_mask"] != 1)

    def forward(self, tokens: Tokens) -> tuple[Float[Tensor, "batch word width"], Float[Tensor, "batch width"]]:
        """Features of every token, and of the sentence."""
        mask = None if self.reads_padding else (~tokens.is_padding).long()
        output = self.roberta(input_ids=tokens.ids, attention_mask=mask)
        words = output.last_hidden_state
        if self.pooling == "pooler":
            return words, output.pooler_output
        is_word = (~tokens.is_padding)[..., None].to(words.dtype)
        return words, (words * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)


def _remove_pooler(encoder: PreTrainedModel) -> None:
    """Removes what mean pooling does not use: a parameter without a gradient stops training on several GPUs."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)
    if encoder.config.model_type in READS_PADDING:
        encoder.head = nn.Identity()


class TextProjection(nn.Module):
    """From the encoder's width to the model's; words and sentence share the weights."""

    def __init__(self, text_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape dim"]:
        """Project, normalise, drop."""
        return self.dropout(self.norm(self.linear(text)))


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or hub id, or of a folder with vocab.json and merges.txt alone.

    Raises:
        ValueError: if it cannot pad sentences to one length.
    """
    vocabulary, merges = Path(path) / "vocab.json", Path(path) / "merges.txt"
    if vocabulary.is_file() and merges.is_file() and not (Path(path) / "tokenizer_config.json").is_file():
        return RobertaTokenizerFast.from_pretrained(path, config=ROBERTA_BASE)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        raise ValueError(
            f"model.text_encoder.path={path}: its tokenizer has no token for padding; choose an encoder such as "
            "RoBERTa, BERT, DeBERTa, CLIP or SigLIP"
        )
    return tokenizer


def load_encoder_config(path: str) -> PreTrainedConfig:
    """The shape of the encoder; that of roberta-base for a folder without config.json, of the text tower for CLIP.

    Raises:
        ValueError: if it is an encoder with a decoder.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return ROBERTA_BASE
    config = AutoConfig.from_pretrained(path).get_text_config()
    if config.is_encoder_decoder:
        raise ValueError(
            f"model.text_encoder.path={path} is a {config.model_type}, which has a decoder; choose an encoder such as "
            "RoBERTa, BERT, DeBERTa, CLIP or SigLIP"
        )
    return config


def load_text_encoder(  # each is a setting
    path: str,
    *,
    frozen: bool,
    eval_mode_when_frozen: bool = False,
    random_init: bool = False,
    weights_follow: bool = False,
    pooling: Pooling = "pooler",
) -> TextEncoder:
    """Encoder and tokenizer from a Hugging Face folder or hub id.

    A folder that holds a config.json but no weights gives a randomly initialised encoder: it is to be trained.

    Args:
        path: folder or hub id.
        frozen: keep the weights as they are.
        eval_mode_when_frozen: no dropout in a frozen encoder.
        random_init: ignore weights in the folder.
        weights_follow: a checkpoint will bring the weights, so a random frozen encoder is no mistake.
        pooling: the feature of the sentence.

    Raises:
        ValueError: if the folder is incomplete, a frozen encoder would be random, or the encoder has no pooler.
    """
    folder = Path(path)
    is_local = folder.is_dir()
    if not is_local and (folder.is_absolute() or path.startswith(".")):
        raise ValueError(f"model.text_encoder.path={path}: no such folder")
    has_weights = not is_local or any(folder.glob("*.safetensors")) or (folder / "pytorch_model.bin").is_file()
    try:
        tokenizer, config = load_tokenizer(path), load_encoder_config(path)
        if has_weights and not random_init:
            encoder = _load_weights(path, config, needs_pooler=pooling == "pooler" and not weights_follow)
        elif frozen and not (random_init or weights_follow):
            raise ValueError(
                f"model.text_encoder.path={path} holds no weights, so the encoder starts at random; "
                "set model.text_encoder.frozen=false to train it"
            )
        else:
            encoder = _random_encoder(config)
    except OSError as error:
        raise ValueError(
            f"model.text_encoder.path={path}: cannot be loaded as a Hugging Face folder or hub id ({error}). "
            "Give a folder with config.json, tokenizer files and weights."
        ) from error
    try:
        return TextEncoder(
            encoder, tokenizer, frozen=frozen, eval_mode_when_frozen=eval_mode_when_frozen, pooling=pooling
        )
    except ValueError as error:
        raise ValueError(f"model.text_encoder.path={path}: {error}") from None


def _random_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder as it starts training from scratch."""
    if config.model_type in READS_PADDING:
        return READS_PADDING[config.model_type](config)
    return AutoModel.from_config(config)


def _load_weights(path: str, config: PreTrainedConfig, *, needs_pooler: bool) -> PreTrainedModel:
    """The encoder with the weights of a folder or of the hub, in single precision.

    Raises:
        ValueError: if weights of more than the pooler are missing.
    """
    model_class: Any = READS_PADDING.get(config.model_type, AutoModel)
    encoder, found = model_class.from_pretrained(path, config=config, output_loading_info=True, dtype="float32")
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(
            f"model.text_encoder.path={path}: {len(missing)} weights are missing, such as {missing[0]}; are they those "
            f"of a {config.model_type}?"
        )
    if found["missing_keys"] and needs_pooler:
        logger.warning(
            "%s holds no weights of the pooler: it starts at random; model.text_encoder.pooling=mean needs none",
            path,
        )
    return encoder
