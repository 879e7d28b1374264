"""Losses that compare element by element or row by row: hard labels, squared error, cosine, sorted probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    bounded,
    check_number,
    check_temperature,
    check_tensors,
    mean,
    mean_squared,
    over_classes,
    ready,
    unit,
    valid,
)

__all__ = ['UniversalLogit', 'cosine', 'hard_label', 'mse', 'universal_logit']


@over_classes
def hard_label(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Cross-entropy with the teacher's top class as the label (pseudo-labels), as torch defines it.

    .. math:: -\frac{1}{N} \sum_i \log \mathrm{softmax}(s_i)_{y_i}, \quad y_i = \arg\max_c t_{ic}

    Args:
        student: Logits ``(..., V)``; any floating dtype.
        teacher: Logits of the same shape, of which only the argmax is used.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats, the mean over all dimensions but the last. Equal inputs
        give neither 0 nor the minimum.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> round(hard_label(torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[0.0, 9.0]])).item(), 4)  # -log 3/4
        0.2877
    """
    student, teacher = ready('hard_label', student, teacher)
    student, teacher = bounded(student).flatten(0, -2), teacher.flatten(0, -2)
    return mean(F.cross_entropy(student, teacher.argmax(-1), reduction='none'))


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared error of logits or features, as torch defines it: a mean over all elements, classes included.

    .. math:: \frac{1}{N V} \sum_i \sum_c (s_{ic} - t_{ic})^2

    Args:
        student: A tensor of any shape and floating dtype.
        teacher: A tensor of the same shape. No gradient reaches it.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ (torch itself would broadcast them).

    Example:
        >>> import torch
        >>> mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])).item()
        4.5
    """
    return mean_squared('mse', student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    r"""One minus the cosine similarity of student and teacher, for logits or features.

    .. math:: \frac{1}{N} \sum_i \left(1 - \frac{s_i \cdot t_i}{\Vert s_i \Vert \, \Vert t_i \Vert}\right)

    A row of zeros has cosine 0 and a moderate gradient. This is one of the three losses of Sanh et al., *DistilBERT*
    (arXiv 1910.01108): the cross-entropy of the task, weighted by ``Distillation``'s ``org_loss_weight``, and two
    matches::

        Match(KLDivergence(temperature=2.0), weight=...)
        Match(cosine, on='outputs.hidden_states[-1]', weight=...)

    The paper gives no weights, and sources differ: the authors' published training command uses 2 for the cross-entropy
    (of masked words), 5 for KL and 1 for the cosine; the weights 1, 5 and 2 are used elsewhere.

    Args:
        student: Logits or features ``(B, D)`` or ``(B, S, D)``, compared row by row; or feature maps ``(B, C, H, W)``,
            where all channels and positions of a sample form one row. Any floating dtype.
        teacher: Logits or features of the same shape. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0 to 2, the mean over rows; 0 for equal inputs. A row that is
        zero in one of the models counts as 1.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> round(cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 3.0]])).item(), 4)  # 1 - cos 45 degrees
        0.2929
    """
    student, teacher = ready('cosine', student, teacher)
    if student.ndim > 3:
        student, teacher = student.flatten(1), teacher.flatten(1)
    return mean(1.0 - (unit(student) * unit(teacher)).sum(-1))


@over_classes
def universal_logit(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    r"""L1 distance between sorted probabilities, for models with different vocabularies.

    Boizard et al., *Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs*
    (arXiv 2402.12030), the closed form of a Wasserstein distance with the same cost between any two classes:

    .. math:: \frac{1}{N} \sum_i \sum_{c=1}^{\max(V_s, V_t)} \left|
              \mathrm{sort}(\mathrm{softmax}(s_i / T))_c - \mathrm{sort}(\mathrm{softmax}(t_i / T))_c \right|

    Both are sorted in descending order, and the smaller vocabulary is padded with zeros. The identity of the classes is
    ignored: a permutation of the student's classes leaves the loss unchanged. There is no factor :math:`T^2`. A weight
    to start with: 1, in addition to the cross-entropy.

    Positions are compared one with one. Where the two tokenizers split a text differently, slice both logits to the
    positions of the answer and cut the longer answer to the length of the shorter, as the paper does.

    Args:
        student: Logits ``(..., V_s)``; any floating dtype.
        teacher: Logits ``(..., V_t)`` with the same other dimensions. No gradient reaches them.
        temperature: :math:`T > 0`.
        mask: Booleans (or integers 0 and 1) of the logits' shape without ``V``, or flat. The mean includes only the
            positions that are ``True``. If all are ``False``, the loss is 0.

    Returns:
        A float32 scalar (float64 for float64 inputs) from 0 to 2, the sum over classes and the mean over all other
        dimensions; 0 for equal inputs.

    Raises:
        ValueError: If the shapes differ in another dimension than the last, the mask does not fit, or the temperature
            is not a positive finite number.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 1.0, 2.0]]).log()
        >>> round(universal_logit(student, teacher).item(), 4)  # |3/4 - 1/2| + |1/4 - 1/4| + |0 - 1/4|
        0.5
    """
    check_tensors('universal_logit', student, teacher)
    check_temperature('universal_logit', temperature)
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f'universal_logit: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must differ in the '
            'last dimension only (the classes), because it compares them position by position. If their tokenizers '
            'split the text differently, give both the logits of the answer alone, the longer one cut to the length '
            'of the shorter: logits[:, start:start + length] of each model, each with its own start.'
        )
    student, teacher = ready('universal_logit', student, teacher, same_shape=False)
    if mask is not None:
        kept = valid('universal_logit', mask, student.shape[:-1])
        student, teacher = student[kept], teacher[kept]
    p_s, p_t = (_sorted_probabilities(x, temperature) for x in (student, teacher))
    shared = min(p_s.shape[-1], p_t.shape[-1])
    distance = (p_s[..., :shared] - p_t[..., :shared]).abs().sum(-1)
    return mean(distance + p_s[..., shared:].sum(-1) + p_t[..., shared:].sum(-1))


def _sorted_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return F.softmax(bounded(logits, temperature) / temperature, -1).sort(-1, descending=True).values


universal_logit.any_classes = True  # type: ignore[attr-defined]


@over_classes
class UniversalLogit(nn.Module):
    """Module version of :func:`universal_logit`.

    Args:
        temperature: :math:`T > 0`.

    Example:
        >>> UniversalLogit()
        UniversalLogit(temperature=1.0)
    """

    any_classes = True  # student and teacher may have different vocabularies

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = check_number('UniversalLogit', 'temperature', temperature)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`universal_logit`."""
        return universal_logit(student, teacher, self.temperature, mask)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperature={self.temperature}'
