"""A text encoder of Hugging Face from a folder or the hub, and the projection of its words to the model's width."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from models.bert import Bert, is_covered
from models.dropout import Dropout
from models.outputs import Tokens
from models.text_files import (
    MIN_TOKENS,
    find_weights,
    load_encoder_config,
    load_tokenizer,
    one_line,
    other_weights,
    read_folder_weights,
    require_plain_folder,
    require_words,
)
from models.weight_kinds import TEXT, weight_kind
from structures.checkpoint_file import require_numbers

if TYPE_CHECKING:  # at run time, transformers takes two seconds to import a model
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Pooling = Literal["pooler", "mean"]

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""An id of the hub: a name, or two with a slash between."""

READS_PADDING: Mapping[str, str] = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}
"""Encoders that were trained on sentences padded to one length, without a mask, and whose pooler reads the last token;
their classes in transformers, which AutoModel does not list."""

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
        encoder: "PreTrainedModel | Bert",
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
        self._warned_of_words = False
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

    def tokenize(self, sentences: Sequence[str], *, multiple_of: int = 1) -> Tokens:
        """Sentences to ids, padded to the longest; what exceeds the encoder's positions is cut off, with one warning.

        Encoders that read padding get all sentences padded to the length that they were trained with.

        Args:
            sentences: of a batch.
            multiple_of: of so many tokens, where the encoder takes as many.

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
        elif multiple_of > 1 and (limit is None or -(-length // multiple_of) * multiple_of <= limit):
            encoded = self.tokenizer.pad(encoded, pad_to_multiple_of=multiple_of, verbose=False, return_tensors="pt")
        tokens = Tokens(ids=encoded["input_ids"], is_padding=encoded["attention_mask"] != 1)
        self._warn_of_unknown_words(sentences, tokens)
        return tokens

    def _warn_of_unknown_words(self, sentences: Sequence[str], tokens: Tokens) -> None:
        """Warns, once, of a sentence that is to the encoder like any other of no known word."""
        if self._warned_of_words or self.tokenizer is None:
            return
        special = torch.tensor(self.tokenizer.all_special_ids)
        knows_none = torch.isin(tokens.ids, special).all(dim=1).tolist()
        for sentence, is_unknown in zip(sentences, knows_none, strict=True):
            if is_unknown:
                logger.warning(
                    "the tokenizer knows no word of a sentence, so its mask means nothing; logged only once: %.200s",
                    sentence,
                )
                self._warned_of_words = True
                return

    def forward(self, tokens: Tokens) -> tuple[Float[Tensor, "batch word width"], Float[Tensor, "batch width"]]:
        """Features of every token, and of the sentence."""
        mask = None if self.reads_padding else (~tokens.is_padding).long()
        output = self.roberta(input_ids=tokens.ids, attention_mask=mask)
        words = output.last_hidden_state
        if self.pooling == "pooler":
            return words, output.pooler_output
        is_word = (~tokens.is_padding)[..., None].to(words.dtype)
        return words, (words * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)


def _remove_pooler(encoder: "PreTrainedModel | Bert") -> None:
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
        self.dropout = Dropout(dropout)

    def forward(self, text: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape dim"]:
        """Project, normalise, drop."""
        return self.dropout(self.norm(self.linear(text)))


def load_text_encoder(  # each is a setting
    path: str,
    *,
    frozen: bool,
    eval_mode_when_frozen: bool = False,
    random_init: bool = False,
    weights_follow: bool = False,
    for_inference: bool = False,
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
        for_inference: with `weights_follow`, those of the folder are not read, and RoBERTa and BERT are built without
            the models of transformers, which gives the same numbers and starts faster.
        pooling: the feature of the sentence.

    Raises:
        ValueError: if the folder is incomplete or damaged, its files are not of one model, a frozen encoder would
            be random, or the encoder has no pooler.
    """
    folder = Path(path)
    is_local = path != "" and folder.is_dir()
    if not is_local and not HUB_ID.fullmatch(path):
        raise ValueError(f"model.text_encoder.path={path}: no such folder")
    try:
        if is_local:
            require_plain_folder(folder)
        config, tokenizer = load_encoder_config(path), load_tokenizer(path)
        require_words(tokenizer, config, path)
        weights = find_weights(folder) if is_local else None
        only_shape = weights_follow and for_inference
        has_weights = (weights is not None or not is_local) and not (random_init or only_shape)
        if frozen and not (has_weights or random_init or weights_follow):
            raise ValueError(
                f"model.text_encoder.path={path} holds no weights{other_weights(folder)}, so the encoder starts at "
                "random; set model.text_encoder.frozen=false to train it"
            )
        encoder: PreTrainedModel | Bert
        if has_weights:
            encoder, without_pooler = _load_weights(path, weights, config)
        elif only_shape and is_covered(config):
            encoder, without_pooler = Bert(config), False
        else:
            encoder, without_pooler = _random_encoder(config, path), False
    except OSError as error:
        what = "this folder cannot be read" if is_local else "there is no such folder, and the hub does not give it"
        reason = one_line(error).split(". ")[0]
        raise ValueError(
            f"model.text_encoder.path={path}: {what} ({reason}); name a folder with config.json, tokenizer files and "
            "weights"
        ) from error
    if without_pooler and pooling == "pooler" and not weights_follow:
        # The published recipes with a frozen encoder train so, because the file on the hub has no pooler.
        outcome = (
            "stays random, because the encoder is frozen, as in the published training" if frozen else "is trained"
        )
        logger.warning(
            "%s holds no weights of the pooler: it starts at random and %s; model.text_encoder.pooling=mean needs none",
            path,
            outcome,
        )
    try:
        built = TextEncoder(
            encoder, tokenizer, frozen=frozen, eval_mode_when_frozen=eval_mode_when_frozen, pooling=pooling
        )
    except ValueError as error:
        raise ValueError(f"model.text_encoder.path={path}: {error}") from None
    if built.max_tokens is not None and built.max_tokens < MIN_TOKENS:
        raise ValueError(
            f"model.text_encoder.path={path}: config.json says max_position_embeddings="
            f"{config.max_position_embeddings}, which leaves {max(0, built.max_tokens)} tokens of a sentence"
        )
    return built


