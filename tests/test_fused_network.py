"""Fused convolutions say what the network says, follow its weights, and are used in prediction alone."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import fused_network
from models.fused_network import FusedConvolution, FusedNetwork
from models.resnet import ResNet50
from models.timm_encoder import TimmEncoder
from models.visual_encoder import VisualEncoder

SMALL = "test_efficientnet"
NAMES = ["resnet50", SMALL, "test_resnet", "tf_efficientnet_lite0", "mobilenetv3_small_050", "resnetv2_50"]

pytestmark = pytest.mark.skipif(not fused_network.can_fuse(), reason="this PyTorch lacks the operator")


def randomise(network: nn.Module) -> None:
    """Batch norms of new networks change nothing, so that a fault in folding them would not show."""
    for module in network.modules():
        if getattr(module, "running_mean", None) is not None:
            norm: Any = module
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.3)


def make(name: str) -> VisualEncoder:
    torch.manual_seed(0)
    encoder: VisualEncoder = ResNet50() if name == "resnet50" else TimmEncoder(name)
    randomise(encoder)
    return encoder.eval()


def plain(encoder: VisualEncoder, frames: Tensor) -> list[Tensor]:
    """With gradients nothing is fused."""
    return [level.detach() for level in encoder(frames)]


@torch.inference_mode()
def fused(encoder: VisualEncoder, frames: Tensor) -> list[Tensor]:
    return list(encoder(frames))


def assert_near(maps: list[Tensor], wanted: list[Tensor]) -> None:
    for level, of_plain in zip(maps, wanted, strict=True):
        assert level.shape == of_plain.shape
        assert (level - of_plain).abs().max() <= 1e-5 * of_plain.abs().max()


def assert_far(maps: list[Tensor], others: list[Tensor]) -> None:
    assert (maps[0] - others[0]).abs().max() > 1e-2 * others[0].abs().max()


def num_fused(encoder: VisualEncoder) -> int:
    assert encoder._fused is not None
    assert encoder._fused.graph is not None
    return sum(isinstance(module, FusedConvolution) for module in encoder._fused.graph.modules())


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_plain_network(name: str):
    encoder, frames = make(name), torch.randn(1, 3, 3, 90, 150)
    names, expected = list(encoder.state_dict()), plain(encoder, frames)
    assert_near(fused(encoder, frames), expected)
    norms = sum(fused_network._is_norm(module) for module in encoder.modules())
    behind_convolutions = {"resnetv2_50": 32}.get(name, norms)  # others come first in their blocks
    assert num_fused(encoder) == behind_convolutions > 0
    assert list(encoder.state_dict()) == names


def test_every_frame_is_an_image_of_its_own():
    encoder, frames = make(SMALL), torch.randn(2, 2, 3, 64, 96)
    for level, one in zip(fused(encoder, frames), fused(encoder, frames[1:, :1]), strict=True):
        assert torch.equal(level[1:, :1], one)


def write_in_place(encoder: VisualEncoder) -> None:
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)


def load_others(encoder: VisualEncoder) -> None:
    encoder.load_state_dict({name: 1.5 * tensor for name, tensor in encoder.state_dict().items()})


def assign_others(encoder: VisualEncoder) -> None:
    state = {name: 1.5 * tensor for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(state, assign=True)


def round_them(encoder: VisualEncoder) -> None:
    encoder.to(torch.float8_e4m3fn).float()


def move_norms(encoder: VisualEncoder) -> None:
    encoder.train()
    encoder(torch.randn(1, 2, 3, 64, 96))
    encoder.eval()


def write_to_data(encoder: VisualEncoder) -> None:
    """As averages of weights are often put in place: no version is raised."""
    for parameter in encoder.parameters():
        parameter.data.mul_(1.5)


@pytest.mark.parametrize("change", [write_in_place, load_others, assign_others, round_them, move_norms, write_to_data])
def test_changed_weights_are_noticed(change):
    encoder, frames = make(SMALL), torch.randn(1, 1, 3, 64, 96)
    before = fused(encoder, frames)
    change(encoder)
    after = fused(encoder, frames)
    assert_near(after, plain(encoder, frames))
    assert_far(after, before)


def test_weights_that_stay_are_folded_once():
    encoder, frames = make(SMALL), torch.randn(1, 1, 3, 64, 96)
    fused(encoder, frames)
    first = encoder._fused
    fused(encoder, frames)
    assert encoder._fused is first


def test_training_and_other_precisions_use_the_network_itself():
    encoder, frames = make(SMALL), torch.randn(1, 1, 3, 64, 96)
    plain(encoder, frames)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoder(frames)
    with torch.no_grad():
        encoder.double()(frames.double())
        encoder.float().train()(torch.cat([frames, frames]))
    assert encoder._fused is None


@pytest.mark.parametrize("name", ["resnet50", SMALL])
def test_a_frozen_encoder_is_fused_in_training_too(name: str):
    encoder, frames = make(name), torch.randn(1, 1, 3, 64, 96)
    wanted = plain(encoder, frames)
    encoder.freeze()
    fused(encoder, frames)
    first = encoder._fused
    encoder.train()
    maps = encoder(frames)
    assert num_fused(encoder) > 0
    assert encoder._fused is first
    assert_near(list(maps), wanted)
    assert not any(level.requires_grad for level in maps)
    weight = torch.ones(maps[0].shape[2], requires_grad=True)
    (maps[0].movedim(2, -1) * weight).sum().backward()  # what comes behind is trained
    torch.testing.assert_close(weight.grad, maps[0].sum(dim=(0, 1, 3, 4)))
    (encoder(frames.requires_grad_())[0].sum()).backward()
    assert frames.grad is not None


def test_copies_fold_their_own_weights():
    encoder, frames = make(SMALL), torch.randn(1, 1, 3, 64, 96)
    before = fused(encoder, frames)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other._fused is None
        write_in_place(other)
        assert_near(fused(other, frames), plain(other, frames))
        assert_far(fused(other, frames), before)
    assert_near(fused(encoder, frames), before)


def test_without_the_operator_the_network_itself_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused_network, "can_fuse", lambda: False)
    encoder, frames = make(SMALL), torch.randn(1, 1, 3, 64, 96)
    for level, wanted in zip(fused(encoder, frames), plain(encoder, frames), strict=True):
        assert torch.equal(level, wanted)


class Delicate(nn.Module):
    """Convolutions that must not be fused with the norm behind them, but for the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.used_twice = nn.Conv2d(3, 3, 1)
        self.mirrored = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
        self.apart, self.last = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        once = self.used_twice(x)
        y = self.norms[0](once) + once
        y = self.norms[1](self.mirrored(y))
        y = self.norms[2](self.apart(y) + 1)
        normed = self.norms[3](self.last(y))
        return once, y, normed + self.relu(-normed)


