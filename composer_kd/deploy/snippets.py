"""Generates example code for model cards: how an exported model is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from composer_kd.deploy.inference import Inference

__all__ = ['as_numpy', 'as_tensors', 'call_of']


def as_tensors(inputs: Mapping[str, Tensor]) -> str:
    """Generates code that creates inputs for one sample, with torch.

    Args:
        inputs: An example of each input, by name.

    Returns:
        One line for each input: zeros for floating-point inputs; ones for integers, as an attention mask of zeros would
        mask all tokens.

    Example:
        >>> as_tensors({'inputs': torch.zeros(2, 1, 8, 8)})
        'inputs = torch.zeros(1, 1, 8, 8)\\n'
    """
    return _lines(inputs, lambda make, shape, kind: f'torch.{make}({shape[1:-1]}{_said(kind)})')


def as_numpy(inputs: Mapping[str, Tensor]) -> str:
    """Generates the code of :func:`as_tensors` with NumPy.

    Example:
        >>> as_numpy({'input_ids': torch.zeros(2, 9, dtype=torch.int64)})
        'input_ids = np.ones((1, 9), dtype=np.int64)\\n'
    """
    return _lines(inputs, lambda make, shape, kind: f'np.{make}({shape}, dtype=np.{kind})')


def _lines(inputs: Mapping[str, Tensor], write: Callable[[str, str, str], str]) -> str:
    lines = ''
    for name, tensor in inputs.items():
        make = 'zeros' if tensor.is_floating_point() else 'ones'
        lines += f'{name} = {write(make, str((1, *tensor.shape[1:])), str(tensor.dtype).removeprefix("torch."))}\n'
    return lines


def _said(kind: str) -> str:
    return '' if kind == 'float32' else f', dtype=torch.{kind}'


def call_of(inference: Inference, inputs: tuple[Tensor, ...]) -> str:
    """Generates an expression that calls the unwrapped ``model`` with variables named like its inputs.

    Args:
        inference: The model.
        inputs: Example inputs, used to find the logits in the model's output.

    Returns:
        The expression, which evaluates to the logits.

    Example:
        >>> call_of(Inference(torch.nn.Linear(4, 3), torch.zeros(2, 4)), (torch.zeros(2, 4),))
        'model(inputs)'
    """
    with torch.no_grad():
        answer = inference.call(*inputs)
    if isinstance(answer, Tensor):
        return f'model({inference.arguments})'
    return f'model({inference.arguments}){".logits" if hasattr(answer, "logits") else _place(answer)}'


def _place(answer: Any) -> str:
    """Returns the subscript of the logits: their key, or that of the first tensor with two or more dimensions."""
    items = answer.items() if isinstance(answer, Mapping) else enumerate(answer)
    key = 'logits' if isinstance(answer, Mapping) and 'logits' in answer else None
    return f'[{key or next(k for k, value in items if isinstance(value, Tensor) and value.ndim >= 2)!r}]'
