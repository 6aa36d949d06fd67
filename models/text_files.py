"""The folder of a text encoder: its configuration, its tokenizer and its weights, looked at before they are used.

transformers reads such a folder too, and forgives a lot: it fills in what is missing, and asks at the terminal whether
it may run code that lies in it. Here what is not right is an error of one line, and no code is run.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizerFast,
)

from structures.checkpoint_file import read_state_dict

ROBERTA_BASE = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights, the first that is there is read; an index names several that make one."""

OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt")
"""How files of weights end that have other names, or are of other frameworks."""

TOKENIZERS = ("tokenizer.json", "vocab.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Files of which one holds a vocabulary; RoBERTa may have `vocab.json` and `merges.txt` instead."""

MIN_TOKENS = 3
"""The start of a sentence, a word and the end."""

MAX_PARAMETERS = 20_000_000_000
"""An encoder beyond this comes from a mistake in its config.json."""

NUM_WORDS = 32
"""How many words of its own vocabulary a tokenizer is tried with."""

JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "vocab.json")


def require_plain_folder(folder: Path) -> None:
    """Checks the JSON files of a folder: that they can be read, and ask for no code that comes with it.

    Raises:
        ValueError: with the first file that is damaged or asks for code.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):  # such as `._config.json`, which macOS writes
            continue
        content = _read_json(path)
        if not isinstance(content, dict):
            if path.name in JSON_FILES:
                raise ValueError(f"{path} holds a {type(content).__name__}, expected names and values in braces")
        elif "auto_map" in content:
            raise ValueError(
                f"{path} asks for code that comes with the model (auto_map), and no such code is run; choose an "
                "encoder that transformers has itself, such as RoBERTa"
            )


def load_encoder_config(path: str) -> PreTrainedConfig:
    """The shape of the encoder; that of roberta-base for a folder without config.json, of the text tower for CLIP.

    Raises:
        ValueError: if it is an encoder with a decoder, or its numbers make no encoder.
        OSError: if there is no such folder or repository.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return ROBERTA_BASE
    try:
        whole = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # its checks of types raise what is derived from nothing else
        raise ValueError(f"model.text_encoder.path={path}: config.json cannot be used: {one_line(error)}") from error
    _require_one_kind(whole, path)
    config = whole.get_text_config()
    if config.is_encoder_decoder:
        raise ValueError(
            f"model.text_encoder.path={path} is a {config.model_type}, which has a decoder; choose an encoder such as "
            "RoBERTa, BERT, DeBERTa, CLIP or SigLIP"
        )
    _require_numbers(config, path)
    return config


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or hub id, or of a folder with vocab.json and merges.txt alone.

    Raises:
        ValueError: if there is none, it cannot pad sentences to one length, or does not tell words apart.
        OSError: if there is no such folder or repository.
    """
    folder = Path(path)
    is_pair = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if folder.is_dir() and not is_pair and not any((folder / name).is_file() for name in TOKENIZERS):
        raise ValueError(
            f"model.text_encoder.path={path} holds no vocabulary of a tokenizer (tokenizer.json, vocab.txt, or "
            "vocab.json with merges.txt), so all sentences would be the same; copy the whole folder"
        )
    try:
        if is_pair and not (folder / "tokenizer_config.json").is_file():
            tokenizer = RobertaTokenizerFast.from_pretrained(path, config=ROBERTA_BASE)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # the library in Rust raises nothing more special
        raise ValueError(f"model.text_encoder.path={path}: its tokenizer cannot be read: {one_line(error)}") from error
    if tokenizer.pad_token is None:
        raise ValueError(
            f"model.text_encoder.path={path}: its tokenizer has no token for padding; choose an encoder such as "
            "RoBERTa, BERT, DeBERTa, CLIP or SigLIP"
        )
    return tokenizer


def require_words(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, path: str) -> None:
    """Tries a tokenizer with words of its own vocabulary: different words must have different ids that the encoder has.

    Raises:
        ValueError: if they have not.
    """
    vocabulary = tokenizer.get_vocab()
    rows = int(config.vocab_size)
    special = set(tokenizer.all_special_ids)
    ordinary = {token: number for token, number in vocabulary.items() if number not in tokenizer.added_tokens_decoder}
    last = max([*ordinary.values(), *special], default=0)
    if last >= rows:
        raise ValueError(
            f"model.text_encoder.path={path}: its tokenizer has ids up to {last}, and config.json says "
            f"vocab_size={rows}; tokenizer and encoder are not of one model"
        )
    words = _words(ordinary)
    if len(words) < 2:
        raise ValueError(
            f"model.text_encoder.path={path}: the vocabulary of its tokenizer holds no words "
            f"({len(vocabulary)} tokens); copy the whole folder"
        )
    word_of: dict[tuple[int, ...], str] = {}
    for word in words:
        ids = tuple(i for i in tokenizer(word, add_special_tokens=False)["input_ids"] if i != tokenizer.unk_token_id)
        if not ids:
            continue
        if ids in word_of:
            raise ValueError(
                f"model.text_encoder.path={path}: its tokenizer gives {word_of[ids]!r} and {word!r} the same ids "
                f"{list(ids)}, so it does not tell words apart; copy the whole folder"
            )
        word_of[ids] = word
    if 2 * len(word_of) < len(words):
        raise ValueError(
            f"model.text_encoder.path={path}: its tokenizer does not know {len(words) - len(word_of)} of {len(words)} "
            f"words of its own vocabulary, such as {words[0]!r}; its files are not of one model"
        )


def find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of several."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def other_weights(folder: Path) -> str:
    """What lies in a folder without weights that looks like some, for a message; empty where there is nothing."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_WEIGHTS)
    return f" ({', '.join(names[:3])} is not read, but {WEIGHTS[0]} or {WEIGHTS[2]})" if names else ""


