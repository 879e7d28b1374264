"""Finds the valid positions of a batch, and the label of each position. docs/limits/positions.md has the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE, PARTNERS, labels_of
from composer_kd.batches.format import ATTENDED, BatchFormat

__all__ = [
    'Valid',
    'aligned_labels',
    'all_valid',
    'attention_of',
    'compares_labelled',
    'has_partners',
    'labelled',
    'marks_of',
    'samples_of',
    'source_of',
    'token_mask',
    'tokens_of',
    'valid_of',
]

_PLAIN = BatchFormat()


@dataclass(frozen=True)
class Valid:
    """The valid positions of a batch or microbatch: those that are included in the losses.

    Attributes:
        mask: Booleans, ``(B,)`` for samples, ``(B, S)`` for tokens or ``(B, H, W)`` for pixels; ``None`` for dense
            labels (class probabilities, as from MixUp), for which only ``count`` is known.
        count: The number of valid positions, a scalar tensor on the batch's device; for dense labels the sum of their
            probabilities.
        size: The number of samples.
        from_labels: Whether the mask comes from labels; else it comes from the attention mask.
    """

    mask: Tensor | None
    count: Tensor
    size: int
    from_labels: bool

    @classmethod
    def of(cls, mask: Tensor, from_labels: bool) -> Valid:
        """The valid positions of a mask."""
        return cls(mask, mask.sum(), mask.shape[0], from_labels)

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


def valid_of(batch: Any, form: BatchFormat = _PLAIN) -> Valid | None:
    """Finds the valid positions of logits. Where a teacher with another tokenizer has no answer, none is valid.

    Args:
        batch: A microbatch or a whole batch.
        form: The format of batches. By default, positions with a label other than -100 or, without labels, those with a
            nonzero attention mask.

    Returns:
        The valid positions; ``None`` if nothing in the batch tells them.

    Example:
        >>> import torch
        >>> valid_of({'labels': torch.tensor([[5, 7, -100]])}).mask
        tensor([[ True,  True, False]])
        >>> valid_of({'labels': torch.tensor([[-100, 7, -100]])}, BatchFormat(shift_labels=True)).mask
        tensor([[ True, False, False]])
    """
    found = _said_valid(batch, form)
    if not has_partners(batch):
        return found
    answered = batch[PARTNERS] >= 0
    if found is None or found.mask is None:
        return Valid.of(answered, False)
    return Valid.of(found.mask & answered, found.from_labels)


def has_partners(batch: Any) -> bool:
    """Whether a batch says where a teacher with another tokenizer has answers."""
    return isinstance(batch, Mapping) and isinstance(batch.get(PARTNERS), Tensor)


def compares_labelled(batch: Any, form: BatchFormat) -> bool:
    """Whether the valid positions of logits are those with a label, over which the model's own loss averages too."""
    return form.valid_positions is None and not has_partners(batch) and _are_labelled(batch, form)


def _are_labelled(batch: Any, form: BatchFormat) -> bool:
    return form.positions != ATTENDED and not form.ctc and labels_of(batch) is not None


def _said_valid(batch: Any, form: BatchFormat) -> Valid | None:
    if form.valid_positions is not None:
        mask = form.valid_positions(batch)
        return None if mask is None else Valid.of(mask != 0, False)
    if _are_labelled(batch, form):
        return labelled(batch, form)
    attention = _attended(batch, form)
    if attention is None:
        return None
    mask = attention != 0
    # Padding is never valid, even before a token (left padding).
    return Valid.of(mask & _following(mask, False) if form.shift_labels else mask, False)


def labelled(batch: Any, form: BatchFormat = _PLAIN) -> Valid | None:
    """Finds the positions that the model's own loss averages over: those with a label.

    Returns:
        The positions; ``None`` without labels, and if labels belong to whole sequences (CTC).
    """
    labels = labels_of(batch)
    if labels is None or labels.ndim == 0 or form.ctc:
        return None
    if labels.is_floating_point():  # dense labels: soft_cross_entropy divides by their sum
        return Valid(None, labels.sum(), labels.shape[0], True)
    labels = _signed(labels)
    mask = labels >= 0 if labels.ndim > 1 and labels.shape[1] > 1 else labels != IGNORE
    if form.ignore_index != IGNORE:
        mask = mask & (labels != form.ignore_index)
    return Valid.of(_following(mask, False) if form.shift_labels and mask.ndim == 2 else mask, True)


def tokens_of(batch: Any, form: BatchFormat = _PLAIN) -> Valid | None:
    """Finds the valid tokens of hidden states: by the attention mask or, without one, by the labels of tokens.

    A token with the label -100 is valid if the attention mask includes it: hidden states are compared at every token.
    In an encoder-decoder these are the tokens of the decoder; :func:`source_of` finds those of the encoder.

    Returns:
        The valid tokens; ``None`` if the batch marks none.

    Example:
        >>> import torch
        >>> batch = {'labels': torch.tensor([[5, -100, -100]]), 'attention_mask': torch.tensor([[1, 1, 0]])}
        >>> tokens_of(batch).mask
        tensor([[ True,  True, False]])
    """
    attention = _attended(batch, form)
    if attention is not None:
        return Valid.of(attention != 0, False)
    labels = labels_of(batch)
    # The hidden state at a token is not moved by one, as its prediction is.
    valid = None if labels is None else labelled(batch, BatchFormat(ctc=form.ctc, ignore_index=form.ignore_index))
    of_tokens = valid is not None and valid.mask is not None and valid.mask.ndim == 2 and valid.mask.shape[1] > 1
    return valid if of_tokens else None


