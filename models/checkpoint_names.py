"""Checkpoints with published names: one table from their names to ours, and a strict, explained load."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

NOT_WEIGHTS = re.compile(
    r"(.*\.)?(relative_position_index|position_ids|token_type_ids|num_batches_tracked|total_params|total_ops)"
)
"""Buffers that are computed, counted, or left behind by a profiler; no model needs them from a file."""

# (pattern of the published name, our name), in order; the first match decides. None: our model has no such tensor.
SOC_NAMES: tuple[tuple[str, str | None], ...] = (
    (NOT_WEIGHTS.pattern, None),
    # The decoder holds the box heads a second time.
    (r"transformer\.decoder\.bbox_embed\..*", None),
    (r"backbone\.0\.body\.layers\.(\d+)\.blocks\.(.*)", r"visual_encoder.stages.\1.\2"),
    (r"backbone\.0\.body\.(.*)", r"visual_encoder.\1"),
    (r"text_encoder\.(.*)", r"text_encoder.roberta.\1"),
    (r"txt_proj\.fc\.(.*)", r"text_projection.linear.\1"),
    (r"txt_proj\.layer_norm\.(.*)", r"text_projection.norm.\1"),
    (r"input_proj\.(.*)", r"level_projections.\1"),
    (r"vlf\.multihead_attn\.(.*)", r"fusion.words_into_pixels.attention.\1"),
    (r"lvf\.multihead_attn\.(.*)", r"fusion.pixels_into_words.attention.\1"),
    (r"query_embed\.weight", r"transformer.query_embedding.weight"),
    (r"transformer\.level_embed", r"transformer.level_embedding"),
    (r"transformer\.reference_points\.(.*)", r"transformer.reference_points.\1"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(.*)", r"transformer.encoder_layers.\1.self_attention.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.(.*)", r"transformer.encoder_layers.\1.norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.(.*)", r"transformer.encoder_layers.\1.feed_forward.norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.(linear.*)", r"transformer.encoder_layers.\1.feed_forward.\2"),
    (
        r"transformer\.decoder\.layers\.(\d+)\.self_attn\.(.*)",
        r"transformer.decoder_layers.\1.self_attention.attend.attention.\2",
    ),
    (r"transformer\.decoder\.layers\.(\d+)\.norm2\.(.*)", r"transformer.decoder_layers.\1.self_attention.norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.cross_attn\.(.*)", r"transformer.decoder_layers.\1.cross_attention.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.norm1\.(.*)", r"transformer.decoder_layers.\1.norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.norm3\.(.*)", r"transformer.decoder_layers.\1.feed_forward.norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.(linear.*)", r"transformer.decoder_layers.\1.feed_forward.\2"),
    (r"voc\.enc_self_attn\.(\d+)\.self_attn\.(.*)", r"object_cluster.frame_attention.\1.attend.attention.\2"),
    (r"voc\.enc_self_attn\.(\d+)\.norm\.(.*)", r"object_cluster.frame_attention.\1.norm.\2"),
    (r"voc\.enc_ffn\.(.*)", r"object_cluster.frame_feed_forward.\1"),
    (
        r"voc\.transformer_(cross|self)_attention_layers\.(\d+)\.(?:multihead_attn|self_attn)\.(.*)",
        r"object_cluster.\1_attention.\2.attend.attention.\3",
    ),
    (r"voc\.transformer_(cross|self)_attention_layers\.(\d+)\.norm\.(.*)", r"object_cluster.\1_attention.\2.norm.\3"),
    (r"voc\.transformer_ffn_layers\.(.*)", r"object_cluster.feed_forward.\1"),
    (r"voc\.fq_pos\.(.*)", r"object_cluster.frame_query_position.\1"),
    (r"voc\.query_embed\.(.*)", r"object_cluster.query_embedding.\1"),
    (r"voc\.decoder_norm\.(.*)", r"object_cluster.norm.\1"),
    (r"spatial_decoder\.lay([12])\.(.*)", r"spatial_decoder.entry.\1.conv.\2"),
    (r"spatial_decoder\.gn([12])\.(.*)", r"spatial_decoder.entry.\1.norm.\2"),
    (r"spatial_decoder\.lay([345])\.(.*)", r"spatial_decoder.blocks.\1.conv.\2"),
    (r"spatial_decoder\.gn([345])\.(.*)", r"spatial_decoder.blocks.\1.norm.\2"),
    (r"spatial_decoder\.adapter(\d)\.(.*)", r"spatial_decoder.adapters.\1.\2"),
    (r"spatial_decoder\.out_lay\.(.*)", r"spatial_decoder.exit.\1"),
    (r"controller\.(.*)", r"mask_head.controller.\1"),
    (r"class_embed\.(.*)", r"class_heads.\1"),
    (r"bbox_embed\.(.*)", r"box_heads.\1"),
)

# First index of a published list of modules; ours start from zero.
_FIRST_INDEX = {"spatial_decoder.entry.": 1, "spatial_decoder.blocks.": 3, "spatial_decoder.adapters.": 1}


def soc_name(published: str) -> str | None:
    """Our name of a published parameter; None where our model has no such tensor.

    Raises:
        KeyError: for a name that the published model does not have.
    """
    for pattern, ours in SOC_NAMES:
        match = re.fullmatch(pattern, published)
        if match is None:
            continue
        if ours is None:
            return None
        name = match.expand(ours)
        for prefix, first in _FIRST_INDEX.items():
            if name.startswith(prefix):
                index, rest = name[len(prefix) :].split(".", 1)
                return f"{prefix}{int(index) - first}.{rest}"
        return name
    raise KeyError(published)


def is_published_soc(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of the published SOC."""
    return any(name.startswith(("backbone.0.body.", "vlf.", "voc.")) for name in state)


