"""Compiled blocks: without breaks, for any size, and equal to the plain ones; on the CPU, without code generation.

A program of its own, run by test_compilation.py: the checker of shapes that all tests are under cannot be compiled.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from models.compilation import compile_blocks
from models.soc import SOC
from models.video_swin import VideoSwinBlock
from tests.tiny_model import tiny_clips, tiny_soc, tiny_tokens


def features(model: SOC, *, height: int = 40) -> tuple[Tensor, ...]:
    """What visual encoder and transformer give."""
    video, text = model.encode_video(tiny_clips(1, height=height)), model.encode_text(tiny_tokens(6))
    fused = [model.fusion(level, text) for level in video.levels]
    found = model.transformer(fused, video.positions, video.is_padding, list(model.box_heads))
    return (*video.levels, found.decoded.objects, found.decoded.references, *found.memory)


def gradients(model: SOC, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def a_block_is_compiled_a_few_times_for_many_sizes(*, is_shifted: bool) -> None:
    torch.manual_seed(0)
    block = VideoSwinBlock(8, 2, window=(2, 3, 3), is_shifted=is_shifted)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    counter = CompileCounter()
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    # Padded to whole windows, all of them; PyTorch makes a variant of its own where a group is a single window.
    for height, width in ((4, 5), (7, 8), (10, 11), (5, 13), (8, 14), (13, 10), (11, 17)):
        x = torch.randn(1, 3, height, width, 8)
        layout = block.attn.layout(x, block.shift)
        torch.testing.assert_close(compiled(x, None, layout), block(x))
    assert counter.frame_count <= 4, counter.frame_count


@contextmanager
def compiled_with(counter: CompileCounter, **more: bool) -> Iterator[None]:
    """What is compiled in this context is compiled so; `Module.compile` asks `torch.compile` in the end."""
    made = torch.compile
    with patch("torch.compile", lambda *args, **settings: made(*args, **settings | {"backend": counter} | more)):
        yield


def the_blocks_of_a_model_are_compiled_in_place_and_equal_the_plain_ones() -> None:
    model, plain = tiny_soc(), tiny_soc()
    counter = CompileCounter()
    with compiled_with(counter, fullgraph=True):  # a break would be an error
        compile_blocks(model)
    for height in (40, 56):
        outputs, expected = features(model, height=height), features(plain, height=height)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(gradients(model, outputs), gradients(plain, expected))
        # Of the encoder five blocks, one of them shifted, and of the transformer three layers, of which the second of
        # the decoder gets boxes in place of points.
        assert counter.frame_count >= 8
    assert set(model.state_dict()) == set(plain.state_dict())


def a_model_that_meets_more_variants_than_are_kept_goes_on() -> None:
    model, plain = tiny_soc(), tiny_soc()
    counter = CompileCounter()
    with (
        patch("models.compilation.MOST_VARIANTS", 1),
        torch._dynamo.config.patch(recompile_limit=1),
        compiled_with(counter),
    ):
        compile_blocks(model)
        for height in (40, 56):
            torch.testing.assert_close(features(model, height=height), features(plain, height=height))
    assert counter.frame_count == 3  # one of each kind of block


if __name__ == "__main__":
    for is_shifted in (False, True):
        a_block_is_compiled_a_few_times_for_many_sizes(is_shifted=is_shifted)
        torch._dynamo.reset()
    the_blocks_of_a_model_are_compiled_in_place_and_equal_the_plain_ones()
    torch._dynamo.reset()
    a_model_that_meets_more_variants_than_are_kept_goes_on()
