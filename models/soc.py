"""SOC: encode, fuse, decode, cluster, predict masks.

Source: SOC: Semantic-Assisted Object Cluster for Referring Video Object Segmentation (arXiv:2305.17011), figure 2.
"""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.deformable_transformer import DecoderOutput, DeformableTransformer, refine_box
from models.dynamic_mask_head import DynamicMaskHead
from models.frame_objects import FrameObjects, join_parts, parts_of
from models.fusion import VisionLanguageFusion
from models.layers import MLP
from models.object_cluster import ObjectCluster
from models.outputs import LayerOutput, SOCOutput, TextFeatures, Tokens, UndrawnOutput, VideoFeatures
from models.parts import in_parts, is_split
from models.position_encoding import pixel_positions, word_positions
from models.spatial_decoder import SpatialDecoder
from models.text_encoder import TextEncoder, TextProjection
from models.trajectory import Trajectory
from models.visual_encoder import VisualEncoder
from structures.clips import ByteClips, Normalisation, PaddedClips
from structures.parameters import ParameterGroup
from structures.transfer import constant

# The score that every query starts with: focal loss is unstable when most of many negatives start near one half.
PRIOR_PROBABILITY = 0.01

# Of the norms behind the level projections: 32 groups at the published width of 256.
CHANNELS_PER_GROUP = 8


