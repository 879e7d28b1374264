"""What a build says at its end: what it cost, what is stored, how near it is, what it saves, and how it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from composer.core import Time, TimeUnit
from composer.utils import dist

from composer_kd.config.schema import RunConfig
from composer_kd.presentation.units import bytes_text, number_text, percent, rate_text, seconds_text
from composer_kd.stores import Sampled, Store
from composer_kd.workflows.cache.measure import Measured

__all__ = ['Built', 'lines_of']


@dataclass(frozen=True)
class Built:
    """A store that was built.

    Attributes:
        teacher: The name of the teacher.
        key: Its dotted key in the YAML.
        store: The store.
        seconds: The duration of the build.
        written: The samples that were written now, views counted.
        measured: What was measured on some samples.
    """

    teacher: str
    key: str
    store: Store
    seconds: float
    written: int
    measured: Measured


def lines_of(built: Built, config: RunConfig) -> Iterator[str]:
    """Says what a store cost, holds and saves.

    Args:
        built: The store, and what was measured.
        config: The run whose teacher was stored.

    Yields:
        Lines for people.
    """
    store, manifest = built.store, built.store.manifest
    yield f'{built.teacher}: stored in {store.folder}'
    of_all = '' if built.written == manifest.rows else f' of {number_text(manifest.rows)}'
    yield '  build     ' + (
        f'{seconds_text(built.seconds)}, {number_text(built.written)}{of_all} samples, '
        f'{rate_text(built.written / built.seconds)}'
        if built.written
        else 'nothing was left to do'
    )
    yield f'  size      {_size(store)}'
    yield from _features(store)
    yield f'  error     {_error(built)}'
    if built.measured.live is not None:
        yield f'  saves     {_savings(built.measured, built.measured.live, manifest.samples, config)}'
    yield f'  in YAML   {built.key}: {{cache: {store.folder}}}'


def _size(store: Store) -> str:
    manifest = store.manifest
    what, count = 'sample', manifest.rows
    if manifest.positions == 'tokens':
        what, count = 'token', sum(shard.positions for shard in manifest.shards)
    each = store.nbytes / count if count else 0.0
    views = '' if manifest.views == 1 else f' x {manifest.views} views'
    return (
        f'{bytes_text(store.nbytes)}: {number_text(round(each, 1))} bytes a {what}, '
        f'{number_text(manifest.samples)} samples{views}, {store.format}'
    )


def _features(store: Store) -> Iterator[str]:
    for path, feature in store.manifest.features.items():
        mean = ', the mean over positions' if feature.pooled else ''
        yield (
            f'  features  {path}: {number_text(feature.nbytes)} bytes a {feature.per}, {feature.dtype} '
            f'{list(feature.shape)}{mean}'
        )


def _error(built: Built) -> str:
    found, measured = built.measured.error, built.measured
    if found is None:
        return f'none measured: {number_text(measured.samples)} samples have no compared position'
    live, name = ('dense store', 'dense') if measured.live is None else ('live teacher', 'live')
    if isinstance(built.store.format, Sampled):
        return (
            f'the draws estimate the divergence of the {live} from itself as {found.kl:.2g} nats (expectation '
            f'0), by {number_text(found.positions)} positions'
        )
    temperature = getattr(built.store.format, 'temperature', None) or 1.0
    return (
        f'KL({name} || stored) {found.kl:.2g} nats at temperature {temperature:g}, same class first in '
        f'{percent(found.top1)} % of {number_text(found.positions)} positions'
    )


def _savings(measured: Measured, of_live: float, samples: int, config: RunConfig) -> str:
    epochs, each = epochs_of(config, samples), config.train_loader.samples_per_epoch or samples
    live, read = (seconds * each / dist.get_world_size() for seconds in (of_live, measured.stored))
    return (
        f'{seconds_text(live * epochs)} of the teacher in {epochs:g} epochs ({seconds_text(live)} each, '
        f'reading takes {seconds_text(read)}), by {number_text(measured.samples)} samples in batches of '
        f'{config.device_train_batch_size}'
    )


def epochs_of(config: RunConfig, samples: int) -> float:
    """The epochs of a run, as far as its samples tell.

    Args:
        config: The run.
        samples: The number of samples of its data set.

    Example:
        >>> from composer_kd.config.load import load_config
        >>> run = 'yamls/digits/kd.yaml'
        >>> epochs_of(load_config(run), 1297), epochs_of(load_config(run, ['max_duration=640sp']), 1280)
        (30.0, 0.5)
    """
    length = Time.from_input(config.max_duration, 'ep')
    epoch = config.train_loader.samples_per_epoch or samples
    if length.unit == TimeUnit.EPOCH:
        return float(length.value)
    return length.value * (config.global_train_batch_size if length.unit == TimeUnit.BATCH else 1) / epoch
