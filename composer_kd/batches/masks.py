"""Which positions of a batch count, and which label each answers for."""

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
    """Which positions of a batch or microbatch count.

    Attributes:
        mask: Booleans: ``(B,)`` for samples, ``(B, S)`` for tokens; ``None`` where labels were made dense (MixUp and
            the like), of which only ``count`` is known.
        count: How many count, a scalar tensor on the batch's device; for dense labels their total probability.
        size: The number of samples.
        from_labels: Whether labels said so, not an attention mask.
    """

    mask: Tensor | None
    count: Tensor
    size: int
    from_labels: bool

    def share(self, per_sample: Tensor) -> Tensor:
        """What a mean over the valid positions here weighs in the mean over those of the whole batch.

        Composer weighs a microbatch by its share of the samples; the result corrects that to its share of the valid
        positions, so that the total does not depend on how a batch is cut.

        Args:
            per_sample: Valid positions per sample of the whole batch, over all ranks; positive.
        """
        return self.count / self.size / per_sample


def valid_of(batch: Any, shift: bool = False) -> Valid | None:
    """Finds the positions that count: labels other than -100 or, without labels, those that attention sees.

    Args:
        batch: A microbatch or a whole batch.
        shift: Whether the model predicts the next token, so that position ``i`` answers for label ``i + 1``.

    Returns:
        The positions, or ``None`` where the batch says nothing of the kind.

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
    if from_labels and marks.is_floating_point():  # dense: soft_cross_entropy divides by their total probability
        return Valid(None, marks.sum(), marks.shape[0], True)
    mask = marks != (IGNORE if from_labels else 0)
    if shift and mask.ndim == 2:
        following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        # Padding answers for nothing, though it may stand before a token.
        mask = following if from_labels else mask & following
    return Valid(mask, mask.sum(), mask.shape[0], from_labels)


def tokens_of(batch: Any) -> Valid | None:
    """The tokens whose features count: those that attention sees, or else those with a label; ``None`` without marks.

    Hidden states are compared wherever there is a token, also where the model need not answer.

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
    """The label that each sample or position answers for, as class numbers; ``None`` where there are none.

    Of dense labels (label smoothing, MixUp), the largest counts.

    Args:
        batch: The batch.
        shift: Whether position ``i`` answers for label ``i + 1``.

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
    """Whether it is known, quickly and without waiting for an accelerator, that everything in a batch counts.

    It never does where a model predicts the next token (``shift``): the last position answers for nothing.

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
    """The number of samples in a batch whose positions may be marked as valid or not; ``None`` without such marks."""
    marks, _ = _marks(batch)
    return marks.shape[0] if marks is not None and marks.ndim else None


def answers_per_position(batch: Any, logits: Tensor) -> bool:
    """Whether a model answers for each position of a sequence, not once for a sample.

    It does where the batch has a label (or, without labels, an attention mark) for each of the logits' positions.
    Labels per sample never mask the distillation: a sample without a label is what a teacher answers for.

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
    """What tells the positions that count: the labels, or else the attention mask; and whether it is the labels."""
    labels = labels_of(batch)
    if labels is not None:
        return labels, True
    attention = batch.get('attention_mask') if isinstance(batch, Mapping) else None
    return (attention, False) if isinstance(attention, Tensor) and attention.ndim == 2 else (None, False)


def token_mask(feature: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask of tokens, if a feature ``(B, S, D)`` has a vector for each of them; else ``None``.

    Example:
        >>> import torch
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> token_mask(torch.zeros(2, 5, 8), mask) is mask, token_mask(torch.zeros(2, 8, 4, 4), mask)
        (True, None)
    """
    fits = mask is not None and feature.ndim == 3 and feature.shape[:2] == mask.shape
    return mask if fits else None
