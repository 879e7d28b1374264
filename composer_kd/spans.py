"""Names the parts of a training step, for profilers and for the measurement of time."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import autograd
from torch.autograd import profiler

__all__ = ['DISTILLATION_LOSS', 'Span', 'TEACHER_FORWARD', 'labelled', 'listeners', 'quiet_profiler']

Function = TypeVar('Function', bound=Callable[..., Any])

DISTILLATION_LOSS = 'distillation loss'
TEACHER_FORWARD = 'teacher forward'

listeners: list[Callable[[str | None], None]] = []
"""Called with the name of each span that starts, and with ``None`` when the time after it has no name."""

_open: list[Span] = []
# torch has no public function for this; if it drops one of these two, the other remains.
_HAS_FLAG = hasattr(profiler, '_is_profiler_enabled')
_is_recording: Callable[[], bool] = getattr(autograd, '_profiler_enabled', lambda: profiler._is_profiler_enabled)


class Span:
    """A named part of a step, which torch's profilers show as ``composer_kd/<name>``.

    Spans do not overlap: an inner span pauses the outer one, so their times add up.

    Args:
        name: What the time is spent on, for example ``'teacher forward'``.

    Example:
        >>> import torch
        >>> with torch.profiler.profile() as seen, Span('teacher forward'):
        ...     _ = torch.ones(2) + 1
        >>> 'composer_kd/teacher forward' in {event.key for event in seen.key_averages()}
        True
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._range: profiler.record_function | None = None

    def __enter__(self) -> Span:
        if _open:
            _open[-1]._stop()
        _open.append(self)
        self._go()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _open.remove(self)
        self._stop()
        if _open:
            _open[-1]._go()
        else:
            for listener in listeners:
                listener(None)

    def _go(self) -> None:
        if _is_recording():  # a range costs microseconds even when nothing is recorded
            self._range = profiler.record_function(f'composer_kd/{self.name}')
            self._range.__enter__()
        for listener in listeners:
            listener(self.name)

    def _stop(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None


def labelled(name: str, function: Function) -> Function:
    """Wraps a function in a span if torch's profiler or a listener is active.

    Args:
        name: The name of the span.
        function: Any function.

    Returns:
        A function that runs it inside a span; the function itself if nothing is active, because this is called at every
        step.

    Example:
        >>> labelled(TEACHER_FORWARD, len) is len
        True
    """
    # Reading the module's flag takes a fifth of the time of the call.
    if not ((profiler._is_profiler_enabled if _HAS_FLAG else _is_recording()) or listeners):
        return function

    def inside(*arguments: Any, **options: Any) -> Any:
        with Span(name):
            return function(*arguments, **options)

    return cast(Function, inside)


def quiet_profiler() -> None:
    """Stops torch's profiler from reporting a missing GPU as an error; call it before the first profile.

    The profiler writes its messages outside Python's streams and is controlled only by an environment variable; a value
    set by the user is kept.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault('KINETO_LOG_LEVEL', '99')
