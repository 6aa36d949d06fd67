"""Which network the weights of a file belong to, by the names in it, and which setting takes such a file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.checkpoint_names import is_efficientnet_pytorch

MODEL, VISUAL, TEXT = "model.weights", "model.visual_encoder.weights", "model.text_encoder.path"
"""The settings that take weights."""

ANY_OF_TIMM = "timm/NAME"
"""Stands for the name of a network of timm, which the weights alone do not tell."""

_SWIN_SIZES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "t": (96, (2, 2, 6, 2)),
    "s": (96, (2, 2, 18, 2)),
    "b": (128, (2, 2, 18, 2)),
}
"""Channels of the first stage and blocks per stage of the published sizes, of images and of video."""

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class WeightKind:
    """What a file of weights is.

    Attributes:
        name: the network, with its article, as it stands in a message.
        setting: the one that takes it; None where none does.
        encoder: for a visual encoder, the value of `model.visual_encoder.name` that goes with it.
    """

    name: str
    setting: str | None
    encoder: str | None = None

    def advice(self, setting: str) -> str:
        """What to do with the file in place of naming it in `setting`."""
        if self.setting is None:
            return "no setting takes it"
        if self.setting == TEXT:
            return f"name the folder that it lies in as {TEXT}"
        named = "" if self.encoder is None else f"model.visual_encoder.name={self.encoder}"
        if self.setting == setting:
            return f"{named} takes it" if named else f"the model of {setting} must be another"
        return f"name it as {self.setting}" + (f", with {named}" if named else "")


def weight_kind(state: State) -> WeightKind | None:
    """What a file of weights is, from the names and shapes of its tensors; None where that is unknown."""
    for look in _LOOKS:
        found = look(state)
        if found is not None:
            return found
    return None


def video_swin_name(embed_dim: int, depths: Sequence[int]) -> str:
    """The value of `model.visual_encoder.name` for a Video-Swin, with its other settings if it is no published one."""
    for letter, size in _SWIN_SIZES.items():
        if size == (embed_dim, tuple(depths)):
            return f"video-swin-{letter}"
    return f"video-swin (embed_dim={embed_dim}, depths={list(depths)})"


def visual_encoder_of(state: State) -> str | None:
    """The value of `model.visual_encoder.name` that a whole model of this project was made with; None if unknown."""
    prefix = "visual_encoder."
    names = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    patches = names.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 5:
        blocks = [re.match(r"stages\.(\d+)\.(\d+)\.", name) for name in names]
        return video_swin_name(patches.shape[0], _depths(blocks))
    if "layer1.0.conv1.weight" in names:
        return "resnet50"
    return ANY_OF_TIMM if _any(names, r"network\.") else None


def describe(state: State) -> str:
    """What weights are of whose network nothing is known: how many, and the first names."""
    names = list(state)
    shown = ", ".join(name[:60] for name in names[:3])
    return f"{len(names)} tensors of an unknown network ({shown}{', ...' if len(names) > 3 else ''})"


def _any(state: State, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in state)


def _depths(blocks: Sequence[re.Match[str] | None]) -> tuple[int, ...]:
    """Blocks per stage, from names that were matched with the numbers of stage and block as groups."""
    found = [(int(match[1]), int(match[2])) for match in blocks if match]
    return tuple(
        1 + max(block for stage, block in found if stage == one) for one in sorted({stage for stage, _ in found})
    )


def _ours(state: State) -> WeightKind | None:
    if _any(state, r"visual_encoder\.") and _any(state, r"(level_projections|object_cluster|text_projection)\."):
        return WeightKind("a whole model of this project", MODEL)
    return None


def _published(state: State) -> WeightKind | None:
    if _any(state, r"(voc|vlf)\."):
        return WeightKind("a published SOC", MODEL)
    return None


def _detr(state: State) -> WeightKind | None:
    if _any(state, r"backbone\.0\.body\.|transformer\.decoder\.layers\.") and _any(state, r"(class|bbox)_embed\."):
        return WeightKind("a model after DETR that is not SOC", None)
    return None


def _swin(state: State) -> WeightKind | None:
    prefix = "backbone." if "backbone.patch_embed.proj.weight" in state else ""
    patches = state.get(f"{prefix}patch_embed.proj.weight")
    if patches is None or not _any(state, rf"{re.escape(prefix)}layers[._]\d+\.blocks\.\d+\.attn\."):
        return None
    blocks = [re.match(rf"{re.escape(prefix)}layers[._](\d+)\.blocks\.(\d+)\.", name) for name in state]
    dim, depths = patches.shape[0], _depths(blocks)
    shape = f"{dim} channels, {'-'.join(map(str, depths))} blocks"
    if patches.ndim == 5:
        return WeightKind(f"a Video-Swin of Kinetics ({shape})", VISUAL, video_swin_name(dim, depths))
    published = {size: letter for letter, size in _SWIN_SIZES.items()}.get((dim, depths))
    name = {"t": "swin_tiny", "s": "swin_small", "b": "swin_base"}.get(published or "")
    is_first_version = not _any(state, r".*\.attn\.(cpb_mlp|logit_scale)")
    encoder = f"timm/{name}_patch4_window7_224" if name and is_first_version else ANY_OF_TIMM
    return WeightKind(f"a Swin of images, not of video ({shape})", VISUAL, encoder)


def _torchvision_swin(state: State) -> WeightKind | None:
    if _any(state, r"features\.1\.0\.attn\.relative_position_bias_table"):
        return WeightKind("a Swin of torchvision, whose names are read by no encoder here", None)
    return None


def _resnet(state: State) -> WeightKind | None:
    prefix = next((p for p in ("", "backbone.", "encoder_q.") if f"{p}layer1.0.conv1.weight" in state), None)
    if prefix is None or f"{prefix}conv1.weight" not in state:
        return None
    matches = [re.match(rf"{re.escape(prefix)}layer3\.(\d+)\.", name) for name in state]
    depth = 1 + max((int(match[1]) for match in matches if match), default=0)
    has_bottlenecks = f"{prefix}layer1.0.conv3.weight" in state
    number = {(False, 2): 18, (False, 6): 34, (True, 6): 50, (True, 23): 101, (True, 36): 152}.get(
        (has_bottlenecks, depth)
    )
    if prefix:
        return WeightKind(f"a network around a ResNet, below {prefix!r}", None)
    if number is None:
        return WeightKind("a kind of ResNet", VISUAL, ANY_OF_TIMM)
    return WeightKind(f"a ResNet-{number}", VISUAL, "resnet50" if number == 50 else f"timm/resnet{number}")


def _text(state: State) -> WeightKind | None:
    if _any(state, r"(.*\.)?embeddings\.word_embeddings\.weight"):
        name = "an encoder of sentences" + (" (RoBERTa)" if _any(state, r"roberta\.|lm_head\.") else "")
        return WeightKind(name, TEXT)
    return None


def _clip(state: State) -> WeightKind | None:
    if _any(state, r"(text_model\.embeddings\.|token_embedding\.)"):
        return WeightKind("a CLIP or SigLIP", TEXT)
    return None


def _adapter(state: State) -> WeightKind | None:
    if _any(state, r".*\blora_[AB]\b"):
        return WeightKind("an adapter (LoRA), which is a part of a model", None)
    return None


def _image_encoder(state: State) -> WeightKind | None:
    if is_efficientnet_pytorch(state) or "conv_stem.weight" in state:
        return WeightKind("an EfficientNet or a relative of it", VISUAL, ANY_OF_TIMM)
    if "patch_embed.proj.weight" in state and _any(state, r"blocks\.0\.(attn\.qkv|norm1)\."):
        return WeightKind("a vision transformer", VISUAL, ANY_OF_TIMM)
    if _any(state, r"(downsample_layers\.0\.0|stem\.0)\.weight"):
        return WeightKind("a ConvNeXt or a relative of it", VISUAL, ANY_OF_TIMM)
    return None


_LOOKS: tuple[Callable[[State], WeightKind | None], ...] = (
    *(_adapter, _ours, _published, _detr, _swin, _torchvision_swin),
    *(_resnet, _text, _clip, _image_encoder),
)
