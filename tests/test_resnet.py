"""ResNet-50: shapes of its maps, what is frozen, and files of weights that fit or do not."""

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50

from models.resnet import ResNet50


@pytest.fixture
def published() -> dict[str, Tensor]:
    """A state dict of torchvision, with classifier and counters of batches."""
    torch.manual_seed(1)
    return resnet50(weights=None).state_dict()


def test_a_torchvision_file_fills_every_weight(published: dict[str, Tensor]):
    encoder = ResNet50()
    encoder.load_pretrained(published)
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, published[name], rtol=0, atol=0)


def test_a_file_that_does_not_fit_changes_nothing_and_names_what_is_wrong(published: dict[str, Tensor]):
    encoder = ResNet50()
    before = encoder.conv1.weight.clone()
    del published["layer3.2.conv1.weight"]
    published["layer9.weight"] = torch.ones(2)
    published["layer4.0.bn1.weight"] = torch.ones(7)
    with pytest.raises(ValueError, match=r"torchvision ResNet-50 file does not fit the model \(3 problems\)") as error:
        encoder.load_pretrained(published)
    assert str(error.value).endswith(
        "missing: layer3.2.conv1.weight (256, 1024, 1, 1); unknown: layer9.weight (2,); "
        "unfit: layer4.0.bn1.weight is (7,), expected (512,)"
    )
    assert torch.equal(encoder.conv1.weight, before)


def test_stem_and_first_stage_are_frozen_and_later_stages_are_not():
    trained = {name.split(".")[0] for name, parameter in ResNet50().named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_maps_have_strides_4_to_32_for_every_frame():
    with torch.no_grad():
        maps = ResNet50()(torch.randn(1, 2, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [
        (1, 2, 256, 16, 24),
        (1, 2, 512, 8, 12),
        (1, 2, 1024, 4, 6),
        (1, 2, 2048, 2, 3),
    ]
