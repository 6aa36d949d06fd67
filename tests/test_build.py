"""Building the model from a configuration, and loading weights into it."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from configs.model_schema import ModelConfig, TextEncoderConfig, VisualEncoderConfig
from configs.schema import LossConfig
from models.build import build_criterion, build_model, build_text_encoder, build_visual_encoder, load_weights
from models.checkpoint_names import is_published_soc, soc_from_published, soc_name
from models.criterion import LossWeights
from models.matcher import Matcher
from models.ops.ms_deform_attn.backends import AUTO, requested, use_backend
from models.text_encoder import load_text_encoder
from tests.tiny_model import tiny_soc, tiny_text_encoder
from tools.shapes.text import write_text_encoder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"model": tiny_soc(seed=1).state_dict()}, path)
    return path


def test_a_checkpoint_brings_back_every_weight(checkpoint: Path):
    model = tiny_soc(seed=2)
    load_weights(model, checkpoint)
    for name, tensor in tiny_soc(seed=1).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_the_class_head_can_be_left_as_it_is(checkpoint: Path):
    model = tiny_soc(seed=2)
    own, loaded = "class_heads.0.weight", "mask_head.controller.layers.0.weight"
    before = model.state_dict()[own].clone()
    load_weights(model, checkpoint, class_head="new")
    torch.testing.assert_close(model.state_dict()[own], before)
    torch.testing.assert_close(model.state_dict()[loaded], tiny_soc(seed=1).state_dict()[loaded])


def test_a_checkpoint_of_another_architecture_changes_nothing_and_names_what_does_not_fit(checkpoint: Path):
    model = tiny_soc(seed=2, num_decoder_layers=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing: transformer\.decoder_layers\.2"):
        load_weights(model, checkpoint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("spec", ["soc_video-swin-t_c1_text12", "soc_resnet50_c1_text2", "soc_video-swin-b_c1_text2"])
def test_every_published_name_has_one_of_ours_and_no_two_share_it(repository: Path, spec: str):
    parameters = json.loads((repository / "tests" / "parity" / "specs" / f"{spec}.json").read_text())["parameters"]
    ours = [soc_name(name) for name in parameters if not name.startswith("transformer.decoder.bbox_embed.")]
    assert None not in ours
    assert len(set(ours)) == len(ours)


def test_a_name_nobody_published_survives_to_be_reported():
    assert "surprise.weight" in soc_from_published({"voc.surprise": torch.ones(1), "surprise.weight": torch.ones(1)})


def test_unknown_sizes_need_the_generic_encoder():
    generic = VisualEncoderConfig(name="video-swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    assert build_visual_encoder(generic).channels == (16, 32, 64, 128)


def test_weights_of_another_visual_encoder_are_an_error_with_the_setting(checkpoint: Path):
    with pytest.raises(ValueError, match=r"model\.pt: the file is a whole model of this project, .*model\.weights"):
        build_visual_encoder(VisualEncoderConfig(name="video-swin-t", weights=checkpoint))


def test_the_published_size_has_the_published_number_of_parameters():
    encoder = build_visual_encoder(VisualEncoderConfig(name="video-swin-t"))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 27_844_326


def test_the_real_tokenizer_gives_the_published_ids(shared_dir: Path):
    folder = shared_dir / "data" / "roberta_tokenizer"
    config = ModelConfig(text_encoder=TextEncoderConfig(path=str(folder), frozen=False))
    with torch.device("meta"):
        encoder = build_text_encoder(config, data_root=None)
    assert encoder.tokenize(["Hello world"]).ids.tolist() == [[0, 31414, 232, 2]]
    assert encoder.roberta.config.vocab_size == 50265


def test_a_sentence_longer_than_the_positions_is_cut_with_one_warning(tmp_path: Path, caplog):
    write_text_encoder(tmp_path / "encoder", ["a square", "Grüße aus 東京"], vocab_size=300)
    encoder = load_text_encoder(str(tmp_path / "encoder"), frozen=False)
    limit = encoder.roberta.config.max_position_embeddings - 2
    with caplog.at_level(logging.WARNING):
        tokens = encoder.tokenize(["a square " * limit, "Grüße aus 東京 😀"])
        assert tokens.ids.shape == (2, limit)
        assert tokens.ids[0, -1] == tokens.ids[1][~tokens.is_padding[1]][-1] == 2, "both end with </s>"
        encoder.tokenize(["a square " * limit])
    assert caplog.text.count("is cut to") == 1
    words, sentence = encoder(tokens)
    assert words.shape[:2] == (2, limit)
    assert sentence.isfinite().all()


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_the_weights_in_the_folder_are_loaded(tmp_path: Path, form: str):
    folder = tmp_path / "encoder"
    write_text_encoder(folder, ["a square"], vocab_size=300)
    saved = load_text_encoder(str(folder), frozen=False).roberta
    if form == "model.safetensors":
        assert isinstance(saved, PreTrainedModel)
        saved.save_pretrained(folder)
    else:
        torch.save(saved.state_dict(), folder / form)
    assert (folder / form).is_file()

    def first_word(**options: Any) -> Tensor:
        encoder = load_text_encoder(str(folder), frozen=True, **options).roberta
        return encoder.get_parameter("embeddings.word_embeddings.weight")[5]

    expected = saved.get_parameter("embeddings.word_embeddings.weight")[5]
    assert torch.equal(first_word(), expected)
    assert not torch.equal(first_word(random_init=True), expected)


def test_a_random_encoder_must_not_be_frozen(shared_dir: Path):
    with pytest.raises(ValueError, match="holds no weights"):
        load_text_encoder(str(shared_dir / "data" / "roberta_tokenizer"), frozen=True)


def test_a_frozen_encoder_may_wait_for_the_weights_of_a_checkpoint(tmp_path: Path):
    write_text_encoder(tmp_path / "encoder", ["a square"], vocab_size=300)
    text = TextEncoderConfig(path=str(tmp_path / "encoder"), frozen=True)
    with pytest.raises(ValueError, match="holds no weights"):
        build_text_encoder(ModelConfig(text_encoder=text), data_root=None)
    waiting = build_text_encoder(ModelConfig(text_encoder=text, weights=Path("checkpoint.pth")), data_root=None)
    assert not any(parameter.requires_grad for parameter in waiting.parameters())


def test_an_encoder_without_a_tokenizer_says_so():
    with pytest.raises(ValueError, match="without a tokenizer; feed Tokens instead"):
        tiny_text_encoder().tokenize(["a square"])


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="no such folder"):
        load_text_encoder(str(tmp_path / "nowhere"), frozen=False)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_text_encoder(tmp_path / "encoder", ["a square"], vocab_size=300)
    text = TextEncoderConfig(path="~/encoder", frozen=False)
    assert build_text_encoder(ModelConfig(text_encoder=text), data_root=None).dim == 64


def test_the_root_of_the_data_is_filled_in_or_asked_for(tmp_path: Path):
    config = ModelConfig(text_encoder=TextEncoderConfig(path="{data.root}/text_encoder"))
    with pytest.raises(ValueError, match=r"give data\.root=FOLDER"):
        build_text_encoder(config, data_root=None)


def test_the_backend_is_the_configured_one():
    encoder = VisualEncoderConfig(
        name="video-swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=(2, 3, 3)
    )
    config = ModelConfig(visual_encoder=encoder, dim=32, num_queries=2, ffn_dim=32, ms_deform_attn="reference")
    with use_backend(AUTO):
        build_model(config, text_encoder=tiny_text_encoder())
        assert requested() == "reference"


def test_costs_and_weights_of_the_losses_are_those_of_their_settings():
    values = {name: float(i) for i, name in enumerate(LossConfig.model_fields, start=1)}
    criterion = build_criterion(LossConfig(**values))
    assert vars_of(criterion.matcher) == {
        f"cost_{name}": values[f"{name}_cost"] for name in ("class", "dice", "box", "giou", "contrastive")
    }
    weights = vars_of(criterion.weights)
    assert weights.pop("classification") == values["class_weight"]
    assert weights == {name: values[f"{name}_weight"] for name in weights}
    assert vars_of(build_criterion(LossConfig()).matcher) == vars_of(Matcher())
    assert vars_of(build_criterion(LossConfig()).weights) == vars_of(LossWeights())


def vars_of(instance):
    return {item.name: getattr(instance, item.name) for item in dataclasses.fields(instance)}


def test_one_published_name_tells_a_published_checkpoint():
    tensor = torch.zeros(1)
    for name in ("backbone.0.body.patch_embed.proj.weight", "vlf.multihead_attn.in_proj_weight", "voc.fq_pos.weight"):
        assert is_published_soc({"text_encoder.x": tensor, name: tensor})
    assert not is_published_soc({"visual_encoder.x": tensor, "text_encoder.x": tensor})
