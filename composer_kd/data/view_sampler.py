"""A sampler that says which view of each sample an epoch loads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from composer.utils import dist
from torch.utils.data import DistributedSampler

from composer_kd.data.view_index import in_view
from composer_kd.errors import ConfigError

__all__ = ['ViewSampler']


class ViewSampler(DistributedSampler[int]):
    """Adds the view to the indices of any sampler: all samples of epoch ``e`` have view ``e % views``.

    The view is that of the epoch, whatever the sampler does. With :class:`.RepeatingSampler`, whose passes over the
    data set do not end with the epoch, a sample that comes several times in an epoch has the same view each time.
    Composer sets the epoch with ``set_epoch``, in a resumed run too; in a training loop of your own, call it in each
    epoch.

    Args:
        sampler: The sampler of indices; its epochs are set along. Where there are several processes it must be a
            ``DistributedSampler``, such as those of Composer's ``dist.get_sampler`` and :class:`.RepeatingSampler`.
        views: The number of views.

    Raises:
        ConfigError: If ``views`` is not positive, or the sampler has no length, gives whole batches, or does not share
            out the samples among several processes.

    Example:
        >>> from torch.utils.data import SequentialSampler
        >>> sampler = ViewSampler(SequentialSampler(range(2)), views=3)
        >>> sampler.set_epoch(4)
        >>> list(sampler)
        [ViewIndex(0, view=1), ViewIndex(1, view=1)]
    """

    def __init__(self, sampler: Iterable[int], views: int) -> None:
        if isinstance(views, bool) or not isinstance(views, int) or views < 1:
            raise ConfigError(f'views: expected a positive number of views, got {views!r}.')
        if not isinstance(sampler, Sized):
            raise ConfigError(f'sampler: expected one with a length, got {type(sampler).__name__}.')
        dataset, world, rank, more = _sharing(sampler)
        super().__init__(dataset, world, rank, **more)
        self.sampler = sampler
        self.views = views
        self.epoch = getattr(sampler, 'epoch', 0)
        self.num_samples = len(sampler)
        self.total_size = getattr(sampler, 'total_size', self.num_samples)

    @property
    def view(self) -> int:
        """The view of the epoch."""
        return self.epoch % self.views

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, of the inner sampler too, if it has epochs.

        Args:
            epoch: The number of the epoch.
        """
        super().set_epoch(epoch)
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        try:
            yield from in_view(self.sampler, self.view)
        except TypeError as error:
            raise ConfigError(
                f'sampler: expected one that gives integers, got another in {type(self.sampler).__name__}: {error}; '
                'wrap the sampler of samples, and let DataLoader make the batches.'
            ) from error


def _sharing(sampler: Any) -> tuple[Any, int, int, dict[str, Any]]:
    """Returns the data set, the number of ranks, the rank, and what else Composer reads of a DistributedSampler."""
    if isinstance(sampler, DistributedSampler):
        more = {name: getattr(sampler, name) for name in ('shuffle', 'seed', 'drop_last')}
        return sampler.dataset, sampler.num_replicas, sampler.rank, more
    if dist.get_world_size() > 1:
        raise ConfigError(
            f'sampler: expected a DistributedSampler, as there are {dist.get_world_size()} processes, got '
            f'{type(sampler).__name__}, with which each of them would load all samples; '
            'composer.utils.dist.get_sampler makes one.'
        )
    return range(len(sampler)), 1, 0, {}
