"""Visual encoders of timm: their maps, what is refused, weights of files, and what stays as it is when frozen."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from configs.model_schema import VisualEncoderConfig
from models.build import build_visual_encoder, load_weights
from models.checkpoint_names import efficientnet_pytorch_to_timm
from models.soc import SOC
from models.timm_encoder import TimmEncoder
from structures.clips import IMAGENET, Normalisation, one_clip
from tests.tiny_model import tiny_clips, tiny_text_encoder, tiny_tokens

CONVOLUTIONAL, VIT = "test_convnext", "test_vit"
WITH_BATCH_NORMS = "test_efficientnet"
SWIN, HIERA, DINO_OF_14_PIXELS = "swin_tiny_patch4_window7_224", "sam2_hiera_tiny", "vit_small_patch14_dinov2"
RATES = {"lr": 1.0, "lr_visual_encoder": 0.1, "lr_text_encoder": 0.01}
HALF = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def small_soc(encoder: TimmEncoder) -> SOC:
    model = SOC(
        encoder,
        tiny_text_encoder(),
        dim=32,
        num_heads=4,
        num_queries=3,
        ffn_dim=32,
        dropout=0.0,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_cluster_layers=1,
        num_points=2,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return model


def backward(model: SOC) -> None:
    output = model(tiny_clips(1, height=64, width=64), tiny_tokens(4))
    layer = output.final
    total = layer.mask_logits.square().mean() + layer.class_logits.sum() + layer.boxes_cxcywh_norm.sum()
    (total + output.sentence.square().sum()).backward()


def with_noise(encoder: TimmEncoder) -> TimmEncoder:
    """Layers that start at zero, such as the last norms of residual branches, would hide what comes before them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return encoder


# ---- maps ----


