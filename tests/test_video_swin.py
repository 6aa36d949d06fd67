"""Windows: what the caches and the grouping by mask must not change."""

import pytest
import torch

from benchmarks.plain_model import PlainWindowAttention
from models.checkpoint_names import kinetics_to_video_swin
from models.video_swin import VideoSwin, VideoSwinBlock, VideoSwinSize
from models.window_attention import WindowAttention

WINDOW = (2, 3, 3)


def attend_plainly(layer: WindowAttention, x: torch.Tensor, shift: tuple[int, int, int]) -> torch.Tensor:
    """One explicit mask for every window, softmax written out."""
    return PlainWindowAttention.forward(layer, x, shift)  # type: ignore[arg-type]  # it looks at what both have


@pytest.mark.parametrize("size", [(4, 7, 8), (5, 6, 6), (1, 3, 9), (2, 2, 2), (4, 3, 3)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
def test_windows_grouped_by_mask_attend_as_windows_one_by_one(size: tuple[int, int, int], shift: tuple[int, int, int]):
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, WINDOW)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, *size, 8)
    torch.testing.assert_close(layer(x, shift), attend_plainly(layer, x, shift), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 7, 8), (5, 6, 6), (4, 3, 30)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
def test_some_windows_after_the_other_attend_as_all_at_once(
    size: tuple[int, int, int], shift: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, WINDOW)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    torch.nn.init.normal_(layer.qkv.bias)
    x = torch.randn(2, *size, 8)
    sizes = []
    layer.qkv.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    at_once = layer(x, shift)
    monkeypatch.setattr("models.window_attention.VALUES_AT_ONCE", 3 * 18 * 8 * 2)  # two windows
    torch.testing.assert_close(layer(x, shift), at_once, rtol=1e-5, atol=1e-6)
    assert max(sizes[1:]) <= 2 * 18, "more than two windows at once"


@pytest.mark.parametrize("size", [(4, 7, 8), (5, 6, 6), (4, 3, 3)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1)])
def test_gradients_are_those_of_windows_one_by_one(size: tuple[int, int, int], shift: tuple[int, int, int]):
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, WINDOW).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    torch.nn.init.normal_(layer.qkv.bias)  # which is all that padding has to say
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    of = [x, *layer.parameters()]
    gradients = torch.autograd.grad((layer(x, shift) * weight).sum(), of)
    expected = torch.autograd.grad((attend_plainly(layer, x, shift) * weight).sum(), of)
    torch.testing.assert_close(gradients, expected, rtol=1e-7, atol=1e-9)


def test_the_bias_is_kept_between_calls_and_follows_the_weights():
    layer = WindowAttention(8, 2, WINDOW)
    with torch.no_grad():
        first = layer.position_bias(18)
        assert layer.position_bias(18) is first
        layer.relative_position_bias_table.add_(1.0)
        torch.testing.assert_close(layer.position_bias(18), first + 1)
    assert layer.position_bias(18).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("change", ["fused AdamW", "data", "double"])
def test_the_bias_follows_weights_whose_version_stays_as_it_was(change: str):
    layer = WindowAttention(8, 2, WINDOW)
    table = layer.relative_position_bias_table
    first, version = layer.position_bias(18), table._version
    if change == "fused AdamW":
        table.grad = torch.ones_like(table)
        torch.optim.AdamW([table], lr=1.0, weight_decay=0.0, fused=True).step()  # each number becomes smaller by lr
    elif change == "data":
        table.data.sub_(1.0)
    else:
        layer.double()
        table.data.sub_(1.0)
    assert table._version == version
    torch.testing.assert_close(layer.position_bias(18), (first - 1).to(table.dtype), rtol=1e-4, atol=1e-5)


def test_an_encoder_built_and_used_in_inference_mode_is_used_elsewhere_too():
    size = VideoSwinSize(8, (1, 2, 1, 1), (1, 1, 2, 2), (2, 3, 5))  # of no other test, so that nothing is kept yet
    frames = torch.randn(1, 2, 3, 37, 45)
    with torch.inference_mode():
        assert VideoSwin(size)(frames)[0].isfinite().all()
    encoder = VideoSwin(size).train()
    torch.stack([level.sum() for level in encoder(frames)]).sum().backward()
    assert encoder.stages[0][0].attn.relative_position_bias_table.grad is not None


