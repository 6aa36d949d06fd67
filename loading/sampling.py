"""Which frames make a clip, and in which order the samples of an epoch come."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch.utils.data import Sampler

Item = TypeVar("Item")


class SampleKey(NamedTuple):
    """A sample in an epoch: with the seed, these two numbers determine everything random about it."""

    sample: int
    epoch: int


def window_at(start: int, *, length: int, num_frames: int) -> tuple[int, ...]:
    """Positions of `num_frames` frames from `start` on; the last frame repeats where the video of `length` ends."""
    return tuple(min(start + i, length - 1) for i in range(num_frames))


def consecutive_windows(length: int, num_frames: int) -> tuple[tuple[int, ...], ...]:
    """Cuts a video of `length` frames into windows that do not overlap.

    A short last window is replaced by the last `num_frames` frames; a video shorter than a window is padded by
    repeating its last frame.
    """
    if length < 1:
        raise ValueError(f"length={length}: a video needs at least one frame")
    starts = list(range(0, max(length - num_frames, 0) + 1, num_frames))
    if length > num_frames and length % num_frames:
        starts.append(length - num_frames)
    return tuple(window_at(start, length=length, num_frames=num_frames) for start in starts)


def centred_window(position: int, length: int, num_frames: int, *, index: int | None = None) -> tuple[int, ...]:
    """A window with `position` at `index`, else at `num_frames` // 2; first and last frame repeat at the ends."""
    start = position - (num_frames // 2 if index is None else index)
    return tuple(min(max(i, 0), length - 1) for i in range(start, start + num_frames))


def random_window(
    length: int, num_frames: int, *, visible: Collection[int], generator: torch.Generator
) -> tuple[int, ...]:
    """A window with a random start, one of those that contain at least one of the `visible` positions."""
    starts = [
        start
        for start in range(max(length - num_frames, 0) + 1)
        if any(position in visible for position in range(start, min(start + num_frames, length)))
    ]
    if not starts:
        raise ValueError(f"visible={sorted(visible)}: no window of a video of {length} frames contains any of these")
    return window_at(starts[random_index(len(starts), generator)], length=length, num_frames=num_frames)


def random_index(count: int, generator: torch.Generator) -> int:
    """A number from 0 to `count` - 1."""
    return int(torch.randint(count, (), generator=generator))


def sample_without_replacement(items: Sequence[Item], count: int, generator: torch.Generator) -> list[Item]:
    """Up to `count` different items in random order, all equally likely."""
    order = torch.randperm(len(items), generator=generator)[:count]
    return [items[i] for i in order.tolist()]


def sample_generator(seed: int, key: SampleKey) -> torch.Generator:
    """A generator for each sample and epoch: results do not depend on workers, processes or a resumed run."""
    digest = hashlib.blake2b(f"{seed}/{key.epoch}/{key.sample}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))


class EpochSampler(Sampler[SampleKey]):
    """The share of one process of a shuffled pass over the data; works with and without several processes.

    All processes get equally many samples: where they do not divide evenly, the first ones come twice.

    Args:
        num_samples: length of the data.
        seed: of the order; the epoch is mixed in.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, num_samples: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}: there is nothing to sample")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must lie in [0, world_size={world_size})")
        self.num_samples = num_samples
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Call before each pass: order, windows, sentences and flips of a pass follow from its number.

        Args:
            epoch: number of the pass.
            start: so many samples of this process have been seen already, by a run that was interrupted.
        """
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return (self.num_samples + self.world_size - 1) // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        generator = sample_generator(self.seed, SampleKey(sample=-1, epoch=self.epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        first = self.rank + self.start * self.world_size
        for i in range(first, len(self) * self.world_size, self.world_size):
            yield SampleKey(sample=order[i % self.num_samples], epoch=self.epoch)
