"""How well the vectors of a student agree with those of its teachers, in evaluation."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from composer.utils import dist
from torch import Tensor, nn
from torchmetrics import MeanMetric, SpearmanCorrCoef

__all__ = ['VectorAgreement']


class VectorAgreement(nn.Module):
    """The mean cosine of two models' vectors, and the rank correlation of their similarities.

    The correlation (Spearman's) is that of the cosine between two texts in one model with that in the other, over the
    pairs of texts in a batch of the evaluation; it needs no vectors of one width. It is left out below two pairs, and
    the cosine where the widths differ.

    Example:
        >>> one = VectorAgreement()
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> one.update(vectors, 2 * vectors)
        >>> {name: round(float(value), 4) for name, value in one.compute().items()}
        {'cosine': 1.0, 'spearman': 1.0}
    """

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that it keeps all similarities
            self.cosine, self.spearman = MeanMetric(), SpearmanCorrCoef()

    def reset(self) -> None:
        """Begins anew."""
        self.cosine.reset()
        self.spearman.reset()

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Takes the vectors of a batch.

        Args:
            student: ``(B, D)``
            teacher: ``(B, E)``
        """
        ours, theirs = (F.normalize(one.float(), dim=-1) for one in (student, teacher))
        if ours.shape == theirs.shape:
            self.cosine.update((ours * theirs).sum(-1).mean(), weight=len(ours))
        if len(ours) > 1:
            rows, columns = torch.triu_indices(len(ours), len(ours), offset=1, device=ours.device)
            self.spearman.update((ours @ ours.T)[rows, columns], (theirs @ theirs.T)[rows, columns])

    def compute(self) -> dict[str, Tensor]:
        """What was measured, over all ranks; of too few texts nothing."""
        pairs = sum(map(len, self.spearman.preds))
        # All ranks compute or none: one may have had fewer texts than another, and the metrics wait for one another.
        every = dist.all_gather_object((self.cosine.update_called, pairs))
        found = {}
        if any(has_cosine for has_cosine, _ in every):
            found['cosine'] = self.cosine.compute()
        if sum(count for _, count in every) > 1:
            if not pairs:
                self.spearman.update(*torch.empty(2, 0, device=self.spearman.device))
            found['spearman'] = self.spearman.compute()
        return found
