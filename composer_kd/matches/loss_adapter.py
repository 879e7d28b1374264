"""Calls a loss on student and teacher outputs: passes the labels, mask or index it asks for, and checks the result."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeAlias

import torch
from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.checks import check_marks
from composer_kd.batches.layout import Layout
from composer_kd.batches.masks import Valid, aligned_labels, token_mask
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import LossError, is_of_device
from composer_kd.losses._common import at_least_float32
from composer_kd.losses.sparse import SparseTarget, TeacherLogits
from composer_kd.matches.finite_check import FiniteCheck
from composer_kd.matches.loss_signature import (
    Loss,
    attribute_of,
    checked_loss,
    is_known,
    name_of,
    parameters_of,
    takes_log_probabilities,
)
from composer_kd.matches.sparse import against, temperature_of
from composer_kd.schedules import Schedule, value_at

__all__ = ['LOGITS_TAKEN', 'LossAdapter', 'Feature']

Feature: TypeAlias = Tensor | list[Tensor]

_NO_LOGARITHM = 0.1  # the largest logarithm of a sum of probabilities, which half precision rounds

LOGITS_TAKEN = (
    'The loss {!r} takes log-probabilities of the student, and gets its logits. Take '
    'composer_kd.losses.KLDivergence(temperature=1.0): the divergence of the softmax of both'
)
"""What to do about torch's KL divergence of logits."""


