"""Finds the dimension of the classes in logits, and whether a batch marks their positions.

docs/limits/positions.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from composer_kd.batches.contents import labels_of
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import Valid, attention_of, marks_of
from composer_kd.errors import ConfigError

__all__ = ['Layout', 'layout_of', 'several_labels']


@dataclass(frozen=True)
class Layout:
    """Where the classes of logits are, and what the batch marks.

    Attributes:
        dim: The dimension of the classes, 0 or more; ``None`` if the model has one output without a dimension.
        classes: The number of classes.
        shape: The shape of the positions: that of the logits without ``dim``.
        per_position: Whether the batch has a label (or, without labels, an attention mask entry) for each position of a
            sequence or map. Labels per sample never mask the distillation loss, so samples without one are distilled
            too.
    """

    dim: int | None
    classes: int
    shape: torch.Size
    per_position: bool

    def rows(self, logits: Tensor) -> Tensor:
        """Logits as ``(..., C)``, the classes last; one output as ``(B, 1)``."""
        if self.dim is None:
            return logits.unsqueeze(-1)
        return logits if self.dim == logits.ndim - 1 else logits.movedim(self.dim, -1)

    def mask(self, valid: Valid | None) -> Tensor | None:
        """The flat mask of the rows; ``None`` if all count, or if valid positions are not those of the logits.

        Example:
            >>> logits, labels = torch.zeros(2, 5, 3, 3), torch.zeros(2, 1, 3, 3, dtype=torch.long)
            >>> valid = Valid.of(labels != -100, True)
            >>> layout_of(logits, (None, labels)).mask(valid).shape
            torch.Size([18])
        """
        if valid is None or valid.mask is None or not self.covers(valid.mask.shape):
            return None
        return valid.mask.reshape(-1)

    def covers(self, shape: torch.Size) -> bool:
        """Whether marks of this shape have one entry for each position of sequences or maps."""
        if len(self.shape) < 2:
            return self.per_position and shape.numel() == self.shape.numel()  # flattened by the model
        return shape == self.shape or _squeezed(shape) == self.shape


def layout_of(
    logits: Tensor, batch: Any, form: BatchFormat | None = None, said: int = -1, valid: Valid | None = None
) -> Layout:
    """Finds the classes and positions of logits.

    Args:
        logits: The logits.
        batch: The batch, with labels or an attention mask if it has them.
        form: The format of the batches.
        said: The dimension of the classes as a loss says it (its ``softmax_dim``); -1 to find it.
        valid: The valid positions, if they are known.

    Returns:
        The layout. The classes are where the labels leave one dimension of the logits over. Where they do not tell, it
        is dimension 1 of logits with four dimensions or more, else the last; of one output per token or pixel, none.

    Raises:
        ConfigError: If ``said`` contradicts the labels.

    Example:
        >>> pixels = torch.zeros(2, 3, 4, dtype=torch.long)
        >>> layout_of(torch.zeros(2, 7, 3, 4), (None, pixels)).dim
        1
        >>> layout_of(torch.zeros(2, 3, 4, 7), (None, pixels)).dim
        3
    """
    form, shape = form or BatchFormat(), logits.shape
    if logits.ndim < 2:
        return Layout(None, 1, shape, False)
    if said == -1 and not form.several_labels and _is_one_output(shape, batch):
        return Layout(None, 1, shape, True)
    marks = [marks.shape for marks in (marks_of(batch, form),) if marks is not None]
    if valid is not None and valid.mask is not None:
        marks.append(valid.mask.shape)
    found = next((dims for dims in (_left_over(shape, one) for one in marks) if dims), [])
    usual = 1 if logits.ndim > 3 else logits.ndim - 1
    if said != -1:
        dim = said % logits.ndim
        if found and dim not in found:
            raise ConfigError(
                f'softmax_dim={said} takes dimension {dim} of the logits {tuple(shape)} as the classes, but the labels '
                f'or the mask {tuple(marks[0])} leave dimension {found[0]} for them. Leave softmax_dim out, or set it '
                f'to {found[0]}.'
            )
    else:
        dim = usual if usual in found or not found else found[0]
        is_known = form.ctc or bool(found) or logits.ndim != 3 or _is_sequence(batch, shape)
        if len(found) > 1 or not is_known:
            form.warn_once(
                f'The logits {tuple(shape)} do not show which dimension holds the classes, with '
                f'{"labels " + str(tuple(marks[0])) if marks else "no labels or mask"}: dimension {dim} is taken. If '
                f'that is not so, say it: KLDivergence(softmax_dim=...), or an attribute softmax_dim of the loss.',
                'classes',
            )
    positions = torch.Size(size for index, size in enumerate(shape) if index != dim)
    flat = logits.ndim == 2 and any(len(one) > 1 and one[0] != shape[0] == one.numel() for one in marks)
    return Layout(dim, shape[dim], positions, flat or (bool(found) and len(positions) > 1))


def several_labels(batch: Any, logits: Tensor) -> bool:
    """Whether each sample may have several labels at once, so that no class is the right one.

    It is so for labels of the logits' shape that are no probabilities: integers, or rows with a sum other than 1. What
    the model itself says is in ``BatchFormat.several_labels``.

    Example:
        >>> several_labels((None, torch.tensor([[1.0, 1.0, 0.0]])), torch.zeros(1, 3))
        True
        >>> several_labels((None, torch.tensor([[0.5, 0.5, 0.0]])), torch.zeros(1, 3))
        False
    """
    labels = labels_of(batch)
    if labels is None or labels.shape != logits.shape or labels.ndim < 2 or _is_one_output(logits.shape, batch):
        return False
    dim = 2 if labels.ndim == 3 else 1
    if labels.shape[dim] < 2 or not labels.numel():
        return False
    return not labels.is_floating_point() or bool((labels.float().sum(dim) - 1.0).abs().max() > 1e-3)


def _is_one_output(logits: torch.Size, batch: Any) -> bool:
    """Whether logits hold one output for each token or pixel, and no dimension of classes.

    It is so for ``(B, S)`` with an attention mask and labels of that shape, and for maps ``(B, H, W)`` with labels
    ``(B, 1, H, W)``, or with whole numbers of the same shape where an entry of the batch is a map of that size. Without
    one they may as well be several labels at once at each position, of ``(B, T, C)``.
    """
    labels, attention = labels_of(batch), attention_of(batch)
    if labels is None or logits[-1] == 1:
        return False
    whole = not labels.is_floating_point()
    if len(logits) == 2:
        return whole and attention is not None and labels.shape == attention.shape == logits
    is_map = len(logits) == 3 and not _is_sequence(batch, logits)
    if not is_map or labels.shape == (*logits[:1], 1, *logits[1:]):
        return is_map
    return whole and labels.shape == logits and _has_map(batch, logits[1:])


def _left_over(logits: torch.Size, marks: torch.Size) -> list[int]:
    """The dimensions of logits without which they have the shape of the marks, after the batch's."""
    for shape in (marks, _squeezed(marks)):
        found = [dim for dim in range(1, len(logits)) if logits[:dim] + logits[dim + 1 :] == shape]
        if found:
            return found
    return []


def _squeezed(shape: torch.Size) -> torch.Size:
    """``(B, 1)`` as ``(B,)``, and ``(B, 1, H, W)`` as ``(B, H, W)``."""
    return shape[:1] + shape[2:] if len(shape) > 1 and shape[1] == 1 else shape


def _has_map(batch: Any, size: torch.Size) -> bool:
    """Whether an entry of the batch beside the labels is an image or a map ``(B, C, H, W)`` of this size."""
    labels = labels_of(batch)
    others = (entry for entry in tree_leaves(batch) if entry is not labels)
    return any(isinstance(entry, Tensor) and entry.ndim == 4 and entry.shape[-2:] == size for entry in others)


def _is_sequence(batch: Any, logits: torch.Size) -> bool:
    """Whether an entry of the batch has the logits' positions, as input_ids do."""
    entries = batch.values() if isinstance(batch, Mapping) else ()
    return any(isinstance(entry, Tensor) and entry.shape[:2] == logits[:2] and entry.ndim == 2 for entry in entries)
