"""A model to benchmark: its name, its role, and how it is built."""

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
    """A model to benchmark.

    Args:
        name: The model's name in tables.
        make: Builds the model with its weights: an :class:`~composer_kd.deploy.Inference`, or any module that can be
            called with the batches.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        taught_by: The names of its teachers among the candidates.
        trained: Whether its weights are trained; no accuracy is reported for random weights.
        shift_labels: Whether it predicts the next token, so that position ``i`` predicts label ``i + 1``. ``None``:
            true for causal language models of the transformers library.

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
        """Builds the model for deployment: a module that takes tensors and returns logits.

        Args:
            batch: One batch of the evaluation data.

        Returns:
            The module, built on a copy of what ``make`` returns.

        Raises:
            ConfigError: If the model cannot be called with the batch.
        """
        module = copied(self.make())
        return module if isinstance(module, Inference) else Inference(module, batch)
