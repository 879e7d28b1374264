"""Finds the shapes of a model's logits and features, on torch's meta device where possible."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor, nn

from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.calling import choose_call
from composer_kd.features.hooks import FeatureHooks, Summary
from composer_kd.features.meta import (
    Mode,
    as_in_evaluation,
    as_in_training,
    on_meta,
    runs_original,
    to_device,
    without_draws,
)
from composer_kd.features.outputs import BY_FORWARD, BY_MATCH, logits_of
from composer_kd.teachers.base import Teacher, kept_logits, module_of
from composer_kd.teachers.frozen import FrozenTeacher

__all__ = ['NotMeasured', 'Shapes', 'feature_shapes', 'logits_shape', 'measured']

Key = tuple[str, Summary | None]


class NotMeasured(ConfigError):
    """The shapes of features cannot be measured before training."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of what a model returns for a batch.

    Attributes:
        features: The shapes of features by layer path and summary, the batch first.
        logits: The shape of the logits; or the error that says why there are none.
    """

    features: dict[Key, torch.Size]
    logits: torch.Size | TeacherError


def logits_shape(teacher: Teacher, batch: Any) -> torch.Size | None:
    """Finds the shape of a teacher's logits for a batch.

    A copy of the teacher without weights runs on torch's meta device, which propagates shapes. The teacher itself does
    not run, no memory is allocated for weights, and no random number is drawn.

    Args:
        teacher: The teacher.
        batch: A batch of tensors on any device.

    Returns:
        The shape; or ``None`` for a model that cannot run on the meta device (one that reads the values of its inputs),
        for one that has a ``forward`` of the user's own, and for a teacher that is not a :class:`.FrozenTeacher`. Its
        shape is then checked when the teacher first runs.

    Example:
        >>> logits_shape(FrozenTeacher(nn.Linear(2, 3)), (torch.zeros(4, 2), torch.zeros(4)))
        torch.Size([4, 3])
    """
    # A model written without the meta device in mind may raise anything. Its shape is then checked when it first runs.
    with contextlib.suppress(Exception), torch.no_grad(), without_draws():
        twin = _twin(teacher) if isinstance(teacher, FrozenTeacher) else None
        return None if twin is None else twin(to_device(batch, 'meta')).shape
    return None


def feature_shapes(
    model: nn.Module | Teacher, batch: Any, wanted: Iterable[Key], whose: str, index: Tensor | None = None
) -> dict[Key, torch.Size]:
    """Finds the shapes of features for a batch, as :func:`measured` does.

    Example:
        >>> feature_shapes(nn.Sequential(nn.Linear(2, 3)), torch.zeros(4, 2), [('0', None)], 'the student')
        {('0', None): torch.Size([4, 3])}
    """
    return measured(model, batch, wanted, whose, index).features


def measured(
    model: nn.Module | Teacher, batch: Any, wanted: Iterable[Key], whose: str, index: Tensor | None = None
) -> Shapes:
    """Finds the shapes of features and logits for a batch, on the meta device or, if the model cannot run there, on its
    own.

    A student is looked at in train mode, because some outputs and layers exist in training alone; its statistics and
    counters are then as before, and so are the random states. A teacher is looked at in eval mode, in which it runs.

    Args:
        model: A student or a teacher; stays unchanged.
        batch: A batch of tensors.
        wanted: Layer paths and summaries, as for :class:`.FeatureHooks`.
        whose: The model's name, for messages.
        index: ``(B,)`` The samples' numbers in the data set, passed to teachers; ``None`` if unknown.

    Raises:
        ConfigError: If a layer does not exist or does not run.
        NotMeasured: If the model cannot take the batch.

    Example:
        >>> measured(nn.Linear(2, 3), torch.zeros(4, 2), [], 'the student').logits
        torch.Size([4, 3])
    """
    wanted, remedy = list(wanted), BY_FORWARD if isinstance(model, Teacher) else BY_MATCH
    with torch.no_grad(), without_draws():
        try:
            inner, run = _runner(model)
            return _look(inner, run, to_device(batch, 'meta'), wanted, whose, remedy)
        except ConfigError:
            raise
        except Exception:
            if not isinstance(model, Teacher):
                # A BatchNorm refuses a single sample in training: such a student is looked at in eval mode.
                with contextlib.suppress(NotMeasured):
                    return _look_for_real(model, batch, wanted, whose, index, as_in_training)
            return _look_for_real(model, batch, wanted, whose, index, as_in_evaluation)


def _look_for_real(
    model: nn.Module | Teacher, batch: Any, wanted: list[Key], whose: str, index: Tensor | None, mode: Mode
) -> Shapes:
    inner, _ = _parts(model, index)
    try:
        with mode(inner) as device:
            _, run = _parts(model, to_device(index, device))
            remedy = BY_FORWARD if isinstance(model, Teacher) else BY_MATCH
            return _look(inner, run, to_device(batch, device), wanted, whose, remedy)
    except ConfigError:
        raise
    except Exception as error:
        raise NotMeasured(
            f"The shapes of {whose}'s features cannot be measured on the train dataloader's first samples (what a "
            f'DataSpec would transform comes as it is): {type(error).__name__}: {error}. '
            "Give modules instead of project='auto', and losses their sizes."
        ) from error
    finally:
        if isinstance(model, FrozenTeacher):  # batches of training may have another form
            model.forget_call()


def _look(
    model: nn.Module, run: Callable[[Any], Any], batch: Any, wanted: list[Key], whose: str, remedy: str
) -> Shapes:
    hooks = FeatureHooks(model, wanted, whose)
    hooks.attach()
    try:
        hooks.open()
        logits = _logits_in(run(batch), whose, remedy)
        return Shapes({key: feature.shape for key, feature in hooks.take().items()}, logits)
    finally:
        hooks.remove()


def _logits_in(outputs: Any, whose: str, remedy: str) -> torch.Size | TeacherError:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # which of several is taken is said at the first batch
            said = kept_logits(outputs)
            return logits_of(outputs, whose, remedy).shape if said is None else said.shape
    except TeacherError as error:
        return error.with_traceback(None)


def _runner(model: nn.Module | Teacher) -> tuple[nn.Module, Callable[[Any], Any]]:
    """A copy on the meta device, and a function that runs it with a batch."""
    if not isinstance(model, Teacher):
        if runs_original(model):
            raise NotImplementedError('the copy would run the original')
        return _parts(on_meta(model).train(), None)
    twin = _twin(model) if isinstance(model, FrozenTeacher) else None
    if twin is None:
        raise NotImplementedError('it cannot be copied without its weights')
    return _parts(twin, None)


def _parts(model: nn.Module | Teacher, index: Tensor | None) -> tuple[nn.Module, Callable[[Any], Any]]:
    """The module whose layers are read, and a function that runs it with a batch."""
    if not isinstance(model, Teacher):
        # A ComposerModel as a Trainer calls it, with labels, of which some models make more outputs.
        return model, model if isinstance(model, ComposerModel) else lambda batch: choose_call(model, batch)(batch)
    module = module_of(model)
    assert module is not None  # the criterion has put hooks on its layers before
    return module, lambda batch: model.outputs(batch, index)


def _twin(teacher: FrozenTeacher) -> FrozenTeacher | None:
    """A copy of a teacher without weights; ``None`` if the copy would run the original, or a function of the user's.

    Such a function may keep something of what it is called with, and later answer with what has no values.
    """
    if teacher.has_own_forward or runs_original(teacher.model):
        return None
    twin = copy.copy(teacher)
    twin.model = on_meta(teacher.model)
    twin.forget_call()
    if isinstance(teacher.input_adapter, nn.Module):
        twin.input_adapter = on_meta(teacher.input_adapter)
    return twin
