"""Groups of ranks that each train a net of their own, inside one Composer run."""

# Annotations are evaluated here, because DistributedDataParallel reads those of the hook.
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as torch_dist
from composer.core import State
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from composer_kd.errors import ConfigError

__all__ = ['RankGroups', 'group_of_rank', 'send', 'tensors_of']


class RankGroups:
    """The ranks of a run in equal groups of neighbours: of 4 ranks in 2 groups, 0 and 1, and 2 and 3.

    Composer trains one net on all ranks: ``DistributedDataParallel`` averages its gradients over all of them and sends
    the buffers of rank 0 to all. :meth:`take` makes it average within a group instead, by PyTorch's hook for this
    (``register_comm_hook``), and leaves the buffers to :meth:`send_buffers`.

    Args:
        count: The number of groups.

    Raises:
        ConfigError: If ``count`` is not a whole number of 2 or more.

    Attributes:
        count: The number of groups.
        own: The group of this rank.
        averaged: Whether gradients have been averaged since this was last set to ``False``.

    Example:
        >>> RankGroups(2).own
        0
    """

    def __init__(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ConfigError(f'groups must be a whole number of 2 or more, got {count!r}')
        self.count = count
        self.own = group_of_rank(count)
        self.averaged = False
        self._groups: list[torch_dist.ProcessGroup] = []
        self._leaders: torch_dist.ProcessGroup | None = None

    @property
    def size(self) -> int:
        """The number of ranks in a group."""
        return dist.get_world_size() // self.count

    @property
    def started(self) -> bool:
        """Whether the process groups have been made."""
        return bool(self._groups)

    @property
    def process_group(self) -> torch_dist.ProcessGroup:
        """The process group of this rank's group."""
        return self._groups[self.own]

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of its group, whose net is that of the group."""
        return dist.get_global_rank() == self.leader(self.own)

    def leader(self, group: int) -> int:
        """The first rank of a group."""
        return group * self.size

    def start(self) -> None:
        """Makes the process groups; a collective call.

        Raises:
            ConfigError: If the ranks of the run are not a multiple of the groups.
        """
        world = dist.get_world_size()
        if world == 1:
            raise ConfigError(
                f'CoDistillation trains {self.count} nets in as many groups of processes, and this run has one '
                f'process. Start it with the launcher: composer -n {self.count} ...; or train the nets in one process '
                'with MutualLearning.'
            )
        if world % self.count:
            start = max(world // self.count, 1) * self.count
            raise ConfigError(
                f'CoDistillation needs groups of one size: {world} processes are not a multiple of '
                f'groups={self.count}. Start {start} processes, or set groups to a divisor of {world}.'
            )
        self.own = group_of_rank(self.count)
        if not self._groups:
            every = [list(range(self.leader(one), self.leader(one) + self.size)) for one in range(self.count)]
            self._groups = [torch_dist.new_group(ranks) for ranks in every]
            # States of optimizers go through the host, whatever the device.
            self._leaders = torch_dist.new_group([ranks[0] for ranks in every], backend='gloo')

    def take(self, model: nn.Module) -> None:
        """Makes a wrapped model average its gradients within the group.

        Raises:
            ConfigError: If Composer has not wrapped it in ``DistributedDataParallel``.
        """
        if not isinstance(model, DistributedDataParallel):
            raise ConfigError(
                f'CoDistillation averages gradients through DistributedDataParallel, got {type(model).__name__}: the '
                'student needs parameters that require gradients.'
            )
        model.register_comm_hook(self, _average_in_group)
        model.broadcast_buffers = False

    def send_buffers(self, model: nn.Module) -> None:
        """Gives all ranks of a group the buffers of its first, as ``DistributedDataParallel`` does in each batch."""
        if self.size > 1:
            send(list(model.buffers()), self.leader(self.own), self.process_group)

    def share_of_group(self, samples: int, state: State) -> Tensor:
        """What makes a rank's share of the mean over all ranks its share of the mean over the group.

        Composer weighs a microbatch by its samples over the mean samples of all ranks. In a group it has to be the mean
        samples of the group: they differ where ranks get batches of several sizes. A collective call.

        Args:
            samples: The number of samples in this rank's batch.
            state: The state of the run.

        Returns:
            The mean samples of a rank in the run over those in the group, a scalar; 1 where all batches are equal.
        """
        counts = torch.zeros(self.count, dtype=torch.float32)
        counts[self.own] = samples
        counts = state.device.tensor_to_device(counts)
        dist.all_reduce(counts)
        return counts.mean() / counts[self.own]

    def gather(self, thing: Any) -> list[Any] | None:
        """Collects what the first rank of each group gives; a collective call.

        Returns:
            On rank 0 the things by group, on other ranks ``None``.
        """
        if not self.leads:
            return None
        found: list[Any] | None = [None] * self.count if dist.get_global_rank() == 0 else None
        torch_dist.gather_object(thing, found, dst=0, group=self._leaders)
        return found


def group_of_rank(count: int) -> int:
    """The group of this process among ``count`` groups, from what the launcher says.

    Example:
        >>> group_of_rank(2)
        0
    """
    return dist.get_global_rank() * count // dist.get_world_size()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a model by name, those that its state dict leaves out too.

    Example:
        >>> list(tensors_of(nn.BatchNorm1d(2)))
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def send(tensors: Sequence[Tensor], source: int, group: torch_dist.ProcessGroup | None = None) -> None:
    """Overwrites tensors on all ranks by those of one; a collective call with one message for each data type.

    Args:
        tensors: The tensors, with the same shapes and data types on all ranks.
        source: The rank whose tensors are taken.
        group: The process group of the ranks; ``None`` for all ranks of the run.
    """
    with torch.no_grad():
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            some = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            # As bytes, because some backends do not know all types.
            torch_dist.broadcast(flat.view(torch.uint8), src=source, group=group)
            if dist.get_global_rank() != source:
                for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some])):
                    tensor.copy_(part.view_as(tensor))


def _average_in_group(groups: RankGroups, bucket: torch_dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    groups.averaged = True
    return allreduce_hook(groups.process_group, bucket)