def read_folder_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, or of all files that an index names.

    Raises:
        ValueError: if a file is missing or unreadable, or lacks a tensor that the index says it holds.
    """
    if not file.name.endswith(".index.json"):
        return read_state_dict(file)
    index = _read_json(file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(x, str) for x in weight_map.values()):
        raise ValueError(
            f"{file}: weight_map is no mapping from names of tensors to files; copy the whole folder again"
        )
    state: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{file}: {name[:100]!r} in weight_map is no name of a file beside it")
        state |= read_state_dict(file.parent / name)
    missing = [name for name in weight_map if name not in state]
    if missing:
        raise ValueError(f"{file}: {missing[0]} is not in {weight_map[missing[0]]}; copy the whole folder again")
    return state


def one_line(error: Exception, limit: int = 200) -> str:
    """The first line of a message of a library."""
    text = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
    return re.sub(r"\s+", " ", text.strip().split("\n\n")[0])[:limit] or type(error).__name__


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(f"{path} is damaged ({reason}); copy the whole folder again") from None


def _words(vocabulary: Mapping[str, int]) -> list[str]:
    """Words of a vocabulary, spread over it; in small ASCII letters where it has some, as tokenizers fold others."""
    # Marks of the start or end of a word: GPT-2 and RoBERTa, SentencePiece, WordPiece, CLIP.
    bare = {token.replace("</w>", "").strip("Ġ▁#") for token in vocabulary}
    plain = sorted(word for word in bare if word.isascii() and word.isalpha() and word.islower())
    found = plain if len(plain) >= 2 else sorted({word.casefold() for word in bare if word.isalpha()})
    return found[:: max(1, len(found) // NUM_WORDS)][:NUM_WORDS]


def _require_one_kind(config: PreTrainedConfig, path: str) -> None:
    """Raises ValueError if config.json names a network of another type than its own."""
    own = type(config).__name__.removesuffix("Config")
    for name in config.architectures or ():
        if name in (f"{own}Model", f"{own}ForMaskedLM"):  # the others are looked up, which imports their modules
            continue
        named = getattr(getattr(transformers, name, None), "config_class", None)
        if named is not None and named is not type(config):
            raise ValueError(
                f"model.text_encoder.path={path}: config.json says model_type={config.model_type} and "
                f"architectures={name}, which is a {named.model_type}; one of the two is wrong"
            )


def _require_numbers(config: PreTrainedConfig, path: str) -> None:
    """Raises ValueError if the sizes in config.json make no encoder; transformers says so late and in other words."""
    where = f"model.text_encoder.path={path}: config.json says"
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name, least in (*((size, 1) for size in sizes), ("max_position_embeddings", MIN_TOKENS)):
        value = getattr(config, name, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{where} {name}={str(value)[:60]}, expected a whole number of at least {least}")
    heads = getattr(config, "num_attention_heads", None) or 1
    if config.hidden_size % heads:
        raise ValueError(
            f"{where} hidden_size={config.hidden_size} and num_attention_heads={heads}, which must divide it"
        )
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and not -config.vocab_size <= padding < config.vocab_size:  # below 0: from the end
        raise ValueError(f"{where} pad_token_id={padding}, expected one of the {config.vocab_size} ids of vocab_size")
    # The embeddings and the layers, roughly: enough to see that a number has some zeros too many.
    layers = (getattr(config, "num_hidden_layers", None) or 1) * 12 * config.hidden_size**2
    rows = config.vocab_size + (getattr(config, "max_position_embeddings", None) or 0)
    if rows * config.hidden_size + layers > MAX_PARAMETERS:
        raise ValueError(
            f"{where} vocab_size={config.vocab_size} and hidden_size={config.hidden_size}, an encoder of more than "
            f"{MAX_PARAMETERS:,} parameters"
        )
