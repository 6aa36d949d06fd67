"""What a file of weights is, told by its names, and the setting that takes it, in one line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from configs.model_schema import VisualEncoderConfig
from models.build import build_visual_encoder, load_weights
from models.video_swin import VideoSwin, VideoSwinSize
from models.weight_kinds import VISUAL, weight_kind
from tests.tiny_model import tiny_soc, tiny_text_encoder

SIZE = VideoSwinSize(8, (1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2))
CUSTOM = VisualEncoderConfig(
    name="video-swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 2, 2)
)


def kinetics(size: VideoSwinSize = SIZE, prefix: str = "backbone.") -> dict[str, Tensor]:
    """A file of Kinetics for a size, from the names of our own encoder."""
    state = {}
    for name, tensor in VideoSwin(size).state_dict().items():
        name = re.sub(r"^downsamples\.(\d+)\.", r"layers.\1.downsample.", name)
        name = re.sub(r"^stages\.(\d+)\.", r"layers.\1.blocks.", name)
        shape = (*tensor.shape[:2], 2, 4, 4) if name == "patch_embed.proj.weight" else tensor.shape
        state[prefix + name] = torch.zeros(shape)
    return {**state, prefix + "norm.weight": torch.ones(1)}


def swin_2d() -> dict[str, Tensor]:
    state = kinetics(prefix="")
    return {**state, "patch_embed.proj.weight": torch.zeros(8, 3, 4, 4), "head.weight": torch.zeros(10, 64)}


def of_timm(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return timm.create_model(name).state_dict()


def of_torchvision(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None).state_dict()


def published(prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: torch.ones(1) for name in ("backbone.0.body.conv1.weight", "vlf.a", "class_embed.0.bias")}


def detr() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published().items() if name != "vlf.a"}


def text() -> dict[str, Tensor]:
    return {f"roberta.{name}": t for name, t in tiny_text_encoder().roberta.state_dict().items()}


KINDS: dict[str, tuple[Callable[[], dict[str, Tensor]], str, str | None]] = {
    "ours": (lambda: tiny_soc().state_dict(), "a whole model of this project", "model.weights"),
    "published": (published, "a published SOC", "model.weights"),
    "Kinetics": (kinetics, "a Video-Swin of Kinetics (8 channels, 1-1-1-1 blocks)", VISUAL),
    "Kinetics without prefix": (
        lambda: kinetics(prefix=""),
        "a Video-Swin of Kinetics",
        VISUAL,
    ),
    "Swin": (swin_2d, "a Swin of images, not of video", VISUAL),
    "Swin of timm": (
        lambda: of_timm("swin_tiny_patch4_window7_224"),
        "a Swin of images",
        VISUAL,
    ),
    "Swin of torchvision": (lambda: of_torchvision("swin_t"), "a Swin of torchvision", None),
    "ResNet-18": (lambda: of_torchvision("resnet18"), "a ResNet-18", VISUAL),
    "ResNet-50": (lambda: of_torchvision("resnet50"), "a ResNet-50", VISUAL),
    "ResNet-101": (lambda: of_timm("resnet101"), "a ResNet-101", VISUAL),
    "ViT": (lambda: of_timm("vit_tiny_patch16_224"), "a vision transformer", VISUAL),
    "ConvNeXt": (lambda: of_timm("convnext_atto"), "a ConvNeXt", VISUAL),
    "EfficientNet": (lambda: of_timm("tf_efficientnet_lite0"), "an EfficientNet", VISUAL),
    "RoBERTa": (text, "an encoder of sentences (RoBERTa)", "model.text_encoder.path"),
    "DETR": (
        lambda: {k: v for k, v in published().items() if k != "vlf.a"},
        "a model after DETR that is not SOC",
        None,
    ),
    "adapter": (lambda: {"a.lora_A.weight": torch.ones(1)}, "an adapter (LoRA)", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_told_by_its_names(kind: str):
    make, name, setting = KINDS[kind]
    found = weight_kind(make())
    assert found is not None
    assert found.name.startswith(name)
    assert found.setting == setting


def test_what_is_unknown_is_not_guessed():
    assert weight_kind({"a.weight": torch.ones(1), "b.0.bias": torch.ones(1)}) is None


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((96, (2, 2, 6, 2)), "video-swin-t"),
        ((96, (2, 2, 18, 2)), "video-swin-s"),
        ((128, (2, 2, 18, 2)), "video-swin-b"),
        ((8, (1, 2, 1, 1)), r"video-swin (embed_dim=8, depths=[1, 2, 1, 1])"),
    ],
)
def test_the_size_of_a_video_swin_names_the_encoder(size: tuple[int, tuple[int, int, int, int]], name: str):
    channels, depths = size
    blocks = [f"layers.{stage}.blocks.{block}.attn.x" for stage in range(4) for block in range(depths[stage])]
    patches = {"patch_embed.proj.weight": torch.zeros(channels, 3, 2, 4, 4)}
    found = weight_kind(patches | dict.fromkeys(blocks, torch.zeros(1)))
    assert found is not None
    assert found.encoder == name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "Kinetics",
            r"is a Video-Swin of Kinetics \(8 channels, 1-1-1-1 blocks\); name it as model\.visual_encoder\.weig",
        ),
        ("Swin", r"is a Swin of images, not of video .*name it as model\.visual_encoder\.weights, with .*=timm/NAME"),
        ("ResNet-50", r"is a ResNet-50; name it as model\.visual_encoder\.weights, with .*\.name=resnet50"),
        (
            "RoBERTa",
            r"is an encoder of sentences \(RoBERTa\); name the folder that it lies in as model\.text_encoder\.path",
        ),
        ("DETR", r"is a model after DETR that is not SOC; no setting takes it"),
    ],
)
def test_another_network_as_the_model_is_an_error_of_one_line_with_its_setting(tmp_path: Path, kind: str, message: str):
    state = {name: torch.zeros(tensor.shape) for name, tensor in KINDS[kind][0]().items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=rf"file\.pth {message}") as error:
        load_weights(tiny_soc(), tmp_path / "file.pth")
    assert "\n" not in str(error.value)


def test_an_unknown_network_as_the_model_is_described(tmp_path: Path):
    torch.save({f"part.{i}.weight": torch.ones(1) for i in range(9)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"nothing of this model, but 9 tensors of an unknown network \(part\.0"):
        load_weights(tiny_soc(), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("ours", CUSTOM, r"is a whole model of this project, which does not fit video-swin; name it as model\.weights"),
        ("published", CUSTOM, "is a published SOC, which does not fit video-swin; name it as model.weights"),
        ("ResNet-50", CUSTOM, r"is a ResNet-50, which .*; model\.visual_encoder\.name=resnet50 takes it"),
        ("ResNet-18", CUSTOM, r"is a ResNet-18, which .*; model\.visual_encoder\.name=timm/resnet18 takes it"),
        ("Swin", CUSTOM, r"is a Swin of images, not of video .*; model\.visual_encoder\.name=timm/NAME takes it"),
        ("RoBERTa", CUSTOM, r"is .*; name the folder that it lies in as model\.text_encoder\.path"),
        (
            "Kinetics",
            VisualEncoderConfig(name="resnet50"),
            r".*=video-swin \(embed_dim=8, depths=\[1, 1, 1, 1\]\) takes",
        ),
        (
            "Kinetics",
            CUSTOM.model_copy(update={"depths": (1, 2, 1, 1)}),
            r".*\(8 channels, 1-1-1-1 blocks\), which does not fit video-swin; .*depths=\[1, 1, 1, 1\]\) takes",
        ),
    ],
)
def test_another_network_as_visual_encoder_is_an_error_of_one_line_with_its_setting(
    tmp_path: Path, kind: str, config: VisualEncoderConfig, message: str
):
    state = {name: torch.zeros(tensor.shape) for name, tensor in KINDS[kind][0]().items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=rf"weights=.*file\.pth: the file {message}") as error:
        build_visual_encoder(config.model_copy(update={"weights": tmp_path / "file.pth"}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["backbone.", "", "module.backbone."])
def test_a_file_of_kinetics_is_taken_with_its_prefix_and_without(tmp_path: Path, prefix: str):
    state = {name: torch.rand(tensor.shape) for name, tensor in kinetics(prefix=prefix).items()}
    torch.save({"state_dict": {**state, "cls_head.fc_cls.bias": torch.ones(400)}}, tmp_path / "file.pth")
    encoder = build_visual_encoder(CUSTOM.model_copy(update={"weights": tmp_path / "file.pth"}))
    own = encoder.state_dict()
    assert torch.equal(own["stages.2.0.norm1.bias"], state[f"{prefix}layers.2.blocks.0.norm1.bias"])
    patches = state[f"{prefix}patch_embed.proj.weight"].sum(2, keepdim=True)
    torch.testing.assert_close(own["patch_embed.proj.weight"], patches)


def test_the_right_network_with_a_missing_weight_is_told_by_that_weight(tmp_path: Path):
    state = {name: torch.rand(tensor.shape) for name, tensor in kinetics().items()}
    del state["backbone.layers.1.blocks.0.mlp.fc1.bias"]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth: .*\(1 problem\): missing: stages\.1\.0\.mlp\.fc1\.bias \(64,\)"):
        build_visual_encoder(CUSTOM.model_copy(update={"weights": tmp_path / "file.pth"}))
