"""Losses on how samples relate to one another: the sides may differ in shape, all but in the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    check_number,
    check_samples,
    check_tensors,
    full_precision,
    joins_any_shape,
    pooled,
    reads,
    ready,
)

__all__ = ['RKD', 'correlation_congruence', 'pkt', 'rkd', 'similarity_preserving']

NO_DIRECTION = 1e-6  # of the longest vector; a shorter one is rounding noise, whose direction means nothing
PKT_EPS = 1e-7


@joins_any_shape
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""How far the samples' similarities differ: Frobenius distance of the normalised Gram matrices.

    Tung and Mori, *Similarity-Preserving Knowledge Distillation* (arXiv 1907.09682), equations 1 to 4, with the
    features of a sample flattened to one row of :math:`F`:

    .. math:: \frac{1}{B^2} \left\Vert G_t - G_s \right\Vert_F^2, \qquad
              G = \text{rows of } F F^\top \text{ divided by their L2 norms}

    The rows have length 1 whatever their number of entries, so the value falls as :math:`1/B`: the usual weight 3000 is
    for (micro)batches of 64; scale it with their size to keep the pull. A row of zeros (a sample without any feature,
    or with one shorter than about 1e-6 of the longest in the batch) stays zero and gets no gradient. Computed in
    float32 (float64 for float64 inputs), also under autocast.

    Args:
        student: Features ``(B, ...)`` of any shape, whole maps as a rule; at least two samples.
        teacher: Features ``(B, ...)`` of any other shape. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs), the mean over the ``B x B`` entries; 0 for equal inputs.

    Raises:
        ValueError: If the batches differ in size, or are of one sample.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # Gram rows (1, 0), (0, 1)
        >>> teacher = torch.tensor([[1.0], [1.0]])  # (1, 1) / sqrt 2, twice
        >>> round(similarity_preserving(student, teacher).item(), 4)  # 2 * ((1 - .7071)^2 + .7071^2) / 4
        0.2929
    """
    student, teacher = _batches('similarity_preserving', student, teacher)
    with full_precision(student):
        return (_gram_rows(student) - _gram_rows(teacher)).square().mean()


