"""A data set whose random transforms can be repeated: each sample comes in a fixed number of views."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from composer.utils import dist
from torch.utils.data import Dataset, DistributedSampler

from composer_kd.data.counter_random import sample_seeds
from composer_kd.data.randomness import check_repeatable
from composer_kd.data.seeded_items import seeded_items
from composer_kd.data.view_sampler import ViewSampler
from composer_kd.errors import ConfigError

__all__ = ['SeededViews']


class SeededViews(Dataset[Any]):
    """A data set whose random transforms can be repeated: each sample comes in a fixed number of views.

    In one view a sample always comes out the same: the same crop, flip, erasing and other random draws, whatever the
    batch, order, worker process, rank or run. They are a function of the seed, the view and the sample's index alone.
    Other views and other samples are drawn independently. Training goes through one view in each epoch, and begins
    again with view 0 after the last (TinyViT, 2207.10666, stores what a teacher said of such views).

    The view comes with the index: a loader needs the sampler that `sampler` makes, or a :class:`.ViewSampler` around
    one of your own. It works for transforms that draw from the global states of torch (on the CPU), NumPy and
    :mod:`random`: those of torchvision (v1 and v2) and most others. Transforms with a generator of their own are
    refused. A data set may have a fast path of its own, ``get_seeded``; see :func:`.seeded_items`. What a
    ``collate_fn`` draws is no part of a view.

    Wrap it in :class:`.Indexed`, if needed; :class:`.HeldOut`, ``torch.utils.data.Subset`` and other choices of samples
    go inside.

    Args:
        dataset: A map-style data set with a length. Its ``num_classes`` and ``targets`` are passed on.
        views: The number of views.
        seed: Seed of all draws, at least 0.

    Raises:
        ConfigError: If the data set has no length, a setting is out of range, or some samples come out differently
            when they are drawn twice in the same view.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from composer_kd.data import ImageTensors
        >>> images = torch.arange(192, dtype=torch.uint8).view(3, 1, 8, 8)
        >>> views = SeededViews(ImageTensors(images, [0, 1, 0], 2, (0.0,), (1.0,), pad=2, flip=True), views=5)
        >>> loader = DataLoader(views, batch_size=3, sampler=views.sampler(shuffle=False))
        >>> epochs = []
        >>> for epoch in (0, 1, 5):
        ...     loader.sampler.set_epoch(epoch)  # Composer does this
        ...     epochs += [next(iter(loader))[0]]
        >>> torch.equal(epochs[0], epochs[2]), torch.equal(epochs[0], epochs[1])
        (True, False)
    """

    def __init__(self, dataset: Dataset[Any], views: int, seed: int = 0) -> None:
        for name, value, least in (('views', views, 1), ('seed', seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise ConfigError(f'{name}: expected an integer of at least {least}, got {value!r}.')
        if not isinstance(dataset, Sized) or not hasattr(dataset, '__getitem__'):
            raise ConfigError(
                f'dataset: expected a map-style data set with a length, got {type(dataset).__name__}; views are drawn '
                'for each sample by its number.'
            )
        self.dataset = dataset
        self.views = views
        self.seed = seed
        for name in ('num_classes', 'targets'):
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))
        check_repeatable(dataset, lambda samples, view: sample_seeds(seed, view, samples), views)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        position = range(len(self))[index]
        return self.__getitems__([index if position == index else position])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Loads the samples of a batch; used by ``DataLoader``.

        Args:
            indices: Indices with their views (:class:`.ViewIndex`); plain ones if there is a single view.

        Returns:
            For each index, its sample in its view.

        Raises:
            ConfigError: If an index has no view, or one that there is not.
            IndexError: If an index is outside of the data set.
        """
        samples = [int(index) for index in indices]
        if samples and not 0 <= min(samples) <= max(samples) < len(self):
            raise IndexError(f'indices: expected numbers from 0 to {len(self) - 1}, got {samples}')
        views = self._views_of(indices)
        if len(set(views)) == 1:
            return seeded_items(self.dataset, samples, sample_seeds(self.seed, views[0], samples))
        seeds = [sample_seeds(self.seed, view, [sample]) for view, sample in zip(views, samples)]
        return seeded_items(self.dataset, samples, np.concatenate(seeds)) if seeds else []

    def sampler(self, shuffle: bool = True, seed: int = 0, drop_last: bool = False) -> ViewSampler:
        """Makes a sampler of this data set, with one view in each epoch; for this process and its share of the samples.

        Args:
            shuffle: Whether to shuffle each epoch.
            seed: Seed of the order.
            drop_last: If the samples cannot be divided evenly among the ranks: True drops the last ones, False
                repeats the first ones.

        Returns:
            The sampler, for a ``DataLoader`` of this data set, or of one around it with the same length.
        """
        options: Any = {'shuffle': shuffle, 'seed': seed, 'drop_last': drop_last}
        inner: DistributedSampler[Any] = DistributedSampler(
            self, dist.get_world_size(), dist.get_global_rank(), **options
        )
        return ViewSampler(inner, self.views)

    def _views_of(self, indices: Sequence[Any]) -> list[int]:
        if self.views == 1:
            return [0] * len(indices)
        try:
            views = [index.view for index in indices]
        except AttributeError as error:
            raise ConfigError(
                f'SeededViews: an index without a view, of which there are {self.views}; got {list(indices)[:3]}. '
                'Load with DataLoader(..., sampler=views.sampler()), or ViewSampler(sampler, views) around a sampler '
                'of your own; put HeldOut, Subset and other choices of samples inside SeededViews, as they lose the '
                'view of an index; and read a single sample as views[ViewIndex(index, view)].'
            ) from error
        if views and not 0 <= min(views) <= max(views) < self.views:
            raise ConfigError(
                f'SeededViews: expected views from 0 to {self.views - 1}, got {min(views)} to {max(views)}; '
                f'make the sampler with the same number of views: ViewSampler(sampler, {self.views}).'
            )
        return views
