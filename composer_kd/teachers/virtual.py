"""A teacher made of the labels: nothing runs, and nothing was trained."""

from __future__ import annotations

import contextlib
import math
from numbers import Real
from typing import Any, NoReturn

import torch
from composer.core import State
from torch import Tensor

from composer_kd.batches.contents import labels_of, with_labels
from composer_kd.batches.format import LABELLED, BatchFormat
from composer_kd.batches.layout import Layout, layout_of, several_labels
from composer_kd.batches.masks import aligned_labels
from composer_kd.data.view_index import first_items
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.meta import without_draws
from composer_kd.features.outputs import logits_of
from composer_kd.losses._common import at_least_float32
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.shapes import measured

__all__ = ['VirtualTeacher', 'virtual_logits']


def virtual_logits(labels: Tensor, classes: int, correct: float) -> Tensor:
    r"""The logits of the virtual teacher: the logarithms of its probabilities.

    .. math:: p(k) = \begin{cases} a & k = c \\ \frac{1 - a}{K - 1} & k \neq c \end{cases}

    Args:
        labels: ``(...,)`` The classes :math:`c`, integers from 0; or ``(..., K)`` probabilities of the classes, of
            which the same mixture of virtual teachers is taken.
        classes: Their number :math:`K`, two or more.
        correct: :math:`a`, the probability of the correct class, between 0 and 1.

    Returns:
        ``(..., K)`` float32.

    Example:
        >>> virtual_logits(torch.tensor([1]), classes=3, correct=0.9).exp()
        tensor([[0.0500, 0.9000, 0.0500]])
        >>> virtual_logits(torch.tensor([[0.5, 0.5, 0.0]]), classes=3, correct=0.9).exp()
        tensor([[0.4750, 0.4750, 0.0500]])
    """
    other = (1.0 - correct) / (classes - 1)
    if labels.is_floating_point():
        return (other + (correct - other) * labels.float()).log()
    logits = torch.full((*labels.shape, classes), math.log(other), device=labels.device)
    return logits.scatter_(-1, labels.long().unsqueeze(-1), math.log(correct))