@reads(pooled)
def rkd(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    r"""Relational distillation: distances between samples, and angles at which a sample sees two others.

    Park, Kim, Lu and Cho, *Relational Knowledge Distillation* (arXiv 1904.05068), equations 5 to 10:

    .. math:: w_d \cdot \ell\!\left(\frac{\lVert s_i - s_j \rVert}{\mu_s},
              \frac{\lVert t_i - t_j \rVert}{\mu_t}\right) + w_a \cdot \ell\left(
              \cos\angle s_j s_i s_k, \cos\angle t_j t_i t_k\right)

    :math:`\ell` is the smooth L1 (Huber, 1) and :math:`\mu` the mean of the positive distances on that side. As in the
    published code each part is a mean over all :math:`B^2` pairs or :math:`B^3` triplets, those with equal members
    included (they are 0 or constant); the paper sums. The paper's weights are inside: that of the loss is 1.
    Two samples have no angles: their part is 0.
    Samples at the same place (closer than 1e-6 of the largest distance) have neither angle nor gradient there, where
    the published code's gradient is up to 1e12 times too large.

    Memory grows as :math:`B^3 + B^2 D` for the angles, and :math:`B^2` for the distances. Computed in float32 (float64
    for float64 inputs), also under autocast.

    Args:
        student: Embeddings ``(B, D)``; tokens and feature maps are averaged over positions.
        teacher: The same for the teacher; its ``D`` may differ. No gradient reaches them.
        distance: The weight :math:`w_d` of the distances; 0 leaves them out.
        angle: The weight :math:`w_a` of the angles; 0 leaves them out.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the batches differ in size, or are of one sample, or both weights are 0.

    Example:
        >>> import torch
        >>> student = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 3, 2, on average 2
        >>> teacher = torch.tensor([[0.0], [1.0], [2.0]])  # 1, 2, 1, on average 4/3
        >>> round(rkd(student, teacher, distance=1.0, angle=0.0).item(), 4)  # (1/4)^2 * 1/2, 0, (1/4)^2 * 1/2: 4 of 9
        0.0139
        >>> rkd(student, teacher, distance=0.0).item()  # the same angles
        0.0
    """
    _check_weights('rkd', distance, angle)
    student, teacher = (pooled(side) for side in _batches('rkd', student, teacher))
    loss = student.new_zeros(())
    with full_precision(student):
        if distance:
            loss = loss + distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
        if angle:
            loss = loss + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return loss


class RKD(nn.Module):
    """Module twin of :func:`rkd`: relations of distance and angle between samples.

    Args:
        distance: The weight of the distances; 0 leaves them out.
        angle: The weight of the angles; 0 leaves them out, and with them memory that grows as ``B^3``.

    Raises:
        ValueError: If a weight is not a finite number of at least 0, or both are 0.

    Example:
        >>> import torch
        >>> loss = RKD(angle=0.0)
        >>> loss(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [6.0]])).item()  # blind to scale
        0.0
        >>> loss
        RKD(distance=25.0, angle=0.0)
    """

    summary = staticmethod(pooled)

    def __init__(self, distance: float = 25.0, angle: float = 50.0) -> None:
        super().__init__()
        self.distance = check_number('RKD', 'distance', distance, strict=False)
        self.angle = check_number('RKD', 'angle', angle, strict=False)
        _check_weights('RKD', self.distance, self.angle)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See :func:`rkd`."""
        return rkd(student, teacher, self.distance, self.angle)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'distance={self.distance}, angle={self.angle}'


@reads(pooled)
def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Whether samples that lie side by side in the batch err in the same directions.

    Peng et al., *Correlation Congruence for Knowledge Distillation* (arXiv 1904.01802), in the form of the code that
    its authors shared (RepDistiller's ``Correlation``) and that published tables of it come from, with
    :math:`d_i = t_i - s_i`:

    .. math:: \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_{c=1}^{D} |d_{i,c}| \cdot |d_{i+1,c}|

    so the absolute values are taken element by element, the sum runs over the embedding and the mean over consecutive
    samples. The paper's equation 7 is another one: :math:`\frac{1}{B^2} \lVert C_s - C_t \rVert^2` of the B x B kernels
    (bilinear, or Gaussian by a Taylor series) between all samples. The usual weight is 0.02, with both sides embedded
    in 128 dimensions. The value depends on the order of the samples, so a shuffled batch is assumed, and it is 0
    already if every other sample agrees. Its gradient is taken as 0 where a difference is 0.

    Args:
        student: Embeddings ``(B, D)``, at least two; tokens and feature maps are averaged over positions.
        teacher: The same, with the same ``D``: project the student if it differs. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the embeddings differ in shape, or there is one sample.

    Example:
        >>> import torch
        >>> teacher = torch.zeros(3, 2)
        >>> student = torch.tensor([[1.0, 0.0], [-2.0, 5.0], [3.0, 1.0]])
        >>> correlation_congruence(student, teacher).item()  # (1 * 2 + 0 * 5 + 2 * 3 + 5 * 1) / 2
        6.5
    """
    loss = 'correlation_congruence'
    student, teacher = (pooled(side) for side in _batches(loss, student, teacher))
    student, teacher = ready(f'{loss} (project the student, if need be)', student, teacher)
    apart = (teacher - student).abs()
    return (apart[:-1] * apart[1:]).sum(-1).mean()


@reads(pooled)
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Probabilistic knowledge transfer: each sample's similarities to the others as a distribution.

    Passalis and Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer* (arXiv 1803.10837),
    equations 4 to 8 with the cosine kernel:

    .. math:: \frac{1}{B^2} \sum_{i,j} t_{ij} \log \frac{t_{ij} + \epsilon}{s_{ij} + \epsilon}, \qquad
              p_{ij} = \frac{\cos(x_i, x_j) + 1}{\sum_k \cos(x_i, x_k) + 1}, \quad \epsilon = 10^{-7}

    As in the authors' code, and unlike the paper, a sample's similarity to itself counts (:math:`j = i, k = i`), and
    the sum of the divergences is divided by the number of entries, not of rows. So the value falls as :math:`1/B`: the
    usual weight 30000 is for (micro)batches of 64; scale it with their size to keep the pull. A vector of zeros, or
    one shorter than 1e-6 of the longest in the batch, in any dtype, has cosine 0 with all, and no gradient: rounding
    noise has no direction.

    Args:
        student: Embeddings ``(B, D)``, at least two; tokens and feature maps are averaged over positions.
        teacher: The same for the teacher; its ``D`` may differ. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs), in nats; 0 for equal inputs.

    Raises:
        ValueError: If the batches differ in size, or are of one sample.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # rows (2/3, 1/3), (1/3, 2/3)
        >>> student = torch.tensor([[2.0], [1.0]])  # (1/2, 1/2) twice
        >>> round(pkt(student, teacher).item(), 4)  # (2/3 log 4/3 + 1/3 log 2/3) / 2
        0.0283
    """
    student, teacher = (pooled(side) for side in _batches('pkt', student, teacher))
    with full_precision(student):
        student, teacher = _affinities(student), _affinities(teacher)
    return (teacher * ((teacher + PKT_EPS) / (student + PKT_EPS)).log()).mean()


def _batches(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides ready, with as many samples, at least two of them."""
    check_tensors(loss, student, teacher)
    if student.shape[:1] != teacher.shape[:1] or student.ndim < 2 or teacher.ndim < 2:
        raise ValueError(
            f'{loss}: expected features (B, ...) of the same samples, got student {tuple(student.shape)} and '
            f'teacher {tuple(teacher.shape)}'
        )
    check_samples(loss, student)
    return ready(loss, student, teacher, same_shape=False)


