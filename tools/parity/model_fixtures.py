"""Rebuild the inputs of the model fixtures and run our model on them, in PyTorch's default precision."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from configs.model_schema import VisualEncoderConfig
from models.build import build_visual_encoder
from models.checkpoint_names import soc_from_published, soc_name
from models.criterion import Criterion
from models.deformable_transformer import DecoderOutput
from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.outputs import LayerOutput, SOCOutput, TextFeatures, Tokens, VideoFeatures
from models.position_encoding import pixel_positions
from models.soc import SOC, resize_padding
from models.text_encoder import TextEncoder
from models.visual_encoder import VisualEncoder
from structures.checkpoint_file import load_strictly
from structures.clips import PaddedClips
from tools.parity import inputs, weights
from tools.parity.criterion_fixtures import build_targets, layer_names, loss_keys, loss_weights, match_keys

Outputs = dict[str, Tensor | np.ndarray]
LoadSpec = Callable[[str], dict[str, Any]]

_FRAMES = re.compile(r"inputs\.frames\('([^']+)', (\d+), (\d+), (\d+)\)")


def _uniform(name: str, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(weights.uniform(name, int(np.prod(shape))).reshape(tuple(shape)).astype(np.float64)).to(
        torch.get_default_dtype()
    )


def _filled(spec: Mapping[str, Sequence[int]], prefix: str = "") -> dict[str, Tensor]:
    """Name-generated parameters in the default precision."""
    named = {prefix + name: shape for name, shape in spec.items()}
    filled = weights.state_dict(named)
    return {name.removeprefix(prefix): tensor.to(torch.get_default_dtype()) for name, tensor in filled.items()}


def _without_randomness(module: nn.Module) -> nn.Module:
    """All dropout and drop-path probabilities to zero, also those that are plain attributes."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return module


def _visual_encoder(arch: str) -> VisualEncoder:
    encoder = build_visual_encoder(VisualEncoderConfig(name=arch, drop_path_rate=0.0))
    return encoder.to(torch.get_default_dtype())