def _model_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that builds and loads the encoder."""
    import transformers  # here and not its classes above, because each of them takes seconds to import

    return getattr(transformers, READS_PADDING.get(config.model_type, "AutoModel"))


def _random_encoder(config: PreTrainedConfig, path: str) -> "PreTrainedModel":
    """The encoder as it starts training from scratch.

    Raises:
        ValueError: if its configuration makes none.
    """
    try:
        model_class = _model_class(config)
        if config.model_type in READS_PADDING:
            return model_class(config)
        return model_class.from_config(config, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"model.text_encoder.path={path}: config.json makes no encoder of type {config.model_type}: "
            f"{one_line(error)}"
        ) from error


def _load_weights(path: str, weights: Path | None, config: PreTrainedConfig) -> tuple["PreTrainedModel", bool]:
    """The encoder with the weights of a folder or of the hub, in single precision, and whether its pooler lacks them.

    Args:
        path: folder or hub id.
        weights: the file of a folder; None for a hub id.
        config: of the encoder.

    Raises:
        ValueError: if weights of more than the pooler are missing or unfit.
    """
    model_class = _model_class(config)
    state = None
    if weights is not None:
        state = read_folder_weights(weights)
        require_numbers(state, source=str(weights))
        if config.model_type not in READS_PADDING:
            with torch.device("meta"):
                model_class = type(_random_encoder(config, path))
    with _quiet_transformers():
        encoder, found = model_class.from_pretrained(
            None if state is not None else path,
            config=config,
            state_dict=state,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
        )
    for name, of_file, own in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"model.text_encoder.path={path}: {name} is {tuple(of_file)}, and config.json asks for {tuple(own)}; "
            "they are not of one model"
        )
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        kind = None if state is None else weight_kind(state)
        what = f"are they those of a {config.model_type}?"
        if kind is not None and kind.setting != TEXT:
            what = f"they are {kind.name}, not a {config.model_type}"
        raise ValueError(
            f"model.text_encoder.path={path}: {len(missing)} weights are missing, such as {missing[0]}; {what}"
        )
    return encoder, bool(found["missing_keys"])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the tables and bars of transformers: what they say that matters is said here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
