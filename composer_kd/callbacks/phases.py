"""Where the time of a training step goes: the phases of a step, and a clock for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger

from composer_kd import spans
from composer_kd.spans import DISTILLATION_LOSS, TEACHER_FORWARD, Span, quiet_profiler

__all__ = ['DATA', 'OTHER', 'PHASES', 'PhaseLabels', 'StepClock', 'Trace']

DATA, STUDENT_FORWARD, TASK_LOSS, BACKWARD, OPTIMIZER = 'data', 'student forward', 'task loss', 'backward', 'optimizer'
OTHER = 'other'
PHASES = (DATA, STUDENT_FORWARD, TEACHER_FORWARD, DISTILLATION_LOSS, TASK_LOSS, BACKWARD, OPTIMIZER, OTHER)
"""What a step is made of, in the order of the step; ``other`` is all that has no name of its own."""


class PhaseLabels(Callback):
    """Names the phases of each step that Composer's events delimit; the distillation names its own.

    Put it last: what other callbacks and the algorithms do before a phase then does not count in it.
    """

    def __init__(self) -> None:
        self._span: Span | None = None
        self._steps = 0  # of optimizers, one inside the other; Composer computes gradients inside where it can
        self._has_gradients = False
        self._hooks: list[Any] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        """Optimizers have no event of Composer's: they are hooked."""
        for optimizer in state.optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Waits for data, and augments it."""
        self._begin(DATA)

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """The batch is there."""
        self._end()

    def batch_start(self, state: State, logger: Logger) -> None:
        """A new batch."""
        self._steps, self._has_gradients = 0, False

    def before_train_batch(self, state: State, logger: Logger) -> None:
        """Also where Composer tries a batch again in smaller parts, after it ran out of memory."""
        self._end()

    def before_forward(self, state: State, logger: Logger) -> None:
        """The student answers."""
        self._begin(STUDENT_FORWARD)

    def after_forward(self, state: State, logger: Logger) -> None:
        """The student has answered."""
        self._end()

    def before_loss(self, state: State, logger: Logger) -> None:
        """The model's own loss; a distillation that follows stops it by itself."""
        self._begin(TASK_LOSS)

    def after_loss(self, state: State, logger: Logger) -> None:
        """All losses are there."""
        self._end()

    def before_backward(self, state: State, logger: Logger) -> None:
        """Gradients."""
        self._begin(BACKWARD)

    def after_backward(self, state: State, logger: Logger) -> None:
        """The gradients of a microbatch are there."""
        self._end()

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """All gradients are there, and clipped. The step begins now, or has begun around them."""
        self._has_gradients = True
        if self._steps:
            self._begin(OPTIMIZER)

    def batch_end(self, state: State, logger: Logger) -> None:
        """The step is over."""
        self._end()

    def epoch_end(self, state: State, logger: Logger) -> None:
        """What waited for data found the epoch's end."""
        self._end()

    def close(self, state: State, logger: Logger) -> None:
        """Takes the hooks off; Composer calls it after errors too."""
        self._end()
        while self._hooks:
            self._hooks.pop().remove()

    def _before_step(self, *_: Any) -> None:
        self._steps += 1
        if self._has_gradients and self._steps == 1:
            self._begin(OPTIMIZER)

    def _after_step(self, *_: Any) -> None:
        self._steps -= 1
        if self._steps == 0:
            self._end()

    def _begin(self, name: str) -> None:
        self._end()
        self._span = Span(name)
        self._span.__enter__()

    def _end(self) -> None:
        if self._span is not None:
            self._span.__exit__(None, None, None)
            self._span = None


class StepClock(Callback):
    """Measures how long each phase of each step takes; put it after :class:`PhaseLabels`.

    A step lasts from the request for its batch to the end of Composer's ``BATCH_END``. Evaluation and checkpoints come
    after it and do not count. On CUDA, events in the stream tell besides when the GPU came to each border, which is not
    when the CPU passed it.

    Attributes:
        steps: Seconds of each phase by the CPU's clock, for each step. What is in no phase is ``other``, so that the
            sum is the time of the step.
        device_steps: Likewise by the GPU's; empty elsewhere.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.device_steps: list[dict[str, float]] = []
        self._marks: list[tuple[str, float]] = []  # phase, and when it began
        self._events: list[Any] = []
        self._is_running = False
        self._on_cuda = torch.cuda.is_available()

    def start(self) -> None:
        """Measures from the next step on."""
        if self._hear not in spans.listeners:
            spans.listeners.append(self._hear)

    def stop(self) -> None:
        """Measures no more."""
        if self._hear in spans.listeners:
            spans.listeners.remove(self._hear)
        self._is_running = False

    def batch_end(self, state: State, logger: Logger) -> None:
        """A step is over."""
        if self._is_running:
            self._mark(OTHER)
            self._is_running = False
            self.steps.append(_durations(self._marks, lambda a, b: self._marks[b][1] - self._marks[a][1]))
            if self._events:
                events, self._events = self._events, []
                events[-1].synchronize()
                self.device_steps.append(_durations(self._marks, lambda a, b: events[a].elapsed_time(events[b]) / 1e3))

    def epoch_end(self, state: State, logger: Logger) -> None:
        """A step that got no batch was none."""
        self._is_running = False

    def close(self, state: State, logger: Logger) -> None:
        """Measures no more."""
        self.stop()

    def _hear(self, name: str | None) -> None:
        if not self._is_running:
            if name != DATA:
                return
            self._is_running, self._marks, self._events = True, [], []
        self._mark(name or OTHER)

    def _mark(self, name: str) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        self._marks.append((name, time.perf_counter()))


class Trace:
    """Records steps with torch's profiler and writes them as a Chrome trace.

    It records from :meth:`start` to the first :meth:`stop`; outside that, :meth:`step` and :meth:`stop` do nothing.

    Args:
        file: The trace, which Perfetto and ``chrome://tracing`` open.
        steps: How many steps are recorded, after one that warms the profiler up.
    """

    def __init__(self, file: str, steps: int) -> None:
        quiet_profiler()
        self._file, self._steps = file, steps
        self._profiler: torch.profiler.profile | None = None  # while it runs

    def start(self) -> None:
        """Begins, before the step that warms up."""
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=kinds,
            schedule=torch.profiler.schedule(wait=0, warmup=1, active=self._steps, repeat=1),
            on_trace_ready=lambda done: done.export_chrome_trace(self._file),
        )
        self._profiler.start()

    def step(self) -> None:
        """Marks the end of a step."""
        if self._profiler is not None:
            self._profiler.step()

    def stop(self) -> None:
        """Ends the recording; torch's profiler crashes where it is stopped twice."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()


def _durations(marks: list[tuple[str, float]], between: Callable[[int, int], float]) -> dict[str, float]:
    """Adds up what lies between neighbouring marks, by the name of the first."""
    total = dict.fromkeys(PHASES, 0.0)
    for number, (name, _) in enumerate(marks[:-1]):
        total[name if name in total else OTHER] += between(number, number + 1)
    return total
