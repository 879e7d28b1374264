"""Runs modules in eval mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

__all__ = ['evaluating']


@contextlib.contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode for modules, by their own flags: what a ``train`` of the user's does besides is not called.

    Args:
        parts: The modules, each with its own flag; afterwards all are as before.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluating(net.modules()):
        ...     print([part.training for part in net])
        [False, False]
        >>> [part.training for part in net]
        [True, False]
    """
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