def soc_from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our names; unknown names are kept as they are, so that a strict load reports them."""
    renamed = {}
    for published, tensor in state.items():
        try:
            name = soc_name(published)
        except KeyError:
            name = published
        if name is not None:
            renamed[name] = tensor
    return renamed


def is_efficientnet_pytorch(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of the package `efficientnet_pytorch` and of what is made after it."""
    return "_conv_stem.weight" in state


def efficientnet_pytorch_to_timm(state: Mapping[str, Tensor], timm_names: Sequence[str]) -> dict[str, Tensor]:
    """An EfficientNet's state dict in the names of timm; unknown names are kept, so that a strict load reports them.

    Args:
        state: with the names of `efficientnet_pytorch`: `_blocks.0._depthwise_conv.weight`.
        timm_names: of the same network in timm, where blocks are counted within stages: `blocks.0.0.conv_dw.weight`.
    """
    found = (re.match(r"blocks\.\d+\.\d+\.", name) for name in timm_names)
    blocks = list(dict.fromkeys(match[0] for match in found if match))
    expands = {block for block in blocks if f"{block}conv_pwl.weight" in timm_names}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    }
    renamed = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", name)
        block, layers = "", outside
        if match is not None and match[1] is not None and int(match[1]) < len(blocks):
            block = blocks[int(match[1])]
            layers = later if block in expands else first
        is_known = match is not None and match[2] in layers and (not match[1] or block)
        renamed[f"{block}{layers[match[2]]}.{match[3]}" if match is not None and is_known else name] = tensor
    return renamed


def kinetics_to_video_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The visual encoder's state dict from a Kinetics Video-Swin file, with `backbone.` before its names or without.

    The final norm and the classifier are left out; unknown names are kept, so that a strict load reports them.
    """
    prefix = "backbone." if any(name.startswith("backbone.") for name in state) else ""
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(prefix) or name.startswith(("head.", "cls_head.")):
            continue
        name = name.removeprefix(prefix)
        if name.startswith("norm.") or name.endswith("relative_position_index"):
            continue
        name = re.sub(r"^layers\.(\d+)\.downsample\.", r"downsamples.\1.", name)
        name = re.sub(r"^layers\.(\d+)\.blocks\.", r"stages.\1.", name)
        is_patch = name == "patch_embed.proj.weight" and tensor.ndim == 5
        renamed[name] = tensor.sum(dim=2, keepdim=True) if is_patch else tensor
    return renamed
