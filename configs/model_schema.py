"""Settings of the model, the section `model` of `configs.schema`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    field_validator,
    model_validator,
)

from structures.config_node import ConfigNode
from structures.user_path import expand_home

Probability = Annotated[float, Field(ge=0, le=1)]
DropProbability = Annotated[float, Field(ge=0, lt=1)]
"""At 1 nothing would be left."""

# Sizes far beyond any model, so that a misplaced number is an error of the configuration, and not of memory.
Width = Annotated[int, Field(gt=0, le=8192)]
Count = Annotated[int, Field(gt=0, le=10_000)]
Depth = Annotated[int, Field(gt=0, le=100)]
Heads = Annotated[int, Field(gt=0, le=256)]
Window = Annotated[int, Field(gt=0, le=128)]

WIDTH_STEP = 8
"""`ModelConfig.dim` is a multiple: the channels of a group of its normalisation."""

VISUAL_ENCODERS = ("video-swin-t", "video-swin-s", "video-swin-b", "video-swin", "resnet50")
"""Names of visual encoders that are not timm's."""


class VisualEncoderConfig(ConfigNode):
    """The network that turns frames into maps of stride 4, 8, 16 and 32."""

    name: str = "video-swin-t"
    """A published encoder (`video-swin-t`, `video-swin-s`, `video-swin-b`, `resnet50`), `video-swin` with the four
    fields below, or `timm/NAME`: an image encoder of timm, see docs/encoders.md."""

    embed_dim: Width = 96
    """Channels of the first stage; only read for `video-swin`."""

    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 6, 2)
    """Blocks per stage; only read for `video-swin`."""

    num_heads: tuple[Heads, Heads, Heads, Heads] = (3, 6, 12, 24)
    """Attention heads per stage; only read for `video-swin`. They divide its channels, which double from stage to
    stage."""

    window_size: tuple[Window, Window, Window] = (8, 7, 7)
    """Frames, rows and columns of an attention window; only read for `video-swin`."""

    drop_path_rate: DropProbability = 0.2
    """Probability of skipping the last block in training; earlier ones grow linearly from 0. Encoders of timm that have
    no such thing do without."""

    weights: Literal["hub"] | Path | None = None
    """Pretrained weights: a file, or a folder with a single one (a Kinetics Video-Swin, a torchvision ResNet-50, or a
    file of the model of timm); `hub`: those that timm names for its model; None starts at random. `{encoders}` stands
    for the folder of `tools.get_encoders`."""

    frozen: bool = False
    """Keep the pretrained weights as they are: no gradients, and evaluation mode in training, too, so that batch norms
    keep their statistics."""

    @field_validator("name")
    @classmethod
    def names_an_encoder(cls, name: str) -> str:
        """Raises ValueError for a name that is neither published nor of the form of one of timm."""
        if name not in VISUAL_ENCODERS and not re.fullmatch(r"timm/\w+(\.\w+)?", name):
            known = ", ".join(VISUAL_ENCODERS)
            raise ValueError(f"no visual encoder {name!r}; there are {known}, and timm/NAME for a model of timm")
        return name

    @model_validator(mode="after")
    def heads_divide_channels(self) -> "VisualEncoderConfig":
        """Raises ValueError if the channels of a stage cannot be split into its heads."""
        if self.name != "video-swin":
            return self
        for stage, heads in enumerate(self.num_heads):
            channels = self.embed_dim * 2**stage
            if channels % heads:
                raise ValueError(
                    f"num_heads={list(self.num_heads)} do not fit embed_dim={self.embed_dim}: {heads} heads must "
                    f"divide the {channels} channels of stage {stage + 1}"
                )
        return self


class TextEncoderConfig(ConfigNode):
    """The encoder of sentences and its tokenizer: RoBERTa as published, or any other that `AutoModel` loads."""

    path: Annotated[str, AfterValidator(expand_home)] = "roberta-base"
    """Local folder or hub id in the Hugging Face layout. A folder without weights starts at random.
    `{data.root}` stands for the root of the data, `{encoders}` for the folder of `tools.get_encoders`."""

    pooling: Literal["pooler", "mean"] = "pooler"
    """The feature of a whole sentence: the encoder's `pooler`, as published, or the `mean` over its tokens, which
    sentence encoders such as MiniLM were trained with, and which needs no pooler."""

    frozen: bool = True
    """Keep the encoder as it is loaded. Needs a folder with weights: random embeddings carry no meaning."""

    eval_mode_when_frozen: bool = False
    """Switch off the dropout of a frozen encoder. The published training leaves it on."""

    random_init: bool = False
    """Ignore weights in the folder and initialise from its config.json (tests, training from scratch)."""


class MaskHeadConfig(ConfigNode):
    """The dynamic convolutions that predict the masks."""

    dim: Width = 8
    """Channels of the mask features and of the hidden layers."""

    offset_scale: PositiveFloat = 1.0
    """Divisor of the pixel offsets that enter the head; 1 as published, larger suits short training."""


class ModelConfig(ConfigNode):
    """SOC."""

    visual_encoder: VisualEncoderConfig = VisualEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()

    dim: Width = 256
    """Width of everything after the encoders; a multiple of 8."""

    num_heads: Heads = 8
    """Attention heads of fusion, transformer and object cluster; must divide `dim`."""

    num_queries: Count = 20
    """Object queries per frame."""

    num_classes: Count = 1
    """1: referred or not. 65: the categories of Ref-YouTube-VOS."""

    ffn_dim: Annotated[int, Field(gt=0, le=65536)] = 2048
    """Hidden width of the feed-forward layers."""

    dropout: DropProbability = 0.1
    """Dropout of transformer, object cluster and text projection."""

    num_encoder_layers: Depth = 3
    """Deformable encoder layers."""

    num_decoder_layers: Depth = 3
    """Deformable decoder layers."""

    num_points: Annotated[int, Field(gt=0, le=64)] = 4
    """Sampling points per head and level of deformable attention."""

    ms_deform_attn: Literal["auto", "cuda", "triton", "cpu", "reference"] = "auto"
    """Backend of deformable attention, for the whole process; the variable SOC_MS_DEFORM_ATTN overrules it. `auto`
    takes the fastest that is there; `python -m models.ops.ms_deform_attn` lists them."""

    num_cluster_layers: Depth = 3
    """Encoder and decoder layers of the object cluster."""

    trajectory: bool = False
    """The object cluster sees the boxes of each query over time, and so the order of the frames. Not published: weights
    without this part load, and say what they said until it is trained."""

    output_layer: Literal["first", "last"] = "first"
    """Decoder layer whose prediction is used in evaluation. The published evaluation and numbers use the first; models
    trained with this code should use the last."""

    weights: Path | None = None
    """Checkpoint to start from (of this code, or one with the published names)."""

    keep_class_head: bool = True
    """Take the classification head from `weights`, too; the published finetuning initialises it anew, whether it fits
    or not. Evaluation and prediction take it wherever it fits: there `false` only drops one of another size."""

    @model_validator(mode="after")
    def heads_divide_dim(self) -> "ModelConfig":
        """Raises ValueError if the width cannot be split into the heads."""
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide dim={self.dim}")
        if self.dim % WIDTH_STEP:
            raise ValueError(f"dim={self.dim} must be a multiple of {WIDTH_STEP}")
        return self
