"""What training starts from: the distributions of new weights, and the sizes of modules that nobody chose otherwise."""

import inspect
import math

import pytest
import torch
from torch import nn

from configs.model_schema import MaskHeadConfig, ModelConfig
from models.deformable_transformer import DeformableTransformer
from models.dynamic_mask_head import DynamicMaskHead
from models.object_cluster import ObjectCluster
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.soc import SOC
from models.spatial_decoder import SpatialDecoder
from models.video_swin import VideoSwin, VideoSwinSize
from tests.tiny_model import tiny_text_encoder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    encoder = VideoSwin(VideoSwinSize(16, (1, 1, 1, 1), (2, 2, 4, 4), (8, 7, 7)), drop_path_rate=0.0)
    return SOC(encoder, tiny_text_encoder(), dim=64, num_heads=4, num_queries=5, ffn_dim=96)


def assert_uniform(weight, bound):
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def fans(weight):
    """Inputs and outputs that a weight connects."""
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def test_heads_and_projections_start_xavier_uniform(model):
    matrices = [layer.weight for layer in model.mask_head.controller.layers]
    matrices += [projection[0].weight for projection in model.level_projections]
    for layers in (model.object_cluster, model.transformer.encoder_layers, model.transformer.decoder_layers):
        for name, parameter in layers.named_parameters():
            if parameter.dim() > 1 and parameter.numel() > 1000 and not name.endswith("position.weight"):
                is_special = any(part in name for part in ("sampling_offsets", "attention_weights", "embedding"))
                matrices += [] if is_special else [parameter]
    assert len(matrices) > 30
    for weight in matrices:
        assert_uniform(weight, math.sqrt(6 / sum(fans(weight))))


def test_convolutions_of_the_spatial_decoder_start_kaiming_uniform(model):
    convolutions = [module for module in model.spatial_decoder.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        assert_uniform(convolution.weight, math.sqrt(3 / fans(convolution.weight)[0]))
        assert not convolution.bias.any()


def test_the_class_head_starts_at_the_prior_and_the_box_head_at_small_boxes(model):
    for head in model.class_heads:
        assert head.bias.sigmoid().tolist() == pytest.approx([0.01])
        assert torch.equal(head.weight, model.class_heads[0].weight)
    for number, head in enumerate(model.box_heads):
        assert not head.layers[-1].weight.any()
        assert head.layers[-1].bias.tolist() == ([0, 0, -2, -2] if number == 0 else [0, 0, 0, 0])
        assert torch.equal(head.layers[0].weight, model.box_heads[0].layers[0].weight)


def test_what_has_no_matrix_starts_as_in_the_published_model(model):
    table = model.visual_encoder.stages[0][0].attn.relative_position_bias_table
    assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.transformer.level_embedding.std().item() == pytest.approx(1, rel=0.2)
    zero = [model.transformer.reference_points.bias]
    zero += [layer.bias for layer in model.mask_head.controller.layers]
    zero += [projection[0].bias for projection in model.level_projections]
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            zero += [module.sampling_offsets.weight, module.attention_weights.weight, module.attention_weights.bias]
            zero += [module.value_proj.bias, module.output_proj.bias]
    assert not any(parameter.any() for parameter in zero)


@pytest.mark.parametrize(
    ("module", "config", "other_names"),
    [
        (SOC, ModelConfig(), {"mask_dim": None, "mask_offset_scale": None, "with_trajectory": "trajectory"}),
        (DeformableTransformer, ModelConfig(), {"num_levels": None}),
        (ObjectCluster, ModelConfig(), {"num_layers": "num_cluster_layers", "with_trajectory": "trajectory"}),
        (MSDeformAttn, ModelConfig(), {"num_levels": None}),
        (DynamicMaskHead, MaskHeadConfig(), {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_modules_and_configuration_have_the_same_defaults(module, config, other_names):
    compared = 0
    for name, parameter in inspect.signature(module).parameters.items():
        field = other_names.get(name, name)
        if parameter.default is not inspect.Parameter.empty and field is not None:
            assert parameter.default == getattr(config, field), name
            compared += 1
    assert compared


def test_defaults_of_modules_that_no_setting_names():
    mask_head = MaskHeadConfig()
    soc = inspect.signature(SOC).parameters
    assert (soc["mask_dim"].default, soc["mask_offset_scale"].default) == (mask_head.dim, mask_head.offset_scale)
    for module in (DeformableTransformer, MSDeformAttn):
        assert inspect.signature(module).parameters["num_levels"].default == 4  # strides 8, 16, 32 and 64
    assert SpatialDecoder(256, stride4_channels=96, mask_dim=8).blocks[-1].conv.out_channels == 16
