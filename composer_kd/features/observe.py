"""Reads the logits and features of a model on a batch, outside a Trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from composer_kd.errors import TeacherError
from composer_kd.features.calling import choose_call
from composer_kd.features.hooks import FeatureHooks
from composer_kd.features.outputs import Observation, logits_of

__all__ = ['observe']


def observe(model: nn.Module, batch: Any, layers: Iterable[str] = ()) -> Observation:
    """Runs a model once, and returns its logits and the features of its layers.

    For your own training loops, with the losses of :mod:`composer_kd.losses`. The caller decides about gradients,
    precision and mode: run a teacher in eval mode under ``torch.no_grad()``.

    Args:
        model: Any module; it is called as a :class:`.FrozenTeacher` would call it.
        batch: A tensor, an ``(inputs, labels)`` pair, or a mapping.
        layers: The paths of layers, as in ``Match(on=...)``: :class:`.LayerPath`.

    Returns:
        The logits (``None`` if the outputs contain none), and the features by layer path.

    Raises:
        ConfigError: If a layer does not exist or did not run.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
        >>> seen = observe(net, torch.zeros(4, 2), ['1'])
        >>> seen.logits.shape, seen.features['1'].shape
        (torch.Size([4, 3]), torch.Size([4, 5]))
    """
    model = getattr(model, '_orig_mod', model)  # compiled code ignores new hooks
    hooks = FeatureHooks(model, [(layer, None) for layer in layers], 'the model')
    hooks.attach()
    try:
        hooks.open()
        outputs = choose_call(model, batch)(batch)
        features = {text: feature for (text, _), feature in hooks.take().items()}
    finally:
        hooks.remove()
    with contextlib.suppress(TeacherError):
        return Observation(logits_of(outputs, 'the model', "Ask for it: observe(model, batch, ['{place}'])"), features)
    return Observation(None, features)
