"""Tensors on their way to a device."""

import pytest
import torch

from structures.transfer import constant, sent_ahead

DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_items_come_one_by_one_in_order_and_whole(device):
    taken = []

    def items():
        for number in range(6):
            taken.append(number)
            tensor = torch.full((1_000_000,), number)
            yield tensor.pin_memory() if device == "cuda" else tensor

    sums = []
    for number, item in enumerate(sent_ahead(items(), lambda x: x.to(device, non_blocking=True), torch.device(device))):
        assert taken == list(range(number + 1)), "none is read before it is needed"
        assert item.device.type == device
        for _ in range(5):
            item = item * 1  # keeps the device at work while the next is copied
        sums.append(item.sum())
        del item
    assert [int(x) for x in sums] == [1_000_000 * number for number in range(6)]


@pytest.mark.parametrize("device", DEVICES)
def test_constants_are_sent_once(device):
    settings = {"dtype": torch.float, "device": torch.device(device)}
    first = constant(((3, 4), (5, 6)), **settings)
    assert first.tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert constant(((3, 4), (5, 6)), **settings) is first
    assert constant(((3, 4), (5, 7)), **settings).tolist() == [[3.0, 4.0], [5.0, 7.0]]
    assert constant((3, 4), dtype=torch.long, device=torch.device(device)).dtype == torch.long
