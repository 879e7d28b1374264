"""Builds DataLoaders that divide the samples among the processes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sized
from typing import Any

import torch
from composer.utils import dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from composer_kd.config.construct import construct_or_say
from composer_kd.config.schema import LoaderConfig
from composer_kd.data import HeldOut, Indexed, RepeatingSampler, SeededViews, ViewSampler
from composer_kd.data.collating import chain_of, collate_of
from composer_kd.errors import ConfigError

__all__ = ['ENDLESS', 'build_loader', 'check_held_out', 'evaluation_data']

ENDLESS = 2**31
"""A number of views that no run comes to the end of."""


def build_loader(config: LoaderConfig, batch_size: int, seed: int, train: bool) -> DataLoader[Any]:
    """Builds a DataLoader that divides the samples among the processes.

    Args:
        config: The data set and the settings of the loader.
        batch_size: Samples per batch in this process.
        seed: The seed for the order of the samples, combined with the epoch.
        train: Whether the loader is for training: then it shuffles by default, uses ``samples_per_epoch`` and
            ``views``, and leaves out the samples selected by ``hold_out``; a loader for evaluation takes only these.

    Returns:
        The DataLoader.

    Raises:
        ConfigError: If the data is missing, has too few samples for a single batch, or cannot be loaded in ``views``.
    """
    dataset: Dataset[Any] = construct_or_say(config.dataset)
    if not isinstance(dataset, Sized):
        raise ConfigError(
            f'{config.dataset.path}: {config.dataset.name} has no length, and samples are shared out among '
            'processes by their number; iterable data sets need a script of your own'
        )
    if config.hold_out is not None:
        dataset = _part(dataset, config, 'rest' if train else 'held_out')
    views = _views(config, dataset) if train else None
    if views is not None:
        with _said_of(config, '.views: '):
            dataset = SeededViews(dataset, views, config.views_seed)
    if config.with_index:
        dataset = Indexed(dataset)
    wanted = config.samples_per_epoch if train else None
    samples = len(dataset) if wanted is None or len(dataset) == 0 else wanted
    share = samples // dist.get_world_size()
    if samples == 0 or (config.drop_last and share < batch_size):
        raise ConfigError(
            f'{config.dataset.path}: {samples} samples make no batch of {batch_size} for each of '
            f'{dist.get_world_size()} processes with drop_last={config.drop_last}'
        )
    shuffle = train if config.shuffle is None else config.shuffle
    sampler = _sampler(dataset, wanted, shuffle, seed, config.drop_last)
    workers = config.num_workers > 0
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler if views is None else ViewSampler(sampler, views),
        drop_last=config.drop_last,
        num_workers=config.num_workers,
        collate_fn=collate_of(dataset) if config.collate_fn is None else construct_or_say(config.collate_fn),
        pin_memory=torch.cuda.is_available() if config.pin_memory is None else config.pin_memory,
        persistent_workers=workers if config.persistent_workers is None else config.persistent_workers,
        prefetch_factor=config.prefetch_factor,
    )


def _views(config: LoaderConfig, dataset: Any) -> int | None:
    """The number of views; where samples are masked and none is set, each epoch has one of its own."""
    draws = any(getattr(one, 'has_views', False) for one in chain_of(dataset))
    return ENDLESS if config.views is None and draws else config.views


def _sampler(
    dataset: Dataset[Any], samples: int | None, shuffle: bool, seed: int, drop_last: bool
) -> DistributedSampler[int]:
    share = {'num_replicas': dist.get_world_size(), 'rank': dist.get_global_rank()}
    if samples is None:
        return DistributedSampler(dataset, shuffle=shuffle, seed=seed, drop_last=drop_last, **share)
    return RepeatingSampler(dataset, samples, shuffle=shuffle, seed=seed, drop_last=drop_last, **share)


def evaluation_data(train: LoaderConfig | None, written: LoaderConfig | None) -> LoaderConfig | None:
    """Returns the settings of the data that a run is evaluated on.

    Args:
        train: Its ``train_loader``; None if it is unknown.
        written: Its ``eval_loader``; None if it has none.

    Returns:
        The ``eval_loader``; None if there is no evaluation data. If only ``train_loader`` sets ``hold_out``, the data
        set is that of ``train_loader`` without augmentation, of which ``build_loader`` takes the held-out samples.

    Example:
        >>> from composer_kd.config.load import load_config
        >>> config = load_config('yamls/digits/kd.yaml', ['train_loader.hold_out=0.1'])
        >>> evaluation_data(config.train_loader, config.eval_loader).dataset.options
        {'split': 'train'}
    """
    if train is None or train.hold_out is None or (written is not None and written.hold_out is not None):
        return written
    options = {key: False if key == 'augment' else value for key, value in train.dataset.options.items()}
    held_out: dict[str, Any] = {
        'dataset': train.dataset.with_options(options),
        'hold_out': train.hold_out,
        'hold_out_seed': train.hold_out_seed,
    }
    return dataclasses.replace(written, **held_out) if written is not None else LoaderConfig(**held_out)


def check_held_out(train: DataLoader[Any], evaluation: DataLoader[Any]) -> None:
    """Checks that the run does not train on held-out samples, if both loaders define their split.

    Args:
        train: The loader for training.
        evaluation: The loader for evaluation.

    Raises:
        ConfigError: If both load parts of a data set, but not the two complementary parts of the same one.
    """
    rest, held_out = (_find_part(loader.dataset) for loader in (train, evaluation))
    if rest is None or held_out is None:
        return
    together = sorted([*rest.indices, *held_out.indices])
    if together != list(range(len(together))):
        raise ConfigError(
            f'eval_loader.hold_out: what it holds out ({len(held_out)} samples) and what train_loader leaves '
            f'({len(rest)}) are not the two parts of one data set; give both the same samples, labels, hold_out and '
            'hold_out_seed, or leave eval_loader.hold_out out'
        )


def _part(dataset: Dataset[Any], config: LoaderConfig, part: str) -> HeldOut:
    assert config.hold_out is not None
    with _said_of(config, '.'):
        return HeldOut(dataset, config.hold_out, part, config.hold_out_seed)


@contextlib.contextmanager
def _said_of(config: LoaderConfig, key: str) -> Iterator[None]:
    """Puts the loader's name and a key in front of errors."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f'{config.dataset.path.rpartition(".")[0]}{key}{error}') from error


def _find_part(dataset: Any) -> HeldOut | None:
    while not isinstance(dataset, HeldOut) and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, HeldOut) else None
