"""Text encoders of several families, from tiny configurations: features, pooling, padding, and what is refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5Model,
)

from configs.model_schema import ModelConfig
from models.build import build_text_encoder
from models.text_encoder import TextEncoder, load_text_encoder

SENTENCES = ["a dog", "the small brown dog on the left", "a cat"]
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
VOCABULARY = len(SPECIAL) + len(WORDS)
POSITIONS = 12

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PATCHES: dict[str, Any] = {"image_size": 16, "patch_size": 8, **SIZES}


def roberta() -> PreTrainedModel:
    return RobertaModel(
        RobertaConfig(**SIZES, **IDS, **NO_DROPOUT, max_position_embeddings=POSITIONS, type_vocab_size=1)
    )


def bert() -> PreTrainedModel:
    return BertModel(BertConfig(**SIZES, **IDS, **NO_DROPOUT, max_position_embeddings=POSITIONS))


def deberta() -> PreTrainedModel:
    relative: dict[str, Any] = {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
    }
    return DebertaV2Model(
        DebertaV2Config(**SIZES, **IDS, **NO_DROPOUT, **relative, max_position_embeddings=POSITIONS, type_vocab_size=0)
    )


def clip() -> PreTrainedModel:
    text = {**SIZES, **IDS, "max_position_embeddings": POSITIONS, "projection_dim": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=PATCHES, projection_dim=8))


def siglip() -> PreTrainedModel:
    text = {**SIZES, **IDS, "max_position_embeddings": POSITIONS}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=PATCHES))


FAMILIES = {"roberta": roberta, "bert": bert, "deberta": deberta, "clip": clip, "siglip": siglip}
POOLED = [name for name in FAMILIES if name != "deberta"]


def write_folder(folder: Path, model: PreTrainedModel) -> None:
    """The weights, with a tokenizer of whole words between `<s>` and `</s>`."""
    names = {name: number for number, name in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(names, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TextEncoder]:
    """Writes an encoder of a family and loads it as a user does."""

    def write_and_load(family: str, **settings: Any) -> TextEncoder:
        torch.manual_seed(0)
        write_folder(tmp_path / family, FAMILIES[family]())
        return load_text_encoder(str(tmp_path / family), frozen=False, **settings).eval()

    return write_and_load


def alone(encoder: TextEncoder, sentence: str) -> Tensor:
    return encoder(encoder.tokenize([sentence]))[1][0]


@torch.no_grad()
@pytest.mark.parametrize("family", POOLED)
def test_words_and_sentence_are_those_of_transformers(family: str, load: Callable[..., TextEncoder], tmp_path: Path):
    encoder = load(family)
    reference = type(FAMILIES[family]()).from_pretrained(tmp_path / family).eval()
    tower = getattr(reference, "text_model", reference)
    ids = torch.tensor([[0, *(len(SPECIAL) + WORDS.index(word) for word in SENTENCES[1].split()), 2]])
    if family == "siglip":  # as it was trained: padded to the full length, without a mask
        ids = torch.cat([ids, torch.full((1, POSITIONS - ids.shape[1]), 1)], dim=1)
    expected = tower(input_ids=ids)
    words, sentence = encoder(encoder.tokenize([SENTENCES[1]]))
    torch.testing.assert_close(words, expected.last_hidden_state)
    torch.testing.assert_close(sentence, expected.pooler_output)
    assert encoder.dim == sentence.shape[-1] == 16


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_a_sentence_means_the_same_beside_a_longer_one(family: str, pooling: str, load: Callable[..., TextEncoder]):
    if (family, pooling) == ("deberta", "pooler"):
        pytest.skip("it has none")
    encoder = load(family, pooling=pooling)
    together = encoder(encoder.tokenize(SENTENCES))[1]
    for sentence, feature in zip(SENTENCES, together, strict=True):
        torch.testing.assert_close(alone(encoder, sentence), feature)
    assert not torch.allclose(together[0], together[2], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_sentences_of_a_multiple_of_tokens_mean_the_same(family: str, load: Callable[..., TextEncoder]):
    encoder = load(family, pooling="mean")
    plain, rounded = encoder.tokenize(SENTENCES), encoder.tokenize(SENTENCES, multiple_of=5)
    assert rounded.ids.shape[1] == (POSITIONS if encoder.reads_padding else 10)
    assert rounded.is_padding[:, plain.ids.shape[1] :].all()
    torch.testing.assert_close(encoder(rounded)[1], encoder(plain)[1])
    assert encoder.tokenize(SENTENCES, multiple_of=1000).ids.shape == plain.ids.shape, "more than the encoder takes"


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_is_over_the_words_and_not_over_padding(family: str, load: Callable[..., TextEncoder]):
    encoder = load(family, pooling="mean")
    tokens = encoder.tokenize(SENTENCES)
    words, sentence = encoder(tokens)
    assert tokens.is_padding.any(dim=1).tolist()[0]
    for row, (is_padding, feature) in enumerate(zip(tokens.is_padding, sentence, strict=True)):
        assert int((~is_padding).sum()) == len(SENTENCES[row].split()) + 2
        torch.testing.assert_close(feature, words[row, ~is_padding].mean(dim=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_mean_every_weight_is_used(family: str, load: Callable[..., TextEncoder]):
    encoder = load(family, pooling="mean")
    words, sentence = encoder(encoder.tokenize(SENTENCES))
    (words.square().sum() + sentence.square().sum()).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("family", POOLED)
def test_only_the_text_tower_is_kept_and_its_weights_have_the_name_of_checkpoints(
    family: str, load: Callable[..., TextEncoder]
):
    names = list(load(family).state_dict())
    assert all(name.startswith("roberta.") for name in names)
    assert not any("vision" in name or "logit" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_long_sentences_are_cut_to_the_positions_of_the_family(family: str, load: Callable[..., TextEncoder], caplog):
    encoder = load(family, pooling="mean")
    longest = POSITIONS - 2 if family == "roberta" else POSITIONS
    with caplog.at_level(logging.WARNING):
        tokens = encoder.tokenize(["dog " * 30, "a dog"])
    assert encoder.max_tokens == tokens.ids.shape[1] == longest
    assert f"is cut to the {longest} that" in caplog.text
    assert encoder(tokens)[1].isfinite().all()


def test_an_encoder_without_a_pooler_asks_for_the_mean(tmp_path: Path):
    write_folder(tmp_path / "deberta", deberta())
    with pytest.raises(ValueError, match=r"deberta: an encoder of type deberta-v2 has no pooler; .*pooling=mean"):
        load_text_encoder(str(tmp_path / "deberta"), frozen=True)
    write_folder(
        tmp_path / "distilbert", DistilBertModel(DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=8))
    )
    with pytest.raises(ValueError, match="distilbert has no pooler"):
        load_text_encoder(str(tmp_path / "distilbert"), frozen=True)


def test_the_setting_reaches_the_encoder(tmp_path: Path):
    write_folder(tmp_path / "deberta", deberta())
    config = ModelConfig.model_validate({"text_encoder": {"path": str(tmp_path / "deberta"), "pooling": "mean"}})
    assert build_text_encoder(config, data_root=None).pooling == "mean"


def test_encoders_with_a_decoder_and_tokenizers_without_padding_are_refused(tmp_path: Path):
    small: dict[str, Any] = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 8,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": VOCABULARY,
    }
    write_folder(tmp_path / "t5", T5Model(T5Config(**small)))
    with pytest.raises(ValueError, match="t5 is a t5, which has a decoder; choose an encoder such as RoBERTa"):
        load_text_encoder(str(tmp_path / "t5"), frozen=True, pooling="mean")
    write_folder(tmp_path / "gpt2", GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=VOCABULARY)))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "gpt2" / name
        if path.is_file():
            path.write_text(path.read_text().replace('"pad_token": "<pad>"', '"mask_token": "<pad>"'))
    with pytest.raises(ValueError, match="its tokenizer has no token for padding"):
        load_text_encoder(str(tmp_path / "gpt2"), frozen=True, pooling="mean")


def test_missing_weights_are_an_error_and_a_missing_pooler_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = bert()
    write_folder(tmp_path / "bert", model)
    state = model.state_dict()
    without_pooler = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    model.save_pretrained(tmp_path / "bert", state_dict=dict(without_pooler))
    with caplog.at_level(logging.WARNING):
        load_text_encoder(str(tmp_path / "bert"), frozen=True, pooling="mean")
        assert "holds no weights" not in caplog.text
        load_text_encoder(str(tmp_path / "bert"), frozen=False)
    assert "holds no weights of the pooler" in caplog.text
    del without_pooler["encoder.layer.1.output.dense.weight"]
    model.save_pretrained(tmp_path / "bert", state_dict=dict(without_pooler))
    with pytest.raises(ValueError, match=r"1 weights are missing, such as encoder\.layer\.1\.output\.dense\.weight"):
        load_text_encoder(str(tmp_path / "bert"), frozen=True, pooling="mean")