@torch.no_grad()
@pytest.mark.parametrize("name", [CONVOLUTIONAL, WITH_BATCH_NORMS, SWIN, HIERA, VIT, DINO_OF_14_PIXELS])
def test_maps_have_strides_4_to_32_rounded_up_and_the_channels_that_are_announced(name: str):
    encoder = TimmEncoder(name).eval()
    maps = encoder(torch.randn(1, 2, 3, 70, 100))
    sizes = [(18, 25), (9, 13), (5, 7), (3, 4)]
    assert [tuple(level.shape) for level in maps] == [
        (1, 2, channels, *size) for channels, size in zip(encoder.channels, sizes, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("name", [CONVOLUTIONAL, SWIN, HIERA, VIT])
def test_every_frame_is_an_image_of_its_own(name: str):
    encoder = with_noise(TimmEncoder(name)).eval()
    frames = torch.randn(2, 2, 3, 64, 64)
    for together, alone in zip(encoder(frames), encoder(frames[1:, :1]), strict=True):
        torch.testing.assert_close(together[1, 0], alone[0, 0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[0, 0], together[1, 0], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("name", [CONVOLUTIONAL, SWIN, HIERA, VIT, DINO_OF_14_PIXELS])
@pytest.mark.parametrize(("level", "stride"), [(0, 4), (1, 8), (2, 16)])
def test_a_change_of_some_pixels_shows_where_the_stride_says(name: str, level: int, stride: int):
    """Rows and columns in their places, also where channels come last: the largest change is at those pixels."""
    encoder = with_noise(TimmEncoder(name)).eval()
    frames = torch.zeros(1, 1, 3, 96, 160)
    changed = frames.clone()
    changed[..., 32:48, 112:128] = 3.0
    difference = (encoder(changed)[level] - encoder(frames)[level]).square().sum(dim=2)[0, 0]
    row, column = divmod(int(difference.argmax()), difference.shape[1])
    assert 32 // stride - 1 <= row <= 48 // stride
    assert 112 // stride - 1 <= column <= 128 // stride


@torch.no_grad()
def test_the_maps_of_a_pyramid_are_those_of_timm():
    encoder = TimmEncoder(CONVOLUTIONAL).eval()
    whole = timm.create_model(CONVOLUTIONAL).eval()
    encoder.load_pretrained(whole.state_dict())
    images = torch.randn(1, 3, 64, 96)
    expected = whole.forward_intermediates(images, indices=[0, 1, 2, 3], norm=False, intermediates_only=True)
    for level, map_ in zip(encoder(images[None]), expected, strict=True):
        torch.testing.assert_close(level[0], map_, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_map_of_a_vit_is_that_of_its_last_block_behind_the_norm():
    encoder = TimmEncoder(VIT).eval()
    whole = timm.create_model(VIT, dynamic_img_size=True).eval()
    encoder.load_pretrained(whole.state_dict())
    images = torch.randn(1, 3, 64, 96)
    tokens = whole.forward_features(images)[:, whole.num_prefix_tokens :]
    torch.testing.assert_close(encoder(images[None])[2][0].flatten(2).mT, tokens, rtol=1e-5, atol=1e-5)


def test_pixels_are_normalised_as_the_encoder_was_trained():
    assert TimmEncoder("tf_efficientnet_lite0").normalisation == HALF
    assert TimmEncoder("convnext_atto").normalisation == IMAGENET
    assert small_soc(TimmEncoder(CONVOLUTIONAL)).normalisation == HALF
    white = one_clip(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert (white.normalised(HALF).frames == 1).all()


# ---- names ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_efficientnet_lite99", r"timm/tf_efficientnet_lite99: timm .* has no such model; did you mean tf_eff"),
        ("convnext_tiny.no_such_tag", r"timm/convnext_tiny\.no_such_tag: Invalid pretrained tag"),
        ("hiera_tiny_224", r"timm/hiera_tiny_224 takes images of 224 x 224 pixels only; name one .* sam2_hiera_tiny"),
        ("maxvit_tiny_tf_224", r"takes images of 224 x 224 pixels only"),
        ("shvit_s1", r"has maps of strides 16, 32, 64, but those of strides 4, 8, 16 and 32 are needed"),
        ("convmixer_768_32", r"but those of strides 4, 8, 16 and 32 are needed"),
    ],
)
def test_what_cannot_be_used_is_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        TimmEncoder(name)


@pytest.mark.parametrize("name", ["video-swin-x", "timm/", "timm/a b", "timm/../x", "convnext_tiny"])
def test_names_are_checked_before_timm_is_asked(name: str):
    with pytest.raises(ValueError, match=r"no visual encoder .*; there are video-swin-t, .*, and timm/NAME"):
        VisualEncoderConfig(name=name)


def test_the_probability_of_skipping_blocks_reaches_the_model():
    rates = [
        max(getattr(module, "drop_prob", 0.0) or 0.0 for module in TimmEncoder(HIERA, drop_path_rate=rate).modules())
        for rate in (0.0, 0.3)
    ]
    assert rates == [0.0, pytest.approx(0.3)]
    TimmEncoder("efficientvit_b0", drop_path_rate=0.3)  # has no such setting


@torch.no_grad()
def test_a_model_that_cuts_borders_off_is_refused():
    with pytest.raises(ValueError, match=r"timm/inception_v3 makes maps of .* are not 4, 8, 16 and 32 throughout"):
        TimmEncoder("inception_v3").eval()(torch.zeros(1, 1, 3, 96, 96))


# ---- weights ----


def save(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", [CONVOLUTIONAL, WITH_BATCH_NORMS, HIERA, VIT])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_timm_fills_every_weight_and_its_classifier_is_left_out(tmp_path: Path, name: str, suffix: str):
    torch.manual_seed(1)
    whole = timm.create_model(name)
    path = save(tmp_path / f"model{suffix}", whole.state_dict())
    encoder = build_visual_encoder(VisualEncoderConfig(name=f"timm/{name}", weights=path))
    own = {
        key.removeprefix("model.").replace(".", "_"): value for key, value in encoder.pretrained.state_dict().items()
    }
    assert own
    theirs = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    for key, value in own.items():
        assert torch.equal(value, theirs[key]), key


def test_a_file_in_another_order_and_of_other_classes_fits():
    whole = timm.create_model(WITH_BATCH_NORMS, num_classes=7).state_dict()
    backwards = {name: whole[name] for name in reversed(whole) if not name.endswith("num_batches_tracked")}
    encoder = TimmEncoder(WITH_BATCH_NORMS)
    encoder.load_pretrained(backwards)
    torch.testing.assert_close(encoder.network.conv_stem.weight, whole["conv_stem.weight"])


def test_a_file_that_does_not_fit_changes_nothing_and_names_what_is_wrong():
    encoder = TimmEncoder(WITH_BATCH_NORMS)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    whole = timm.create_model(WITH_BATCH_NORMS).state_dict()
    del whole["blocks.1.0.conv_pwl.weight"]
    whole["surprise.weight"] = torch.ones(2)
    whole["conv_stem.weight"] = torch.ones(7)
    with pytest.raises(ValueError, match=rf"timm/{WITH_BATCH_NORMS} does not fit the model \(3 problems\)") as error:
        encoder.load_pretrained(whole)
    for problem in (
        "missing: blocks.1.0.conv_pwl.weight (",
        "unknown: surprise.weight (2,)",
        "unfit: conv_stem.weight is (7,)",
    ):
        assert problem in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_file_of_another_model_is_refused():
    with pytest.raises(ValueError, match=rf"file of timm/{CONVOLUTIONAL}"):
        TimmEncoder(CONVOLUTIONAL).load_pretrained(timm.create_model("test_resnet").state_dict())


def in_names_of_efficientnet_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Position by position, with names like those of the package: blocks are counted through."""
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inside |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    of_first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    counted: dict[tuple[str, ...], int] = {}
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            renamed[".".join([outside[parts[0]], *parts[1:]])] = tensor
            continue
        block = counted.setdefault(tuple(parts[1:3]), len(counted))
        layer = (of_first if block == 0 else inside)[parts[3]]
        renamed[f"_blocks.{block}.{layer}.{parts[4]}"] = tensor
    return renamed


def test_names_of_efficientnet_pytorch_become_those_of_timm():
    whole = timm.create_model("tf_efficientnet_lite0").state_dict()
    theirs = in_names_of_efficientnet_pytorch(whole)
    assert list(theirs)[6] == "_blocks.0._depthwise_conv.weight"
    renamed = efficientnet_pytorch_to_timm(dict(reversed(theirs.items())), list(whole))
    assert renamed.keys() == whole.keys()
    assert all(renamed[name] is tensor for name, tensor in whole.items())
    encoder = TimmEncoder("tf_efficientnet_lite0")
    encoder.load_pretrained(theirs)
    last = "blocks.6.0.conv_pwl.weight"
    torch.testing.assert_close(encoder.network.state_dict()[last], whole[last])


@pytest.mark.parametrize(
    "change", ["_blocks.16.extra.weight", "_blocks.3._surprise.weight", "_blocks.3._bn0.more.weight"]
)
def test_an_unknown_name_of_efficientnet_pytorch_is_reported(change: str):
    theirs = in_names_of_efficientnet_pytorch(timm.create_model("tf_efficientnet_lite0").state_dict())
    theirs[change] = torch.ones(1)
    with pytest.raises(ValueError, match=rf"\(1 problem\): unknown: {change}"):
        TimmEncoder("tf_efficientnet_lite0").load_pretrained(theirs)


def test_a_folder_must_hold_one_file_of_weights(tmp_path: Path):
    config = VisualEncoderConfig(name=f"timm/{CONVOLUTIONAL}", weights=tmp_path)
    with pytest.raises(ValueError, match=r"expected one file of weights .* in this folder, found none; name the file"):
        build_visual_encoder(config)
    (tmp_path / "README.md").touch()
    state = timm.create_model(CONVOLUTIONAL).state_dict()
    save(tmp_path / "a.pth", state)
    build_visual_encoder(config)
    save(tmp_path / "b.safetensors", state)
    with pytest.raises(ValueError, match=r"found a\.pth, b\.safetensors"):
        build_visual_encoder(config)


def test_the_folder_of_encoders_is_filled_in_or_named_with_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOC_ENCODERS", str(tmp_path))
    config = VisualEncoderConfig(name=f"timm/{CONVOLUTIONAL}", weights=Path("{encoders}/small"))
    with pytest.raises(ValueError, match=r"weights=\{encoders\}/small: there is no .*/small; python -m tools\.get_enc"):
        build_visual_encoder(config)
    (tmp_path / "small").mkdir()
    state = timm.create_model(CONVOLUTIONAL).state_dict()
    save(tmp_path / "small" / "model.safetensors", state)
    stem = build_visual_encoder(config).state_dict()["network.stem_0.weight"]
    torch.testing.assert_close(stem, state["stem.0.weight"])


# ---- frozen and trained ----


@pytest.mark.parametrize("name", [CONVOLUTIONAL, WITH_BATCH_NORMS, HIERA, VIT])
def test_every_weight_of_a_trained_encoder_gets_a_gradient(name: str):
    model = small_soc(with_noise(TimmEncoder(name))).train()
    backward(model)
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert not without


@pytest.mark.parametrize("name", [WITH_BATCH_NORMS, VIT])
def test_a_frozen_encoder_gets_none_and_stays_in_evaluation_mode(name: str):
    encoder = TimmEncoder(name, drop_path_rate=0.5)
    encoder.freeze()
    model = small_soc(encoder).train()
    before = {key: tensor.clone() for key, tensor in encoder.pretrained.state_dict().items()}
    backward(model)
    assert not any(module.training for module in encoder.pretrained.modules())
    assert all(parameter.grad is None for parameter in encoder.pretrained.parameters())
    for key, tensor in encoder.pretrained.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert model.transformer.training
    model.train_only(())
    assert not any(parameter.requires_grad for parameter in encoder.pretrained.parameters())


def test_batch_norms_of_a_trained_encoder_move():
    model = small_soc(TimmEncoder(WITH_BATCH_NORMS)).train()
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    backward(model)
    assert not torch.equal(norm.running_mean, before)


def test_a_pyramid_behind_a_frozen_vit_is_trained_at_the_rate_of_new_layers():
    encoder = TimmEncoder(VIT)
    encoder.freeze()
    model = small_soc(encoder).train()
    backward(model)
    assert all(parameter.grad is not None for parameter in encoder.pyramid.parameters())
    groups = {group.name: group for group in model.parameter_groups(**RATES)}
    assert "visual_encoder" not in groups
    assert set(encoder.pyramid.parameters()) <= set(groups["rest"].parameters)


def test_a_trained_encoder_has_a_rate_of_its_own():
    model = small_soc(TimmEncoder(WITH_BATCH_NORMS))
    groups = {group.name: group for group in model.parameter_groups(**RATES)}
    assert set(groups["visual_encoder"].parameters) == set(model.visual_encoder.parameters())
    assert groups["visual_encoder"].lr == 0.1


@pytest.mark.parametrize("name", ["video-swin-t", "resnet50", f"timm/{WITH_BATCH_NORMS}"])
def test_every_visual_encoder_can_be_frozen(name: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        encoder = build_visual_encoder(VisualEncoderConfig(name=name, frozen=True)).train()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.pretrained.modules())
    assert "frozen=true without weights" in caplog.text


def test_checkpoints_of_models_with_batch_norms_come_back(tmp_path: Path):
    saved, model = small_soc(TimmEncoder(WITH_BATCH_NORMS)), small_soc(TimmEncoder(WITH_BATCH_NORMS))
    for module in saved.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
    torch.save({"model": saved.state_dict()}, tmp_path / "model.pt")
    load_weights(model, tmp_path / "model.pt")
    for name, tensor in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
