"""Checks that a loss is finite, without making the host wait for the accelerator."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from composer_kd.errors import LossError

__all__ = ['FiniteCheck']


class FiniteCheck:
    """Raises an error for a loss that is NaN or infinite.

    On the CPU the check is immediate. On an accelerator the value is copied to the host in the background and checked
    when it has arrived, which may be a few batches later; the error names the batch of the loss.

    Args:
        name: The loss's name, for the message.

    Example:
        >>> check = FiniteCheck('KLDivergence')
        >>> check(torch.tensor(float('nan')), batch=3)
        Traceback (most recent call last):
        ...
        composer_kd.errors.LossError: The distillation loss KLDivergence is not finite at batch 3 (nan). ...
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._pending: deque[tuple[Any, Tensor, int]] = deque()

    def __call__(self, loss: Tensor, batch: int) -> None:
        """Checks the loss of one microbatch.

        Args:
            loss: A scalar tensor.
            batch: The number of the batch.

        Raises:
            LossError: If this loss, or an earlier one whose value has arrived, is not finite.
        """
        if loss.device.type == 'cpu':
            value = loss.item()
            if value - value != 0.0:  # true only for nan and infinities
                self._fail(batch, value)
            return
        self._pending.append((*_fetch(loss.detach()), batch))
        self.poll()

    def poll(self, wait: bool = False) -> None:
        """Checks the values that have arrived on the host.

        Args:
            wait: Whether to wait for the values that are still being copied.

        Raises:
            LossError: If one is not finite.
        """
        while self._pending:
            event, host, batch = self._pending[0]
            if wait:
                event.synchronize()
            elif not event.query():
                return
            self._pending.popleft()
            value = host.item()
            if value - value != 0.0:
                self._pending.clear()
                self._fail(batch, value)

    def _fail(self, batch: int, value: float) -> None:
        raise LossError(
            f'The distillation loss {self.name} is not finite at batch {batch} ({value}). Look for a learning rate '
            'that is too high (a T^2-scaled loss has larger gradients than cross-entropy), infinite logits, or inputs '
            'that the teacher was not trained on.'
        )


def _fetch(loss: Tensor) -> tuple[Any, Tensor]:
    """Starts an asynchronous copy to the host, and records the event that marks its end."""
    host = torch.empty((), dtype=loss.dtype, pin_memory=True)
    host.copy_(loss, non_blocking=True)
    event = torch.get_device_module(loss.device).Event()
    event.record()
    return event, host
