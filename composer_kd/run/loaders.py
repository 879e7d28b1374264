"""Builds DataLoaders whose samples are shared out among the processes."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from composer.utils import dist
from torch.utils.data import DataLoader, Dataset

from composer_kd.data import Indexed
from composer_kd.errors import ConfigError
from composer_kd.run.config import LoaderConfig
from composer_kd.run.construct import construct_or_say

__all__ = ['build_loader']


def build_loader(config: LoaderConfig, batch_size: int, seed: int, train: bool) -> DataLoader[Any]:
    """Builds a DataLoader whose samples are shared out among the processes.

    Args:
        config: Data set and loading.
        batch_size: Samples of one batch of this process.
        seed: Orders the samples, together with the epoch.
        train: Whether shuffling is the default.

    Returns:
        The loader.

    Raises:
        ConfigError: If the data is not where it should be, or too little of it for a single batch.
    """
    dataset: Dataset[Any] = construct_or_say(config.dataset)
    if not isinstance(dataset, Sized):
        raise ConfigError(
            f'{config.dataset.path}: {config.dataset.name} has no length, and samples are shared out among '
            'processes by their number; iterable data sets need a script of your own'
        )
    if config.with_index:
        dataset = Indexed(dataset)
    samples = len(dataset)
    share = samples // dist.get_world_size()
    if samples == 0 or (config.drop_last and share < batch_size):
        raise ConfigError(
            f'{config.dataset.path}: {samples} samples make no batch of {batch_size} for each of '
            f'{dist.get_world_size()} processes with drop_last={config.drop_last}'
        )
    shuffle = train if config.shuffle is None else config.shuffle
    workers = config.num_workers > 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=dist.get_sampler(dataset, drop_last=config.drop_last, shuffle=shuffle, seed=seed),
        drop_last=config.drop_last,
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available() if config.pin_memory is None else config.pin_memory,
        persistent_workers=workers if config.persistent_workers is None else config.persistent_workers,
        prefetch_factor=config.prefetch_factor,
    )
