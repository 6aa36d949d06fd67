"""Attention against PyTorch's own layer, whose parameters it holds."""

import pytest
import torch
from torch import Tensor

from models.layers import Attention, FeedForwardLayer
from models.parts import TOKENS_AT_ONCE, token_by_token

DIM, HEADS = 16, 4


def inputs(shared: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; those that `shared` names are one tensor."""
    own = {name: torch.randn(2, 5, DIM, dtype=torch.float64) for name in "qkv"}
    common = torch.randn(2, 5, DIM, dtype=torch.float64)
    query, key, value = (common if name in shared else own[name] for name in "qkv")
    return query, key, value


@pytest.mark.parametrize("shared", ["", "qk", "kv", "qkv", "qv"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_attention_and_its_gradients_are_those_of_pytorch(shared, is_padded):
    torch.manual_seed(0)
    ours = Attention(DIM, HEADS).double()
    torch.nn.init.normal_(ours.attention.in_proj_bias)
    query, key, value = (x.requires_grad_() for x in inputs(shared))
    mask = torch.tensor([[False] * 3 + [True] * 2, [False] * 5]) if is_padded else None
    expected = ours.attention(query, key, value, key_padding_mask=mask, need_weights=False)[0]
    output = ours(query, key, value, key_is_padding=mask)
    torch.testing.assert_close(output, expected)
    weight = torch.randn_like(output)
    of = list({id(x): x for x in (query, key, value, *ours.parameters())}.values())
    torch.testing.assert_close(
        torch.autograd.grad((output * weight).sum(), of), torch.autograd.grad((expected * weight).sum(), of)
    )


def test_attention_drops_weights_in_training_only():
    torch.manual_seed(0)
    attention = Attention(DIM, HEADS, dropout=0.5).double()
    query, key, value = inputs("")
    calm = attention.eval()(query, key, value)
    torch.testing.assert_close(calm, attention(query, key, value))
    torch.manual_seed(1)
    dropped = attention.train()(query, key, value)
    torch.manual_seed(1)
    expected = attention.attention.train()(query, key, value, need_weights=False)[0]
    torch.testing.assert_close(dropped, expected)
    assert not torch.allclose(dropped, calm)


@pytest.mark.parametrize("shape", [(TOKENS_AT_ONCE + 1, DIM), (2, 3, TOKENS_AT_ONCE, DIM), (5, DIM)])
def test_tokens_in_parts_are_tokens_at_once(shape):
    torch.manual_seed(0)
    layer = FeedForwardLayer(DIM, 4 * DIM, dropout=0.1).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    at_once = layer(x)  # with gradients nothing is split
    with torch.no_grad():
        seen = []
        torch.testing.assert_close(token_by_token(lambda part: seen.append(len(part)) or layer(part), x), at_once)
    assert max(seen) <= TOKENS_AT_ONCE
    assert sum(seen) == x.numel() // DIM if x[..., 0].numel() > TOKENS_AT_ONCE else seen == [len(x)]
