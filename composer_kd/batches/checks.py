"""Checks at the first batches that labels are read as the model's own loss reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.batches.contents import IGNORE, labels_of
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import Layout, layout_of, several_labels
from composer_kd.batches.masks import Valid, aligned_labels
from composer_kd.errors import ConfigError

__all__ = ['check_alignment', 'check_marks', 'check_one_label', 'labels_fit']


_FEW = 8
"""Rows that show whether a loss is one of a softmax."""


def check_marks(batch: Any, form: BatchFormat, layout: Layout, valid: Valid | None) -> None:
    """Checks that labels and masks are those of the logits' positions.

    Args:
        batch: The microbatch.
        form: The format of the batches. It warns once of marks that have other positions.
        layout: The layout of the logits.
        valid: The valid positions; ``None`` if all are valid.

    Raises:
        ConfigError: If a position has a label that is no class (read on the CPU only).
    """
    if valid is None and form.ctc and len(layout.shape) > 1:
        form.warn_once(
            'The batch has no attention mask, so the logits of this CTC model are compared at every frame, padding '
            'included. To say which count, give the model a method valid_positions(batch) that returns booleans of the '
            f'shape {tuple(layout.shape)}, or None for all.',
            'frames',
        )
    if valid is None or valid.mask is None or len(layout.shape) < 2 or layout.covers(valid.mask.shape):
        _check_classes(batch, form, layout)
    elif valid.mask.ndim > 1 and not (valid.mask.device.type == 'cpu' and bool(valid.mask.all())):
        what = 'labels' if valid.from_labels else 'attention mask'
        form.warn_once(
            f'The {what} {tuple(valid.mask.shape)} are not of the positions {tuple(layout.shape)} of the logits, so '
            'these are compared at every position, padding included. To say which count, give the model a method '
            f'valid_positions(batch) that returns booleans of the shape {tuple(layout.shape)}.',
            'positions',
        )


def _check_classes(batch: Any, form: BatchFormat, layout: Layout) -> None:
    labels = labels_of(batch)
    is_read = labels is not None and labels.device.type == 'cpu' and not labels.is_floating_point()
    if not is_read or layout.classes < 2 or form.ctc:
        return
    assert labels is not None
    if not layout.per_position and (labels.ndim < 3 or len(layout.shape) < 3):
        return  # one label a sample: the usual case, in which nothing is read
    labels = aligned_labels(batch, form)
    assert labels is not None
    if not labels.numel() or labels.max() < layout.classes:
        return
    if not layout.per_position and labels.ndim > 2 and len(layout.shape) > 2:
        form.warn_once(
            f'The labels {tuple(labels.shape)} hold {int(labels.max())}, and the logits have {layout.classes} classes '
            f'at the positions {tuple(layout.shape)}: these are compared at every position. To say which count, give '
            'the model a method valid_positions(batch) that returns booleans of that shape; and if its loss ignores '
            f'this label, the attribute ignore_index = {int(labels.max())}.',
            'positions',
        )
    if layout.per_position and layout.covers(labels.shape):
        if form.vocabulary is not None:
            raise ConfigError(
                f'The labels hold {int(labels.max())}, and {form.vocabulary} classes are compared, the tokens that the '
                f'models share. Take texts of their tokenizer; or, if this is a token of it, '
                f'give vocabulary={int(labels.max()) + 1} or more.'
            )
        raise ConfigError(
            f'The labels hold {int(labels.max())}, and the logits have {layout.classes} classes. If the loss of the '
            f'model ignores this label, say so: set the attribute ignore_index = {int(labels.max())} on the model.'
        )


def labels_fit(batch: Any, form: BatchFormat, logits: Tensor | None) -> bool:
    """Whether the model's own loss may be a mean over the labels of a batch.

    It is not where labels ``(B, L)`` are sequences of another length than the logits' ``(B, T, V)``, as in CTC.
    """
    labels = labels_of(batch)
    if logits is None or labels is None or form.shift_labels or labels.ndim != 2 or logits.ndim != 3:
        return True
    return labels.shape[1] == 1 or labels.shape[1] in logits.shape[1:] or labels.shape == logits.shape


def check_one_label(
    batch: Any, form: BatchFormat, logits: Tensor, task: Tensor, losses: Callable[[Tensor], Sequence[str]]
) -> bool:
    """Warns once if losses compare a softmax over classes, of which a sample may have several at once.

    It may if a row of labels in the logits' shape does not sum to 1, or if the model says so (``problem_type`` of
    transformers, a multi-label loss of torch). One label for each row is settled too, unless the model's own loss is a
    binary cross-entropy: the next rows are looked at then.

    Args:
        batch: The microbatch.
        form: The format of the batches, which warns once.
        logits: The student's logits.
        task: The model's own loss of the microbatch, a scalar.
        losses: Gives the names of the losses that compare a softmax, for some logits as rows.

    Returns:
        Whether the question is settled; ``False`` for a batch without labels.
    """
    labels = labels_of(batch)
    if labels is None:
        return False
    if form.several_labels or several_labels(batch, logits):
        rows = layout_of(logits, batch, form).rows(logits.detach()).flatten(0, -2)[:_FEW]
        names = losses(torch.cat([rows, -rows])[:_FEW])
        if names:
            form.warn_once(
                f'Samples may have several labels at once (labels {tuple(labels.shape)}), and {", ".join(names)} '
                'compares a softmax over the classes, in which they exclude one another. Compare each class by itself: '
                'composer_kd.losses.mse, or a function such as lambda student, teacher: '
                'torch.nn.functional.binary_cross_entropy_with_logits(student, teacher.sigmoid()).',
                'several labels',
            )
        return True
    if labels.shape != logits.shape or logits.ndim < 2 or logits.device.type != 'cpu':
        return True
    binary = F.binary_cross_entropy_with_logits(logits.detach().float(), labels.float())
    return not bool((binary - task.detach().float()).abs() <= 1e-3 * binary)


def check_alignment(batch: Any, form: BatchFormat, logits: Tensor, task: Tensor) -> bool:
    """Compares the model's own loss with the cross-entropy of each position and its label, or the label after it.

    Args:
        batch: The microbatch.
        form: The format of the batches; it warns once if nothing can be found out.
        logits: The student's logits.
        task: The model's own loss of the microbatch, a scalar.

    Returns:
        Whether the question is settled; ``False`` for a batch without labels.

    Raises:
        ConfigError: If the loss shows that labels are read one position off.
    """
    labels = labels_of(batch)
    if labels is None:
        return False
    if labels.is_floating_point() or labels.ndim != 2 or labels.shape[1] < 2 or form.ctc:
        return True
    layout = layout_of(logits, batch, form)
    if layout.shape != labels.shape or layout.classes < 2:
        return True
    plain = BatchFormat(ignore_index=form.ignore_index)
    here = aligned_labels(batch, plain)
    after = aligned_labels(batch, BatchFormat(shift_labels=True, ignore_index=form.ignore_index))
    assert here is not None
    assert after is not None
    if not bool((here != IGNORE).any()):
        return False
    rows = layout.rows(logits.detach())
    seen = {False: _near(rows, here, task), True: _near(rows, after, task)}
    if seen[not form.shift_labels] and not seen[form.shift_labels]:
        raise ConfigError(_off(form.shift_labels))
    if not form.knows_shift and not any(seen.values()):
        form.warn_once(
            f'It cannot be known which labels belong to the positions of the logits {tuple(logits.shape)}: logits at '
            'position i are compared where label i is not -100. If the model predicts the next token, set its '
            'attribute shift_labels = True (else False, which ends this warning); if labels belong to whole sequences '
            '(CTC), give it a method valid_positions(batch) that returns booleans of the positions.',
            'shift',
        )
    return True


def _off(shifts: bool) -> str:
    label, now = ('i', 'i + 1') if shifts else ('i + 1', 'i')
    return (
        f"The model's own loss is the cross-entropy of position i with the label {label}, but batches are read with "
        f'the label {now} at position i, so logits would be compared one position off. Set the attribute '
        f'shift_labels = {not shifts} on the model (of a HuggingFaceModel: the argument shift_labels={not shifts}).'
    )


@torch.no_grad()
def _near(rows: Tensor, labels: Tensor, task: Tensor) -> bool:
    """Whether a loss is the mean cross-entropy of these labels; sample by sample, to need little memory."""
    total, number = torch.zeros((), device=rows.device), (labels != IGNORE).sum()
    for logits, classes in zip(rows, labels):
        known = classes.clamp(min=0).long()
        if bool((known >= logits.shape[-1]).any()):
            return False
        loss = F.cross_entropy(logits.float(), known, reduction='none')
        total = total + loss.where(classes >= 0, 0.0).sum()
    mean = total / number.clamp(min=1)
    return bool((mean - task.detach().float()).abs() <= 1e-3 * mean.abs().clamp(min=1e-6))
