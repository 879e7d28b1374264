"""Losses between relations of samples, such as distances and similarities within a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.losses._common import (
    check_number,
    directions,
    full_precision,
    joins_any_shape,
    pooled,
    reads,
    ready,
    relates_samples,
    same_samples,
    takes_maps,
)

__all__ = ['RKD', 'correlation_congruence', 'pkt', 'rkd', 'similarity_preserving']

PKT_EPS = 1e-7


@relates_samples
@joins_any_shape
@takes_maps
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of the row-normalised Gram matrices of a batch: similarity-preserving distillation.

    Tung and Mori, *Similarity-Preserving Knowledge Distillation* (arXiv 1907.09682), equations 1 to 4, with the
    features of a sample flattened to one row of :math:`F`:

    .. math:: \frac{1}{B^2} \left\Vert G_t - G_s \right\Vert_F^2, \qquad
              G = \text{rows of } F F^\top \text{ divided by their L2 norms}

    Each row has length 1 for any number of entries, so the value is proportional to :math:`1/B`. The usual weight of
    3000 is for (micro)batches of 64; for other sizes, change it in proportion to the size. A sample with zero features,
    or with features shorter than about 1e-6 of the longest in the batch, has a row of zeros and no gradient. Computed
    in float32 (float64 for float64 inputs), also under autocast.

    Args:
        student: Features ``(B, ...)`` of any shape, usually whole feature maps; at least two samples; any floating
            dtype.
        teacher: Features ``(B, ...)``, whose shape may differ in all other dimensions. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs), the mean over the ``B x B`` entries; 0 for equal inputs.

    Raises:
        ValueError: If student and teacher differ in batch size, or there is only one sample.

    Example:
        >>> import torch
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # Gram rows (1, 0), (0, 1)
        >>> teacher = torch.tensor([[1.0], [1.0]])  # (1, 1) / sqrt 2, twice
        >>> round(similarity_preserving(student, teacher).item(), 4)  # 2 * ((1 - .7071)^2 + .7071^2) / 4
        0.2929
    """
    student, teacher = same_samples('similarity_preserving', student, teacher)
    with full_precision(student):
        return (_gram_rows(student) - _gram_rows(teacher)).square().mean()


@relates_samples
@reads(pooled)
def rkd(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    r"""Relational knowledge distillation: distances between pairs of samples, and angles in triplets of samples.

    Park, Kim, Lu and Cho, *Relational Knowledge Distillation* (arXiv 1904.05068), equations 5 to 10:

    .. math:: w_d \cdot \ell\!\left(\frac{\lVert s_i - s_j \rVert}{\mu_s},
              \frac{\lVert t_i - t_j \rVert}{\mu_t}\right) + w_a \cdot \ell\left(
              \cos\angle s_j s_i s_k, \cos\angle t_j t_i t_k\right)

    :math:`\ell` is the smooth L1 loss (Huber, 1) and :math:`\mu` the mean distance of that model over all pairs of
    distinct samples :math:`i \ne j`, as in equation 6; equal samples (a repeated image) count with distance 0. As in
    the published code, each part is a mean over all :math:`B^2` pairs or :math:`B^3` triplets, including those with
    equal members (which are 0 or constant); the paper sums. The paper's weights are the defaults of ``distance`` and
    ``angle``, so the usual weight of the loss is 1. With two samples, the angle part is 0. Angles at (nearly) identical
    samples, closer than 1e-6 of the largest distance, are set to cosine 0 without a gradient; the gradient of the
    published code is up to 1e12 times too large there.

    Memory grows as :math:`B^3 + B^2 D` for the angles, and :math:`B^2` for the distances. Computed in float32 (float64
    for float64 inputs), also under autocast. The angles have a second derivative; that of the distances is refused.

    Args:
        student: Embeddings ``(B, D)`` of at least two samples; tokens and feature maps are averaged over positions. Any
            floating dtype.
        teacher: Embeddings of the same samples; ``D`` may differ. No gradient reaches them.
        distance: The weight :math:`w_d` of the distances; 0 leaves them out.
        angle: The weight :math:`w_a` of the angles; 0 leaves them out.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If student and teacher differ in batch size, there is only one sample, or both weights are 0.

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
    student, teacher = (pooled(side) for side in same_samples('rkd', student, teacher))
    loss = student.new_zeros(())
    with full_precision(student):
        if distance:
            loss = loss + distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
        if angle:
            loss = loss + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return loss


@relates_samples
class RKD(nn.Module):
    """Module version of :func:`rkd`: distances and angles between samples.

    Args:
        distance: The weight of the distances; 0 leaves them out.
        angle: The weight of the angles; 0 leaves them out and saves their memory, which grows as ``B^3``.

    Raises:
        ValueError: If a weight is not a finite number of at least 0, or both are 0.

    Example:
        >>> import torch
        >>> loss = RKD(angle=0.0)
        >>> loss(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [6.0]])).item()  # scale-invariant
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


