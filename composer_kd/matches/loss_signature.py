"""Reads a loss's name, parameters and attributes without calling it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.errors import ConfigError

__all__ = [
    'Loss',
    'attribute_of',
    'checked_loss',
    'is_known',
    'name_of',
    'parameters_of',
    'takes_log_probabilities',
]

Loss: TypeAlias = Annotated[Callable[..., Tensor], 'a loss']
"""A function or module of ``(student, teacher)``.

An algorithm's parameter with this annotation is written as ``{name: ..., its options}`` in a YAML file.
"""


def attribute_of(loss: Any, name: str, default: Any) -> Any:
    """An attribute of a loss; looked up also in the function of a ``partial`` and in the loss that a wrapper holds.

    Args:
        loss: The loss; a wrapper holds another loss in its attribute ``wrapped``.
        name: The attribute.
        default: The value if none of them has it.
    """
    while not hasattr(loss, name):
        if isinstance(loss, functools.partial) and name in loss.keywords:
            return loss.keywords[name]
        inner = getattr(loss, 'wrapped', None) or (loss.func if isinstance(loss, functools.partial) else None)
        if inner is None:
            return default
        loss = inner
    return getattr(loss, name)


def name_of(loss: Any) -> str:
    """A loss's name: that of the function, or of the module's class."""
    if isinstance(loss, functools.partial):
        return name_of(loss.func)
    return getattr(loss, '__name__', type(loss).__name__)


def parameters_of(loss: Any) -> frozenset[str]:
    """The names of a loss's parameters, with those of the loss that it wraps."""
    loss = getattr(loss, '_orig_mod', loss)  # torch.compile hides the parameters
    wrapped = getattr(loss, 'wrapped', None)
    call = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        names = frozenset(inspect.signature(call).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        names = frozenset()
    return names if wrapped is None else names | parameters_of(wrapped)


def is_known(loss: Any) -> bool:
    """Whether a copy of a loss may be called with any numbers, and leaves no trace: one of this package, or of torch's.

    Of torch's losses it is those that take every value: a binary cross-entropy wants probabilities.

    Example:
        >>> is_known(functools.partial(nn.functional.mse_loss)), is_known(nn.BCELoss())
        (True, False)
    """
    if isinstance(loss, functools.partial):
        return is_known(loss.func)
    if any(loss is one or type(loss) is one for one in _OF_ANY_VALUES):
        return True
    inner = getattr(loss, 'wrapped', None)
    package = str(getattr(loss, '__module__', '')).partition('.')[0]
    return package == 'composer_kd' and (inner is None or is_known(inner))


def takes_log_probabilities(loss: Any) -> bool:
    """Whether a loss is torch's KL divergence, which takes log-probabilities of the student, not logits.

    Example:
        >>> takes_log_probabilities(nn.KLDivLoss(reduction='batchmean')), takes_log_probabilities(nn.MSELoss())
        (True, False)
    """
    if isinstance(loss, functools.partial):
        return takes_log_probabilities(loss.func)
    return isinstance(loss, nn.KLDivLoss) or loss is F.kl_div


_OF_ANY_VALUES: tuple[Any, ...] = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss),
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div),
)


def checked_loss(loss: Any) -> Loss:
    """Returns the loss if it can be called as one.

    Raises:
        ConfigError: If it is not callable, or is a class.
    """
    if not callable(loss) or isinstance(loss, type):
        made = f' (a class: make one, {loss.__name__}())' if isinstance(loss, type) else ''
        raise ConfigError(
            f'kd_loss_fn must be a callable (student_logits, teacher_logits) -> scalar, got {loss!r}{made}'
        )
    return loss
