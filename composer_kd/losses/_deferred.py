"""Logits that have not been computed: hidden states with a linear head, and weighted means of several models'."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self, override

from composer_kd.losses._common import check_number

__all__ = ['DeferredLogits', 'LinearLogits', 'MeanLogits']


class DeferredLogits(abc.ABC):
    """Logits ``(..., V)`` that are computed for a few positions at a time."""

    @property
    @abc.abstractmethod
    def shape(self) -> torch.Size:
        """The shape of the logits, ``(..., V)``."""

    @abc.abstractmethod
    def dense(self) -> Tensor:
        """The logits ``(..., V)``."""

    @abc.abstractmethod
    def rows(self) -> Self:
        """The same with the positions in one dimension."""

    @abc.abstractmethod
    def at(self, positions: Tensor | slice) -> Self:
        """Some positions of rows: those of a slice, or at which a mask, booleans ``(N,)``, is true."""

    @abc.abstractmethod
    def classes(self, count: int) -> Self:
        """The same of the first classes alone, as of a vocabulary that is smaller than its padded head."""

    @abc.abstractmethod
    def detach(self) -> Self:
        """The same without a graph."""


@dataclass(frozen=True)
class LinearLogits(DeferredLogits):
    r"""Logits of a linear head that have not been computed: its weights, and the hidden states that it takes.

    .. math:: z = c \tanh\left(\frac{a (W h + b)}{c}\right), \quad\text{without a soft-cap}\quad z = a (W h + b)

    At a vocabulary of 128,256 the logits of a token take 513 kB in float32, and its hidden state of 2,048 numbers 8 kB.

    Attributes:
        hidden: ``(..., D)`` The hidden states.
        weight: ``(V, D)`` The weights of the head, or of the embedding that it is tied to.
        bias: ``(V,)`` Its bias; ``None`` without one.
        scale: ``a``, by which some models multiply their logits.
        softcap: ``c``, the bound of the logits of some models; ``None`` without one.

    Raises:
        ValueError: If the sizes do not fit, or ``scale`` or ``softcap`` is not a positive finite number.

    Example:
        >>> head = torch.nn.Linear(4, 1000, bias=False)
        >>> logits = LinearLogits(torch.randn(2, 3, 4), head.weight)
        >>> logits.shape, logits.dense().shape
        (torch.Size([2, 3, 1000]), torch.Size([2, 3, 1000]))
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        sizes = [tuple(getattr(self, name).shape) for name in ('hidden', 'weight')]
        if self.weight.ndim != 2 or self.hidden.ndim < 1 or self.hidden.shape[-1] != self.weight.shape[1]:
            raise ValueError(f'LinearLogits: expected hidden (..., D) and weight (V, D), got {sizes[0]} and {sizes[1]}')
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f'LinearLogits: expected a bias ({sizes[1][0]},), got {tuple(self.bias.shape)}')
        check_number('LinearLogits', 'scale', self.scale)
        if self.softcap is not None:
            check_number('LinearLogits', 'softcap', self.softcap)

    @property
    @override
    def shape(self) -> torch.Size:
        return torch.Size((*self.hidden.shape[:-1], self.weight.shape[0]))

    @override
    def dense(self) -> Tensor:
        return self.of_products(F.linear(self.hidden, self.weight, self.bias))

    def of_products(self, products: Tensor) -> Tensor:
        """The logits of the head's own outputs ``(..., V)``: scaled, and bounded by the soft-cap."""
        scaled = products if self.scale == 1.0 else products * self.scale
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap

    @override
    def rows(self) -> Self:
        return replace(self, hidden=self.hidden.reshape(-1, self.hidden.shape[-1]))

    @override
    def at(self, positions: Tensor | slice) -> Self:
        return replace(self, hidden=self.hidden[positions])

    @override
    def classes(self, count: int) -> Self:
        bias = self.bias if self.bias is None else self.bias[:count]
        return replace(self, weight=self.weight[:count], bias=bias)

    @override
    def detach(self) -> Self:
        bias = self.bias if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), weight=self.weight.detach(), bias=bias)


Part: TypeAlias = Tensor | DeferredLogits


@dataclass(frozen=True)
class MeanLogits(DeferredLogits):
    """The weighted sum of several models' logits, in float32 at least.

    Attributes:
        parts: Logits ``(..., V)``, or what they are made of.
        weights: The weight of each.

    Example:
        >>> one = LinearLogits(torch.ones(2, 3), torch.eye(3))
        >>> MeanLogits((one, torch.zeros(2, 3)), (0.5, 0.5)).dense()
        tensor([[0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000]])
    """

    parts: tuple[Part, ...]
    weights: tuple[float, ...]

    @property
    @override
    def shape(self) -> torch.Size:
        return self.parts[0].shape

    @override
    def dense(self) -> Tensor:
        first, *others = (part if isinstance(part, Tensor) else part.dense() for part in self.parts)
        total = first.to(torch.promote_types(first.dtype, torch.float32)) * self.weights[0]
        for other, weight in zip(others, self.weights[1:]):
            total.add_(other, alpha=weight)
        return total

    @override
    def rows(self) -> Self:
        return self._each([_rows(part) for part in self.parts])

    @override
    def at(self, positions: Tensor | slice) -> Self:
        return self._each([part[positions] if isinstance(part, Tensor) else part.at(positions) for part in self.parts])

    @override
    def classes(self, count: int) -> Self:
        return self._each(
            [part[..., :count] if isinstance(part, Tensor) else part.classes(count) for part in self.parts]
        )

    @override
    def detach(self) -> Self:
        return self._each([part.detach() for part in self.parts])

    def _each(self, parts: list[Part]) -> Self:
        return replace(self, parts=tuple(parts))


def _rows(part: Part) -> Part:
    return part.reshape(-1, part.shape[-1]) if isinstance(part, Tensor) else part.rows()
