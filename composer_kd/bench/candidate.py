"""One model of a benchmark: what it is called, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from composer_kd.bench.precision import copied
from composer_kd.deploy import Inference
from composer_kd.presentation.roles import ALONE

__all__ = ['Candidate']


@dataclass(frozen=True)
class Candidate:
    """A model to be timed, and to be told of in a report.

    Args:
        name: What it is called in tables.
        make: Builds it with its weights: an :class:`~composer_kd.deploy.Inference`, or any module that can be called
            with the batches.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        taught_by: The names of its teachers among the candidates.
        trained: Whether its weights are more than random; if not, nothing is said of its accuracy.
        shift_labels: Whether it predicts the next token, so that position ``i`` answers for label ``i + 1``. None: it
            does if it is a causal language model of the transformers library.

    Example:
        >>> import torch
        >>> candidate = Candidate('small', lambda: nn.Linear(4, 3))
        >>> candidate.inference(torch.zeros(2, 4))(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    name: str
    make: Callable[[], nn.Module]
    role: str = ALONE
    taught_by: tuple[str, ...] = ()
    trained: bool = True
    shift_labels: bool | None = False

    def inference(self, batch: Any) -> Inference:
        """Builds it as it is deployed: tensors in, logits out.

        Args:
            batch: One batch of the data that it is to answer for.

        Returns:
            A module of its own: what ``make`` returns may be the caller's, and stays as it is.

        Raises:
            ConfigError: If the model cannot be called with the batch.
        """
        module = copied(self.make())
        return module if isinstance(module, Inference) else Inference(module, batch)
