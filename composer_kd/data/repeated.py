"""Epochs with a fixed number of samples, in which a small data set is repeated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from composer_kd.errors import ConfigError

__all__ = ['RepeatingSampler']


class RepeatingSampler(DistributedSampler[int]):
    """Repeats a data set, in epochs with a given number of samples.

    Each pass over the data set is shuffled anew, and each epoch continues where the previous one ended. All samples
    therefore occur equally often, up to one, also if an epoch is shorter than the data set. The order depends only on
    the seed and is the same for any number of ranks. Composer and other trainers set the epoch with ``set_epoch``.

    Args:
        dataset: A data set with a length. Samples and indices stay the same.
        samples: The number of samples in an epoch, over all ranks together.
        num_replicas: The number of ranks; None for that of ``torch.distributed``, which must then be initialised.
        rank: The rank of this process; None for that of ``torch.distributed``.
        shuffle: Whether to shuffle each pass.
        seed: Seed of the order.
        drop_last: If the samples cannot be divided evenly among the ranks: True drops the last ones, False adds the
            first ones of the next epoch.

    Raises:
        ConfigError: If the data set is empty, or ``samples`` is not positive.

    Example:
        >>> sampler = RepeatingSampler(range(3), samples=4, num_replicas=1, rank=0, shuffle=False)
        >>> list(sampler)
        [0, 1, 2, 0]
        >>> sampler.set_epoch(1)
        >>> list(sampler)
        [1, 2, 0, 1]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        samples: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ConfigError(f'samples: expected a positive number of samples for an epoch, got {samples!r}.')
        self.length = len(dataset)  # type: ignore[arg-type]
        if self.length == 0:
            raise ConfigError('dataset: expected at least one sample to go through, got none.')
        self.samples = samples
        shared = samples / self.num_replicas
        self.num_samples = math.floor(shared) if drop_last else math.ceil(shared)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        order = lru_cache(maxsize=1)(self._order)  # keeps the order of the current pass only
        start = self.epoch * self.samples
        for place in range(start + self.rank, start + self.total_size, self.num_replicas):
            turn, offset = divmod(place, self.length)
            yield order(turn)[offset] if self.shuffle else offset

    def _order(self, turn: int) -> list[int]:
        # Both numbers as the seed: with their sum, the second pass of one seed would equal the first of the next.
        permuted: list[int] = np.random.default_rng([self.seed, turn]).permutation(self.length).tolist()
        return permuted
