"""From configuration to modules; the only place of `models` that reads a configuration."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from configs.model_schema import ModelConfig, VisualEncoderConfig
from configs.schema import Config, LossConfig
from media.folders import listing
from models.checkpoint_names import NOT_WEIGHTS, is_published_soc, soc_from_published
from models.encoder_files import ENCODERS, encoders_folder, hub_weights
from models.ops.ms_deform_attn.backends import set_backend
from models.soc import SOC
from models.text_encoder import TextEncoder, load_text_encoder
from models.timm_encoder import TimmEncoder
from models.video_swin import SIZES, VideoSwin, VideoSwinSize
from models.visual_encoder import VisualEncoder
from models.weight_kinds import (
    ANY_OF_TIMM,
    MODEL,
    VISUAL,
    describe,
    video_swin_name,
    visual_encoder_of,
    weight_kind,
)
from structures.checkpoint_file import load_strictly, read_min_score, read_state_dict
from structures.skipped_init import SkippedRandomFill

if TYPE_CHECKING:
    from models.criterion import Criterion

logger = logging.getLogger(__name__)

WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")
"""How files of weights end."""

TRAJECTORY = "object_cluster.trajectory."
"""What the parameters of `model.trajectory` are called; published weights have none of them."""


def build_model(
    config: ModelConfig,
    *,
    data_root: Path | None = None,
    text_encoder: TextEncoder | None = None,
    for_inference: bool = False,
) -> SOC:
    """SOC as configured, with the pretrained weights that the configuration names.

    Args:
        config: the section `model`.
        data_root: replaces `{data.root}` in the path of the text encoder.
        text_encoder: one that was built elsewhere; None builds it from the configuration.
        for_inference: the class head of the weights is taken wherever it fits: `keep_class_head: false` of a recipe is
            about the start of its training. Weights that those of `config.weights` replace are not drawn at random
            before, and those of the text encoder are not read from its own folder.

    Raises:
        ValueError: if a file or folder is missing or does not fit.
    """
    set_backend(config.ms_deform_attn)
    weights = config.weights

    def new_model(*, for_inference: bool = False) -> SOC:
        sentences = text_encoder or build_text_encoder(config, data_root=data_root, for_inference=for_inference)
        frames = build_visual_encoder(config.visual_encoder, weights_follow=weights is not None)
        return _assemble(frames, sentences, config)

    if weights is None:
        return new_model()
    if not for_inference:
        model = new_model()
        load_weights(model, weights, class_head="load" if config.keep_class_head else "new")
        return model
    random_state = torch.get_rng_state()

    def initial_state() -> Mapping[str, Tensor]:
        torch.set_rng_state(random_state)
        return new_model().state_dict()

    with SkippedRandomFill():
        model = new_model(for_inference=True)
    torch.set_rng_state(random_state)  # some weights were drawn all the same
    class_head: Literal["load", "load_if_it_fits"] = "load" if config.keep_class_head else "load_if_it_fits"
    load_weights(model, weights, class_head=class_head, initial_state=initial_state, take=True)
    return model


def _assemble(visual_encoder: VisualEncoder, text_encoder: TextEncoder, config: ModelConfig) -> SOC:
    """SOC around its encoders, with new weights."""
    return SOC(
        visual_encoder,
        text_encoder,
        dim=config.dim,
        num_heads=config.num_heads,
        num_queries=config.num_queries,
        num_classes=config.num_classes,
        ffn_dim=config.ffn_dim,
        dropout=config.dropout,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_cluster_layers=config.num_cluster_layers,
        num_points=config.num_points,
        output_layer=config.output_layer,
        mask_dim=config.mask_head.dim,
        mask_offset_scale=config.mask_head.offset_scale,
        with_trajectory=config.trajectory,
    )


def build_model_for_inference(config: Config) -> SOC:
    """The configured model with its weights; random ones, with a warning, where none are named.

    Raises:
        ValueError: if a file or folder is missing or does not fit.
    """
    if config.model.weights is None:
        logger.warning("model.weights is not set: the model has random weights and its masks mean nothing")
    model = build_model(config.model, data_root=config.data.root, for_inference=True)
    set_execution(model, config)
    return model


def set_execution(model: SOC, config: Config) -> None:
    """How the model computes what it computes: `eval.amp` and `compile`."""
    model.inference_dtype = torch.bfloat16 if config.eval.amp == "bf16" else None
    if config.compile:
        from models.compilation import compile_blocks  # imports the compiler, which most runs do without

        compile_blocks(model)


def resolve_min_score(config: Config) -> float:
    """The score below which sentences are rejected: as configured, or as stored in the checkpoint, or else 0.

    Raises:
        ValueError: if the checkpoint is missing, unreadable, or stores no score there.
    """
    if config.predict.min_score is not None:
        return config.predict.min_score
    stored = None if config.model.weights is None else read_min_score(config.model.weights)
    if stored is None:
        return 0.0
    logger.info("sentences with a score below %.4f are rejected, as %s says", stored, config.model.weights)
    return stored


def build_text_encoder(config: ModelConfig, *, data_root: Path | None, for_inference: bool = False) -> TextEncoder:
    """The text encoder that the configuration names.

    Args:
        config: the section `model`.
        data_root: replaces `{data.root}` in its path.
        for_inference: as for `load_text_encoder`.

    Raises:
        ValueError: if its path needs `data.root` and there is none, or cannot be loaded.
    """
    path = config.text_encoder.path
    if "{data.root}" in path:
        if data_root is None:
            raise ValueError(f"model.text_encoder.path={path} needs data.root; give data.root=FOLDER")
        path = path.replace("{data.root}", str(data_root))
    if ENCODERS in path:
        path = in_encoders_folder(path, setting="model.text_encoder.path")
    return load_text_encoder(
        path,
        frozen=config.text_encoder.frozen,
        eval_mode_when_frozen=config.text_encoder.eval_mode_when_frozen,
        random_init=config.text_encoder.random_init,
        weights_follow=config.weights is not None,  # a checkpoint holds those of the text encoder, too
        for_inference=for_inference,
        pooling=config.text_encoder.pooling,
    )


def build_visual_encoder(config: VisualEncoderConfig, *, weights_follow: bool = False) -> VisualEncoder:
    """The visual encoder, with its pretrained weights where the configuration names some.

    Args:
        config: the section `model.visual_encoder`.
        weights_follow: a checkpoint will bring the weights, so a random frozen encoder is no mistake.

    Raises:
        ValueError: if there is no such encoder, or the weights are missing, unreadable or of another one.
    """
    encoder: VisualEncoder
    hub: str | None = None
    if config.name.startswith("timm/"):
        encoder = timm = TimmEncoder(config.name.removeprefix("timm/"), drop_path_rate=config.drop_path_rate)
        hub = timm.weights_on_hub
    elif config.name == "resnet50":
        from models.resnet import ResNet50  # here, because torchvision takes a second to import

        encoder = ResNet50()
    else:
        custom = VideoSwinSize(config.embed_dim, config.depths, config.num_heads, config.window_size)
        encoder = VideoSwin(SIZES.get(config.name, custom), drop_path_rate=config.drop_path_rate)
    if config.weights is not None:
        path = weights_path(config.weights, config.name, hub)
        state = read_state_dict(path)
        try:
            encoder.load_pretrained(state)
        except ValueError as error:
            raise ValueError(f"{VISUAL}={config.weights}: {_of_another_encoder(state, config) or error}") from None
        logger.info("visual encoder %s: weights from %s", config.name, path)
    if config.frozen:
        if config.weights is None and not weights_follow:
            logger.warning("model.visual_encoder.frozen=true without weights: its random maps stay as they are")
        encoder.freeze()
    return encoder


def _of_another_encoder(state: Mapping[str, Tensor], config: VisualEncoderConfig) -> str | None:
    """What a file is that does not fit the visual encoder, and the setting that takes it.

    None where the file is unknown, or of this very encoder: then the weights that do not fit say more.
    """
    kind = weight_kind(state)
    custom = video_swin_name(config.embed_dim, config.depths) if config.name == "video-swin" else ""
    own_names = (config.name, config.name.split(".")[0], custom)
    if kind is None or kind.encoder in own_names:
        return None
    both_of_timm = config.name.startswith("timm/") and (kind.encoder or "").startswith("timm/")
    if both_of_timm and kind.encoder == ANY_OF_TIMM:
        return None
    return f"the file is {kind.name}, which does not fit {config.name}; {kind.advice(VISUAL)}"


def weights_path(weights: Path | Literal["hub"], name: str, hub: str | None) -> Path:
    """The file with the weights of a visual encoder; fetched first where it lies on the hub.

    Args:
        weights: the setting.
        name: of the encoder.
        hub: repository of the encoder's weights, where there is one.

    Raises:
        ValueError: if there is no such file, a folder does not hold exactly one, or the hub has none or is out of
            reach.
    """
    if weights == "hub":
        if hub is None:
            raise ValueError(
                f"model.visual_encoder.weights=hub: no repository is known for {name}; name a file with weights"
            )
        return hub_weights(hub)
    path = weights
    if ENCODERS in str(weights):
        path = Path(in_encoders_folder(str(weights), setting="model.visual_encoder.weights"))
    if not path.is_dir():
        return path
    files = listing(path, WEIGHT_FILES)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(
            f"model.visual_encoder.weights={path}: expected one file of weights ({', '.join(WEIGHT_FILES)}) in this "
            f"folder, found {found}; name the file itself"
        )
    return files[0]


def in_encoders_folder(path: str, *, setting: str) -> str:
    """A path with the folder of encoders in the place of `{encoders}`.

    Raises:
        ValueError: if there is nothing there.
    """
    filled = path.replace(ENCODERS, str(encoders_folder()))
    if not Path(filled).exists():
        raise ValueError(
            f"{setting}={path}: there is no {filled}; python -m tools.get_encoders small fetches a small pair of "
            "encoders there, and SOC_ENCODERS names another folder"
        )
    return filled


def build_criterion(config: LossConfig) -> "Criterion":
    """Matcher and losses with the configured weights."""
    from models.criterion import Criterion, LossWeights  # here, because they import SciPy, and training alone needs it
    from models.matcher import Matcher

    matcher = Matcher(
        cost_class=config.class_cost,
        cost_dice=config.dice_cost,
        cost_box=config.box_cost,
        cost_giou=config.giou_cost,
        cost_contrastive=config.contrastive_cost,
    )
    weights = LossWeights(
        classification=config.class_weight,
        contrastive=config.contrastive_weight,
        mask_focal=config.mask_focal_weight,
        dice=config.dice_weight,
        box=config.box_weight,
        giou=config.giou_weight,
    )
    return Criterion(matcher, weights)


def load_weights(
    model: SOC,
    path: Path,
    *,
    class_head: Literal["load", "new", "load_if_it_fits"] = "load",
    initial_state: Callable[[], Mapping[str, Tensor]] | None = None,
    take: bool = False,
) -> None:
    """Load a checkpoint of ours, or one with the published names, strictly.

    Args:
        model: changed in place, or not at all.
        path: the file; see `structures.checkpoint_file` for the forms that are read.
        class_head: "new" leaves the classification head of the model as it is, as the published finetuning does,
            whether that of the file fits or not; "load_if_it_fits" does so where it does not fit.
        initial_state: gives the weights by which parts start that the file does not hold; None: those of the model.
        take: as for `load_strictly`.

    Raises:
        ValueError: if the file is missing, unreadable or of another architecture.
    """
    initial_state = initial_state or model.state_dict
    state = read_weights(path)
    if not state.keys() & model.state_dict().keys():
        raise ValueError(f"checkpoint {path} holds nothing of this model, but {describe(state)}")
    own_head, head = _class_head(model.state_dict()), _class_head(state)
    sizes = f"{_size(head)} in the file, {_size(own_head)} in the model"
    hint = ""
    fits = _size(head) == _size(own_head)
    starts_anew = class_head == "new" or (class_head == "load_if_it_fits" and not fits)
    if starts_anew:
        own_head = _class_head(initial_state())
        state = {**{name: tensor for name, tensor in state.items() if name not in head}, **own_head}
        logger.info(
            "the class head of %s is left out (%s): it starts anew, as model.keep_class_head=false says", path, sizes
        )
        if class_head == "load_if_it_fits":
            logger.warning(
                "with a new class head the choice among queries is random; train the model before you use it"
            )
    elif head and not fits:
        hint = (
            f". The class heads differ ({sizes}): model.num_classes must be that of the file, or "
            "model.keep_class_head=false starts the head anew"
        )
    # What counts batches is not read: models keep their own, by which nothing is computed.
    state = {**{name: own for name, own in model.state_dict().items() if NOT_WEIGHTS.fullmatch(name)}, **state}
    added = _missing_trajectory(model.state_dict(), state)
    if added:
        initial = initial_state()
        state |= {name: initial[name] for name in added}
        logger.info(
            "%s holds no trajectory: its %d tensors start anew, with no effect until they are trained", path, len(added)
        )
    elif any(name.startswith(TRAJECTORY) for name in state.keys() - model.state_dict().keys()):
        hint += ". The file was trained with model.trajectory=true"
    _require_same_encoder(model.state_dict(), state, path)
    load_strictly(model, state, source=f"checkpoint {path}", hint=hint, take=take)
    logger.info("loaded %d tensors from %s", len(state) - len(added) - (len(own_head) if starts_anew else 0), path)


def _missing_trajectory(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the trajectory of the model where the file has nothing of it; a part is damage, which is reported."""
    if any(name.startswith(TRAJECTORY) for name in state):
        return ()
    return tuple(name for name in own if name.startswith(TRAJECTORY))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint of ours, or of one with the published names, in our names.

    Raises:
        ValueError: if the file is missing or unreadable, or the weights are those of another network.
    """
    state = {name: tensor for name, tensor in read_state_dict(path).items() if not NOT_WEIGHTS.fullmatch(name)}
    kind = weight_kind(state)
    if kind is not None and kind.setting != MODEL:
        raise ValueError(f"checkpoint {path} is {kind.name}; {kind.advice(MODEL)}")
    return soc_from_published(state) if is_published_soc(state) else state


def _require_same_encoder(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError if the visual encoder of the file is of another kind or size than that of the model."""
    of_model, of_file = visual_encoder_of(own), visual_encoder_of(state)
    if None not in (of_model, of_file) and of_model != of_file:
        raise ValueError(
            f"checkpoint {path} does not fit the model: the visual encoders differ ({of_file} in the file, {of_model} "
            "in the model); model.visual_encoder.name (in the scripts, BACKBONE) must be that of the file"
        )


def _class_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith("class_heads.")}


def _size(head: Mapping[str, Tensor]) -> str:
    """The weights of the first layer's class head are [classes, dim]."""
    weight = head.get("class_heads.0.weight")
    if weight is None:
        return "none"
    if weight.ndim != 2:
        return f"weights of shape {tuple(weight.shape)}"
    return f"{weight.shape[0]} class{'es' if weight.shape[0] > 1 else ''}"
