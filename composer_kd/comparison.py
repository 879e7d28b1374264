"""Applies a loss to what two models showed: gives it what it needs, holds it to what it promises."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.errors import ConfigError, LossError
from composer_kd.observation import index_of
from composer_kd.schedules import Schedule, value_at
from composer_kd.validity import Valid, aligned_labels, answers_per_position
from composer_kd.watch import FiniteWatch

__all__ = ['Comparison', 'Feature', 'Loss', 'attribute_of', 'checked_loss', 'name_of', 'parameters_of']

Loss: TypeAlias = Callable[..., Tensor]
Feature: TypeAlias = Tensor | list[Tensor]


class Comparison:
    """Applies a loss to what a student and a teacher showed on one microbatch.

    * For models that answer per position (language models), the loss gets the valid ones as ``(N, V)`` rows, and of
      hidden states ``(B, S, D)`` those of tokens that count as ``(N, D)``; a loss with a parameter ``mask`` gets all
      of them and the mask (``None`` where all count), and need not make the host wait for their number.
    * Half precision becomes float32, unless the loss has an attribute ``any_dtype`` that is true.
    * The result must be a finite scalar that depends on the student.

    Args:
        loss: Any ``(student, teacher) -> scalar``.
        name: Its name in messages; that of the loss, if ``None``.
        shift: Whether position ``i`` answers for label ``i + 1``.

    Raises:
        ConfigError: If it is not callable.

    Example:
        >>> Comparison(torch.nn.MSELoss()).name
        'MSELoss'
    """

    def __init__(self, loss: Loss, name: str | None = None, shift: bool = False) -> None:
        self.loss = checked_loss(loss)
        self.name = name or name_of(loss)
        self.shift = shift
        self.classes_dim = int(attribute_of(loss, 'softmax_dim', -1))
        self.summary = attribute_of(loss, 'summary', None)
        self.any_classes = bool(attribute_of(loss, 'any_classes', False))
        self.watch = FiniteWatch(self.name)
        self._any_dtype = bool(attribute_of(loss, 'any_dtype', False))
        parameters = parameters_of(loss)
        self._masks_itself = 'mask' in parameters
        self._wants = [name for name in ('labels', 'index') if name in parameters]
        self._temperature: float | None = None
        self._sets_temperature = hasattr(loss, 'temperature')

    def set_temperature(self, temperature: float | Schedule, state: State) -> None:
        """Sets the loss's temperature for the batch of ``state``."""
        self._temperature = value_at(temperature, state)

    def of_logits(
        self, student: Tensor, teacher: Tensor, batch: Any, valid: Valid | None, number: int
    ) -> tuple[Tensor, bool]:
        """The loss of one microbatch's logits, a mean over its valid positions.

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
        extra = self._extras(batch, number) if self._wants else {}
        if self._masks_itself:
            value = self._call(student, teacher, extra | {'mask': mask}, number)
        elif not per_position:
            value = self._call(student, teacher, extra, number)
        else:
            if 'labels' in extra:
                extra['labels'] = extra['labels'].reshape(-1)
            value = self._of_rows(student.flatten(0, -2), teacher.flatten(0, -2), mask, extra, number)
        return self._checked(value, student.requires_grad, number), per_position

    def of_features(
        self, student: Feature, teacher: Feature, batch: Any, tokens: Valid | None, number: int
    ) -> tuple[Tensor, bool]:
        """The loss of one microbatch's features, a mean over samples or, for hidden states, over the tokens that count.

        Args:
            student: What the student's layer showed; a list for several layers.
            teacher: The teacher's, as far as the loss's summary has left it.
            batch: The microbatch.
            tokens: Which tokens count; ``None`` if all do.
            number: The batch's number, for messages.

        Returns:
            As :meth:`of_logits`.
        """
        extra = self._extras(batch, number) if self._wants else {}
        mask = None if tokens is None else tokens.mask
        if isinstance(student, list) or isinstance(teacher, list):
            both = [[_at_least_float32(x) for x in side] for side in (student, teacher)]
            value = self._call(both[0], both[1], extra | ({'mask': mask} if self._masks_itself else {}), number)
            return self._checked(value, any(x.requires_grad for x in student), number), False
        return self._of_feature(student, teacher, mask, extra, number)

    def _of_feature(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, extra: dict[str, Tensor], number: int
    ) -> tuple[Tensor, bool]:
        has_graph = student.requires_grad
        student, teacher = _at_least_float32(student), _at_least_float32(teacher)
        if self.summary is not None:
            student, teacher = (self.summary(x, mask if _are_tokens(x, mask) else None) for x in (student, teacher))
        per_token = False
        if self._masks_itself:
            per_token = _are_tokens(student, mask) or _is_attention(student, mask)
            value = self._call(student, teacher, extra | {'mask': mask if per_token else None}, number)
        elif mask is not None and _are_tokens(student, mask) and _are_tokens(teacher, mask):
            per_token = True
            value = self._of_rows(student.flatten(0, 1), teacher.flatten(0, 1), mask.reshape(-1), extra, number)
        else:
            value = self._call(student, teacher, extra, number)
        return self._checked(value, has_graph, number), per_token

    def _of_rows(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, extra: dict[str, Tensor], number: int
    ) -> Tensor:
        if mask is None:
            return self._call(student, teacher, extra, number)
        student, teacher = student[mask], teacher[mask]
        if 'labels' in extra:
            extra['labels'] = extra['labels'][mask]
        return self._call(student, teacher, extra, number) if student.shape[0] else student.sum() * 0.0

    def _call(self, student: Any, teacher: Any, extra: dict[str, Any], number: int) -> Tensor:
        if self._temperature is not None:
            if self._sets_temperature:
                self.loss.temperature = self._temperature  # type: ignore[attr-defined]
            else:
                extra = {**extra, 'temperature': self._temperature}
        try:
            return self.loss(student, teacher, **extra)
        except ValueError as error:
            hint = "; project='auto' would join them" if 'differ in shape' in str(error) else ''
            raise LossError(f'The match {self.name!r} fails at batch {number}: {error}{hint}') from error

    def _extras(self, batch: Any, number: int) -> dict[str, Tensor]:
        found = {'labels': aligned_labels(batch, self.shift), 'index': index_of(batch)}
        remedies = {
            'labels': 'labels, one class per row, as the second of an (inputs, labels) pair or `labels` of a mapping',
            'index': "the samples' indices, as `index` of a mapping or the third of a triple "
            '(composer_kd.data.Indexed makes such batches, composer_kd.models.IndexedClassifier takes them)',
        }
        for name in self._wants:
            if found[name] is None:
                raise LossError(f'The loss {self.name!r} needs {remedies[name]}; batch {number} has none')
        return {name: found[name] for name in self._wants}  # type: ignore[misc]

    def _checked(self, value: Any, has_graph: bool, number: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != 0 or (has_graph and not value.requires_grad):
            self._reject(value, number)
        self.watch(value, number)
        return value

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


def attribute_of(loss: Any, name: str, default: Any) -> Any:
    """An attribute of a loss, of the function in a ``partial``, or of the loss that another one wraps."""
    while not hasattr(loss, name):
        inner = getattr(loss, 'wrapped', None) or (loss.func if isinstance(loss, functools.partial) else None)
        if inner is None:
            return default
        loss = inner
    return getattr(loss, name)


def name_of(loss: Any) -> str:
    """A loss's name: that of a function, or of a module's class."""
    if isinstance(loss, functools.partial):
        return name_of(loss.func)
    return getattr(loss, '__name__', type(loss).__name__)


def parameters_of(loss: Any) -> frozenset[str]:
    """The names of what a loss takes; of one that wraps another, the other's too."""
    wrapped = getattr(loss, 'wrapped', None)
    call = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        names = frozenset(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        names = frozenset()
    return names if wrapped is None else names | parameters_of(wrapped)


def checked_loss(loss: Any) -> Loss:
    """A loss, if it can be called as one.

    Raises:
        ConfigError: If it cannot.
    """
    if not callable(loss) or isinstance(loss, type):
        made = f' (a class: make one, {loss.__name__}())' if isinstance(loss, type) else ''
        raise ConfigError(
            f'kd_loss_fn must be a callable (student_logits, teacher_logits) -> scalar, got {loss!r}{made}'
        )
    return loss


def _are_tokens(feature: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and feature.ndim == 3 and feature.shape[:2] == mask.shape


def _is_attention(feature: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and feature.ndim == 4 and feature.shape[2:] == (mask.shape[1], mask.shape[1])


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
