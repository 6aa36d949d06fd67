"""The encoder of sentences of prediction is that of transformers, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, DebertaV2Config, PreTrainedConfig, RobertaConfig

from models.bert import Bert, is_covered
from models.text_encoder import load_text_encoder
from tools.shapes.text import write_text_encoder

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
}


def make_pair(config: PreTrainedConfig):
    torch.manual_seed(0)
    theirs = AutoModel.from_config(config)
    for parameter in theirs.parameters():  # biases and norms, too, are not what they start with
        torch.nn.init.normal_(parameter, std=0.2)
    ours = Bert(config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", [RobertaConfig, BertConfig])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_features_of_words_and_sentences_are_those_of_transformers(
    kind: type[PreTrainedConfig], is_padded: bool, is_training: bool
):
    config = kind(**SIZES)
    ours, theirs = (model.train(is_training) for model in make_pair(config))
    ids = torch.randint(5, 300, (3, 9))
    mask = torch.ones_like(ids)
    if is_padded:
        ids[0, 4:], mask[0, 4:] = config.pad_token_id, 0
    results = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # of dropout
        results.append(model(input_ids=ids, attention_mask=mask))
    assert torch.equal(results[0].last_hidden_state, results[1].last_hidden_state)
    assert torch.equal(results[0].pooler_output, results[1].pooler_output)
    assert results[0].last_hidden_state.std() > 0.1


def test_gradients_are_those_of_transformers():
    ours, theirs = make_pair(RobertaConfig(**SIZES))
    ids = torch.randint(5, 300, (2, 7))
    for model in (ours.eval(), theirs.eval()):
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        (result.last_hidden_state.sum() + result.pooler_output.square().sum()).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)


def test_other_encoders_and_other_kinds_of_bert_are_left_to_transformers():
    assert is_covered(RobertaConfig(**SIZES))
    assert is_covered(BertConfig(**SIZES))
    assert not is_covered(DebertaV2Config(**SIZES))
    assert not is_covered(BertConfig(**SIZES, hidden_act="relu"))
    assert not is_covered(BertConfig(**SIZES, is_decoder=True))


def test_it_is_taken_where_a_checkpoint_brings_the_weights_and_nowhere_else(tmp_path: Path):
    folder = tmp_path / "encoder"
    write_text_encoder(folder, ["the red circle"])

    def kind(**settings: Any) -> type:
        return type(load_text_encoder(str(folder), frozen=False, **settings).roberta)

    assert kind(weights_follow=True, for_inference=True) is Bert
    for settings in ({}, {"weights_follow": True}, {"for_inference": True}):
        assert kind(**settings).__name__ == "RobertaModel"


def test_without_a_pooler_there_is_the_mean(tmp_path: Path):
    folder = tmp_path / "encoder"
    write_text_encoder(folder, ["the red circle"])
    flags: dict[str, Any] = {"frozen": False, "weights_follow": True, "pooling": "mean"}
    ours, theirs = (load_text_encoder(str(folder), **flags, for_inference=is_ours) for is_ours in (True, False))
    ours.load_state_dict(theirs.state_dict())
    tokens = ours.tokenize(["the red circle", "red"])
    with torch.no_grad():
        for own, other in zip(ours.eval()(tokens), theirs.eval()(tokens), strict=True):
            assert torch.equal(own, other)