def source_of(batch: Any, form: BatchFormat) -> Valid | None:
    """Finds the valid tokens of an encoder-decoder's encoder, or its frames of real audio.

    Returns:
        The valid tokens; ``None`` for other models, and if all are valid.
    """
    attention = attention_of(batch, False) if form.encoder_decoder else None
    if attention is not None and 'input_ids' not in batch:
        attention = _at_frames(attention, form)
    return None if attention is None else Valid.of(attention != 0, False)


def aligned_labels(batch: Any, form: BatchFormat = _PLAIN, classes_dim: int = 1) -> Tensor | None:
    """Returns the class label of each sample or position.

    Args:
        batch: The batch. Of dense labels (label smoothing, MixUp) the most probable class is taken.
        form: The format of batches. If it shifts labels, position ``i`` gets the label ``i + 1`` and the last position
            -100.
        classes_dim: The dimension of the classes in dense labels.

    Returns:
        Integers, -100 where there is no label: ``(B,)`` for samples, ``(B, S)`` for tokens, or a map; ``None`` if there
        are no class labels, or they belong to whole sequences.

    Example:
        >>> import torch
        >>> aligned_labels({'labels': torch.tensor([[5, 7, 2]])}, BatchFormat(shift_labels=True))
        tensor([[   7,    2, -100]])
    """
    labels = labels_of(batch)
    if labels is None or form.ctc:
        return None
    if labels.is_floating_point():
        return labels.argmax(classes_dim) if labels.ndim > 1 else None
    labels = _signed(labels)
    if form.ignore_index != IGNORE:
        labels = labels.masked_fill(labels == form.ignore_index, IGNORE)
    return _following(labels, IGNORE) if form.shift_labels and labels.ndim == 2 else labels


def all_valid(batch: Any, form: BatchFormat = _PLAIN) -> bool:
    """Whether all positions of a batch are known to be valid, without waiting for an accelerator.

    It is ``False`` for labels on an accelerator, which are not read, and for models that predict the next token
    (``shift_labels``), whose last position has no label.

    Example:
        >>> import torch
        >>> all_valid({'labels': torch.tensor([[5, 7]])}), all_valid({'labels': torch.tensor([[5, -100]])})
        (True, False)
    """
    if form.valid_positions is not None or form.ignore_index != IGNORE:
        return False
    if has_partners(batch):
        return False
    labels = labels_of(batch)
    attention = attention_of(batch, form.encoder_decoder) if form.positions == ATTENDED or labels is None else None
    for marks, least in ((labels, 0), (attention, 1)):
        if marks is None:
            continue
        if form.ctc or (form.shift_labels and marks.ndim == 2):
            return False
        if marks.device.type != 'cpu' or marks.is_floating_point() or not marks.numel():
            return False
        if marks.min().item() < least:
            return False
    return True


def samples_of(batch: Any) -> int | None:
    """The number of samples in a batch with labels or an attention mask; ``None`` if it has neither."""
    marks = marks_of(batch)
    return marks.shape[0] if marks is not None and marks.ndim else None


def marks_of(batch: Any, form: BatchFormat = _PLAIN) -> Tensor | None:
    """What has one entry for each position of the logits: the labels or, without them, the attention mask."""
    labels = None if form.ctc else labels_of(batch)
    return attention_of(batch, form.encoder_decoder) if labels is None else labels


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


def attention_of(batch: Any, of_decoder: bool = False) -> Tensor | None:
    """The attention mask ``(B, S)`` of a batch, or that of the decoder; ``None`` if it has none."""
    found = (
        batch.get('decoder_attention_mask' if of_decoder else 'attention_mask') if isinstance(batch, Mapping) else None
    )
    return found if isinstance(found, Tensor) and found.ndim == 2 else None


def _attended(batch: Any, form: BatchFormat) -> Tensor | None:
    """The attention mask at the positions of logits: tokens, a decoder's tokens, or the frames of a speech model."""
    attention = attention_of(batch, form.encoder_decoder)
    return attention if attention is None or form.encoder_decoder else _at_frames(attention, form)


def _at_frames(attention: Tensor, form: BatchFormat) -> Tensor:
    """The attention mask of audio at the frames that a speech model makes of it; of other models as it is."""
    if form.frame_lengths is None:
        return attention
    whole = torch.tensor(attention.shape[1])  # on the CPU, since its frames are counted there
    lengths = torch.as_tensor(form.frame_lengths((attention != 0).sum(1)))
    frames = torch.arange(int(form.frame_lengths(whole)), device=attention.device)
    return frames < lengths[:, None]


def _following(values: Tensor, last: bool | int) -> Tensor:
    """Moves the entries of ``(B, S)`` by one position, since position ``i`` predicts token ``i + 1``."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], last)], dim=1)


def _signed(labels: Tensor) -> Tensor:
    """Labels in a dtype that holds -100; in uint8, -100 would be the class 156."""
    return labels if labels.dtype.is_signed else labels.long()
