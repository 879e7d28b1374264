"""A loss at several temperatures: the weighted mean of its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from composer_kd.losses._common import check_number, check_tensors
from composer_kd.losses.kl import KLDivergence

__all__ = ['MultiTemperature']


class MultiTemperature(nn.Module):
    r"""The weighted mean of a loss at several temperatures.

    Jin, Wang and Lin, *Multi-Level Logit Distillation* (CVPR 2023), of which this is the level of single predictions,
    at the temperatures 2, 3, 4, 5 and 6. (Its other levels compare samples, and classes, of a batch.)

    .. math:: \frac{\sum_k w_k \, L(s, t; T_k)}{\sum_k w_k}

    The authors' code has the sum, which is five times as large. The teacher runs once. The losses of this package scale
    with :math:`T^2`, so that each temperature has a gradient of the same size. To log each temperature under a name of
    its own, give a list of matches instead:
    ``[Match(KLDivergence(t), weight=0.2, name=f'kl at {t}') for t in (2, 3, 4, 5, 6)]``.

    Args:
        loss: A loss with an attribute ``temperature``; :class:`.KLDivergence` if ``None``. It receives labels or mask
            if its signature has them.
        temperatures: The temperatures :math:`T_k`.
        weights: A weight of 0 or more for each temperature; equal weights if ``None``.

    Attributes:
        wrapped: The loss. Inspect its signature, instead of this module's, for the arguments that it takes.

    Raises:
        ValueError: If the loss has no temperature, a temperature or weight is out of its bounds, or their numbers
            differ.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
        >>> values = [KLDivergence(t)(student, teacher) for t in (2.0, 4.0)]
        >>> loss = MultiTemperature(temperatures=[2.0, 4.0], weights=[3.0, 1.0])
        >>> torch.allclose(loss(student, teacher), 0.75 * values[0] + 0.25 * values[1])
        True
    """

    def __init__(
        self,
        loss: Callable[..., Tensor] | None = None,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.wrapped: Any = KLDivergence() if loss is None else loss
        if not callable(self.wrapped) or not hasattr(self.wrapped, 'temperature'):
            raise ValueError(
                f'MultiTemperature: expected a loss with an attribute temperature, as KLDivergence(), got {loss!r}'
            )
        self.temperatures = [check_number('MultiTemperature', 'each temperature', t) for t in temperatures]
        given = [1.0] * len(self.temperatures) if weights is None else weights
        self.weights = [check_number('MultiTemperature', 'each weight', w, strict=False) for w in given]
        if len(self.weights) != len(self.temperatures) or not sum(self.weights) > 0.0:
            raise ValueError(
                f'MultiTemperature: expected one weight for each of the {len(self.temperatures)} temperatures, at '
                f'least one of each, and not all 0; got {weights!r}'
            )

    @property
    def softmax_dim(self) -> int:
        """The dimension of the classes, taken from the wrapped loss."""
        return getattr(self.wrapped, 'softmax_dim', -1)

    @property
    def any_classes(self) -> bool:
        """Whether the wrapped loss allows student and teacher to have different classes."""
        return getattr(self.wrapped, 'any_classes', False)

    def forward(self, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        """Computes the mean.

        Args:
            student: Logits; any floating dtype.
            teacher: Logits, as the wrapped loss takes them. No gradient reaches them.
            options: Further arguments of the wrapped loss: labels, mask.

        Returns:
            A scalar with the dtype and reduction of the wrapped loss.
        """
        check_tensors('MultiTemperature', student, teacher)
        before, total = self.wrapped.temperature, sum(self.weights)
        value = student.new_zeros(())
        try:
            for temperature, weight in zip(self.temperatures, self.weights):
                self.wrapped.temperature = temperature
                value = value + self.wrapped(student, teacher, **options) * (weight / total)
        finally:
            self.wrapped.temperature = before
        return value

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'temperatures={self.temperatures}, weights={self.weights}'
