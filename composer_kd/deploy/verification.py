"""Compares the logits of an exported model with those of the model in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of
from composer_kd.errors import ConfigError

__all__ = ['TOLERANCE', 'Verification', 'in_pieces', 'verify']

TOLERANCE = 1e-4
"""The largest difference allowed, relative to the largest logit; rounding in other kernels causes about 1e-6."""
SIZES = (1, 2, 7)
"""The first batch sizes, which reveal a batch size that the exporter took for a constant."""
MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Verification:
    """The comparison of an exported model with the model in PyTorch.

    Args:
        samples: The number of samples.
        batch_sizes: The batch sizes that were used.
        difference: The largest absolute difference of two logits.
        largest: The largest absolute logit of the model in PyTorch.
        answers: The number of predictions compared: one per sample, token or pixel.
        agreeing: The number of equal predictions.
    """

    samples: int
    batch_sizes: tuple[int, ...]
    difference: float
    largest: float
    answers: int
    agreeing: int

    @property
    def passed(self) -> bool:
        """Whether all differences are within rounding, which may still swap two classes with almost equal logits."""
        return math.isfinite(self.difference) and self.difference <= TOLERANCE * self.largest

    def __str__(self) -> str:
        sizes = ', '.join(map(str, self.batch_sizes))
        return (
            f'{self.samples} samples in batches of {sizes}: largest difference {self.difference:.1e} '
            f'(logits up to {self.largest:.3g}), same class first for {self.agreeing} of {self.answers}'
        )

    def require(self) -> None:
        """Raises an error unless the comparison passed.

        Raises:
            ConfigError: If the logits differ by more than rounding, or are not finite.
        """
        if not math.isfinite(self.largest):
            raise ConfigError('the model in PyTorch itself answers with numbers that are not finite')
        if not self.passed:
            raise ConfigError(
                f'what was written does not answer as the model in PyTorch does, so it was not kept: {self}; '
                f'expected a difference of at most {TOLERANCE:g} of the largest logit'
            )


def in_pieces(inputs: Iterable[tuple[Tensor, ...]], samples: int = 256) -> list[tuple[Tensor, ...]]:
    """Cuts batches into pieces of 1, 2, 7 and then up to 32 samples.

    Args:
        inputs: Batches, with the samples along the first dimension of each tensor; only as many as needed are read.
        samples: The largest number of samples.

    Returns:
        The pieces.

    Example:
        >>> [len(piece[0]) for piece in in_pieces([(torch.zeros(20, 4),), (torch.zeros(40, 4),)], samples=50)]
        [1, 2, 7, 10, 30]
    """
    pieces: list[tuple[Tensor, ...]] = []
    left = samples
    for tensors in inputs:
        rest = tuple(tensor[:left] for tensor in tensors)
        left -= len(rest[0])
        while len(rest[0]):
            size = SIZES[len(pieces)] if len(pieces) < len(SIZES) else MOST_AT_ONCE
            pieces.append(tuple(tensor[:size] for tensor in rest))
            rest = tuple(tensor[size:] for tensor in rest)
        if left <= 0:
            break
    return pieces


def verify(
    written: Callable[..., Tensor], model: Callable[..., Tensor], pieces: Sequence[tuple[Tensor, ...]]
) -> Verification:
    """Compares the logits of an exported model with those of the model in PyTorch on the same samples.

    Args:
        written: The exported model: takes tensors and returns logits.
        model: The model in PyTorch, with the same inputs and outputs.
        pieces: The inputs, as ``in_pieces`` returns them.

    Returns:
        The comparison, passed or not.

    Raises:
        ConfigError: If the exported model fails, or returns logits of a different shape.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> verify(lambda x: model(x) + 1.0, model, [(torch.zeros(2, 4),)]).passed
        False
    """
    samples = answers = agreeing = 0
    difference = largest = 0.0
    form = BatchFormat()
    with torch.no_grad():
        for piece in pieces:
            expected, found = model(*piece).float().cpu(), _answer(written, piece).float().cpu()
            if expected.shape != found.shape:
                raise ConfigError(
                    f'the written model answers {len(piece[0])} samples in the shape {tuple(found.shape)}, the model '
                    f'in PyTorch in {tuple(expected.shape)}'
                )
            # Without labels: dimension 1 holds the classes of logits with four dimensions or more, else the last.
            layout = layout_of(expected, dict(enumerate(piece)), form)
            same = layout.rows(expected).argmax(-1) == layout.rows(found).argmax(-1)
            samples, answers, agreeing = samples + len(piece[0]), answers + same.numel(), agreeing + int(same.sum())
            difference = _larger(difference, (expected - found).abs().max().item())
            largest = _larger(largest, expected.abs().max().item())
    sizes = tuple(sorted({len(piece[0]) for piece in pieces}))
    return Verification(samples, sizes, difference, largest, answers, agreeing)


def _larger(one: float, other: float) -> float:
    """The larger number; NaN if either is NaN, which ``max`` may drop."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _answer(written: Callable[..., Tensor], piece: tuple[Tensor, ...]) -> Tensor:
    try:
        return written(*piece)
    except Exception as error:  # each runtime raises its own exceptions
        reason = ' '.join(str(error).split())[:400]
        shapes = ', '.join(str(tuple(tensor.shape)) for tensor in piece)
        raise ConfigError(f'the written model fails on inputs of {shapes}: {reason}') from error
