"""From modules of PyTorch to files of ONNX, and from these to files of OpenVINO."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.ops.ms_deform_attn import reference
from models.outputs import Tokens
from models.soc import SOC
from models.video_swin import VideoSwin
from tools.export.parts import SegmentPart, TextPart, VideoPart
from tools.export.run import MAPS, PARTS, import_openvino

EXAMPLE_FRAMES, LONGEST_DIMENSION = 3, 4096
"""Frames that a graph is recorded with, and the most frames or sentences that it is said to take."""

OUTPUTS = ("class_logits", "boxes_cxcywh_norm", "mask_logits", "embeddings")

Axes = Mapping[int, str]
"""Which axes of a tensor may have any length, by the name of that length."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the model on its way to a file.

    Attributes:
        module: what is exported.
        inputs: an example of each, by name.
        outputs: their names.
        free_axes: of the inputs, by name.
        longest_sentence: in tokens.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    free_axes: Mapping[str, Axes]
    longest_sentence: int


def sees_windows(model: SOC) -> bool:
    """Whether the visual encoder mixes frames, so that its graph is one for a fixed number of them."""
    return isinstance(model.visual_encoder, VideoSwin)


@torch.no_grad()
def make_parts(model: SOC, *, size_px: tuple[int, int], num_frames: int | None) -> dict[str, Part]:
    """The parts of a model, with examples of what they are fed.

    Args:
        model: in evaluation mode, on the CPU.
        size_px: (height, width) of the frames.
        num_frames: of a window; None: any number.
    """
    time: Axes = {0: "time"} if num_frames is None else {}
    frames = torch.zeros(num_frames or EXAMPLE_FRAMES, *size_px, 3, dtype=torch.uint8)
    video = VideoPart(model).eval()
    maps = video(frames)
    text = TextPart(model).eval()
    tokens = _example_tokens(model)
    attention_mask = (~tokens.is_padding).long()
    words, sentence = text(tokens.ids, attention_mask)
    of_words: Axes = {0: "sentence"} if model.text_encoder.reads_padding else {0: "sentence", 1: "word"}
    longest = model.text_encoder.max_tokens or LONGEST_DIMENSION
    named_maps = dict(zip(MAPS, maps, strict=True))
    return {
        "video": Part(video, {"frames": frames}, MAPS, {"frames": time}, longest),
        "text": Part(
            text,
            {"ids": tokens.ids, "attention_mask": attention_mask},
            ("words", "sentence"),
            {"ids": of_words, "attention_mask": of_words},
            longest,
        ),
        "segment": Part(
            SegmentPart(model, maps, size_px=size_px).eval(),
            {**named_maps, "words": words, "attention_mask": attention_mask, "sentence": sentence},
            OUTPUTS,
            {
                **dict.fromkeys(MAPS, time),
                "words": of_words,
                "attention_mask": of_words,
                "sentence": {0: "sentence"},
            },
            longest,
        ),
    }


def _example_tokens(model: SOC) -> Tokens:
    """Two sentences of different lengths, so that no graph is made for one length or for sentences without padding."""
    return model.tokenize(["the large dog on the left", "a cat"])


def to_onnx(part: Part, path: Path) -> None:
    """Writes one part as a file of ONNX.

    Deformable attention, which is an operator of this project, becomes the operations of its plain version: sampling
    of a grid, product and sum. Which backend computes in this process plays no role.

    Args:
        part: what is exported.
        path: of the file.
    """
    import onnx
    import onnxscript.optimizer

    limits = {"word": (2, part.longest_sentence)}  # a sentence begins and ends with special tokens
    free = {name for axes in part.free_axes.values() for name in axes.values()}
    lengths = {name: limits.get(name, (1, LONGEST_DIMENSION)) for name in free}
    dims = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in lengths.items()}
    shapes = tuple(
        {axis: dims[length] for axis, length in part.free_axes.get(name, {}).items()} or None for name in part.inputs
    )
    with torch.no_grad():
        program = torch.export.export(part.module, tuple(part.inputs.values()), dynamic_shapes=shapes, strict=False)
        program = program.run_decompositions({**torch.export.default_decompositions(), **_DECOMPOSITIONS})
        exported = torch.onnx.export(
            program,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamo=True,
            optimize=False,  # its rewriting takes minutes; what runs the file optimises anyway
            verbose=False,
        )
    assert exported is not None
    for _ in range(2):  # shapes first, then what follows from them
        onnxscript.optimizer.fold_constants(exported.model)
        onnxscript.optimizer.remove_unused_nodes(exported.model)
    exported.save(path)
    model = onnx.load(path)
    _name_axes(model, part.free_axes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def to_openvino(onnx_file: Path, path: Path) -> None:
    """Writes a file of ONNX as two of OpenVINO: `path`, which ends with `.xml`, and its weights, `.bin`."""
    openvino = import_openvino()
    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=False)


def files_of(kind: str) -> dict[str, str]:
    """The file of each part by which it is loaded."""
    return {part: f"{part}.{'onnx' if kind == 'onnx' else 'xml'}" for part in PARTS}


def _name_axes(model: Any, free_axes: Mapping[str, Axes]) -> None:
    """Gives lengths that are free the names that they have here, in place of PyTorch's."""
    names: dict[str, str] = {}
    for tensor in model.graph.input:
        for axis, name in free_axes.get(tensor.name, {}).items():
            names[tensor.type.tensor_type.shape.dim[axis].dim_param] = name
    for tensor in (*model.graph.input, *model.graph.output):
        for dim in tensor.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    del model.graph.value_info[:]  # of the tensors between, under the old names; computed again where needed


def _searchsorted(
    sorted_sequence: Tensor,
    self: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """`torch.searchsorted` by counting, which ONNX has no operator for; sequences here are a handful of frames."""
    assert not out_int32
    assert side is None
    assert sorter is None
    before, value = sorted_sequence[..., None, :], self[..., None]
    # In floats and over the last axis: OpenVINO 2026.4 gives zeros in all rows but the first for sums of integers here.
    return (before <= value if right else before < value).to(value.dtype).sum(dim=-1).long()


def _empty(size: Sequence[int], physical_layout: Sequence[int], *, dtype: torch.dtype, **_options: Any) -> Tensor:
    """Memory that is filled later; ONNX knows none without values."""
    return torch.zeros(size, dtype=dtype)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.soc_ms_deform_attn.forward.default: reference.forward,
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
    torch.ops.aten.empty_permuted.default: _empty,
}
