"""Finds the labels and the index in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = [
    'IGNORE',
    'OWN_ATTENTION',
    'OWN_INPUTS',
    'PARTNERS',
    'labels_of',
    'split_index',
    'to_evaluate_on',
    'with_labels',
    'without_labels',
]

IGNORE = -100
"""The label of a position or sample without a label, as in torch and transformers."""

OWN_INPUTS, OWN_ATTENTION = 'teacher_input_ids', 'teacher_attention_mask'
"""The keys of a text in the tokens of a teacher with another tokenizer, ``(B, S_t)``."""

PARTNERS = 'teacher_positions'
"""The key that says for each of the student's positions ``(B, S)`` at which of its own that teacher has read the same
text; -1 where at none, so that nothing is compared there."""

_LABEL_KEYS = ('labels', 'label', 'targets', 'target')
_INDEX_KEY = 'index'


def labels_of(batch: Any) -> Tensor | None:
    """Returns the labels of a batch.

    Args:
        batch: An ``(inputs, labels)`` pair, or a mapping with ``labels``, ``label``, ``targets`` or ``target``.

    Returns:
        The labels; ``None`` if the batch has none.

    Example:
        >>> import torch
        >>> labels_of((torch.zeros(2, 3), torch.tensor([1, 0])))
        tensor([1, 0])
    """
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABEL_KEYS if key in batch), None)
    else:
        found = batch[1] if isinstance(batch, Sequence) and len(batch) == 2 else None
    return found if isinstance(found, Tensor) else None


def split_index(batch: Any, indexed: bool) -> tuple[Any, Tensor | None]:
    """Separates the index (the samples' numbers in the data set) from the rest of a batch.

    Args:
        batch: A batch.
        indexed: Whether the model takes triples ``(inputs, labels, index)``, which its attribute ``takes_index`` says
            (:class:`composer_kd.models.IndexedClassifier` has it). Other triples are returned unchanged.

    Returns:
        The batch as models take it, a pair instead of a triple; and the index ``(B,)``, from the third element of the
        triple or the entry ``index`` of a mapping (``None`` if the batch has none).

    Example:
        >>> import torch
        >>> split_index((torch.zeros(2, 3), torch.tensor([1, 0]), torch.tensor([70, 71])), indexed=True)[1]
        tensor([70, 71])
    """
    if indexed and isinstance(batch, Sequence) and len(batch) == 3:
        return (batch[0], batch[1]), batch[2]
    index = batch.get(_INDEX_KEY) if isinstance(batch, Mapping) else None
    return batch, index if isinstance(index, Tensor) else None


def without_labels(batch: Mapping[str, Any], keep: bool = False) -> dict[str, Any]:
    """Copies a mapping without its labels, so that the model computes no loss.

    Args:
        batch: The batch; stays unchanged.
        keep: Whether to keep the labels unless the batch has ``decoder_input_ids``: an encoder-decoder model makes its
            decoder inputs from the labels.
    """
    if keep and 'decoder_input_ids' not in batch:
        return dict(batch)
    return {key: value for key, value in batch.items() if key not in _LABEL_KEYS}


def with_labels(batch: Any, make: Callable[[Tensor], Tensor]) -> Any:
    """Copies a batch with other labels; one without labels is returned as it is.

    Args:
        batch: The batch; stays unchanged.
        make: Makes the new labels of the old.

    Example:
        >>> import torch
        >>> with_labels({'labels': torch.tensor([3, -100])}, torch.zeros_like)
        {'labels': tensor([0, 0])}
    """
    labels = labels_of(batch)
    if labels is None:
        return batch
    if isinstance(batch, Mapping):
        key = next(key for key in _LABEL_KEYS if key in batch)
        return {**batch, key: make(labels)}
    return batch[0], make(labels)


def to_evaluate_on(batch: Any) -> Any:
    """Copies a mapping, and its labels, for the ``eval_forward`` of one model.

    A ``HuggingFaceModel`` takes the labels out of the mapping, and one that predicts the next token shifts them in
    place. Other batches are returned as they are.

    Args:
        batch: The batch; stays unchanged, whatever the model does to the copy.

    Example:
        >>> import torch
        >>> batch = {'labels': torch.tensor([3, 4])}
        >>> to_evaluate_on(batch).pop('labels').zero_(), batch
        (tensor([0, 0]), {'labels': tensor([3, 4])})
    """
    return with_labels(dict(batch), Tensor.clone) if isinstance(batch, Mapping) else batch