def test_the_bias_that_inference_kept_is_not_used_in_training():
    layer = WindowAttention(8, 2, WINDOW)
    with torch.no_grad():
        layer(torch.randn(1, 2, 3, 3, 8), (0, 0, 0))
    layer(torch.randn(1, 2, 3, 3, 8), (0, 0, 0)).sum().backward()
    assert layer.relative_position_bias_table.grad is not None


def test_maps_have_strides_4_to_32_rounded_up_for_every_frame():
    encoder = VideoSwin(VideoSwinSize(8, (1, 1, 1, 1), (1, 1, 2, 2), WINDOW))
    shapes = [tuple(level.shape) for level in encoder(torch.randn(1, 3, 3, 33, 50))]
    assert shapes == [(1, 3, 8, 9, 13), (1, 3, 16, 5, 7), (1, 3, 32, 3, 4), (1, 3, 64, 2, 2)]


def test_a_kinetics_file_that_lacks_a_weight_is_reported_by_name():
    size = VideoSwinSize(8, (1, 1, 1, 1), (1, 1, 2, 2), WINDOW)
    encoder = VideoSwin(size)
    with pytest.raises(ValueError, match=r"missing: patch_embed\.proj\.weight \(8, 3, 1, 4, 4\), "):
        encoder.load_pretrained({"backbone.patch_embed.norm.weight": torch.ones(8)})


def test_what_no_video_swin_has_is_kept_to_be_reported():
    assert kinetics_to_video_swin({"layers.0.norm": torch.ones(8)}).keys() == {"layers.0.norm"}


def test_names_may_start_with_backbone_or_not():
    state = {"patch_embed.norm.bias": torch.ones(8), "layers.1.blocks.0.norm1.bias": torch.zeros(8)}
    prefixed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    assert kinetics_to_video_swin(state).keys() == kinetics_to_video_swin(prefixed).keys()
    assert kinetics_to_video_swin(state | {"head.bias": torch.ones(400)}).keys() == {
        "patch_embed.norm.bias",
        "stages.1.0.norm1.bias",
    }


def test_patches_of_two_frames_are_added_up():
    weight = torch.randn(8, 3, 2, 4, 4)
    converted = kinetics_to_video_swin({"backbone.patch_embed.proj.weight": weight, "cls_head.fc_cls.bias": weight})
    torch.testing.assert_close(converted["patch_embed.proj.weight"], weight.sum(2, keepdim=True))
    assert len(converted) == 1


def test_branches_are_left_out_in_training_with_the_probability_of_their_block():
    torch.manual_seed(0)
    encoder = VideoSwin(VideoSwinSize(8, (1, 1, 2, 1), (1, 2, 2, 4), (2, 3, 3)), drop_path_rate=0.4)
    seen = []
    for stage in encoder.stages:
        for block in stage:
            block.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[1]))
    encoder(torch.randn(2000, 1, 3, 4, 4))
    keep = torch.stack(seen)
    assert keep.shape == (5, 2, 2000)
    for drawn, probability in zip(keep, (1.0, 0.9, 0.8, 0.7, 0.6), strict=True):
        torch.testing.assert_close(drawn[drawn > 0].unique(), torch.tensor([1 / probability]))
        torch.testing.assert_close((drawn > 0).double().mean(), torch.tensor(probability).double(), atol=0.03, rtol=0)
    assert not torch.equal(keep[4, 0], keep[4, 1]), "attention and feed-forward are drawn apart"
    seen.clear()
    encoder.eval()(torch.randn(1, 1, 3, 4, 4))
    assert seen == [None] * 5


def test_a_branch_that_is_left_out_changes_nothing_and_one_that_stays_is_scaled():
    torch.manual_seed(0)
    block = VideoSwinBlock(8, 2, window=(2, 3, 3), is_shifted=False)
    x = torch.randn(2, 2, 3, 3, 8)
    keep = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    output = block(x, keep)
    assert torch.equal(output[1], x[1])
    torch.testing.assert_close(output[0], x[0] + 2 * block.mlp(block.norm2(x[0])))
    with torch.autocast("cpu", torch.bfloat16):
        assert block(x, keep).dtype == torch.float32, "the residual stays in single precision"