class LossAdapter:
    """Calls a loss on student and teacher outputs: passes what it asks for, and checks that it returns a finite scalar.

    * The loss gets ``labels``, ``mask`` and ``index`` if it has parameters of these names.
    * Without a parameter ``mask``, it gets valid positions only, as rows: ``(N, V)`` for logits of models with one
      prediction per position (language models, segmentation), ``(N, D)`` for hidden states ``(B, S, D)``. With it, it
      gets all positions and the mask (``None`` if all are valid), so the host need not wait to learn their number.
    * The classes of logits are found from the labels, and come last. A loss with an attribute ``softmax_dim`` other
      than -1 says where they are. A loss with a true attribute ``of_maps``, or one that reads a summary, gets maps of
      logits ``(B, C, H, W)`` as they are.
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
        self._over_classes = attribute_of(loss, 'softmax_dim', None) is not None
        self.summary = attribute_of(loss, 'summary', None)
        self.is_known = is_known(loss)
        self.any_classes = bool(attribute_of(loss, 'any_classes', False))
        self.finite_check = FiniteCheck(self.name)
        self._check_marks = check_marks
        self._of_maps = bool(attribute_of(loss, 'of_maps', False)) or self.summary is not None
        self._one_output_is_fine = False
        self._any_shape = bool(attribute_of(loss, 'any_shape', False))
        self._any_dtype = bool(attribute_of(loss, 'any_dtype', False))
        parameters = parameters_of(loss)
        self._masks_itself = 'mask' in parameters
        self._masks_keys = 'key_mask' in parameters
        self._wants = [name for name in ('labels', 'index') if name in parameters]
        self.needs_index, self.needs_labels = 'index' in self._wants, 'labels' in self._wants
        self._asks_for_log_probabilities = takes_log_probabilities(loss)
        self._temperature: float | None = None
        self._sets_temperature = hasattr(loss, 'temperature')

    def detached_copy(self) -> LossAdapter:
        """A copy with its own loss module that skips the checks of values: of the loss, and of labels and masks."""
        twin = copy.copy(self)
        twin.loss = copy.deepcopy(self.loss) if isinstance(self.loss, nn.Module) else self.loss
        twin.finite_check = lambda loss, batch: None  # type: ignore[assignment]
        twin._check_marks = lambda batch, form, layout, valid: None
        twin._asks_for_log_probabilities = False
        return twin

    def set_temperature(self, temperature: float | Schedule, state: State) -> float:
        """Sets the temperature of the following calls.

        Args:
            temperature: A number, or a schedule that is read for the batch of ``state``.
            state: The state of the run.

        Returns:
            The temperature.

        Raises:
            ConfigError: If the schedule returns something other than a positive finite number.
        """
        value = value_at(temperature, state, f'The temperature of {self.name!r}', above_zero=True)
        self._temperature = value
        return value

    def of_logits(self, student: Tensor, teacher: TeacherLogits, micro: Microbatch) -> tuple[Tensor, bool]:
        """Computes the loss on the logits of a microbatch: a mean over its valid positions.

        Args:
            student: The student's logits; :func:`.layout_of` finds the dimension of the classes.
            teacher: The teacher's logits, of the same shape unless the loss has a true attribute ``any_classes``; or
                what a stored teacher kept of them.
            micro: The microbatch, with its valid positions, labels and index.

        Returns:
            The loss, a scalar; and whether it is a mean over valid positions of sequences (else over samples).

        Raises:
            LossError: If the loss is not a finite scalar that depends on the student, or compares classes although the
                model has one output.
        """
        if isinstance(teacher, SparseTarget):
            return self._of_sparse(student, teacher, micro)
        if not self._any_dtype:
            student, teacher = at_least_float32(student), at_least_float32(teacher)
        layout, number = micro.layout(student, self.classes_dim), micro.number
        if self._asks_for_log_probabilities:
            self._check_log_probabilities(student)
        self._check_marks(micro.batch, micro.form, layout, micro.valid)
        extra, has_graph = self._extras(micro, layout) if self._wants else {}, student.requires_grad
        if not self._is_given_as_it_is(student, layout):
            student, teacher = layout.rows(student), layout.rows(teacher)
        mask = layout.mask(micro.valid)
        if layout.classes == 1 and not self._one_output_is_fine:
            self._check_one_output(student, teacher, layout, mask, extra, number)
        return self._checked(self._at(student, teacher, layout, mask, extra, number), has_graph, number), (
            layout.per_position
        )

    def check_target(self, target: SparseTarget, temperature: float | Schedule | None) -> None:
        """Checks before training that the loss can be taken of what a teacher keeps.

        Args:
            target: An example of what it keeps.
            temperature: The temperature that a match sets; ``None`` for the loss's own.

        Raises:
            LossError: If it cannot.
        """
        if callable(temperature):
            raise LossError(
                f'The temperature of {self.name!r} is a schedule, and the stored teacher was stored at the temperature '
                f'{target.temperature:g}. Set temperature={target.temperature:g}, or store the format dense.'
            )
        own = temperature_of(self.loss) if temperature is None else temperature
        rows = target.rows()
        student = torch.zeros(rows.shape)
        against(self.loss, self.name, own, student, rows, lambda student, teacher: student.sum())

    def _of_sparse(self, student: Tensor, target: SparseTarget, micro: Microbatch) -> tuple[Tensor, bool]:
        layout, has_graph = micro.layout(student, self.classes_dim), student.requires_grad
        check_marks(micro.batch, micro.form, layout, micro.valid)
        rows, target = layout.rows(student), target.rows()
        mask = layout.mask(micro.valid)
        if mask is not None:
            rows, target = rows.flatten(0, -2)[mask], target.at(mask)
        if not rows.numel():
            return self._nothing(rows), layout.per_position
        temperature = temperature_of(self.loss) if self._temperature is None else self._temperature
        call = partial(self._call, extra={}, number=micro.number)
        value = against(self.loss, self.name, temperature, rows, target, call)
        return self._checked(value, has_graph, micro.number), layout.per_position

    def _is_given_as_it_is(self, logits: Tensor, layout: Layout) -> bool:
        """Whether the loss gets logits in the shape in which the model returns them."""
        if self.classes_dim != -1:  # the loss says itself where it takes the classes
            return self._masks_itself or not layout.per_position
        return logits.ndim > 3 and (self._of_maps or not (self._over_classes or layout.per_position))

    def _at(
        self, student: Tensor, teacher: Tensor, layout: Layout, mask: Tensor | None, extra: dict[str, Any], number: int
    ) -> Tensor:
        """Calls the loss at the valid positions."""
        if self._masks_itself:
            return self._call(student, teacher, extra | {'mask': mask}, number)
        if self._is_given_as_it_is(student, layout) or not (layout.per_position or student.ndim > 3):
            return self._call(student, teacher, extra, number)
        student, teacher = (_with_classes_at(self.classes_dim, x.flatten(0, -2)) for x in (student, teacher))
        return self._of_rows(student, teacher, mask, extra, number)

    def _check_log_probabilities(self, student: Tensor) -> None:
        """Refuses torch's KL divergence of logits, which would be a number that means nothing."""
        self._asks_for_log_probabilities = False
        sums = [student.detach().logsumexp(dim).abs().max() for dim in {1, student.ndim - 1} if student.numel()]
        if sums and min(sums) > _NO_LOGARITHM:
            raise LossError(LOGITS_TAKEN.format(self.name))

    def _check_one_output(
        self, student: Tensor, teacher: Tensor, layout: Layout, mask: Tensor | None, extra: dict[str, Any], number: int
    ) -> None:
        """Refuses a loss that has no gradient for a model with one output, as any softmax over one class has none."""
        if not student.numel() or (mask is not None and not mask.any()):
            return
        advice = f'The loss {self.name!r} compares classes, and the model has one output: use composer_kd.losses.mse'
        with torch.enable_grad():
            probe = _moved(teacher.detach()).requires_grad_()
            try:
                value = self.detached_copy()._at(probe, teacher, layout, mask, dict(extra), number)
                (gradient,) = torch.autograd.grad(value, probe, allow_unused=True)
            except (LossError, RuntimeError) as error:
                raise LossError(f'{error}. {advice}.') from error
        if gradient is None or not gradient.any():
            raise LossError(f'{advice}. A divergence of one class is constant, so nothing would be learned.')
        self._one_output_is_fine = True

    def takes_for_logits(self, student: Feature, teacher: Feature, micro: Microbatch) -> bool:
        """Whether maps ``(B, C, H, W)`` of a layer are logits: for a loss over classes, with a label per pixel.

        A loss over classes warns once of other maps, whose last dimension it takes.
        """
        if not self._over_classes or self.classes_dim != -1 or isinstance(student, list) or isinstance(teacher, list):
            return False
        if student.ndim < 4 or student.shape != teacher.shape:
            return False
        fits = micro.layout(student).per_position
        if not fits and student.shape[2] != student.shape[3]:
            micro.form.warn_once(
                f'The match {self.name!r} takes the last dimension of {tuple(student.shape)} as the classes. If they '
                'are in another, as in maps, say it: KLDivergence(softmax_dim=1).',
                f'classes of {self.name}',
            )
        return fits

    def of_features(
        self, student: Feature, teacher: Feature, micro: Microbatch, tokens: Valid | None, keys: Valid | None = None
    ) -> tuple[Tensor, bool]:
        """Computes the loss on features of a microbatch: a mean over samples or, for hidden states, over valid tokens.

        Args:
            student: The feature of the student's layer, the batch first; a list for several layers.
            teacher: The teacher's, likewise; already reduced if the loss has a ``summary``.
            micro: The microbatch, with its labels and index.
            tokens: The valid tokens of these layers; ``None`` if all are valid.
            keys: The valid keys of a cross-attention, of which ``tokens`` are the queries.

        Returns:
            The loss, a scalar; and whether it is a mean over valid tokens (else over samples).

        Raises:
            LossError: If the loss is not a finite scalar that depends on the student.
        """
        extra = self._extras(micro) if self._wants else {}
        mask = None if tokens is None else tokens.mask
        if isinstance(student, list) or isinstance(teacher, list):
            return self._of_several(list(student), list(teacher), mask, extra, micro.number)
        if keys is not None and self._masks_keys:
            extra = {**extra, 'key_mask': keys.mask}  # type: ignore[dict-item]
        if mask is not None and micro.form.frame_lengths is not None:
            self._check_frames(student, mask, micro)
        return self._of_feature(student, teacher, mask, extra, micro.number)

    def _check_frames(self, feature: Tensor, mask: Tensor, micro: Microbatch) -> None:
        """Warns once of a layer of a speech model that has other frames than the mask, as one before an adapter."""
        if feature.ndim == 3 and token_mask(feature, mask) is None:
            micro.form.warn_once(
                f'The match {self.name!r} compares {tuple(feature.shape)}, and the frames of real audio are known of '
                f'{tuple(mask.shape)}: all frames are compared, those of padding too. Match a layer with these frames, '
                'or samples of one length.',
                f'frames of {self.name}',
            )

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
            masks = {'mask': mask} | {name: value for name, value in extra.items() if name == 'key_mask'}
            per_token = token_mask(student, mask) is not None or _is_attention(student, mask, masks.get('key_mask'))
            masks = {name: value if per_token else None for name, value in masks.items()}
            value = self._call(student, teacher, extra | masks, number)
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
            extra = {**extra, 'labels': extra['labels'][mask]}
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

    def _extras(self, micro: Microbatch, layout: Layout | None = None) -> dict[str, Tensor]:
        """The labels and the index, as far as the loss asks for them; of logits, one label per row."""
        labels = micro.labels
        if labels is not None and layout is not None:
            labels = aligned_labels(micro.batch, micro.form, layout.dim or 1)
            labels = labels.reshape(-1)  # type: ignore[union-attr]
        found = {'labels': labels, 'index': micro.index}
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


