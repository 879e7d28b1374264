"""One comparison of a student with its teacher: a loss, given what it needs and held to what it promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError, LossError
from composer_kd.observation import Valid, answers_per_position
from composer_kd.watch import FiniteWatch

__all__ = ['Comparison', 'Loss']

Loss = Callable[..., Tensor]


class Comparison:
    """Applies a loss to the logits of one microbatch.

    * For models that answer per position (language models), the loss gets the valid
      ones as ``(N, V)`` rows; a loss with a parameter ``mask`` gets all logits and the flat mask (``None`` where all
      count), and need not make the host wait for their number.
    * Half-precision logits become float32, unless the loss has an attribute ``any_dtype`` that is true.
    * The result must be a finite scalar that depends on the student.

    Args:
        loss: Any ``(student, teacher) -> scalar``.

    Raises:
        ConfigError: If it is not callable.

    Example:
        >>> Comparison(torch.nn.MSELoss()).name
        'MSELoss'
    """

    def __init__(self, loss: Loss) -> None:
        if not callable(loss):
            raise ConfigError(f'kd_loss_fn must be a callable (student_logits, teacher_logits) -> scalar, got {loss!r}')
        self.loss = loss
        self.name = getattr(loss, '__name__', type(loss).__name__)
        self.classes_dim = int(getattr(loss, 'softmax_dim', -1))
        self.watch = FiniteWatch(self.name)
        self._masks_itself = _has_parameter(loss, 'mask')
        self._any_dtype = bool(getattr(loss, 'any_dtype', False))

    def __call__(
        self, student: Tensor, teacher: Tensor, batch: Any, valid: Valid | None, number: int
    ) -> tuple[Tensor, bool]:
        """The loss over one microbatch, a mean over its valid positions.

        Args:
            student: The student's logits.
            teacher: The teacher's, of the same shape.
            batch: The microbatch, which tells whether the models answer per position.
            valid: Which positions count; ``None`` if all do.
            number: The batch's number, for messages.

        Returns:
            The loss, and whether it is a mean over positions that were masked, not over samples.

        Raises:
            LossError: If the loss is not a finite scalar that depends on the student.
        """
        if not self._any_dtype:
            student, teacher = _at_least_float32(student), _at_least_float32(teacher)
        last = self.classes_dim in (-1, student.ndim - 1)
        positions = student if last else student.movedim(self.classes_dim, -1)
        per_position = (last or self._masks_itself) and answers_per_position(batch, positions)
        mask = valid.mask.reshape(-1) if per_position and valid is not None and valid.mask is not None else None
        if self._masks_itself:
            value = self.loss(student, teacher, mask=mask)
        elif not per_position:
            value = self.loss(student, teacher)
        else:
            value = self._of_rows(student.flatten(0, -2), teacher.flatten(0, -2), mask)
        if not isinstance(value, Tensor) or value.ndim != 0 or (student.requires_grad and not value.requires_grad):
            self._reject(value, number)
        self.watch(value, number)
        return value, per_position

    def _of_rows(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.loss(student, teacher)
        student, teacher = student[mask], teacher[mask]
        return self.loss(student, teacher) if student.shape[0] else student.sum() * 0.0

    def _reject(self, value: Any, number: int) -> None:
        what = type(value).__name__
        if isinstance(value, Tensor):
            what = f'a tensor of shape {tuple(value.shape)}'
            if value.ndim == 0:
                what = "a scalar that does not depend on the student's logits"
        raise LossError(
            f'kd_loss_fn {self.name} must return a scalar tensor that depends on the student, got {what} at batch '
            f"{number}. For a torch loss use reduction='mean'."
        )


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _has_parameter(function: Loss, name: str) -> bool:
    call = function.forward if isinstance(function, nn.Module) else function
    try:
        return name in inspect.signature(call).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
