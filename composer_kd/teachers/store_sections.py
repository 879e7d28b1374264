"""What a store says of its classes, and which inputs and positions of a batch it is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import valid_of
from composer_kd.errors import TeacherError
from composer_kd.teachers.meanings import class_names, vocabulary_of

__all__ = ['inputs_of', 'labels_section', 'stored_mask']


def inputs_of(batch: Any) -> tuple[Tensor, Tensor | None]:
    """The inputs of a batch that its digest is made of, and the mask of their padding.

    Args:
        batch: An ``(inputs, labels)`` pair, or a mapping.

    Raises:
        TeacherError: If it has no tensor of inputs.

    Example:
        >>> import torch
        >>> inputs_of((torch.zeros(2, 3), torch.zeros(2)))[0].shape
        torch.Size([2, 3])
    """
    if isinstance(batch, Mapping):
        named = {key: value for key, value in without_labels(batch).items() if isinstance(value, Tensor)}
        known: tuple[str, ...] = ('input_ids', 'pixel_values', 'input_values')
        first = next((key for key in known if key in named), None)
        others = [key for key in named if key not in ('attention_mask', 'index')]
        others.sort(key=lambda key: named[key].ndim < 2)  # a column such as the samples' teachers is not the inputs
        first = first or next(iter(others), None)
        inputs = None if first is None else named[first]
        mask = named.get('attention_mask') if first == 'input_ids' else None
    else:
        inputs, mask = (batch if isinstance(batch, Tensor) else batch[0]), None
    if not isinstance(inputs, Tensor):
        raise TeacherError(f'A store knows samples by a tensor of inputs, and {type(batch).__name__} has none')
    return inputs, mask if mask is not None and mask.shape == inputs.shape else None


def stored_mask(batch: Any, form: BatchFormat) -> Tensor | None:
    """The positions of a batch of sequences or maps that are stored: those at which logits are compared.

    Returns:
        Booleans ``(B, S)`` or ``(B, H, W)``; ``None`` for all.
    """
    valid = valid_of(batch, form)
    mask = None if valid is None else valid.mask
    if mask is None or mask.ndim < 2:
        return None
    return mask.squeeze(1) if mask.ndim == 4 else mask


def labels_section(model: nn.Module, positions: str | None) -> dict[str, Any]:
    """What the classes mean, for the manifest, as far as a model says it.

    Args:
        model: The student, or the teacher's module.
        positions: Which positions are stored; ``None`` to leave it out.
    """
    names, vocabulary = class_names(model), vocabulary_of(getattr(model, 'tokenizer', None))
    tokens = None
    if vocabulary is not None:
        words = '\n'.join(f'{number}\t{token}' for token, number in sorted(vocabulary.items(), key=lambda one: one[1]))
        tokens = hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
    section: dict[str, Any] = {'names': list(names) or None, 'vocabulary': tokens}
    return section if positions is None else {**section, 'positions': positions}
