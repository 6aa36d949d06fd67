"""What a training step would ask of a GPU, counted without one (`benchmarks.launches`)."""

import torch
import torch.nn.functional as F

from benchmarks.bench_gpu import Clip
from benchmarks.launches import ON_HOST, count, count_training_step


def names(counted, phase):
    return {name: number for (of, name), number in counted.launches.items() if of == phase}


def test_a_training_step_asks_for_less_than_2700_launches_and_waits_for_two_numbers():
    counted = count_training_step(Clip(2, 232, 232, 1))
    assert 2000 < counted.launches.total() < 2700
    waits = {place: number for place, number in counted.waits.items() if place not in ON_HOST}
    # Whether RoBERTa's mask masks anything, and the costs of matching for all layers.
    assert waits == {"models/text_encoder.py:forward": 1, "models/matcher.py:match_layers": 1}


def test_operators_are_counted_forward_and_backward_and_views_are_not():
    x, weight = (torch.randn(3, 4, requires_grad=True) for _ in range(2))

    def call():
        torch.relu(x.flatten(0).view(3, 4).T @ weight).sum().backward()

    counted = count(call)
    assert names(counted, "forward") == {"aten::mm": 1, "aten::relu": 1, "aten::sum": 1, "aten::ones_like": 1}
    assert names(counted, "backward") == {"aten::threshold_backward": 1, "aten::mm": 2}
    assert not counted.waits


def test_attention_and_dropout_count_once_each_way_and_attention_is_right():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 8, 4, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 2, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum(), (q, k, v, bias))
    found = []
    counted = count(
        lambda: found.extend(
            torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum(), (q, k, v, bias))
        )
    )
    torch.testing.assert_close(tuple(found), expected)
    assert names(counted, "forward")["attention"] == names(counted, "backward")["attention, backward"] == 1
    counted = count(lambda: F.dropout(q, 0.5).sum().backward())
    assert names(counted, "forward")["aten::native_dropout"] == 1
    assert names(counted, "backward") == {"aten::native_dropout_backward": 1}
    on_cpu = count(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias).sum().backward(), as_on_gpu=False)
    assert names(on_cpu, "forward")["aten::bmm"] == 2


def test_waits_are_found():
    x = torch.rand(3, 2)
    for call in (lambda: float(x.sum()), lambda: x.cpu().numpy(), x.nonzero, lambda: x[x > 0.5]):
        assert count(call).waits.total() == 1
