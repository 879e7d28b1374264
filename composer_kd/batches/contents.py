"""What a model showed on one microbatch, and what the batch says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ['IGNORE', 'labels_of', 'split_index', 'without_labels']

IGNORE = -100
"""The label of a position or sample that has none, as in torch and transformers."""

_LABEL_KEYS = ('labels', 'label', 'targets', 'target')
_INDEX_KEY = 'index'


def labels_of(batch: Any) -> Tensor | None:
    """The labels of a batch: the second of a pair, or ``labels`` (or ``targets``) of a mapping; ``None`` without.

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
    """A batch as models take it, and which samples of the data set these are.

    Args:
        batch: A batch.
        indexed: Whether the model takes triples ``(inputs, labels, index)``, which it says by an attribute
            ``takes_index`` (:class:`composer_kd.models.IndexedClassifier` does). Any other triple stays what it is.

    Returns:
        The pair of a triple, or the batch as it is; and the index: the third of the triple, or ``index`` of a mapping.

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
    """A mapping as a dict of its own, without its labels, so that a model does not compute a loss.

    Args:
        batch: The batch; left as it is.
        keep: Keep the labels all the same, unless ``decoder_input_ids`` are there: an encoder-decoder makes its
            decoder's inputs out of them.
    """
    if keep and 'decoder_input_ids' not in batch:
        return dict(batch)
    return {key: value for key, value in batch.items() if key not in _LABEL_KEYS}
