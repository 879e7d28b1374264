"""Learns the shapes of what a model shows without running it: on the meta device, where nothing is computed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.features.calling import choose_call
from composer_kd.features.hooks import FeatureHooks, Summary
from composer_kd.features.meta import as_in_evaluation, on_meta, to_device
from composer_kd.teachers.base import Teacher, module_of
from composer_kd.teachers.frozen import FrozenTeacher

__all__ = ['feature_shapes', 'logits_shape']

Key = tuple[str, Summary | None]


def logits_shape(teacher: Teacher, batch: Any) -> torch.Size | None:
    """The shape of a teacher's logits for a batch.

    A copy of the teacher without weights, on torch's meta device, takes the batch's shapes through its layers. The
    teacher itself does not run, no memory for weights is taken, and no random number is drawn.

    Args:
        teacher: The teacher.
        batch: A batch of tensors on any device.

    Returns:
        The shape, or ``None`` for a model that cannot be traced so (one that looks at the values of its inputs), and
        for a teacher that is no :class:`.FrozenTeacher`: both are checked when they first answer.

    Example:
        >>> logits_shape(FrozenTeacher(nn.Linear(2, 3)), (torch.zeros(4, 2), torch.zeros(4)))
        torch.Size([4, 3])
    """
    # Anything may go wrong in a model that was not written for the meta device. Then its shape is checked when it first
    # answers for real.
    with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin = _twin(teacher) if isinstance(teacher, FrozenTeacher) else None
        return None if twin is None else twin(to_device(batch, 'meta')).shape
    return None


def feature_shapes(
    model: nn.Module | Teacher, batch: Any, wanted: Iterable[Key], whose: str, index: Tensor | None = None
) -> dict[Key, torch.Size]:
    """The shapes of features, by one look at a batch: on the meta device or, where the model cannot, for real.

    Args:
        model: A student or a teacher; left as it is.
        batch: A batch of tensors.
        wanted: Places and summaries, as for :class:`.FeatureHooks`.
        whose: The model's name, for messages.
        index: The samples' numbers, for teachers that ask.

    Raises:
        ConfigError: If a layer is not there or does not run, or the model cannot take the batch.

    Example:
        >>> feature_shapes(nn.Sequential(nn.Linear(2, 3)), torch.zeros(4, 2), [('0', None)], 'the student')
        {('0', None): torch.Size([4, 3])}
    """
    wanted = list(wanted)
    with torch.no_grad(), torch.random.fork_rng():
        try:
            inner, run = _runner(model)
            return _look(inner, run, to_device(batch, 'meta'), wanted, whose)
        except ConfigError:
            raise
        except Exception:
            return _look_for_real(model, batch, wanted, whose, index)


def _look_for_real(
    model: nn.Module | Teacher, batch: Any, wanted: list[Key], whose: str, index: Tensor | None
) -> dict[Key, torch.Size]:
    inner, run = _parts(model, index)
    try:
        with as_in_evaluation(inner) as device:
            return _look(inner, run, to_device(batch, device), wanted, whose)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The shapes of {whose}'s features cannot be measured on the train dataloader's first samples (what a "
            f'DataSpec would transform comes as it is): {type(error).__name__}: {error}. '
            "Give modules instead of project='auto', and losses their sizes."
        ) from error


def _look(
    model: nn.Module, run: Callable[[Any], Any], batch: Any, wanted: list[Key], whose: str
) -> dict[Key, torch.Size]:
    hooks = FeatureHooks(model, wanted, whose)
    hooks.attach()
    try:
        hooks.open()
        run(batch)
        return {key: feature.shape for key, feature in hooks.take().items()}
    finally:
        hooks.remove()


def _runner(model: nn.Module | Teacher) -> tuple[nn.Module, Callable[[Any], Any]]:
    """A copy on the meta device, and how it is run."""
    if not isinstance(model, Teacher):
        return _parts(on_meta(model).eval(), None)
    twin = _twin(model) if isinstance(model, FrozenTeacher) else None
    if twin is None:
        raise NotImplementedError('it cannot be copied without its weights')
    return _parts(twin, None)


def _parts(model: nn.Module | Teacher, index: Tensor | None) -> tuple[nn.Module, Callable[[Any], Any]]:
    """The module whose layers show something, and how it is run with a batch."""
    if not isinstance(model, Teacher):
        return model, lambda batch: choose_call(model, batch)(batch)
    module = module_of(model)
    assert module is not None  # hooks were put on its layers before
    return module, lambda batch: model.outputs(batch, index)


def _twin(teacher: FrozenTeacher) -> FrozenTeacher | None:
    """A copy of a teacher without weights; ``None`` where it would still run the original."""
    if 'forward' in vars(teacher.model):  # replaced on the instance: a copy would still call the original
        return None
    twin = copy.copy(teacher)
    twin.model = on_meta(teacher.model)
    twin.forget_call()
    if isinstance(teacher.input_adapter, nn.Module):
        twin.input_adapter = on_meta(teacher.input_adapter)
    return twin