@relates_samples
@reads(pooled)
def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Product of the absolute errors of consecutive samples in the batch: correlation congruence.

    Peng et al., *Correlation Congruence for Knowledge Distillation* (arXiv 1904.01802), in the form of the code that
    its authors shared (``Correlation`` in RepDistiller), on which published results are based, with
    :math:`d_i = t_i - s_i`:

    .. math:: \frac{1}{B - 1} \sum_{i=1}^{B-1} \sum_{c=1}^{D} |d_{i,c}| \cdot |d_{i+1,c}|

    The loss is a sum over the elements of an embedding and a mean over pairs of consecutive samples. Equation 7 of the
    paper is different: it compares kernels between all samples; that is :func:`~composer_kd.losses.kernel_congruence`.
    Usual weight: 0.02, with student and teacher embedded in 128 dimensions. The value depends on the order of the
    samples, so the batch should be shuffled, and it is 0 as soon as every other sample is equal in student and teacher.
    Where a difference is 0, its gradient is defined as 0.

    Args:
        student: Embeddings ``(B, D)`` of at least two samples; tokens and feature maps are averaged over positions. Any
            floating dtype.
        teacher: Embeddings with the same ``D`` (use a projector if the student's differs). No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs); 0 for equal inputs.

    Raises:
        ValueError: If the embeddings differ in shape, or there is only one sample.

    Example:
        >>> import torch
        >>> teacher = torch.zeros(3, 2)
        >>> student = torch.tensor([[1.0, 0.0], [-2.0, 5.0], [3.0, 1.0]])
        >>> correlation_congruence(student, teacher).item()  # (1 * 2 + 0 * 5 + 2 * 3 + 5 * 1) / 2
        6.5
    """
    loss = 'correlation_congruence'
    student, teacher = (pooled(side) for side in same_samples(loss, student, teacher))
    student, teacher = ready(f'{loss} (project the student, if need be)', student, teacher)
    apart = (teacher - student).abs()
    return (apart[:-1] * apart[1:]).sum(-1).mean()


@relates_samples
@reads(pooled)
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Probabilistic knowledge transfer: KL between the distributions of each sample's similarities to the batch.

    Passalis and Tefas, *Learning Deep Representations with Probabilistic Knowledge Transfer* (arXiv 1803.10837),
    equations 4 to 8 with the cosine kernel:

    .. math:: \frac{1}{B^2} \sum_{i,j} t_{ij} \log \frac{t_{ij} + \epsilon}{s_{ij} + \epsilon}, \qquad
              p_{ij} = \frac{\cos(x_i, x_j) + 1}{\sum_k \cos(x_i, x_k) + 1}, \quad \epsilon = 10^{-7}

    As in the authors' code, and unlike the paper, the sums include each sample's similarity to itself
    (:math:`j = i, k = i`), and the sum of the divergences is divided by the number of entries instead of rows. The
    value is therefore proportional to :math:`1/B`. The usual weight of 30000 is for (micro)batches of 64; for other
    sizes, change it in proportion to the size. A vector of zeros, or one shorter than 1e-6 of the longest in the batch
    (in any dtype), counts as a rounding error: its cosine with all others is 0, without a gradient. Computed in float32
    (float64 for float64 inputs), also under autocast.

    Args:
        student: Embeddings ``(B, D)`` of at least two samples; tokens and feature maps are averaged over positions. Any
            floating dtype.
        teacher: Embeddings of the same samples; ``D`` may differ. No gradient reaches them.

    Returns:
        A float32 scalar (float64 for float64 inputs) in nats, the mean over the ``B x B`` entries; 0 for equal inputs.

    Raises:
        ValueError: If student and teacher differ in batch size, or there is only one sample.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # rows (2/3, 1/3), (1/3, 2/3)
        >>> student = torch.tensor([[2.0], [1.0]])  # (1/2, 1/2) twice
        >>> round(pkt(student, teacher).item(), 4)  # (2/3 log 4/3 + 1/3 log 2/3) / 2
        0.0283
    """
    student, teacher = (pooled(side) for side in same_samples('pkt', student, teacher))
    with full_precision(student):
        student, teacher = _affinities(student), _affinities(teacher)
    return (teacher * ((teacher + PKT_EPS) / (student + PKT_EPS)).log()).mean()


def _check_weights(owner: str, distance: float, angle: float) -> None:
    if not distance and not angle:
        raise ValueError(f'{owner}: distance and angle are both 0, so nothing is compared')


def _gram_rows(features: Tensor) -> Tensor:
    """Computes the inner products of the samples, ``(B, B)``, with rows of length 1.

    Each sample is normalised before it is multiplied with the others. The normalised rows stay the same, but the length
    that ``NO_DIRECTION`` applies to is then linear in the length of the sample instead of quadratic.
    """
    features = features.flatten(1)
    return directions(directions(features) @ features.T)


def _distances(embeddings: Tensor) -> Tensor:
    """Distances ``(B, B)`` divided by their mean over all pairs of distinct samples; exactly 0 between duplicates."""
    distances = torch.cdist(embeddings, embeddings, compute_mode='donot_use_mm_for_euclid_dist')
    samples = embeddings.shape[0]
    mean = distances.sum() / (samples * (samples - 1))
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(embeddings: Tensor) -> Tensor:
    """Cosines ``(B, B, B)`` of the angles at the first sample, between the directions to the second and the third."""
    sights = directions(embeddings.unsqueeze(0) - embeddings.unsqueeze(1))
    return sights @ sights.transpose(1, 2)


def _affinities(embeddings: Tensor) -> Tensor:
    """Cosines ``(B, B)`` mapped to [0, 1] (clamped at 0 against rounding errors), each row divided by its sum."""
    embeddings = directions(embeddings)
    affinities = ((embeddings @ embeddings.T + 1.0) / 2.0).clamp(min=0.0)
    return affinities / affinities.sum(1, keepdim=True)