def _check_weights(owner: str, distance: float, angle: float) -> None:
    if not distance and not angle:
        raise ValueError(f'{owner}: distance and angle are both 0, so nothing is compared')


def _unit(vectors: Tensor) -> Tensor:
    """Vectors ``(..., D)`` of length 1; zero, with a gradient of zero, for those too short to have a direction."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    directed = lengths > NO_DIRECTION * lengths.detach().amax()
    return vectors * torch.where(directed, 1.0 / torch.where(directed, lengths, 1.0), 0.0)


def _gram_rows(features: Tensor) -> Tensor:
    """The samples' inner products ``(B, B)`` with rows of length 1.

    A row's length is as good as quadratic in its sample's; divided by that first, which is the same, it is linear.
    """
    features = features.flatten(1)
    return _unit(_unit(features) @ features.T)


def _distances(embeddings: Tensor) -> Tensor:
    """Distances ``(B, B)`` in units of their positive mean; exactly 0 between duplicates."""
    distances = torch.cdist(embeddings, embeddings, compute_mode='donot_use_mm_for_euclid_dist')
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(embeddings: Tensor) -> Tensor:
    """Cosines ``(B, B, B)`` of the angle at the first sample between the second and the third."""
    sights = _unit(embeddings.unsqueeze(0) - embeddings.unsqueeze(1))
    return sights @ sights.transpose(1, 2)


def _affinities(embeddings: Tensor) -> Tensor:
    """Cosines ``(B, B)`` moved to [0, 1] (rounding kept within), with rows that sum to 1."""
    embeddings = _unit(embeddings)
    affinities = ((embeddings @ embeddings.T + 1.0) / 2.0).clamp(min=0.0)
    return affinities / affinities.sum(1, keepdim=True)
