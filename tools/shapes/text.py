"""The small text encoder of Referring Shapes in the Hugging Face layout: a configuration and a trained tokenizer."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing
from tokenizers.trainers import BpeTrainer

_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_MAX_POSITIONS = 66
"""Two more than the longest sentence in tokens: RoBERTa counts positions from pad id + 1."""


def write_text_encoder(folder: Path, sentences: list[str], *, vocab_size: int = 1000) -> None:
    """Write `config.json` of a small RoBERTa and a byte-level BPE tokenizer trained on `sentences`; no weights.

    Args:
        folder: created; `transformers.AutoTokenizer.from_pretrained` reads it.
        sentences: what the tokenizer learns its merges from.
        vocab_size: upper limit; a small vocabulary of words needs less.
    """
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[AddedToken(t, special=True, lstrip=t == "<mask>") for t in _SPECIAL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    tokenizer.model.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "config.json", _model_config(tokenizer.get_vocab_size()))


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "RobertaTokenizer",
        "model_max_length": _MAX_POSITIONS - 2,
        "add_prefix_space": False,
        "errors": "replace",
        "trim_offsets": True,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def _model_config(vocab_size: int) -> dict[str, object]:
    return {
        "architectures": ["RobertaModel"],
        "model_type": "roberta",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": _MAX_POSITIONS,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
