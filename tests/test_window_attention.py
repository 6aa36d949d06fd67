"""Attention inside windows: the C++ kernel and the operators of PyTorch give the same numbers and gradients."""

import copy

import pytest
import torch

from models.ops import cpu_kernels
from models.ops import window_attention as kernel
from models.ops.ms_deform_attn.backends import ENVIRONMENT_VARIABLE
from models.ops.ms_deform_attn.build import BuildError, find_compiler
from models.window_attention import WindowAttention, window_layout


def has_compiler():
    try:
        return bool(find_compiler("cpu"))
    except BuildError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")

# Maps that windows of 2 x 4 x 4 tile, that must be padded, and that are smaller than a window, at rest and shifted.
CASES = [
    ((2, 8, 8), (0, 0, 0)),
    ((2, 8, 8), (0, 2, 2)),
    ((3, 7, 9), (0, 0, 0)),
    ((3, 7, 9), (1, 2, 2)),
    ((1, 3, 10), (1, 2, 2)),
]


def attention(dim=16, heads=2, window=(2, 4, 4)):
    torch.manual_seed(0)
    layer = WindowAttention(dim, heads, window)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    torch.nn.init.normal_(layer.qkv.weight, std=dim**-0.5)
    torch.nn.init.normal_(layer.qkv.bias)
    return layer


def results(layer, x, shift, grad):
    """Output, and gradients of the input and of all parameters."""
    x = x.detach().clone().requires_grad_()
    out = layer(x, shift)
    return out.detach(), *torch.autograd.grad(out, (x, *layer.parameters()), grad)


def relative(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@needs_compiler
@pytest.mark.parametrize(("size", "shift"), CASES)
@pytest.mark.parametrize(("dim", "heads"), [(16, 2), (6, 2), (64, 2), (40, 1)])
def test_the_kernel_and_pytorch_agree_with_double_precision(size, shift, dim, heads, monkeypatch):
    layer = attention(dim, heads)
    x, grad = torch.randn(2, *size, dim), torch.randn(2, *size, dim)
    wanted = results(copy.deepcopy(layer).double(), x.double(), shift, grad.double())
    by_kernel = results(layer, x, shift, grad)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    by_pytorch = results(layer, x, shift, grad)
    for found in (by_kernel, by_pytorch):
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert relative(one, other) < 2e-6
    assert any(not torch.equal(one, other) for one, other in zip(by_kernel, by_pytorch, strict=True))  # two ways


@needs_compiler
@pytest.mark.parametrize(
    ("size", "shift"),
    [((4, 7, 13), (2, 3, 3)), ((4, 12, 6), (0, 0, 0)), ((4, 12, 12), (0, 3, 3))],
    ids=["mostly padding", "neither padding nor masks", "masks"],
)
def test_more_places_than_a_block_of_queries(size, shift):
    layer = attention(16, 2, (4, 6, 6))
    x, grad = torch.randn(1, *size, 16), torch.randn(1, *size, 16)
    wanted = results(copy.deepcopy(layer).double(), x.double(), shift, grad.double())
    for one, other in zip(results(layer, x, shift, grad), wanted, strict=True):
        assert relative(one, other) < 2e-6


@needs_compiler
@pytest.mark.parametrize("windows", [1, 3, 1000])
@pytest.mark.parametrize(("size", "shift"), [*CASES, ((2, 14, 14), (1, 2, 2))])
def test_without_gradients_both_ways_agree_on_all_windows_at_once_and_on_some(size, shift, windows, monkeypatch):
    layer = attention(64, 2)
    x = torch.randn(2, *size, 64)
    wanted = copy.deepcopy(layer).double()(x.double(), shift).detach()
    monkeypatch.setattr("models.window_attention.VALUES_AT_ONCE", windows * 3 * 64 * 32)
    with torch.no_grad():
        by_kernel = layer(x, shift)
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
        by_pytorch = layer(x, shift)
        assert not torch.equal(by_kernel, by_pytorch)  # two ways
        overwritten = x.clone()
        assert torch.equal(layer(overwritten, shift, overwrites=True), by_pytorch)
    for found in (by_kernel, by_pytorch):
        assert found.shape == x.shape
        assert relative(found, wanted) < 2e-6


@needs_compiler
def test_in_mixed_precision_only_the_inputs_of_the_kernel_are_rounded():
    layer = attention(64, 2)
    x, grad = torch.randn(1, 3, 7, 9, 64), torch.randn(1, 3, 7, 9, 64)
    wanted = results(copy.deepcopy(layer).double(), x.double(), (1, 2, 2), grad.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = results(layer, x, (1, 2, 2), grad.bfloat16())
    assert found[0].dtype == torch.bfloat16
    assert found[2].dtype == torch.float32
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) < 2e-2


@needs_compiler
def test_the_same_bits_each_time_and_nearly_the_same_for_any_number_of_threads():
    layer = attention()
    x, grad = torch.randn(2, 3, 7, 9, 16), torch.randn(2, 3, 7, 9, 16)
    before = torch.get_num_threads()
    try:
        of_threads = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            first, second = (results(layer, x, (1, 2, 2), grad) for _ in range(2))
            assert all(map(torch.equal, first, second))
            of_threads.append(first)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*of_threads, strict=True):
        torch.testing.assert_close(one, other)


