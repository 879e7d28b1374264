"""What a model showed on one microbatch, and which of it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.errors import TeacherError

__all__ = [
    'IGNORE',
    'Valid',
    'all_valid',
    'answers_per_position',
    'labels_of',
    'logits_of',
    'samples_of',
    'scalar_loss',
    'valid_of',
    'without_labels',
]

IGNORE = -100
"""The label of a position or sample that has none, as in torch and transformers."""

_LABEL_KEYS = ('labels', 'label', 'targets', 'target')


def logits_of(outputs: Any, whose: str) -> Tensor:
    """The logits in what a model returned.

    Args:
        outputs: A tensor; an object or mapping with ``logits``; a mapping with one tensor of two or more dimensions;
            or a tuple, of which the first tensor with two or more dimensions counts.
        whose: The model's name, for the error.

    Returns:
        The logits, as they are.

    Raises:
        TeacherError: If there are none.

    Example:
        >>> import torch
        >>> logits_of({'loss': torch.tensor(0.0), 'logits': torch.ones(2, 3)}, 'the student').shape
        torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get('logits') if isinstance(outputs, Mapping) else getattr(outputs, 'logits', None)
    if isinstance(logits, Tensor):
        return logits
    found: Any = ()
    if isinstance(outputs, Mapping):
        found = [value for value in outputs.values() if isinstance(value, Tensor) and value.ndim >= 2]
        found = found if len(found) == 1 else ()
    elif isinstance(outputs, Sequence):
        found = [value for value in outputs if isinstance(value, Tensor) and value.ndim >= 2]
    if found:
        return found[0]
    keys = f' with the keys {sorted(map(str, outputs))}' if isinstance(outputs, Mapping) else ''
    raise TeacherError(
        f'No logits in the output of {whose}: expected a tensor, or something with `logits`, got '
        f'{type(outputs).__name__}{keys}. '
        'For a teacher pass FrozenTeacher(model, forward=...) with a function that returns its logits.'
    )


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


def scalar_loss(loss: Any) -> Tensor:
    """A model's own loss as the scalar that Composer would backpropagate.

    Args:
        loss: A tensor; a mapping, of which ``total`` counts, or the sum of all; or a sequence, of which the sum counts.
            Tensors that are no scalars are averaged, as Composer does.

    Example:
        >>> import torch
        >>> scalar_loss((torch.tensor(1.0), torch.tensor([2.0, 4.0])))
        tensor(4.)
        >>> scalar_loss({'total': torch.tensor(3.0), 'aux': torch.tensor(1.0)})
        tensor(3.)
    """
    if isinstance(loss, Tensor):
        return loss if loss.ndim == 0 else loss.mean()
    if isinstance(loss, Mapping):
        loss = [loss['total']] if 'total' in loss else list(loss.values())
    first, *others = (part.mean() for part in loss)
    return sum(others, start=first)
