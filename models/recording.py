"""The training pass of the model as CUDA graphs: a launch forward and a launch backward for each size.

A step of SOC at a small batch is bound by some thousand launches, which the host makes one by one. A graph makes them
at once, but only for tensors of the same sizes at the same addresses. So a pass is recorded when a size comes for the
second time, and played back from then on. Matching, losses and optimiser stay outside: the host decides there.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from models.outputs import LayerOutput, SOCOutput, Tokens
from models.soc import SOC
from structures.clips import PaddedClips
from structures.kept import handed_out

logger = logging.getLogger(__name__)

WORDS_MULTIPLE = 8
"""Sentences are padded to a multiple of so many tokens, so that fewer sizes come."""

MOST_RECORDINGS = 16
"""Each keeps its inputs, outputs and gradients: 190 to 330 MiB of SOC-T with a frozen text encoder."""


@dataclass(frozen=True, slots=True)
class _Size:
    """What a recording is of; another one is another recording."""

    frames: torch.Size
    sizes_px: tuple[tuple[int, int], ...]
    words: torch.Size
    clip_of_sentence: tuple[int, ...] | None
    has_annotated_frame: bool
    autocast: torch.dtype | None


_Recording = Callable[..., tuple[Tensor, ...]]


class RecordedSOC(nn.Module):
    """Calls the model; in training on a GPU it records the pass of each size, and plays it back.

    Gradients are those of the model. What is trained, and whether the model is in training mode, must not change
    between calls with gradients; make another one where it does.

    Args:
        model: on a GPU.
        most: sizes that are recorded; others are computed as always.
    """

    def __init__(self, model: SOC, *, most: int = MOST_RECORDINGS) -> None:
        super().__init__()
        self.model, self._most = model, most
        self._seen: set[_Size] = set()
        self._passes: dict[_Size, _Recording] = {}
        self._owned: list[object] = []
        self._pool = torch.cuda.graph_pool_handle()

    def forward(
        self,
        clips: PaddedClips,
        tokens: Tokens,
        *,
        clip_of_sentence: Int[Tensor, " sentence"] | None = None,
        annotated_frame: Int[Tensor, " clip"] | None = None,
    ) -> SOCOutput:
        """As that of the model; the output is overwritten by the next call.

        Raises:
            ValueError: the pass cannot be recorded.
        """
        if not (self.model.training and torch.is_grad_enabled()):
            return self.model(clips, tokens, clip_of_sentence=clip_of_sentence, annotated_frame=annotated_frame)
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        of_sentence = None if clip_of_sentence is None else tuple(clip_of_sentence.tolist())
        size = _Size(
            clips.frames.shape,
            clips.sizes_px,
            tokens.ids.shape,
            of_sentence,
            annotated_frame is not None,
            autocast,
        )
        recorded = self._passes.get(size)
        if recorded is None and (size not in self._seen or len(self._passes) == self._most):
            self._seen.add(size)
            return self.model(clips, tokens, clip_of_sentence=clip_of_sentence, annotated_frame=annotated_frame)
        inputs = [clips.frames, clips.is_padding, tokens.ids, tokens.is_padding]
        inputs += [] if annotated_frame is None else [annotated_frame]
        if recorded is None:
            recorded = self._passes[size] = self._record(size, inputs)
        parameters = list(self.model.parameters())
        for parameter in parameters:
            # That of an earlier batch of this step, perhaps where the recording will write its own.
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
        return _as_output(recorded(*inputs, *parameters))

    def _record(self, size: _Size, inputs: list[Tensor]) -> _Recording:
        """A function of inputs and parameters, which lie where they lay when it was recorded."""
        names = [name for name, _ in self.model.named_parameters()]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            values = dict(zip(names, tensors[len(inputs) :], strict=True))
            return _run(self.model, size, values, *tensors[: len(inputs)])

        # Not the parameters themselves: what collects their gradients may belong to the stream of an earlier step, for
        # which a stream that is being recorded cannot wait.
        stand_ins = [each.detach().requires_grad_(each.requires_grad) for each in self.model.parameters()]
        try:
            with handed_out() as read:
                recorded: _Recording = torch.cuda.make_graphed_callables(  # type: ignore[assignment]
                    run, (*inputs, *stand_ins), allow_unused_input=True, pool=self._pool
                )
        except RuntimeError as error:
            raise ValueError(
                f"train.cuda_graphs: the training pass cannot be recorded ({str(error).splitlines()[0]}); "
                "set train.cuda_graphs=false"
            ) from error
        self._owned.append(read)
        frames = " x ".join(str(side) for side in size.frames)
        number = len(self._passes) + 1
        logger.info("recorded the pass of frames %s as CUDA graphs (%d of at most %d)", frames, number, self._most)
        return recorded


def _run(
    model: SOC,
    size: _Size,
    parameters: dict[str, Tensor],
    frames: Float[Tensor, "clip time 3 height width"],
    is_padding: Bool[Tensor, "clip time height width"],
    ids: Int[Tensor, "sentence word"],
    is_padded_word: Bool[Tensor, "sentence word"],
    annotated_frame: Int[Tensor, " clip"] | None = None,
) -> tuple[Tensor, ...]:
    """The model as a function of tensors; numbers of Python are those of one size.

    Returns:
        All tensors of the output, layer by layer, the feature of the sentence last.
    """
    of_sentence = size.clip_of_sentence
    output: SOCOutput = functional_call(
        model,
        parameters,
        (PaddedClips(frames, is_padding, size.sizes_px), Tokens(ids, is_padded_word)),
        {
            "clip_of_sentence": None if of_sentence is None else torch.tensor(of_sentence),
            "annotated_frame": annotated_frame,
        },
    )
    assert output.sentence is not None  # in training
    parts = [getattr(layer, field.name) for layer in output.layers for field in fields(layer)]
    return *parts, output.sentence


def _as_output(tensors: tuple[Tensor, ...]) -> SOCOutput:
    *parts, sentence = tensors
    length = len(fields(LayerOutput))
    layers = tuple(LayerOutput(*parts[start : start + length]) for start in range(0, len(parts), length))
    return SOCOutput(layers, sentence)
