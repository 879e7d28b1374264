"""Calls a loss on student and teacher outputs: passes the labels, mask or index it asks for, and checks the result."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.masks import answers_per_position, token_mask
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import LossError, is_of_device
from composer_kd.losses._common import at_least_float32
from composer_kd.matches.finite_check import FiniteCheck
from composer_kd.matches.loss_signature import Loss, attribute_of, checked_loss, name_of, parameters_of
from composer_kd.schedules import Schedule, value_at

__all__ = ['LossAdapter', 'Feature']

Feature: TypeAlias = Tensor | list[Tensor]


class LossAdapter:
    """Calls a loss on student and teacher outputs: passes what it asks for, and checks that it returns a finite scalar.

    * The loss gets ``labels``, ``mask`` and ``index`` if it has parameters of these names.
    * Without a parameter ``mask``, it gets valid positions only, as rows: ``(N, V)`` for logits of models with one
      prediction per position (language models), ``(N, D)`` for hidden states ``(B, S, D)``. With it, it gets all
      positions and the mask (``None`` if all are valid), so the host need not wait to learn their number.
    * Half precision is converted to float32, unless the loss has a true attribute ``any_dtype``.
    * The result must be a finite scalar that depends on the student.

    Args:
        loss: Any ``(student, teacher) -> scalar``.
        name: Its name in messages; ``None`` for the loss's own name.

    Raises:
        ConfigError: If the loss is not callable.

    Example:
        >>> LossAdapter(torch.nn.MSELoss()).name
        'MSELoss'
    """

    def __init__(self, loss: Loss, name: str | None = None) -> None:
        self.loss = checked_loss(loss)
        self.name = name or name_of(loss)
        self.classes_dim = int(attribute_of(loss, 'softmax_dim', -1))
        self.summary = attribute_of(loss, 'summary', None)
        self.any_classes = bool(attribute_of(loss, 'any_classes', False))
        self.finite_check = FiniteCheck(self.name)
        self._any_shape = bool(attribute_of(loss, 'any_shape', False))
        self._any_dtype = bool(attribute_of(loss, 'any_dtype', False))
        parameters = parameters_of(loss)
        self._masks_itself = 'mask' in parameters
        self._wants = [name for name in ('labels', 'index') if name in parameters]
        self.needs_index = 'index' in self._wants
        self._temperature: float | None = None
        self._sets_temperature = hasattr(loss, 'temperature')

    def detached_copy(self) -> LossAdapter:
        """A copy with its own loss module that skips the check for finite values."""
        twin = copy.copy(self)
        twin.loss = copy.deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        twin.finite_check = lambda loss, batch: None  # type: ignore[assignment]
        return twin

    def set_temperature(self, temperature: float | Schedule, state: State) -> None:
        """Sets the temperature of the following calls.

        Args:
            temperature: A number, or a schedule that is read for the batch of ``state``.
            state: The state of the run.

        Raises:
            ConfigError: If the schedule returns something other than a positive finite number.
        """
        self._temperature = value_at(temperature, state, f'The temperature of {self.name!r}', above_zero=True)

    def of_logits(self, student: Tensor, teacher: Tensor, micro: Microbatch) -> tuple[Tensor, bool]:
        """Computes the loss on the logits of a microbatch: a mean over its valid positions.

        Args:
            student: The student's logits, with the classes in the last dimension or in the loss's ``softmax_dim``.
            teacher: The teacher's logits, of the same shape unless the loss has a true attribute ``any_classes``.
            micro: The microbatch, with its valid positions, labels and index.

        Returns:
            The loss, a scalar; and whether it is a mean over valid positions of sequences (else over samples).

        Raises:
            LossError: If the loss is not a finite scalar that depends on the student.
        """
        if not self._any_dtype:
            student, teacher = at_least_float32(student), at_least_float32(teacher)
        last = self.classes_dim in (-1, student.ndim - 1)
        positions = student if last else student.movedim(self.classes_dim, -1)
        valid, number = micro.valid, micro.number
        per_position = (last or self._masks_itself) and answers_per_position(micro.batch, positions)
        mask = valid.mask.reshape(-1) if per_position and valid is not None and valid.mask is not None else None
        extra = self._extras(micro) if self._wants else {}
        if self._masks_itself:
            value = self._call(student, teacher, extra | {'mask': mask}, number)
        elif not per_position:
            value = self._call(student, teacher, extra, number)
        else:
            if 'labels' in extra:
                extra['labels'] = extra['labels'].reshape(-1)
            value = self._of_rows(student.flatten(0, -2), teacher.flatten(0, -2), mask, extra, number)
        return self._checked(value, student.requires_grad, number), per_position

    def of_features(self, student: Feature, teacher: Feature, micro: Microbatch) -> tuple[Tensor, bool]:
        """Computes the loss on features of a microbatch: a mean over samples or, for hidden states, over valid tokens.

        Args:
            student: The feature of the student's layer, the batch first; a list for several layers.
            teacher: The teacher's, likewise; already reduced if the loss has a ``summary``.
            micro: The microbatch, with its valid tokens, labels and index.

        Returns:
            The loss, a scalar; and whether it is a mean over valid tokens (else over samples).

        Raises:
            LossError: If the loss is not a finite scalar that depends on the student.
        """
        extra = self._extras(micro) if self._wants else {}
        mask = None if micro.tokens is None else micro.tokens.mask
        if isinstance(student, list) or isinstance(teacher, list):
            return self._of_several(list(student), list(teacher), mask, extra, micro.number)
        return self._of_feature(student, teacher, mask, extra, micro.number)

    def _of_several(
        self, student: list[Tensor], teacher: list[Tensor], mask: Tensor | None, extra: dict[str, Any], number: int
    ) -> tuple[Tensor, bool]:
        has_graph = any(feature.requires_grad for feature in student)
        student, teacher = ([at_least_float32(feature) for feature in side] for side in (student, teacher))
        per_token = mask is not None and all(token_mask(feature, mask) is not None for feature in (*student, *teacher))
        if self._masks_itself:
            extra = extra | {'mask': mask}
        elif mask is not None and per_token:
            if not mask.any():
                return self._nothing(*student), True
            student, teacher = ([feature[mask] for feature in side] for side in (student, teacher))
        return self._checked(self._call(student, teacher, extra, number), has_graph, number), per_token

    def _of_feature(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, extra: dict[str, Tensor], number: int
    ) -> tuple[Tensor, bool]:
        has_graph = student.requires_grad
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        if self.summary is not None:
            student, teacher = (self.summary(x, token_mask(x, mask)) for x in (student, teacher))
        per_token = False
        if self._masks_itself:
            per_token = token_mask(student, mask) is not None or _is_attention(student, mask)
            value = self._call(student, teacher, extra | {'mask': mask if per_token else None}, number)
        elif mask is not None and all(token_mask(x, mask) is not None for x in (student, teacher)):
            per_token = True
            if 'labels' in extra:  # one label per token
                extra['labels'] = extra['labels'].reshape(-1)
            value = self._of_rows(student.flatten(0, 1), teacher.flatten(0, 1), mask.reshape(-1), extra, number)
        else:
            self._check_not_broadcast(student, teacher, number)
            value = self._call(student, teacher, extra, number)
        return self._checked(value, has_graph, number), per_token

    def _check_not_broadcast(self, student: Tensor, teacher: Tensor, number: int) -> None:
        """Raises an error for features that torch would broadcast, unless the loss sets ``any_shape = True``."""
        if student.shape == teacher.shape or self._any_shape or self.summary is not None:
            return
        try:
            torch.broadcast_shapes(student.shape, teacher.shape)
        except RuntimeError:
            return  # the loss handles both shapes, or raises its own error
        raise LossError(
            f'The match {self.name!r} compares {_shapes(student)} of the student with {_shapes(teacher)} of the '
            f"teacher at batch {number}, which torch would spread over one another. project='auto' joins them; if the "
            'loss does so itself, let it have an attribute any_shape = True.'
        )

    def _of_rows(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, extra: dict[str, Tensor], number: int
    ) -> Tensor:
        if mask is None:
            return self._call(student, teacher, extra, number)
        student, teacher = student[mask], teacher[mask]
        if 'labels' in extra:
            extra['labels'] = extra['labels'][mask]
        return self._call(student, teacher, extra, number) if student.shape[0] else self._nothing(student)

    def _nothing(self, *student: Tensor) -> Tensor:
        """A zero loss for no valid positions, with the same tensors in its graph as the losses of other ranks."""
        learned = self.loss.parameters() if isinstance(self.loss, nn.Module) else ()
        return torch.stack([tensor.sum() * 0.0 for tensor in (*student, *learned)]).sum()

    def _call(self, student: Any, teacher: Any, extra: dict[str, Any], number: int) -> Tensor:
        before = None
        if self._temperature is not None:
            if self._sets_temperature:  # restored below, because another match may use the same loss
                before, self.loss.temperature = self.loss.temperature, self._temperature  # type: ignore[attr-defined]
            else:
                extra = {**extra, 'temperature': self._temperature}
        try:
            return self.loss(student, teacher, **extra)
        except Exception as error:
            if is_of_device(error):
                raise
            raise LossError(
                f'The match {self.name!r} fails at batch {number}, with {_shapes(student)} of the student and '
                f'{_shapes(teacher)} of the teacher: {_said(error)}{_hint(error)}'
            ) from error
        finally:
            if before is not None:
                self.loss.temperature = before  # type: ignore[attr-defined]

    def _extras(self, micro: Microbatch) -> dict[str, Tensor]:
        found = {'labels': micro.labels, 'index': micro.index}
        remedies = {
            'labels': 'labels, one class per row, as the second of an (inputs, labels) pair or `labels` of a mapping',
            'index': "the samples' indices, as `index` of a mapping or the third of a triple "
            '(composer_kd.data.Indexed makes such triples; composer_kd.models.IndexedClassifier, or a model of your '
            'own with the attribute takes_index = True, takes them)',
        }
        for name in self._wants:
            if found[name] is None:
                raise LossError(f'The loss {self.name!r} needs {remedies[name]}; batch {micro.number} has none')
        return {name: found[name] for name in self._wants}  # type: ignore[misc]

    def _checked(self, value: Any, has_graph: bool, number: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != 0 or (has_graph and not value.requires_grad):
            self._reject(value, number)
        self.finite_check(value, number)
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


def _is_attention(feature: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and feature.ndim == 4 and feature.shape[2:] == (mask.shape[1], mask.shape[1])


def _hint(error: Exception) -> str:
    is_of_shapes = 'differ in shape' in str(error) or 'must match' in str(error)
    return "; project='auto' would join them" if is_of_shapes else ''


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'


def _shapes(feature: Any) -> str:
    if isinstance(feature, Tensor):
        return str(tuple(feature.shape))
    return '[' + ', '.join(str(tuple(entry.shape)) for entry in feature) + ']'
