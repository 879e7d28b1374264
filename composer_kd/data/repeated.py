"""Epochs of a chosen length: few samples come again and again, so that a run over them is no shorter."""

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
    """Goes through a data set again and again, in epochs of a given number of samples.

    Every pass is a shuffle of its own, and an epoch begins where the one before it stopped. So all samples come equally
    often, give or take one, and also an epoch that is shorter than the data set leaves nobody out for good. The order
    depends on the seed alone, not on the number of processes. Composer and others set the epoch with ``set_epoch``.

    Args:
        dataset: Has a length; its items and their numbers stay what they are.
        samples: Samples of an epoch, of all processes together.
        num_replicas: How many processes share them; None for those of ``torch.distributed``, which must run then.
        rank: Which of them this one is.
        shuffle: Whether to shuffle each pass.
        seed: Orders the samples.
        drop_last: Where the samples cannot be shared out evenly: whether to leave the last ones out, or to begin with
            those of the next epoch.

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
        order = lru_cache(maxsize=1)(self._order)  # of the pass that is gone through
        start = self.epoch * self.samples
        for place in range(start + self.rank, start + self.total_size, self.num_replicas):
            turn, offset = divmod(place, self.length)
            yield order(turn)[offset] if self.shuffle else offset

    def _order(self, turn: int) -> list[int]:
        # Seed and pass apart: added up, one seed's second pass would be the next seed's first.
        permuted: list[int] = np.random.default_rng([self.seed, turn]).permutation(self.length).tolist()
        return permuted