@needs_compiler
def test_a_number_that_is_none_stays_in_its_window():
    layer = attention()
    x = torch.randn(1, 2, 8, 8, 16)
    x[0, 0, 0, 0] = float("nan")
    out = layer(x, (0, 0, 0))
    assert out[0, :, :4, :4].isnan().all()
    assert out[0, :, 4:].isfinite().all()
    assert out[0, :, :4, 4:].isfinite().all()


@needs_compiler
def test_what_a_mask_hides_has_no_influence():
    """The first and the last column of a map meet in a window that the shift makes; neither may see the other."""
    layer = attention()
    x = torch.randn(1, 2, 8, 8, 16)
    changed = x.clone()
    changed[:, :, :, :2] += 1
    one, other = (layer(each, (0, 2, 2)) for each in (x, changed))
    assert torch.equal(one[:, :, :, 6:], other[:, :, :, 6:])
    assert not torch.isclose(one[:, :, :, :2], other[:, :, :, :2]).all()


def test_without_a_kernel_pytorch_computes(monkeypatch):
    def fails(target):
        raise BuildError("no C++ compiler found")

    layer = attention().eval()
    x = torch.randn(1, 3, 7, 9, 16)
    expected = layer(x, (1, 2, 2))
    monkeypatch.setattr(cpu_kernels, "load_library", fails)
    cpu_kernels._why_unavailable.cache_clear()
    try:
        torch.testing.assert_close(layer(x, (1, 2, 2)), expected)
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cpu")
        with pytest.raises(
            ValueError, match="soc_window_attention_cpu::forward cannot be had: no C\\+\\+ compiler found"
        ):
            layer(x, (1, 2, 2))
    finally:
        cpu_kernels._why_unavailable.cache_clear()


@needs_compiler
def test_tensors_that_do_not_fit_are_refused():
    layer = attention()
    layout = window_layout((2, 8, 8), (2, 4, 4), (0, 2, 2), 1, torch.device("cpu"))
    qkv, bias = torch.randn(128, 48), layer.position_bias(32)[0]
    assert kernel.is_suitable(qkv, bias)
    with torch.no_grad():
        assert kernel.is_suitable(qkv, bias)
        assert not kernel.is_suitable(qkv.bfloat16(), bias)  # PyTorch has a faster one for that
    good = {"num_tokens": 128}
    rows, masks, which = layout.tokens, layout.masks, layout.mask_of_window
    assert kernel.window_attention(qkv, rows, bias, masks, which, **good).shape == (128, 16)
    for bad in (
        (qkv[:100], rows, bias, masks, which),
        (qkv, rows + 1, bias, masks, which),
        (qkv, rows[:-1], bias, masks, which),
        (qkv, rows, bias, masks, which + 1),
        (qkv, rows.int(), bias, masks, which),
    ):
        with pytest.raises(RuntimeError, match="window_attention"):
            kernel.window_attention(*bad, **good)


@needs_compiler
def test_an_installed_library_of_before_has_no_such_operator(monkeypatch):
    assert cpu_kernels.has_kernel("soc_window_attention_cpu::forward")
    assert not cpu_kernels.has_kernel("soc_window_attention_cpu::sideways")
    assert not cpu_kernels.has_kernel("soc_something_cpu::forward")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "cpu")
    with pytest.raises(ValueError, match=r"soc_something_cpu::forward cannot be had: the installed library .* install"):
        cpu_kernels.has_kernel("soc_something_cpu::forward")
