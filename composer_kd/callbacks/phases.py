"""The phases of a training step, and the time that each of them takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from typing_extensions import override

from composer_kd import spans
from composer_kd.spans import DISTILLATION_LOSS, TEACHER_FORWARD, Span, quiet_profiler

__all__ = ['DATA', 'OTHER', 'PHASES', 'PhaseLabels', 'StepClock', 'Trace']

DATA, STUDENT_FORWARD, TASK_LOSS, BACKWARD, OPTIMIZER = 'data', 'student forward', 'task loss', 'backward', 'optimizer'
OTHER = 'other'
PHASES = (DATA, STUDENT_FORWARD, TEACHER_FORWARD, DISTILLATION_LOSS, TASK_LOSS, BACKWARD, OPTIMIZER, OTHER)
"""The phases of a step, in order; ``other`` is all time outside the named phases."""


class PhaseLabels(Callback):
    """Opens a span for each phase of a step that Composer's events delimit; the distillation opens its own spans.

    Put it last among the callbacks: work of other callbacks and of algorithms before a phase then does not count in the
    phase.
    """

    def __init__(self) -> None:
        self._span: Span | None = None
        self._steps = 0  # open calls of optimizer.step(); Composer computes gradients in a closure inside where it can
        self._has_gradients = False
        self._hooks: list[Any] = []

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        # Composer has no events around optimizer.step().
        for optimizer in state.optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._before_step))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    @override
    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._begin(DATA)

    @override
    def after_dataloader(self, state: State, logger: Logger) -> None:
        self._end()

    @override
    def batch_start(self, state: State, logger: Logger) -> None:
        self._steps, self._has_gradients = 0, False

    @override
    def before_train_batch(self, state: State, logger: Logger) -> None:
        # A span is still open if Composer ran out of memory and retries the batch with smaller microbatches.
        self._end()

    @override
    def before_forward(self, state: State, logger: Logger) -> None:
        self._begin(STUDENT_FORWARD)

    @override
    def after_forward(self, state: State, logger: Logger) -> None:
        self._end()

    @override
    def before_loss(self, state: State, logger: Logger) -> None:
        # The spans of the distillation, which follows, interrupt this one.
        self._begin(TASK_LOSS)

    @override
    def after_loss(self, state: State, logger: Logger) -> None:
        self._end()

    @override
    def before_backward(self, state: State, logger: Logger) -> None:
        self._begin(BACKWARD)

    @override
    def after_backward(self, state: State, logger: Logger) -> None:
        self._end()

    @override
    def after_train_batch(self, state: State, logger: Logger) -> None:
        # The gradients are complete and clipped. If they were computed inside optimizer.step(), its update follows now.
        self._has_gradients = True
        if self._steps:
            self._begin(OPTIMIZER)

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        self._end()

    @override
    def epoch_end(self, state: State, logger: Logger) -> None:
        # The last request for data opens a span, but finds the end of the epoch.
        self._end()

    @override
    def close(self, state: State, logger: Logger) -> None:
        """Removes the hooks, also after an error."""
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
    """Measures the duration of each phase of each step; put it after :class:`PhaseLabels`.

    A step lasts from the request for its batch to the end of Composer's ``BATCH_END``. Evaluation and checkpoints
    follow later and do not count. On CUDA, events in the stream also record when the GPU reaches each phase, which is
    usually later than the CPU.

    Attributes:
        steps: For each step, the seconds of each phase on the CPU's clock. Time outside the named phases is ``other``,
            so that the sum is the duration of the step.
        device_steps: The same on the GPU's clock; empty without CUDA.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.device_steps: list[dict[str, float]] = []
        self._marks: list[tuple[str, float]] = []  # each phase and its start time
        self._events: list[Any] = []
        self._is_running = False
        self._on_cuda = torch.cuda.is_available()

    def start(self) -> None:
        """Starts measuring with the next step."""
        if self._hear not in spans.listeners:
            spans.listeners.append(self._hear)

    def stop(self) -> None:
        """Stops measuring."""
        if self._hear in spans.listeners:
            spans.listeners.remove(self._hear)
        self._is_running = False

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        if self._is_running:
            self._mark(OTHER)
            self._is_running = False
            self.steps.append(_durations(self._marks, lambda a, b: self._marks[b][1] - self._marks[a][1]))
            if self._events:
                events, self._events = self._events, []
                events[-1].synchronize()
                self.device_steps.append(_durations(self._marks, lambda a, b: events[a].elapsed_time(events[b]) / 1e3))

    @override
    def epoch_end(self, state: State, logger: Logger) -> None:
        # The last request for data found the end of the epoch, so it is not a step.
        self._is_running = False

    @override
    def close(self, state: State, logger: Logger) -> None:
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
        file: Path of the trace, which can be opened in Perfetto and ``chrome://tracing``.
        steps: The number of recorded steps, after one warm-up step.
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
    """Sums the durations between consecutive marks, by the phase of the first mark."""
    total = dict.fromkeys(PHASES, 0.0)
    for number, (name, _) in enumerate(marks[:-1]):
        total[name if name in total else OTHER] += between(number, number + 1)
    return total
