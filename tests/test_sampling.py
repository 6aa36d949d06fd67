import pytest
import torch

from loading.sampling import EpochSampler, consecutive_windows, random_window, sample_without_replacement


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (8, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (10, [(0, 1, 2, 3), (4, 5, 6, 7), (6, 7, 8, 9)]),
        (4, [(0, 1, 2, 3)]),
        (5, [(0, 1, 2, 3), (1, 2, 3, 4)]),
        (2, [(0, 1, 1, 1)]),
    ],
)
def test_windows_are_consecutive_and_the_last_one_is_always_full(length, expected):
    assert list(consecutive_windows(length, 4)) == expected


def test_windows_of_one_frame_are_all_frames():
    assert consecutive_windows(3, 1) == ((0,), (1,), (2,))


def test_random_windows_cover_exactly_the_starts_at_which_something_is_visible():
    generator = torch.Generator().manual_seed(0)
    drawn = {random_window(10, 3, visible={4}, generator=generator) for _ in range(200)}
    assert drawn == {(2, 3, 4), (3, 4, 5), (4, 5, 6)}
    assert random_window(2, 3, visible={0}, generator=generator) == (0, 1, 1)
    assert {random_window(6, 1, visible={1, 5}, generator=generator) for _ in range(50)} == {(1,), (5,)}
    with pytest.raises(ValueError, match="visible"):
        random_window(4, 2, visible=set(), generator=generator)


def test_drawing_takes_different_items_and_all_if_there_are_too_few():
    generator = torch.Generator().manual_seed(0)
    assert sorted(sample_without_replacement("abc", 5, generator)) == ["a", "b", "c"]
    assert all(len(set(sample_without_replacement("abcdef", 3, generator))) == 3 for _ in range(20))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_a_pass_without_leaving_anything_out(world_size):
    samplers = [EpochSampler(10, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}
    assert {key.sample for share in shares for key in share} == set(range(10))
    assert sum(map(len, shares)) < 10 + world_size


def test_the_order_follows_from_seed_and_epoch():
    sampler = EpochSampler(20, seed=3)
    first = list(sampler)
    assert first == list(EpochSampler(20, seed=3))
    sampler.set_epoch(1)
    second = list(sampler)
    assert [key.sample for key in second] != [key.sample for key in first]
    assert {key.epoch for key in second} == {1}


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"num_samples": 3, "rank": 2, "world_size": 2}])
def test_a_sampler_refuses_what_it_cannot_share(arguments):
    with pytest.raises(ValueError):
        EpochSampler(**arguments)
