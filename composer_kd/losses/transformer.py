"""Losses on the self-attention of a transformer layer: attention matrices, and relations between value vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import check_tensors, full_precision, mean_squared, ready, valid

__all__ = ['ValueRelationKL', 'attention_kl', 'attention_mse', 'value_relation_kl']

EPS = 1e-12
"""Lower bound of the probabilities in :func:`attention_kl`; negligible in a sum over keys."""


def attention_mse(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, key_mask: Tensor | None = None
) -> Tensor:
    r"""Mean squared error of attention matrices.

    Jiao et al., *TinyBERT* (arXiv 1909.10351), equation 7, with :math:`A_h` the matrix of head :math:`h`:

    .. math:: \frac{1}{H} \sum_{h=1}^{H} \mathrm{MSE}(A^s_h, A^t_h)

    The paper prefers the scores before the softmax, because training converges faster; the probabilities that models
    return with ``output_attentions`` work too. The mean runs over heads and valid queries, and for each query over the
    valid keys of its sample, so the mean over a batch is the same for any division into microbatches. The authors' code
    sets the scores of padded keys to 0 and divides by all pairs, so its value decreases with padding.

    Note:
        Some models (BERT, for example) return their attention after dropout, so that equal ones differ in training:
        train the student with ``attention_probs_dropout_prob=0``.

    Args:
        student: Attention scores or probabilities ``(B, H, S, S)``, with the same number of heads as the teacher; any
            floating dtype.
        teacher: Attention of the same shape. No gradient reaches it.
        mask: Booleans (or integers 0 and 1), ``(B, S)`` or flat: the positions that count, as queries and as keys.
            Required where padded or future keys have scores of minus infinity. If all are ``False``, the loss is 0.
        key_mask: The keys that count, if they are other positions than the queries (cross-attention, ``(B, H, Q, K)``):
            ``(B, K)`` or flat. The mask is then that of the queries, ``(B, Q)``.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, or the mask does not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.eye(2).reshape(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
        >>> attention_mse(student, teacher).item()  # two ones in four pairs
        0.5
        >>> attention_mse(student, teacher, mask=torch.tensor([[True, False]])).item()  # only the first pair
        1.0
    """
    student, teacher = _maps('attention_mse', student, teacher)
    if mask is None and key_mask is None:
        return mean_squared('attention_mse', student, teacher)
    mask, keys = _positions('attention_mse', mask, key_mask, student)
    pairs = mask[:, None, :, None] & keys[:, None, None, :]
    by_sample = (student - teacher).where(pairs, 0.0).square().sum((1, 2, 3)) / keys.sum(1).clamp(min=1)
    return by_sample.sum() / (mask.sum() * student.shape[1]).clamp(min=1)


def attention_kl(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, key_mask: Tensor | None = None
) -> Tensor:
    r"""Kullback-Leibler divergence KL(teacher || student) of attention distributions, as in MiniLM.

    Wang et al., *MiniLM* (arXiv 2002.10957), equation 6, on the last layer, with :math:`A_{h,q}` the attention
    probabilities of query :math:`q` over the keys in head :math:`h` (weight 1, together with
    :func:`value_relation_kl`):

    .. math:: \frac{1}{B H S} \sum_b \sum_h \sum_q \mathrm{KL}\left(A^t_{bhq} \,\Vert\, A^s_{bhq}\right)

    The mean runs over heads and valid queries. Rows are rescaled to a sum of 1 over the valid keys; after a softmax
    with the same mask, this only corrects rounding in half precision. Probabilities below 1e-12, including the exact
    zeros of padded or future keys, count as 1e-12. Below that, the gradient is still the one of the logarithm, so that
    a key which the student has lost can rise again; exact zeros have none.

    Note:
        Some models (BERT, for example) return their attention after dropout. A probability that dropout sets to 0 in
        the student then costs as much as a wrong one: train with ``attention_probs_dropout_prob=0``.

    Args:
        student: Probabilities ``(B, H, S, S)``, each row over the keys, as returned by ``output_attentions``, with the
            same number of heads as the teacher; any floating dtype.
        teacher: Probabilities of the same shape. No gradient reaches them.
        mask: Booleans (or integers 0 and 1), ``(B, S)`` or flat: the positions that count, as queries and as keys.
            If all are ``False``, the loss is 0.
        key_mask: The keys that count, if they are other positions than the queries (cross-attention, ``(B, H, Q, K)``):
            ``(B, K)`` or flat. The mask is then that of the queries, ``(B, Q)``.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ, or the mask does not fit.

    Example:
        >>> import torch
        >>> student = torch.tensor([0.5, 0.5]).expand(1, 1, 2, 2)
        >>> teacher = torch.tensor([0.25, 0.75]).expand(1, 1, 2, 2)
        >>> round(attention_kl(student, teacher).item(), 4)  # 1/4 log 1/2 + 3/4 log 3/2
        0.1308
    """
    student, teacher = _maps('attention_kl', student, teacher)
    batch, heads, queries, _ = student.shape
    if mask is None and key_mask is None:
        student, teacher = (_log_probabilities(x) for x in (student, teacher))
        return F.kl_div(student, teacher, reduction='sum', log_target=True) / max(1, batch * heads * queries)
    mask, keys = _positions('attention_kl', mask, key_mask, student)
    pairs = mask[:, None, :, None] & keys[:, None, None, :]
    # Masked pairs have the same constant in student and teacher, and add 0 to the divergence.
    student, teacher = (_log_probabilities(x.where(pairs, 0.0)) for x in (student, teacher))
    total = F.kl_div(student, teacher, reduction='sum', log_target=True)
    return total / (mask.sum() * heads).clamp(min=1)


def value_relation_kl(student: Tensor, teacher: Tensor, heads: int = 12, mask: Tensor | None = None) -> Tensor:
    r"""Kullback-Leibler divergence KL(teacher || student) of the relations between value vectors, as in MiniLM.

    Wang et al., *MiniLM* (arXiv 2002.10957), equations 8 and 9, on the last layer. In each head, with values
    :math:`V_h` of shape :math:`(S, d)` and :math:`d = D / H`:

    .. math:: R_h = \mathrm{softmax}\left(V_h V_h^\top / \sqrt{d}\right), \qquad
              \frac{1}{B H S} \sum_b \sum_h \sum_q \mathrm{KL}\left(R^t_{bhq} \,\Vert\, R^s_{bhq}\right)

    The shape of a relation is independent of the size of the vectors, so no projector is needed. The mean runs over
    heads and valid queries; the softmax runs over valid keys. Usual weight: 1, together with :func:`attention_kl`.

    Args:
        student: Values ``(B, S, D)``, the output of the layer's value projection; any floating dtype.
        teacher: Values ``(B, S, D')``, where ``D'`` may differ from ``D``. No gradient reaches them.
        heads: The number of heads :math:`H`, the same for student and teacher; it divides ``D`` and ``D'``.
        mask: Booleans (or integers 0 and 1), ``(B, S)`` or flat: the positions that count, as queries and as keys. If
            all are ``False``, the loss is 0.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats; 0 for equal inputs.

    Raises:
        ValueError: If the shapes, the heads or the mask do not fit.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 2, 1)  # equal positions: relations (1/2, 1/2)
        >>> teacher = torch.tensor([[[1.0], [0.0]]]) * torch.tensor(3.0).log().sqrt()  # (3/4, 1/4) and (1/2, 1/2)
        >>> round(value_relation_kl(student, teacher, heads=1).item(), 4)  # half of 3/4 log 3/2 + 1/4 log 1/2
        0.0654
    """
    check_tensors('value_relation_kl', student, teacher)
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'value_relation_kl: expected values (B, S, D) of the same B and S, got student '
            f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    if student.shape[2] % heads or teacher.shape[2] % heads:
        raise ValueError(
            f'value_relation_kl: {heads} heads must divide the sizes of both values, got student '
            f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    student, teacher = ready('value_relation_kl', student, teacher, False)
    batch, length, _ = student.shape
    if mask is None:
        student, teacher = (F.log_softmax(_relation(x, heads), dim=-1) for x in (student, teacher))
        return F.kl_div(student, teacher, reduction='sum', log_target=True) / max(1, batch * heads * length)
    mask = valid('value_relation_kl', mask, (batch, length))
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    student, teacher = (
        F.log_softmax(_relation(x.where(mask[:, :, None], 0.0), heads).where(pairs, torch.finfo(x.dtype).min), dim=-1)
        for x in (student, teacher)
    )
    student, teacher = (x.where(pairs, 0.0) for x in (student, teacher))
    total = F.kl_div(student, teacher, reduction='sum', log_target=True)
    return total / (mask.sum() * heads).clamp(min=1)


class ValueRelationKL(nn.Module):
    r"""Module version of :func:`value_relation_kl`.

    Args:
        heads: The number of heads, the same for student and teacher.

    Raises:
        ValueError: If ``heads`` is not a positive integer.

    Example:
        >>> import torch
        >>> loss = ValueRelationKL(heads=2)
        >>> values = torch.arange(12.0).reshape(1, 3, 4)
        >>> loss(values, values).item()
        0.0
        >>> loss
        ValueRelationKL(heads=2)
    """

    def __init__(self, heads: int = 12) -> None:
        super().__init__()
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise ValueError(f'ValueRelationKL: heads must be a positive int, got {heads!r}')
        self.heads = heads

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`value_relation_kl`."""
        return value_relation_kl(student, teacher, self.heads, mask)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'heads={self.heads}'


def _maps(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Checks the shapes of attention matrices, and prepares them with :func:`ready`."""
    check_tensors(loss, student, teacher)
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f'{loss}: expected attention (B, H, S, S) of one shape, with the same number of heads, got student '
            f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    return ready(loss, student, teacher)


def _positions(loss: str, mask: Tensor | None, key_mask: Tensor | None, attention: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the queries and the keys that count, as booleans; they are the same without a key mask."""
    batch, _, queries, keys = attention.shape
    if key_mask is None and queries != keys:
        raise ValueError(
            f'{loss}: expected a mask only for as many queries as keys, got {queries} queries and {keys} keys; '
            'for cross-attention give a key_mask too'
        )
    if mask is None:
        mask = torch.ones(batch, queries, dtype=torch.bool, device=attention.device)
    of_queries = valid(loss, mask, (batch, queries))
    return of_queries, of_queries if key_mask is None else valid(loss, key_mask, (batch, keys))


def _log_probabilities(rows: Tensor) -> Tensor:
    """Clamps probabilities at ``EPS``, rescales rows to a sum of 1, and returns the logarithms.

    The gradient is that of the probabilities before they are clamped: otherwise a key whose probability once fell below
    ``EPS`` would never rise again. Only exact zeros, as of masked keys, have none.
    """
    clamped = rows.detach().clamp(min=EPS)
    logarithms = rows.clamp(min=torch.finfo(rows.dtype).tiny).log()
    total = torch.where(rows > 0, rows + (clamped - rows).detach(), clamped).sum(-1, keepdim=True)
    return logarithms + (clamped.log() - logarithms.detach()) - total.log()


def _relation(values: Tensor, heads: int) -> Tensor:
    """The scaled dot products ``(B, H, S, S)`` of values ``(B, S, D)`` in each head."""
    values = values.unflatten(-1, (heads, -1)).transpose(1, 2)
    with full_precision(values):
        return (values * values.shape[-1] ** -0.5) @ values.transpose(-1, -2)