class SOC(nn.Module):
    """The whole model, in three public stages: `encode_video`, `encode_text`, `segment`.

    The visual encoder does not depend on the sentence and the text encoder not on the video, so callers encode every
    video and every sentence once and combine them as they need.

    Args:
        visual_encoder: frames to maps of strides 4, 8, 16 and 32.
        text_encoder: sentences to words.
        dim: width of everything behind the encoders.
        num_queries: objects per frame.
        num_classes: 1 (referred or not) or the number of categories.
        output_layer: decoder layer whose predictions are evaluated; "first" gives the published outputs.
        mask_dim: channels of the mask features.
        mask_offset_scale: divisor of the offsets in the mask head.
        with_trajectory: the object cluster sees the boxes of each query over time; see `models.trajectory`.

    Attributes:
        inference_dtype: what `models.inference` computes in where that pays; None for the precision of the weights.
    """

    def __init__(  # noqa: PLR0913  # each is a knob of the configuration
        self,
        visual_encoder: VisualEncoder,
        text_encoder: TextEncoder,
        *,
        dim: int = 256,
        num_heads: int = 8,
        num_queries: int = 20,
        num_classes: int = 1,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_encoder_layers: int = 3,
        num_decoder_layers: int = 3,
        num_cluster_layers: int = 3,
        num_points: int = 4,
        output_layer: Literal["first", "last"] = "first",
        mask_dim: int = 8,
        mask_offset_scale: float = 1.0,
        with_trajectory: bool = False,
    ) -> None:
        super().__init__()
        self.inference_dtype: torch.dtype | None = None
        self.output_layer = output_layer
        self.visual_encoder, self.text_encoder = visual_encoder, text_encoder
        self.text_projection = TextProjection(text_encoder.dim, dim, dropout)
        self.level_projections = _level_projections(visual_encoder.channels, dim)
        self.fusion = VisionLanguageFusion(dim, num_heads)
        self.transformer = DeformableTransformer(
            dim,
            num_queries=num_queries,
            num_heads=num_heads,
            num_levels=len(self.level_projections),
            num_points=num_points,
            ffn_dim=ffn_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            dropout=dropout,
        )
        self.object_cluster = ObjectCluster(
            dim,
            num_queries=num_queries,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            num_layers=num_cluster_layers,
            dropout=dropout,
            with_trajectory=with_trajectory,
        )
        self.spatial_decoder = SpatialDecoder(dim, stride4_channels=visual_encoder.channels[0], mask_dim=mask_dim)
        self.mask_head = DynamicMaskHead(dim, dim=mask_dim, offset_scale=mask_offset_scale)
        self.class_heads, self.box_heads = _prediction_heads(dim, num_classes, num_decoder_layers)
        self._trainable = frozenset(name for name, parameter in self.named_parameters() if parameter.requires_grad)
        self._frozen: frozenset[str] = frozenset()
        self._trains_all_layers = True

    @property
    def normalisation(self) -> Normalisation:
        """Of the frames, as the visual encoder was trained."""
        return self.visual_encoder.normalisation

    @property
    def sees_trajectories(self) -> bool:
        """Whether the answer depends on the order of the frames' boxes."""
        return self.object_cluster.trajectory is not None

    def train_only(self, parts: Collection[str], *, layers: Literal["all", "last"] = "all") -> None:
        """Freezes all but some parts: no gradients, and evaluation mode from the next call of `train` on.

        Gradients of before are dropped: those of frozen parts would count in the norm that gradients are clipped to.

        Args:
            parts: names of the model's own modules, such as "object_cluster"; empty: everything is trained, except what
                was frozen when the model was built, which always stays so.
            layers: of the decoder, whose predictions are trained; with "last" the heads of the others are frozen.
        """
        self._frozen = frozenset(name for name, _ in self.named_children() if parts and name not in parts)
        self._trains_all_layers = layers == "all"
        self.zero_grad()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in self._trainable and name.split(".")[0] not in self._frozen)
        if not self._trains_all_layers:
            for head in (*self.class_heads[:-1], *self.box_heads[:-1]):
                head.requires_grad_(False)

    def train(self, mode: bool = True) -> "SOC":
        """As usual, except that frozen parts (see `train_only`) stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def forward(
        self,
        clips: PaddedClips,
        tokens: Tokens,
        *,
        clip_of_sentence: Int[Tensor, " sentence"] | None = None,
        annotated_frame: Int[Tensor, " clip"] | None = None,
    ) -> SOCOutput:
        """Segment in every clip the objects that its sentences refer to.

        Args:
            clips: the frames.
            tokens: the sentences.
            clip_of_sentence: which clip each sentence is about, on the CPU; None pairs them one to one.
            annotated_frame: per clip, the only frame to segment; the visual encoder still sees the others.
        """
        video = self.encode_video(clips, annotated_frame=annotated_frame)
        if clip_of_sentence is not None:
            video = video.for_sentences(clip_of_sentence)
        return self.segment(video, self.encode_text(tokens))

    def tokenize(self, sentences: Sequence[str], *, multiple_of: int = 1) -> Tokens:
        """Sentences to ids, see `TextEncoder.tokenize`; raises ValueError for an empty one."""
        return self.text_encoder.tokenize(sentences, multiple_of=multiple_of)

    def encode_text(self, tokens: Tokens) -> TextFeatures:
        """All that does not depend on the video."""
        words, pooled = self.text_encoder(tokens)
        words = self.text_projection(words)
        return TextFeatures(
            words=words,
            word_positions=word_positions(tokens.is_padding, words.shape[-1], words.dtype),
            is_padding=tokens.is_padding,
            sentence=self.text_projection(pooled),
        )

    def encode_video(
        self, clips: PaddedClips | ByteClips, *, annotated_frame: Int[Tensor, " clip"] | None = None
    ) -> VideoFeatures:
        """All that does not depend on the sentence: projected maps of strides 4 to 64.

        Args:
            clips: the frames; bytes only for an encoder that takes them, and of clips without padding.
            annotated_frame: see `forward`.
        """
        maps = list(self.visual_encoder(clips.frames))
        is_padding, sizes_px = clips.is_padding, clips.sizes_px
        weights = next(self.level_projections.parameters())
        dtype = clips.frames.dtype if clips.frames.is_floating_point() else weights.dtype
        del clips  # nor are the frames kept, where the caller keeps none, while the maps are projected
        if annotated_frame is not None:
            maps = [_select_frame(level, annotated_frame) for level in maps]
            is_padding = _select_frame(is_padding, annotated_frame)
        # The last projection makes a map of stride 64 out of the raw map of stride 32.
        maps.append(maps[3])
        # The same for all sentences, and a third of the raw map, which is the largest.
        stride4 = _project(self.spatial_decoder.project_stride4, maps.pop(0))
        levels = tuple(_project(project, maps.pop(0)) for project in self.level_projections)
        masks = tuple(resize_padding(is_padding, (level.shape[-2], level.shape[-1])) for level in levels)
        return VideoFeatures(
            stride4=stride4,
            levels=levels,
            positions=tuple(pixel_positions(mask, levels[0].shape[2], dtype) for mask in masks),
            is_padding=masks,
            sizes_px=sizes_px,
        )

    def segment(self, video: VideoFeatures, text: TextFeatures) -> SOCOutput:
        """Fuse, decode frame by frame, cluster over time, and predict classes, boxes and masks.

        Args:
            video: one entry per sentence (see `VideoFeatures.for_sentences`).
            text: the sentences.
        """
        return self.predict(self.detect(video, text), video, text)

    def detect(self, video: VideoFeatures, text: TextFeatures) -> FrameObjects:
        """Fuse, and decode frame by frame: all that does not depend on other frames but through the visual encoder.

        Args:
            video: one entry per sentence.
            text: the sentences.
        """
        batch = video.stride4.shape[0]
        parts = parts_of(video, text) if is_split(video.stride4) else [(video, text)]
        found = [self._detect_at_once(*part) for part in parts]
        decoded, mask_features = found[0] if len(found) == 1 else join_parts(found, batch)
        boxes = decoded.references[-1]
        times = torch.arange(boxes.shape[1], device=boxes.device).expand(batch, -1)
        return FrameObjects(decoded, mask_features, Trajectory(boxes, times, video.num_frames))

    def _detect_at_once(
        self, video: VideoFeatures, text: TextFeatures
    ) -> tuple[DecoderOutput, Float[Tensor, "batch time channel height4 width4"]]:
        fused = [self.fusion(level, text) for level in video.levels]
        found = self.transformer(fused, video.positions, video.is_padding, list(self.box_heads))
        return found.decoded, self.spatial_decoder(found.memory, video.stride4)

    def predict(
        self, objects: FrameObjects, video: VideoFeatures, text: TextFeatures, *, trajectory: Trajectory | None = None
    ) -> SOCOutput:
        """Cluster over time, and predict classes, boxes and masks.

        Args:
            objects: from `detect`, of the same video and sentences.
            video: one entry per sentence.
            text: the sentences.
            trajectory: of the same queries, where more is known than these frames; None: that of `objects`.
        """
        decoded = objects.decoded
        last = len(self.class_heads) - 1
        if self.training:
            output_layers = cluster_layers = slice(0 if self._trains_all_layers else last, last + 1)
        else:
            output_layers, cluster_layers = self._evaluated_layers()
        # Slices, because a GPU would have to wait for an index of numbers, forward and backward.
        cluster = self.object_cluster(decoded.objects[cluster_layers], text, trajectory or objects.trajectory)
        queries = decoded.objects[output_layers] + cluster[:, :, None]
        masks = self._predict_masks(queries, decoded.references[output_layers], objects.mask_features, video.sizes_px)
        layers = tuple(
            LayerOutput(mask_logits, *self._predict_boxes(of_layer, decoded, layer), clustered)
            for layer, of_layer, mask_logits, clustered in zip(
                range(last + 1)[output_layers], queries, masks, cluster, strict=True
            )
        )
        return SOCOutput(layers=layers, sentence=self.sentence_feature(video, text) if self.training else None)

    def choose(
        self, objects: FrameObjects, video: VideoFeatures, text: TextFeatures, *, trajectory: Trajectory | None = None
    ) -> UndrawnOutput:
        """What `predict` says in evaluation, of the same arguments; masks are drawn when they are asked for."""
        decoded = objects.decoded
        output_layers, cluster_layers = self._evaluated_layers()
        cluster = self.object_cluster(decoded.objects[cluster_layers], text, trajectory or objects.trajectory)[0]
        queries = decoded.objects[output_layers][0] + cluster[:, None]
        device = queries.device.type
        return UndrawnOutput(
            *self._predict_boxes(queries, decoded, output_layers.start),
            cluster,
            objects=queries,
            references_px=_in_pixels(decoded.references[output_layers], video.sizes_px)[0],
            features=objects.mask_features,
            mask_head=self.mask_head,
            autocast=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        )

    def _evaluated_layers(self) -> tuple[slice, slice]:
        """The decoder layer that is evaluated, and the one whose cluster is added to it.

        The published evaluation takes the first layer and adds the cluster of the last one to it.
        """
        last = len(self.class_heads) - 1
        first = 0 if self.output_layer == "first" else last
        return slice(first, first + 1), slice(last, last + 1)

    def _predict_boxes(
        self, queries: Float[Tensor, "batch time query dim"], decoded: DecoderOutput, layer: int
    ) -> tuple[Float[Tensor, "batch time query num_classes"], Float[Tensor, "batch time query 4"]]:
        """Class logits and boxes of a decoder layer."""
        boxes = refine_box(self.box_heads[layer](queries), _reference_before(decoded, layer))
        return self.class_heads[layer](queries), boxes

    def sentence_feature(self, video: VideoFeatures, text: TextFeatures) -> Float[Tensor, "batch dim"]:
        """The text side of the contrastive loss, from the map of stride 32."""
        return self.fusion.sentence(video.levels[2], video.positions[2], video.is_padding[2], text)

    def parameter_groups(
        self, *, lr: float, lr_visual_encoder: float, lr_text_encoder: float
    ) -> tuple[ParameterGroup, ...]:
        """What is trainable, in the groups `rest`, `visual_encoder` and `text_encoder`; an empty one is left out.

        Args:
            lr: peak learning rate of everything that is not an encoder.
            lr_visual_encoder: of the visual encoder, apart from layers of its own that no pretrained weights fill.
            lr_text_encoder: of the text encoder.
        """
        visual, text = set(self.visual_encoder.pretrained.parameters()), set(self.text_encoder.parameters())
        encoders, hidden_matrices = visual | text, _hidden_matrices(self)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = (
            ("rest", lr, [parameter for parameter in trained if parameter not in encoders]),
            ("visual_encoder", lr_visual_encoder, [parameter for parameter in trained if parameter in visual]),
            ("text_encoder", lr_text_encoder, [parameter for parameter in trained if parameter in text]),
        )
        return tuple(
            ParameterGroup(name, tuple(members), tuple(parameter in hidden_matrices for parameter in members), lr=rate)
            for name, rate, members in groups
            if members
        )

    def _predict_masks(
        self,
        objects: Float[Tensor, "layer batch time query dim"],
        references: Float[Tensor, "layer batch time query 4"],
        features: Float[Tensor, "batch time channel height4 width4"],
        sizes_px: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "layer batch time query height4 width4"]:
        num_layers = objects.shape[0]
        reference_px = rearrange(_in_pixels(references, sizes_px), "l b t q xy -> b t (l q) xy")
        logits = self.mask_head(rearrange(objects, "l b t q c -> b t (l q) c"), reference_px, features)
        return rearrange(logits, "b t (l q) h w -> l b t q h w", l=num_layers)


def _level_projections(channels: Sequence[int], dim: int) -> nn.ModuleList:
    """Strides 8, 16 and 32 to the model's width, and stride 64 out of stride 32."""
    if dim % CHANNELS_PER_GROUP:
        raise ValueError(f"dim={dim} must be a multiple of {CHANNELS_PER_GROUP}")

    def project(conv: nn.Conv2d) -> nn.Sequential:
        nn.init.xavier_uniform_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        return nn.Sequential(conv, nn.GroupNorm(dim // CHANNELS_PER_GROUP, dim))

    projections = [project(nn.Conv2d(width, dim, kernel_size=1)) for width in channels[1:]]
    return nn.ModuleList([*projections, project(nn.Conv2d(channels[-1], dim, kernel_size=3, stride=2, padding=1))])


def _prediction_heads(dim: int, num_classes: int, num_layers: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Class and box heads of every decoder layer, each set starting from the same weights."""
    class_head, box_head = nn.Linear(dim, num_classes), MLP(dim, 4)
    nn.init.constant_(class_head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    last = box_head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    class_heads = nn.ModuleList(copy.deepcopy(class_head) for _ in range(num_layers))
    box_heads = nn.ModuleList(copy.deepcopy(box_head) for _ in range(num_layers))
    # The first layer refines points: its boxes start small, 12 % of the frame on each side.
    with torch.no_grad():
        box_heads[0].layers[-1].bias[2:] = -2.0  # type: ignore[index,union-attr]
    return class_heads, box_heads


def _hidden_matrices(model: SOC) -> set[Tensor]:
    """Weights of linear and attention layers except the classifiers; tables and convolutions are none."""
    matrices: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            matrices.add(module.weight)
        elif isinstance(module, nn.MultiheadAttention):
            matrices.add(module.in_proj_weight)
    return matrices - set(model.class_heads.parameters())


def _in_pixels(
    references: Float[Tensor, "layer batch time query 4"], sizes_px: Sequence[tuple[int, int]]
) -> Float[Tensor, "layer batch time query 2"]:
    """(x, y) of the centre of each box in pixels of its unpadded frame, of (height, width) `sizes_px`."""
    sizes = tuple((width, height) for height, width in sizes_px)
    return references[..., :2] * constant(sizes, dtype=references.dtype, device=references.device)[:, None, None]


def _reference_before(decoded: DecoderOutput, layer: int) -> Float[Tensor, "batch time query ref"]:
    return decoded.first_reference if layer == 0 else decoded.references[layer - 1]


def _project(
    project: Callable[[Tensor], Tensor], level: Float[Tensor, "batch time channel height width"]
) -> Float[Tensor, "batch time dim _ _"]:
    """A projection of every frame of a map."""
    frames = in_parts(project, rearrange(level, "b t c h w -> (b t) c h w"), size=1)
    return rearrange(frames, "(b t) c h w -> b t c h w", b=level.shape[0])


def _select_frame(maps: Tensor, frame: Int[Tensor, " batch"]) -> Tensor:
    """One frame of each clip, time axis kept."""
    return maps[torch.arange(len(maps), device=maps.device), frame][:, None]


def resize_padding(
    is_padding: Bool[Tensor, "batch time height width"], size: tuple[int, int]
) -> Bool[Tensor, "batch time _ _"]:
    """Padding of a smaller map, by nearest neighbour."""
    return F.interpolate(is_padding.float(), size=size, mode="nearest").bool()
