"""Any image encoder of timm that has maps of strides 4 to 32, or a plain ViT, on independent frames."""

import difflib
import inspect
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.checkpoint_names import NOT_WEIGHTS, efficientnet_pytorch_to_timm, is_efficientnet_pytorch
from models.feature_pyramid import FeaturePyramid
from models.visual_encoder import VisualEncoder
from structures.checkpoint_file import load_strictly
from structures.clips import Normalisation

STRIDES = (4, 8, 16, 32)

ANY_SIZE: Mapping[str, Any] = {"strict_img_size": False, "always_partition": True, "dynamic_img_size": True}
"""Settings by which models of timm take frames of any size: Swin (whose last stage then shifts its windows, too, as it
does in detectors) and plain ViTs. Others know none of them and need none."""

ANY_SIZE_EXAMPLES = "convnext_tiny, swin_tiny_patch4_window7_224 or sam2_hiera_tiny"


class TimmEncoder(VisualEncoder):
    """A model of timm without its classifier; every frame is an image of its own.

    Frames are padded with zeros to multiples of 32, so that a pixel of each map lies where its stride says; the maps
    are cut to the sizes that the other encoders have, rounded up.

    A plain ViT has one map, of its last block behind the final norm; `FeaturePyramid` makes four of it. If its patches
    are not of 16 pixels (14 in DINOv2), frames are resized so that one patch stands for 16 x 16 pixels of the frame.

    Args:
        name: of the model in timm; a tag behind a dot names weights.
        drop_path_rate: of the last block, where the model has such a thing.

    Attributes:
        name: as given.
        weights_on_hub: repository of the pretrained weights; None where timm knows none.

    Raises:
        ValueError: if timm has no such model, or it lacks one of the maps or takes frames of one size only.
    """

    def __init__(self, name: str, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.name = name
        whole = _whole_model(name, {})
        known = inspect.signature(type(whole).__init__).parameters
        settings = {"drop_path_rate": drop_path_rate, **ANY_SIZE}
        self._settings = {setting: value for setting, value in settings.items() if setting in known}
        about = whole.pretrained_cfg
        if about.get("fixed_input_size") and not self._settings.keys() & {"strict_img_size", "dynamic_img_size"}:
            height, width = about["input_size"][-2:]
            raise ValueError(
                f"timm/{name} takes images of {height} x {width} pixels only; name one that takes any size, such as "
                f"{ANY_SIZE_EXAMPLES}"
            )
        self.normalisation = Normalisation(mean=tuple(about["mean"]), std=tuple(about["std"]))
        self.weights_on_hub: str | None = about.get("hf_hub_id")
        strides = _strides(whole)
        self.patch = _patch(whole)
        network, self.is_channels_last = self._build(strides)
        self.network: nn.Module = network
        self.pyramid = None if self.patch is None else FeaturePyramid(network.embed_dim)
        self.channels = tuple(network.feature_info.channels()) if self.pyramid is None else self.pyramid.channels

    @property
    def pretrained(self) -> nn.Module:
        """The model of timm; a feature pyramid behind it starts anew and is always trained."""
        return self.network

    def forward(
        self, frames: Float[Tensor, "batch time 3 height width"]
    ) -> tuple[Float[Tensor, "batch time _ _ _"], ...]:
        """Maps of strides 4, 8, 16 and 32, sizes rounded up.

        Raises:
            ValueError: if the model cuts borders off, so that its maps are smaller (Inception does).
        """
        batch, _, _, height, width = frames.shape
        images = rearrange(frames, "b t c h w -> (b t) c h w")
        images = F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        maps = self._pyramid_of_vit(images) if self.pyramid is not None else self._maps(self.network, images)
        if self.is_channels_last:
            maps = [rearrange(level, "n h w c -> n c h w") for level in maps]
        sizes = [tuple(level.shape[-2:]) for level in maps]
        if sizes != [(images.shape[-2] // stride, images.shape[-1] // stride) for stride in STRIDES]:
            raise ValueError(
                f"timm/{self.name} makes maps of {sizes} rows and columns of images of {tuple(images.shape[-2:])}: its "
                f"strides are not 4, 8, 16 and 32 throughout; name one whose are, such as {ANY_SIZE_EXAMPLES}"
            )
        return tuple(
            rearrange(
                level[..., : math.ceil(height / stride), : math.ceil(width / stride)],
                "(b t) c h w -> b t c h w",
                b=batch,
            )
            for level, stride in zip(maps, STRIDES, strict=True)
        )

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a file of timm, or of another code that timm can read, strictly.

        The classifier and whatever else lies behind the maps is left out, whatever its size.

        Raises:
            ValueError: if a weight is missing, unknown or of another shape.
        """
        whole = _whole_model(self.name, self._settings)
        source = f"file of timm/{self.name}"
        if is_efficientnet_pytorch(state):
            state = efficientnet_pytorch_to_timm(state, list(whole.state_dict()))
        own = self.network.state_dict()
        kept = self._renamed(state, whole.state_dict())
        convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        if convert is not None and not _fits(own, kept):
            # Names of the authors' own code, and position embeddings of other image sizes.
            try:
                kept = self._renamed(convert(dict(state), whole), whole.state_dict())
            except (KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
                raise ValueError(f"{source}: timm cannot convert it ({type(error).__name__}: {error})") from error
        load_strictly(self.network, _with_counters(own, kept), source=source)

    def _renamed(self, state: Mapping[str, Tensor], whole: Iterable[str]) -> dict[str, Tensor]:
        """Names of the whole model to those of its part in `features_only`, which joins some with `_`.

        What belongs to the whole model alone is left out; what belongs to neither keeps its name, to be reported.
        """
        own = {_without_joints(name): name for name in self.network.state_dict()}
        known = {_without_joints(name) for name in whole}
        renamed = {}
        for name, tensor in state.items():
            key = _without_joints(name)
            if key in own:
                renamed[own[key]] = tensor
            elif key not in known:
                renamed[name] = tensor
        return renamed

    def _build(self, strides: list[int]) -> tuple[Any, bool]:
        """The network with random weights, and whether the channels of its maps come last."""
        import timm

        if self.patch is not None:
            network: Any = timm.create_model(self.name, num_classes=0, **self._settings)
            network.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
            return network, False
        missing = [stride for stride in STRIDES if stride not in strides]
        if missing:
            raise ValueError(
                f"timm/{self.name} has maps of strides {', '.join(map(str, strides)) or 'unknown'}, but those of "
                f"strides 4, 8, 16 and 32 are needed; name one that has them, such as {ANY_SIZE_EXAMPLES}"
            )
        last_of_stride = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)
        network = timm.create_model(self.name, features_only=True, out_indices=last_of_stride, **self._settings)
        return network, str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def _pyramid_of_vit(self, images: Float[Tensor, "image 3 height width"]) -> tuple[Tensor, ...]:
        """Four maps of a plain ViT."""
        assert self.patch is not None
        assert self.pyramid is not None
        if self.patch != FeaturePyramid.STRIDE:
            size = [side // FeaturePyramid.STRIDE * self.patch for side in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        network: Any = self.network
        (tokens,) = network.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return self.pyramid(tokens)


def _whole_model(name: str, settings: Mapping[str, Any]) -> Any:
    """The model with its classifier, without memory for its weights: names, shapes and what timm says about it.

    Raises:
        ValueError: if timm has no such model.
    """
    import timm

    if not timm.is_model(name):
        similar = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=4)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        raise ValueError(f"model.visual_encoder.name=timm/{name}: timm {timm.__version__} has no such model{hint}")
    try:
        with torch.device("meta"):
            return timm.create_model(name, **settings)
    except RuntimeError as error:  # an unknown tag
        raise ValueError(f"model.visual_encoder.name=timm/{name}: {error}") from error


def _strides(whole: Any) -> list[int]:
    """The strides of the maps that a model can give, in its order; none where it cannot."""
    about = getattr(whole, "feature_info", [])
    return [one["reduction"] for one in getattr(about, "info", about)]


def _patch(whole: Any) -> int | None:
    """The side of the patches of a plain ViT, whose maps all have one stride; None for a pyramid."""
    strides = set(_strides(whole))
    is_vit = len(strides) == 1 and hasattr(whole, "forward_intermediates") and hasattr(whole, "embed_dim")
    return strides.pop() if is_vit else None


def _without_joints(name: str) -> str:
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether weights fit by name and shape, counters aside."""
    state = _with_counters(own, state)
    return state.keys() == own.keys() and all(state[name].shape == tensor.shape for name, tensor in own.items())


def _with_counters(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the model's own counters of batches where a file lacks them: nothing depends on them."""
    return {**{name: tensor for name, tensor in own.items() if NOT_WEIGHTS.fullmatch(name)}, **state}