def test_only_a_convolution_that_its_norm_alone_sees_is_fused():
    torch.manual_seed(0)
    network, images = Delicate(), torch.randn(2, 3, 16, 16)
    randomise(network)
    network.eval()
    together = FusedNetwork(network)
    assert together.graph is not None
    assert sum(isinstance(module, FusedConvolution) for module in together.graph.modules()) == 1
    with torch.no_grad():
        assert_near(together(images), list(network(images)))


class Choosy(nn.Module):
    """What it computes depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.norm(self.conv(x)) if x.sum() > 0 else x,)


def test_a_network_that_decides_by_numbers_is_left_alone():
    assert FusedNetwork(Choosy().eval()).graph is None


@pytest.mark.parametrize("size", [(16, 24), (15, 24), (15, 23), (14, 14)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 1)]
)
def test_padding_is_that_of_tensorflow(size: tuple[int, int], kernel: int, stride: int, dilation: int):
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    conv, norm = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation), nn.BatchNorm2d(6)
    randomise(norm)
    norm.eval()
    x = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        both = FusedConvolution(conv, norm, nn.ReLU6())(x)
        assert_near([both], [F.relu6(norm(conv(x)))])


@pytest.mark.parametrize(
    "activation", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.PReLU()]
)
def test_activations_are_those_of_pytorch(activation: nn.Module):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 8, 3, padding=(1, 0), stride=(2, 1), groups=2, bias=False), nn.BatchNorm2d(8)
    randomise(norm)
    norm.eval()
    x = 5 * torch.randn(2, 4, 9, 12).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_near([FusedConvolution(conv, norm, activation)(x)], [activation(norm(conv(x)))])


def test_weights_that_a_fused_optimiser_has_changed_are_folded_anew():
    encoder = make(SMALL)
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(frames)[-1]
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    encoder(frames)[-1].square().sum().backward()
    versions = [parameter._version for parameter in encoder.parameters()]
    optimizer.step()
    assert versions == [parameter._version for parameter in encoder.parameters()], "or the test tests nothing"
    with torch.no_grad():
        after = encoder(frames)[-1]
    expected = encoder(frames)[-1].detach()
    torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(after, before, rtol=1e-2)