class VirtualTeacher:
    r"""A virtual teacher, which gives the correct class a probability of ``correct`` and shares the rest equally.

    Yuan et al., *Revisiting Knowledge Distillation via Label Smoothing Regularization* (arXiv 1909.11723): teacher-free
    distillation by a teacher designed by hand (Tf-KD_reg, equation 7). Its logits are :func:`virtual_logits`, the
    logarithms of its probabilities, and a loss softens them by its own temperature; the paper's is 20 or more. (The
    published code takes the softmax of the probabilities themselves, and softens the teacher alone.) At temperature 1,
    ``KLDivergence`` has the gradient of cross-entropy with label smoothing.

    The number of classes, their dimension and the positions are those of the student's logits. Labels that are
    probabilities (``MixUp``, ``CutMix``) are taught by the mixture of their classes; beside ``LabelSmoothing``, the
    labels of before count. A sample or position without a label (-100, or what the model's loss ignores) has the
    student's own logits as its target: nothing is taught there, and the mean still runs over it. Labels must say one
    class each: several labels at once, labels of whole sequences (CTC) and numbers (regression) are refused.

    Args:
        correct: The probability of the correct class, less than 1 and more than that of the others.
        name: Its name in messages, and in ``Match(..., teacher=name)``.

    Raises:
        ConfigError: If ``correct`` is not a probability of this kind.
        TeacherError: If the labels do not say one class for each of the student's predictions: before training as far
            as the first samples show it, else in the first batch that has such labels.

    Example:
        >>> from composer_kd import Distillation, KLDivergence
        >>> Distillation(VirtualTeacher(correct=0.99), KLDivergence(temperature=20.0)).teachers
        [VirtualTeacher(correct=0.99)]
    """

    of_labels = True
    whole_batches = True  # it answers in the shape of the student's logits, which are those of a microbatch

    def __init__(self, correct: float = 0.99, name: str = 'virtual') -> None:
        if not _is_probability(correct):
            raise ConfigError(
                f'VirtualTeacher: correct must be a probability between 0 and 1, such as 0.99, got {correct!r}'
            )
        self.correct, self.name = float(correct), name
        self._state: State | None = None
        self._form = BatchFormat()

    def prepare(self, state: State) -> None:
        """Notes the run, whose student says the number of classes.

        Raises:
            TeacherError: If the student says that its labels are not one class each.
        """
        self._state, self._form = state, BatchFormat.of(state.model)
        if self._form.ctc or self._form.several_labels:
            self._refuse('belong to whole sequences' if self._form.ctc else 'may be several at once')

    def check_data(self, dataset: Any, positions: str = LABELLED) -> None:
        """Looks at the labels of the first samples, before training.

        Args:
            dataset: The data set of the training loader.
            positions: Which positions the run compares: ``'labelled'`` or ``'attended'``.

        Raises:
            TeacherError: If the labels do not say one class for each prediction.
        """
        state = self._state
        if state is None:
            return
        self._form = BatchFormat.of(state.model, positions)
        shown = _first_shown(state, dataset)
        if shown is not None:
            shape, batch = shown
            # What whole numbers say may change until training (transforms on the device, other algorithms).
            known = with_labels(
                self._form.split(batch)[0], lambda labels: labels * 0 if not labels.is_floating_point() else labels
            )
            self._answer(torch.zeros(shape), known)

    def outputs(self, batch: Any, index: Tensor | None = None) -> Tensor:
        """The virtual teacher's logits for a microbatch whose student has just run.

        Args:
            batch: The microbatch as models take it, with labels.
            index: Has no effect.

        Returns:
            Logits in the shape of the student's, at least float32.

        Raises:
            TeacherError: If the labels do not say one class for each prediction.
        """
        outputs = None if self._state is None else self._state.outputs
        if outputs is None or (isinstance(outputs, Tensor) and not outputs.numel()):
            raise TeacherError(
                f'The teacher {self.name!r} answers in the shape of the student, which has not run yet: it has nothing '
                'to say outside of a run'
            )
        student = logits_of(outputs, 'the student').detach()
        return self._answer(at_least_float32(student), batch)

    end_batch = FrozenTeacher.end_batch

    def settings(self) -> dict[str, float]:
        """What its answers depend on: ``correct``."""
        return {'correct': self.correct}

    def _answer(self, student: Tensor, batch: Any) -> Tensor:
        layout = layout_of(student, batch, self._form)
        if layout.dim is None or layout.classes < 2:
            raise TeacherError(
                f'The teacher {self.name!r} says probabilities of classes, and the student has one output: '
                f'logits of the shape {tuple(student.shape)}'
            )
        if self.correct <= 1.0 / layout.classes:
            raise TeacherError(
                f'The teacher {self.name!r}: correct={self.correct:g} of {layout.classes} classes is no more than '
                f'chance (1/{layout.classes}), so it would teach the others. The usual value is 0.99'
            )
        labels = self._labels(student, batch, layout)
        rows = layout.rows(student)
        if labels.is_floating_point():
            logits = virtual_logits(layout.rows(labels), layout.classes, self.correct)
        else:
            logits = virtual_logits(labels.clamp(min=0), layout.classes, self.correct)
            logits = torch.where(labels.unsqueeze(-1) < 0, rows, logits.to(rows.dtype))
        return logits.movedim(-1, layout.dim)

    def _labels(self, student: Tensor, batch: Any, layout: Layout) -> Tensor:
        """One class for each position of the logits, negative without a label; or probabilities of classes."""
        labels = labels_of(batch)
        if labels is None:
            self._refuse('are not there: it needs those of an (inputs, labels) pair, or `labels` of a mapping')
        if several_labels(batch, student):
            self._refuse('may be several at once')
        if labels.is_floating_point():
            if labels.shape != student.shape or self._form.shift_labels:
                self._refuse(f'{tuple(labels.shape)} are numbers, no classes')
            return labels
        aligned = aligned_labels(batch, self._form)
        assert aligned is not None
        is_one_each = len(layout.shape) == 1 and aligned.numel() == layout.shape.numel()
        if not is_one_each and not layout.covers(aligned.shape):
            self._refuse(f'{tuple(labels.shape)} are not of the positions {tuple(layout.shape)} of the logits')
        if aligned.device.type == 'cpu' and aligned.numel() and aligned.max() >= layout.classes:
            self._refuse(f'hold {int(aligned.max())}, and the logits have {layout.classes} classes')
        return aligned.reshape(layout.shape)

    def _refuse(self, what: str) -> NoReturn:
        raise TeacherError(
            f'The teacher {self.name!r} is made of the labels, one class for each prediction, and the labels {what}. '
            'Take a trained teacher, or the student itself: EMATeacher, SnapshotTeacher.'
        )

    def __repr__(self) -> str:
        return f'VirtualTeacher(correct={self.correct:g})'


def _is_probability(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0.0 < float(value) < 1.0


def _first_shown(state: State, dataset: Any) -> tuple[torch.Size, Any] | None:
    """The shape of the student's logits for the first samples, and these; ``None`` if that cannot be had now."""
    if state.fsdp_config is not None or state.tp_config is not None or state.train_dataloader is None:
        return None
    with contextlib.suppress(Exception), without_draws():  # the user's own model or data set may raise any error
        batch = state.train_dataloader.collate_fn(first_items(dataset, 4))
        shape = measured(state.model, batch, (), 'the student').logits
        return (shape, batch) if isinstance(shape, torch.Size) else None
    return None
