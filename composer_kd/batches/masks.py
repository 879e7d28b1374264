"""Finds the valid positions of a batch, and the label of each position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE, labels_of

__all__ = [
    'Valid',
    'aligned_labels',
    'all_valid',
    'answers_per_position',
    'samples_of',
    'token_mask',
    'tokens_of',
    'valid_of',
]


@dataclass(frozen=True)
class Valid:
    """The valid positions of a batch or microbatch: those that are included in the losses.

    Attributes:
        mask: Booleans, ``(B,)`` for samples or ``(B, S)`` for tokens; ``None`` for dense labels (class probabilities,
            as from MixUp), for which only ``count`` is known.
        count: The number of valid positions, a scalar tensor on the batch's device; for dense labels the sum of their
            probabilities.
        size: The number of samples.
        from_labels: Whether the mask comes from labels; else it comes from the attention mask.
    """

    mask: Tensor | None
    count: Tensor
    size: int
    from_labels: bool

    def share(self, per_sample: Tensor) -> Tensor:
        """The factor that makes a mean over these valid positions their share of the mean over the whole batch.

        Composer weights a microbatch by its share of the samples. This factor corrects the weight to the share of the
        valid positions, so the total does not depend on how a batch is split.

        Args:
            per_sample: Valid positions per sample of the whole batch, over all ranks; a positive scalar.

        Returns:
            A scalar tensor.
        """
        return self.count / self.size / per_sample


def valid_of(batch: Any, shift: bool = False) -> Valid | None:
    """Finds the valid positions: labels other than -100 or, without labels, those with a nonzero attention mask.

    Args:
        batch: A microbatch or a whole batch.
        shift: Whether the model predicts the next token, so that position ``i`` has the label ``i + 1``.

    Returns:
        The valid positions; ``None`` if the batch has neither labels nor an attention mask.

    Example:
        >>> import torch
        >>> valid_of({'labels': torch.tensor([[5, 7, -100]])}).mask
        tensor([[ True,  True, False]])
        >>> valid_of({'labels': torch.tensor([[-100, 7, -100]])}, shift=True).mask
        tensor([[ True, False, False]])
    """
    marks, from_labels = _marks(batch)
    if marks is None or marks.ndim == 0:
        return None
    if from_labels and marks.is_floating_point():  # dense labels: soft_cross_entropy divides by their sum
        return Valid(None, marks.sum(), marks.shape[0], True)
    mask = marks != (IGNORE if from_labels else 0)
    if shift and mask.ndim == 2:
        following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        # Padding is never valid, even before a token (left padding).
        mask = following if from_labels else mask & following
    return Valid(mask, mask.sum(), mask.shape[0], from_labels)


def tokens_of(batch: Any) -> Valid | None:
    """Finds the valid tokens of hidden states: by the attention mask or, without one, by the labels of tokens.

    A token with the label -100 is valid if the attention mask includes it: hidden states are compared at every token.

    Returns:
        The valid tokens; ``None`` if the batch marks none.

    Example:
        >>> import torch
        >>> batch = {'labels': torch.tensor([[5, -100, -100]]), 'attention_mask': torch.tensor([[1, 1, 0]])}
        >>> tokens_of(batch).mask
        tensor([[ True,  True, False]])
    """
    attention = batch.get('attention_mask') if isinstance(batch, Mapping) else None
    if isinstance(attention, Tensor) and attention.ndim == 2:
        mask = attention != 0
        return Valid(mask, mask.sum(), mask.shape[0], False)
    valid = valid_of(batch)
    return valid if valid is not None and valid.mask is not None and valid.mask.ndim == 2 else None


def aligned_labels(batch: Any, shift: bool = False) -> Tensor | None:
    """Returns the class label of each sample or position.

    Args:
        batch: The batch. Of dense labels (label smoothing, MixUp) the most probable class is taken.
        shift: Whether position ``i`` has the label ``i + 1``; the last position then has -100.

    Returns:
        Integers, ``(B,)`` for samples or ``(B, S)`` for tokens; ``None`` if there are no class labels.

    Example:
        >>> import torch
        >>> aligned_labels({'labels': torch.tensor([[5, 7, 2]])}, shift=True)
        tensor([[   7,    2, -100]])
    """
    labels = labels_of(batch)
    if labels is None:
        return None
    if labels.is_floating_point():
        return labels.argmax(1) if labels.ndim > 1 else None
    if shift and labels.ndim == 2:
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], dim=1)
    return labels


def all_valid(batch: Any, shift: bool = False) -> bool:
    """Whether all positions of a batch are known to be valid, without waiting for an accelerator.

    It is ``False`` for labels on an accelerator, which are not read, and for models that predict the next token
    (``shift``), whose last position has no label.

    Example:
        >>> import torch
        >>> all_valid({'labels': torch.tensor([[5, 7]])}), all_valid({'labels': torch.tensor([[5, -100]])})
        (True, False)
    """
    marks, from_labels = _marks(batch)
    if marks is None:
        return True
    if shift and marks.ndim == 2:
        return False
    if marks.device.type != 'cpu' or marks.is_floating_point() or not marks.numel():
        return False
    return bool(marks.min().item() >= (0 if from_labels else 1))


def samples_of(batch: Any) -> int | None:
    """The number of samples in a batch with labels or an attention mask; ``None`` if it has neither."""
    marks, _ = _marks(batch)
    return marks.shape[0] if marks is not None and marks.ndim else None


def answers_per_position(batch: Any, logits: Tensor) -> bool:
    """Whether a model makes one prediction per position of a sequence; else it makes one per sample.

    It does if the batch has a label (or, without labels, an attention mask entry) for each position of the logits.
    Labels per sample never mask the distillation loss, so that samples without a label are distilled too.

    Example:
        >>> import torch
        >>> answers_per_position({'labels': torch.zeros(2, 5)}, torch.zeros(2, 5, 100))
        True
        >>> answers_per_position({'labels': torch.zeros(2), 'attention_mask': torch.ones(2, 5)}, torch.zeros(2, 3))
        False
    """
    marks, _ = _marks(batch)
    if marks is None or marks.ndim < 2:
        return False
    return marks.shape == logits.shape[:-1] or (logits.ndim == 2 and marks.numel() == logits.shape[0])


def _marks(batch: Any) -> tuple[Tensor | None, bool]:
    """The labels, else the attention mask; and whether it is the labels."""
    labels = labels_of(batch)
    if labels is not None:
        return labels, True
    attention = batch.get('attention_mask') if isinstance(batch, Mapping) else None
    return (attention, False) if isinstance(attention, Tensor) and attention.ndim == 2 else (None, False)


def token_mask(feature: Tensor, mask: Tensor | None) -> Tensor | None:
    """Returns the mask if a feature ``(B, S, D)`` has one vector per token of the mask ``(B, S)``; else ``None``.

    Example:
        >>> import torch
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> token_mask(torch.zeros(2, 5, 8), mask) is mask, token_mask(torch.zeros(2, 8, 4, 4), mask)
        (True, None)
    """
    fits = mask is not None and feature.ndim == 3 and feature.shape[:2] == mask.shape
    return mask if fits else None
