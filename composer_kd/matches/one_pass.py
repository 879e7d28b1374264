"""Computes all losses of a student's logits in one pass over the positions, in which the logits are never whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.microbatch import Microbatch
from composer_kd.losses._common import at_least_float32
from composer_kd.losses.linear_logits import AnyLogits, LinearLogits, sum_in_chunks
from composer_kd.matches.loss_adapter import LossAdapter

__all__ = ['OnePass', 'RowLoss', 'is_mean_over_rows']


@dataclass(frozen=True)
class RowLoss:
    """A loss of logits that is still to be computed: a mean over positions.

    Attributes:
        name: The name under which it is returned; losses of one name are added up.
        of_rows: ``(student, teacher, labels) -> scalar``, of logits ``(n, V)`` at some positions, what the teacher says
            there, ``None`` without one, and their labels, ``None`` without.
        mask: Which positions count, flat booleans; ``None`` for all. Losses with the same tensor share a pass.
        share: The factor under its name.
        weight: The factor of its name in the total.
        teacher: The teacher's logits at all positions, or what they are computed of.
    """

    name: str
    of_rows: Callable[[Tensor, Any, Tensor | None], Tensor]
    mask: Tensor | None
    share: Tensor | float = 1.0
    weight: float = 1.0
    teacher: AnyLogits | None = None


class OnePass:
    """Losses of a student's logits that are computed together.

    The head's product is made once for all losses with the same mask, chunk by chunk.

    Args:
        student: The student's logits ``(B, S, V)``, as hidden states with the head.
        labels: ``(B, S)`` The label of each position; ``None`` if there are none.

    Example:
        >>> student = LinearLogits(torch.ones(1, 4, 8), torch.zeros(50, 8, requires_grad=True))
        >>> together = OnePass(student, torch.arange(4).reshape(1, 4))
        >>> together.add(RowLoss('task', cross_entropy, None, weight=0.5))
        >>> total, values = together()
        >>> round(total.item(), 4), round(values['task'].item(), 4)
        (1.956, 3.912)
    """

    def __init__(self, student: LinearLogits, labels: Tensor | None) -> None:
        self._student, self._labels = student, labels
        self._losses: list[RowLoss] = []

    def add(self, loss: RowLoss) -> None:
        """Adds a loss to those that are computed."""
        self._losses.append(loss)

    def __call__(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes them; call it in the precision context of the run.

        Returns:
            The weighted sum, and the loss of each name, a scalar without a graph.
        """
        groups: dict[int, list[RowLoss]] = {}
        for loss in self._losses:
            groups.setdefault(id(loss.mask), []).append(loss)
        totals = [] if self._losses else [at_least_float32(self._student.hidden[:0]).sum()]  # 0, with its graph
        values = {loss.name: torch.zeros((), device=self._student.hidden.device) for loss in self._losses}
        for losses in groups.values():
            teachers = {id(loss.teacher): loss.teacher for loss in losses if loss.teacher is not None}
            rows: dict[str, Any] = {f'of_{key}': teacher for key, teacher in teachers.items()}
            if self._labels is not None:
                rows['labels'] = self._labels
            found = sum_in_chunks(functools.partial(_together, losses), self._student, losses[0].mask, **rows)
            totals.append(found.pop('total'))
            for number, value in found.items():
                loss = losses[int(number)]
                values[loss.name] = values[loss.name] + value * loss.share
        return sum(totals[1:], totals[0]), values


def _together(
    losses: list[RowLoss], student: Tensor, labels: Tensor | None = None, **teachers: Any
) -> dict[str, Tensor]:
    """Losses at some positions by their numbers, and their weighted sum; outside of autocast, as losses are."""
    with torch.autocast(student.device.type, enabled=False):
        values = [loss.of_rows(student, teachers.get(f'of_{id(loss.teacher)}'), labels) for loss in losses]
        weighted = [value * loss.share * loss.weight for value, loss in zip(values, losses)]
        total = sum(weighted[1:], weighted[0])
        return {**{str(number): value for number, value in enumerate(values)}, 'total': total}


def cross_entropy(student: Tensor, teacher: Any, labels: Tensor | None) -> Tensor:
    """The mean cross-entropy of the labels."""
    assert labels is not None
    return torch.nn.functional.cross_entropy(at_least_float32(student), labels)


def is_mean_over_rows(adapter: LossAdapter, classes: int, device: torch.device | None = None) -> bool:
    """Whether a loss is a mean over rows, so that it can be taken in chunks: it is tried on a few random logits.

    Args:
        adapter: The loss; a copy is called.
        classes: The number of classes.
        device: Where the loss is computed.

    Raises:
        LossError: If it cannot be taken of random logits.

    Example:
        >>> from composer_kd.losses import KLDivergence
        >>> is_mean_over_rows(LossAdapter(KLDivergence()), 9)
        True
        >>> is_mean_over_rows(LossAdapter(torch.nn.MSELoss(reduction='sum')), 9)
        False
    """
    chance = torch.Generator().manual_seed(0)
    logits = [torch.randn(6, classes, generator=chance).to(device) for _ in range(2)]
    labels = torch.randint(classes, (6,), generator=chance).to(device)

    def of(rows: slice, sharpness: float) -> float:
        student, teacher = (one[rows] * sharpness for one in logits)
        return float(adapter.detached_copy().of_logits(student, teacher, Microbatch((student, labels[rows]), 0))[0])

    def is_mean(sharpness: float) -> bool:
        whole = of(slice(6), sharpness)
        parts = (of(slice(2), sharpness) * 2 + of(slice(2, 6), sharpness) * 4) / 6
        return abs(whole - parts) <= 1e-4 * abs(whole) + 1e-6

    return all(is_mean(sharpness) for sharpness in (1.0, 8.0))  # the second for losses of sure teachers alone
