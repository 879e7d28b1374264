"""Python for people: how a written model is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from composer_kd.deploy.inference import Inference

__all__ = ['as_numpy', 'as_tensors', 'call_of']


def as_tensors(inputs: Mapping[str, Tensor]) -> str:
    """Lines that make inputs for one sample.

    Args:
        inputs: An example of each input, by name.

    Returns:
        One line each: zeros, but of whole numbers ones, since a mask of zeros leaves nothing to look at.

    Example:
        >>> as_tensors({'inputs': torch.zeros(2, 1, 8, 8)})
        'inputs = torch.zeros(1, 1, 8, 8)\\n'
    """
    return _lines(inputs, lambda make, shape, kind: f'torch.{make}({shape[1:-1]}{_said(kind)})')


def as_numpy(inputs: Mapping[str, Tensor]) -> str:
    """As ``as_tensors``, with NumPy.

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
    """An expression that calls the bare ``model`` with variables called as its inputs are.

    Args:
        inference: The model.
        inputs: Some of its inputs, to see what it answers with.

    Returns:
        The expression; its value is the tensor of logits.

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
    """Where the logits lie in a mapping or sequence: the first tensor of two or more dimensions."""
    items = answer.items() if isinstance(answer, Mapping) else enumerate(answer)
    key = 'logits' if isinstance(answer, Mapping) and 'logits' in answer else None
    return f'[{key or next(k for k, value in items if isinstance(value, Tensor) and value.ndim >= 2)!r}]'
