"""What the cheap dropout must have in common with PyTorch's."""

import pytest
import torch

from models.dropout import LANES, Dropout
from models.ops.ms_deform_attn.backends import ENVIRONMENT_VARIABLE


@pytest.fixture(autouse=True, params=["auto", "reference"])
def with_and_without_a_kernel(request, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_share_of_zeros_and_the_scale_of_the_rest(probability: float, dtype: torch.dtype):
    torch.manual_seed(0)
    x = torch.ones(999, 1001, dtype=dtype)
    y = Dropout(probability)(x)
    assert y.dtype == dtype
    for lane in range(LANES):
        share = (y.flatten()[lane::LANES] == 0).double().mean().item()
        assert share == pytest.approx(probability, abs=0.004), lane
    scale = y[y != 0].double().unique()
    torch.testing.assert_close(scale, torch.tensor([1 / (1 - probability)]).double(), rtol=1e-2, atol=0)
    same = (y[:-1] == 0) == (y[1:] == 0)  # neighbours are drawn apart
    assert same.double().mean().item() == pytest.approx(probability**2 + (1 - probability) ** 2, abs=0.004)


def test_gradients_go_where_values_went():
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.4)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert ((gradient == 0) == (y == 0)).all()
    torch.testing.assert_close(gradient * x, y)


@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("is_training", [False, True])
def test_relu_with_dropout_is_one_after_the_other(probability: float, is_training: bool):
    layer = Dropout(probability).train(is_training)
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    results = []
    for both in (lambda y: layer(torch.relu(y)), layer.of_relu):
        torch.manual_seed(0)
        y = both(x * 1)
        results.append((y, *torch.autograd.grad((y * weight).sum(), x)))
    torch.testing.assert_close(*results)


def test_a_seed_gives_the_same_zeros_and_the_next_call_others():
    layer, x = Dropout(0.5), torch.ones(100)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(second, first)


def test_nothing_is_dropped_in_evaluation_or_without_a_probability():
    x = torch.randn(5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert torch.equal(Dropout(0.5).eval().of_relu(x.clone()), x.clamp(min=0))


def test_whoever_looks_for_dropout_finds_it():
    layer = Dropout(0.5)
    assert isinstance(layer, torch.nn.Dropout)
    layer.p = 0.0
    assert torch.equal(layer(torch.ones(100)), torch.ones(100))


def test_zeros_do_not_depend_on_threads_and_follow_no_pattern():
    layer, x = Dropout(0.3), torch.ones(300_000)
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            drawn.append(layer(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)
    is_zero = (drawn[0] == 0).double()
    for distance in (1, 2, 3, 4, 64, 2**15, 2**16, 2**17):
        both = (is_zero[:-distance] * is_zero[distance:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.004), distance
    other = (layer(x) == 0).double()  # of another seed
    assert (is_zero * other).mean().item() == pytest.approx(0.09, abs=0.004)


def test_a_value_that_is_none_is_not_hidden_by_relu():
    layer = Dropout(0.1)
    y = layer.of_relu(torch.full((1000,), float("nan")))
    assert y.isnan().double().mean() > 0.5