def run_backbone(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """Maps of the visual encoder alone."""
    encoder = _visual_encoder(entry["arch"]).eval()
    state = soc_from_published(_filled(load_spec(entry["spec"])["parameters"]))
    load_strictly(encoder, {name.removeprefix("visual_encoder."): x for name, x in state.items()}, source="fixture")
    clips = [inputs.frames(*_frames_arguments(text)) for text in entry["inputs"] if _FRAMES.search(text)]
    return _stages(encoder, clips)


def _frames_arguments(text: str) -> tuple[str, int, int, int]:
    match = _FRAMES.search(text)
    assert match is not None
    return match[1], int(match[2]), int(match[3]), int(match[4])


def _stages(encoder: nn.Module, clips: Sequence[np.ndarray]) -> Outputs:
    with torch.no_grad():
        maps = encoder(torch.from_numpy(np.stack(clips)).to(torch.get_default_dtype()))
    return {f"stage{i}": rearrange(level, "b t c h w -> (b t) c h w") for i, level in enumerate(maps)}


def run_kinetics_loader(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """A Kinetics checkpoint, loaded as a user's file is, and its features."""
    spec = load_spec(entry["spec"])
    source = weights.state_dict({f"kinetics.{name}": shape for name, shape in spec["parameters"].items()})
    state = {name.removeprefix("kinetics."): tensor for name, tensor in source.items()}
    buffers = {name: torch.zeros(*shape, dtype=torch.int64) for name, shape in spec.get("integer_buffers", {}).items()}
    encoder = _visual_encoder(spec["arch"]).eval()
    encoder.load_pretrained({**state, **buffers})
    ours = {name: soc_name(name) for name in entry["mapping"]}
    own = {f"visual_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    if set(ours.values()) != set(own):
        raise ValueError(f"the loader fills {sorted(own)}, the mapping names {sorted(map(str, ours.values()))}")
    # Summed in the order of the published names.
    checksum = [own[str(ours[name])].double().sum() for name in sorted(entry["mapping"])]
    clips = [inputs.frames(*_frames_arguments(text)) for text in entry["inputs"] if _FRAMES.search(text)]
    if not clips:
        name, t, h, w = re.search(r"'([^']+)', (\d+), (\d+), (\d+)", " ".join(entry["inputs"])).groups()  # type: ignore[union-attr]
        clips = [inputs.frames(name, int(t), int(h), int(w))]
    return {
        "checksum": torch.stack(checksum),
        "patch_embed.proj.weight": encoder.state_dict()["patch_embed.proj.weight"],
        **_stages(encoder, clips),
    }


def run_ms_deform_attn_core(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """The operator and its gradients."""
    key, shapes = entry["key"], [(h, w) for h, w in entry["shapes"]]
    n, m, d, lq, levels, points = (entry[letter] for letter in ("N", "M", "D", "Lq", "L", "P"))
    value = _uniform(f"{key}/value", (n, sum(h * w for h, w in shapes), m, d)).requires_grad_()
    locations = 0.5 + entry["spread"] * _uniform(f"{key}/loc", (n, lq, m, levels, points, 2))
    rows = locations.view(-1, 2)
    for i, special in enumerate([(0, 0), (1, 1), (0, 1), (-0.5, 0.5), (1.7, 0.2), (0.5, 0.5)]):
        rows[3 * i % len(rows)] = rows.new_tensor(special)
    locations.requires_grad_()
    attention = (1.5 * _uniform(f"{key}/aw", (n, lq, m, levels * points))).softmax(-1).unflatten(-1, (levels, points))
    attention.requires_grad_()
    output = ms_deform_attn(value, shapes, locations, attention)
    output.backward(_uniform(f"{key}/grad", (n, lq, m * d)))
    gradients = {
        "grad_value": value.grad,
        "grad_sampling_locations": locations.grad,
        "grad_attention_weights": attention.grad,
    }
    return {"output": output, **{name: gradient for name, gradient in gradients.items() if gradient is not None}}


def run_ms_deform_attn_module(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """The whole layer, from points or boxes, with padding."""
    key, shapes = entry["key"], [(h, w) for h, w in entry["shapes"]]
    dim, num_levels = entry["outputs"]["output"][-1], len(shapes)
    heads, _, points = entry["outputs"]["attention_weights"][-3:]
    layer = MSDeformAttn(dim, num_levels=num_levels, num_heads=heads, num_points=points)
    spec = {name: tuple(parameter.shape) for name, parameter in layer.state_dict().items()}
    load_strictly(layer, _filled(spec, prefix="msda_module."), source="fixture")
    n, lq, num_tokens = entry["N"], entry["Lq"], sum(h * w for h, w in shapes)
    query, memory = _uniform(f"{key}/query", (n, lq, dim)), _uniform(f"{key}/input", (n, num_tokens, dim))
    reference = 0.5 + 0.5 * _uniform(f"{key}/ref", (n, lq, num_levels, entry["reference_dim"]))
    is_padding = torch.from_numpy(weights.uniform(f"{key}/pad", n * num_tokens).reshape(n, num_tokens) > 0.6)
    with torch.no_grad():
        output = layer(query, reference, memory, shapes, memory_is_padding=is_padding)
        locations, attention = layer.sampling_locations(query, reference, shapes)
    return {"output": output, "sampling_locations": locations, "attention_weights": attention}


def build_soc(spec: Mapping[str, Any], *, train: bool, frozen_text: bool = False) -> SOC:
    """The model of a specification with its name-generated weights, loaded as a published checkpoint."""
    roberta = RobertaModel(RobertaConfig(**spec["text_config"]))
    model = SOC(
        _visual_encoder(spec["backbone"]), TextEncoder(roberta, frozen=frozen_text), num_classes=spec["num_classes"]
    )
    model = model.to(torch.get_default_dtype())
    load_strictly(model, soc_from_published(_filled(spec["parameters"])), source="fixture")
    _without_randomness(model)
    return model.train(train)


def soc_inputs(entry: Mapping[str, Any]) -> tuple[PaddedClips, Tokens, Tensor | None]:
    """Clips, tokens and annotated frames of a `soc_forward` or `soc_train` fixture."""
    key, time = entry["key"], entry["T"]
    sizes = [(h, w) for h, w in entry["sizes"]]
    frames, mask = inputs.pad_clips([inputs.frames(f"{key}/frames{b}", time, *size) for b, size in enumerate(sizes)])
    lengths = enumerate(entry["text_lengths"])
    ids, attention = inputs.pad_tokens([inputs.tokens(f"{key}/text{b}", n, entry["vocab"]) for b, n in lengths])
    clips = PaddedClips(
        frames=rearrange(torch.from_numpy(frames), "t b c h w -> b t c h w").to(torch.get_default_dtype()),
        is_padding=rearrange(torch.from_numpy(mask), "t b h w -> b t h w"),
        sizes_px=tuple(sizes),
    )
    tokens = Tokens(ids=torch.from_numpy(ids), is_padding=torch.from_numpy(attention) != 1)
    valid = entry["valid_indices"]
    annotated = None if valid is None else torch.tensor([index - b * time for b, index in enumerate(valid)])
    return clips, tokens, annotated


def _published_layer(layer: LayerOutput, sentence: Tensor) -> Outputs:
    """One layer under the published names and axis order (time first)."""
    return {
        "pred_masks": rearrange(layer.mask_logits, "b t q h w -> t b q h w"),
        "pred_cls": rearrange(layer.class_logits, "b t q k -> t b q k"),
        "pred_boxes": rearrange(layer.boxes_cxcywh_norm, "b t q c -> t b q c"),
        "pred_logit": layer.cluster,
        "text_sentence_feature": sentence,
    }


def _published_outputs(output: SOCOutput, sentence: Tensor) -> Outputs:
    outputs = {}
    for name, layer in zip(layer_names(len(output.layers)), output.layers, strict=True):
        prefix = "" if name == "last" else f"aux_outputs/{name}/"
        outputs.update({prefix + key: x for key, x in _published_layer(layer, sentence).items()})
    return outputs


class _Recorder:
    """Records the outputs of modules of a model, by name."""

    def __init__(self, model: SOC) -> None:
        self.module_outputs: dict[str, list[Any]] = {}
        for name in ("visual_encoder", "transformer", "object_cluster", "spatial_decoder", "fusion"):
            model.get_submodule(name).register_forward_hook(self._record(name))
        model.transformer.encoder_layers[-1].register_forward_hook(self._record("encoder_memory"))

    def _record(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.module_outputs.setdefault(name, []).append(output)

        return hook


def _intermediates(
    model: SOC, clips: PaddedClips, video: VideoFeatures, text: TextFeatures, module_outputs: dict[str, list[Any]]
) -> Outputs:
    """The `mid/*` tensors, in the published axis orders."""
    decoded: DecoderOutput = module_outputs["transformer"][0].decoded
    dim = text.sentence.shape[1]
    outputs: Outputs = {
        "text_memory": rearrange(text.words, "b s c -> s b c"),
        "text_sentence": text.sentence,
        "text_pos": rearrange(text.word_positions, "b s c -> b c s"),
        "hs": rearrange(decoded.objects, "l b t q c -> l (b t) q c"),
        "init_reference": rearrange(decoded.first_reference, "b t q c -> (b t) q c"),
        "inter_references": rearrange(decoded.references, "l b t q c -> l (b t) q c"),
        "voc": module_outputs["object_cluster"][0],
        "mask_features": rearrange(module_outputs["spatial_decoder"][0], "b t c h w -> (t b) c h w"),
    }
    for i, level in enumerate(module_outputs["visual_encoder"][0]):
        outputs[f"backbone{i}"] = rearrange(level, "b t c h w -> (b t) c h w")
        is_padding = resize_padding(clips.is_padding, (level.shape[-2], level.shape[-1]))
        outputs[f"mask{i}"] = rearrange(is_padding, "b t h w -> (b t) h w")
        positions = pixel_positions(is_padding, dim, level.dtype)
        outputs[f"pos{i}"] = rearrange(positions, "b t c h w -> (b t) c h w")
    for i, fused in enumerate(module_outputs["fusion"]):
        outputs[f"vlf{i}"] = rearrange(fused, "b t c h w -> (t h w) b c")
    for i, level in enumerate(zip(video.levels, video.positions, video.is_padding, strict=True)):
        outputs[f"lvf{i}"] = rearrange(model.fusion.words(*level, text), "b s c -> s b c")
    outputs["encoder_memory"] = module_outputs["encoder_memory"][0]
    return {f"mid/{name}": tensor for name, tensor in outputs.items()}


def run_soc_forward(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """The whole model, with the intermediate tensors that the fixture holds."""
    model = build_soc(load_spec(entry["spec"]), train=entry["mode"].startswith("train"))
    clips, tokens, annotated = soc_inputs(entry)
    recorder = _Recorder(model)
    with torch.no_grad():
        video = model.encode_video(clips, annotated_frame=annotated)
        text = model.encode_text(tokens)
        output = model.segment(video, text)
        outputs = _published_outputs(output, model.sentence_feature(video, text))
        outputs.update(_intermediates(model, clips, video, text, recorder.module_outputs))
    return outputs


def run_soc_train(entry: dict[str, Any], fixture: Any, load_spec: LoadSpec) -> Outputs:
    """Forward, matching, losses and gradients of one training step."""
    spec = load_spec(entry["spec"])
    model = build_soc(spec, train=True, frozen_text=entry["frozen_text_encoder"])
    clips, tokens, annotated = soc_inputs(entry)
    targets = build_targets(entry, torch.get_default_dtype())
    output = model(clips, tokens, annotated_frame=annotated)
    criterion = Criterion(weights=loss_weights(entry["weight_dict"]))
    losses = criterion(output, targets)
    losses.total.backward()
    assert output.sentence is not None
    assignments = [criterion.matcher(layer, output.sentence, targets) for layer in output.layers]
    outputs: dict[str, Any] = {**loss_keys(losses, criterion.weights), **match_keys(assignments)}
    outputs.update({f"out/{k}": x for k, x in _published_outputs(output, output.sentence.detach()).items()})
    outputs.update(_gradients(model, spec["parameters"]))
    for b, target in enumerate(targets):
        for t in range(target.masks.shape[1]):
            outputs[f"target_boxes/{t}/{b}"] = target.boxes_cxcywh_norm[:, t]
    return outputs


def _gradients(model: SOC, published_names: Mapping[str, Any]) -> Outputs:
    """Gradients and their norms under the published names; each tensor counts once."""
    parameters = dict(model.named_parameters())
    outputs: Outputs = {}
    squares: dict[str, Tensor] = {}
    for published in published_names:
        ours = soc_name(published)
        if ours is None or ours not in parameters:
            continue
        gradient = parameters[ours].grad
        if gradient is None:
            continue
        square = gradient.double().square().sum()
        outputs[f"grad/{published}"] = gradient
        outputs[f"gradnorm/{published}"] = square.sqrt()
        module = published.split(".")[0]
        squares[module] = squares.get(module, torch.zeros((), dtype=torch.float64)) + square
    outputs.update({f"gradnorm_module/{module}": square.sqrt() for module, square in squares.items()})
    outputs["global_grad_norm"] = torch.stack(list(squares.values())).sum().sqrt()
    return outputs


RUNNERS: dict[str, Callable[[dict[str, Any], Any, LoadSpec], Outputs]] = {
    "backbone": run_backbone,
    "kinetics_loader": run_kinetics_loader,
    "ms_deform_attn_core": run_ms_deform_attn_core,
    "ms_deform_attn_module": run_ms_deform_attn_module,
    "soc_forward": run_soc_forward,
    "soc_train": run_soc_train,
}
