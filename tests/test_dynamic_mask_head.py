"""Masks from each query's own convolutions, against the convolutions written out (CondInst, section 3.1)."""

import pytest
import torch
from torch.nn import functional

from models.dynamic_mask_head import DynamicMaskHead


def written_out(head, queries, reference_px, features, *, offset_scale):
    """One query of one frame at a time: three 1 x 1 convolutions over features and scaled offsets."""
    batch, time, num_queries, _ = queries.shape
    height, width = features.shape[-2:]
    dim = head.dim
    y, x = torch.meshgrid(torch.arange(height) * 4.0 + 2, torch.arange(width) * 4.0 + 2, indexing="ij")
    masks = torch.empty(batch, time, num_queries, height, width)
    for b in range(batch):
        for t in range(time):
            for q in range(num_queries):
                vector = head.controller(queries[b, t, q])
                w0, w1, w2, b0, b1, b2 = vector.split([dim * (dim + 2), dim * dim, dim, dim, dim, 1])
                offset = (reference_px[b, t, q, :, None, None] - torch.stack([x, y])) / offset_scale
                pixels = torch.cat([features[b, t], offset])[None]
                pixels = functional.conv2d(pixels, w0.reshape(dim, dim + 2, 1, 1), b0).relu()
                pixels = functional.conv2d(pixels, w1.reshape(dim, dim, 1, 1), b1).relu()
                masks[b, t, q] = functional.conv2d(pixels, w2.reshape(1, dim, 1, 1), b2)[0, 0]
    return masks


@torch.no_grad()
@pytest.mark.parametrize("offset_scale", [1.0, 16.0])
def test_masks_are_those_of_the_convolutions_written_out(offset_scale):
    torch.manual_seed(0)
    head = DynamicMaskHead(12, dim=3, offset_scale=offset_scale)
    queries, features = torch.randn(2, 2, 3, 12), torch.randn(2, 2, 3, 4, 5)
    reference_px = 20 * torch.rand(2, 2, 3, 2)
    expected = written_out(head, queries, reference_px, features, offset_scale=offset_scale)
    masks = head(queries, reference_px, features)
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-3)
    other = written_out(head, queries, reference_px, features, offset_scale=4.0)
    assert not torch.allclose(masks, other, rtol=0.1)