def _moved(values: Tensor) -> Tensor:
    """Other values: probabilities stay probabilities, since a binary cross-entropy takes nothing else."""
    is_probability = (values >= 0.0) & (values <= 1.0)
    return torch.where(is_probability, torch.where(values < 0.5, values + 0.25, values - 0.25), values + 1.0)


def _with_classes_at(dim: int, rows: Tensor) -> Tensor:
    """Rows ``(N, C)`` for a loss that takes the classes in another dimension than the last."""
    if dim in (-1, 1):
        return rows
    before, after = (dim - 1, 0) if dim > 0 else (0, -dim - 1)
    return rows.reshape(len(rows), *[1] * before, rows.shape[1], *[1] * after)


def _is_attention(feature: Tensor, mask: Tensor | None, keys: Tensor | None) -> bool:
    """Whether a feature ``(B, H, Q, K)`` is the attention of the masked queries to the masked keys."""
    if mask is None or feature.ndim != 4:
        return False
    return feature.shape[2:] == (mask.shape[1], mask.shape[1] if keys is None else keys.shape[1])


def _hint(error: Exception) -> str:
    is_of_shapes = 'differ in shape' in str(error) or 'must match' in str(error)
    return "; project='auto' would join them" if is_of_shapes else ''


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'


def _shapes(feature: Any) -> str:
    if isinstance(feature, Tensor):
        return str(tuple(feature.shape))
    return '[' + ', '.join(str(tuple(entry.shape)) for entry in feature) + ']'
