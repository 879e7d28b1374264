"""Windows and schedules: when a run distils, and numbers that change during training."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

from composer.core import State, Time, Timestamp, TimeUnit

from composer_kd.errors import ConfigError

__all__ = ['Ramp', 'Schedule', 'Window', 'number_or_schedule', 'value_at']

Moment: TypeAlias = float | int | str | Time
Schedule: TypeAlias = Callable[[State], float]
"""A number that changes with training: a :class:`Ramp`, any Composer scheduler, or a function of the state."""

# The progress of a run when a batch starts, by unit. Seconds are left out, because they differ between ranks.
_READ: dict[str, Callable[[Timestamp], int]] = {
    'iter': lambda now: now.iteration.value,
    'ep': lambda now: now.epoch.value,
    'ba': lambda now: now.batch.value,
    'sp': lambda now: now.sample.value,
    'tok': lambda now: now.token.value,
}


class Window:
    """The part ``[start, end)`` of a run in which it distils.

    Both ends are fractions of the run (``0.25`` or ``'0.25dur'``) or Composer times (``'10ep'``, ``'500ba'``,
    ``'1000sp'``, ``'1e6tok'``). A batch is inside if the time at which it *starts* is inside. Fractions refer to the
    run's ``max_duration`` when the batch starts, so ``fit(duration=...)`` moves them. In a run measured in epochs,
    fractions are resolved to batches, so a window can open within an epoch.

    Args:
        start: The start of the window.
        end: The end of the window; ``1.0`` for a window that never ends.

    Raises:
        ConfigError: If an end cannot be parsed, is negative, a fraction above 1 or in seconds, or ``start >= end``.
            Ends in different units are compared when the run starts, if both can be converted to batches.

    Example:
        >>> Window(0.25, '0.5dur')
        Window(start='0.25dur', end='0.5dur')
        >>> Window('10ep', '5ep')
        Traceback (most recent call last):
        ...
        composer_kd.errors.ConfigError: start_dur must come before end_dur, got start_dur='10ep' and end_dur='5ep'
    """

    def __init__(self, start: Moment = 0.0, end: Moment = 1.0) -> None:
        self.start = _moment(start, 'start_dur')
        self.end = _moment(end, 'end_dur')
        if self.end.value == 0 or (self.start.unit == self.end.unit and self.start.value >= self.end.value):
            raise self._reversed()
        self._always = self.start.value == 0 and self._never_ends
        self._resolved_for: object = None
        self._begins: Callable[[Timestamp], bool] | None = None
        self._ends: Callable[[Timestamp], bool] | None = None

    @property
    def _never_ends(self) -> bool:
        return self.end.unit == TimeUnit.DURATION and self.end.value == 1

    def is_open(self, state: State) -> bool:
        """Whether the batch that has started is inside the window; compares integers that were resolved before.

        Raises:
            ConfigError: If a fraction cannot be resolved, as for :meth:`resolve`.
        """
        if self._always:
            return True
        if state.max_duration is not self._resolved_for:
            self.resolve(state)
        now = state.timestamp
        return (self._begins is None or self._begins(now)) and (self._ends is None or not self._ends(now))

    def has_ended(self, state: State) -> bool:
        """Whether the window is over for the batch that is next, or has started."""
        if state.max_duration is not self._resolved_for:
            self.resolve(state)
        return self._ends is not None and self._ends(state.timestamp)

    def check(self, state: State) -> None:
        """Checks the window against a run that starts.

        Warns:
            UserWarning: If the run ends before the window starts, or is too short to have a batch in a window whose
                end is a fraction of it.

        Raises:
            ConfigError: If an end cannot be resolved in this run, or ``start >= end`` in batches in a run of any
                length.
        """
        self.resolve(state)
        start, end = _in_batches(self.start, state), _in_batches(self.end, state)
        if self._begins_after(state):
            warnings.warn(
                f'Distillation never starts: start_dur is {self.start.to_timestring()}, the run ends at '
                f'{state.max_duration.to_timestring()}.',
                stacklevel=2,
            )
        elif start is None or end is None or state.timestamp.batch.value:
            return
        elif math.ceil(start) >= math.ceil(end):
            if self.end.unit == TimeUnit.DURATION:
                warnings.warn(
                    f'Distillation never starts: from start_dur={self.start.to_timestring()} to '
                    f'end_dur={self.end.to_timestring()} there is no batch in a run of '
                    f'{state.max_duration.to_timestring()}. A longer run has some; or set the two further apart.',
                    stacklevel=2,
                )
                return
            raise self._reversed(f', which are batch {math.ceil(start)} and batch {math.ceil(end)} of this run')

    def may_open_before(self, moment: Time, state: State) -> bool:
        """Whether the window opens before a moment, or in a unit that cannot be compared."""
        if self.start.value == 0 or self.start.unit == moment.unit:
            return self.start.value < moment.value
        start, other = _in_batches(self.start, state), _in_batches(moment, state)
        return start is None or other is None or start < other

    def ends_by(self, moment: Time, state: State) -> bool:
        """Whether the window ends at a moment or before; ``False`` in units that cannot be compared."""
        end, other = _in_batches(self.end, state), _in_batches(moment, state)
        return end is not None and other is not None and end <= other

    def _begins_after(self, state: State) -> bool:
        """Whether the run ends before the window starts; ``False`` if the units cannot be compared."""
        start, total = self.start, state.max_duration
        if total is None:
            return False
        if start.unit in (total.unit, TimeUnit.DURATION):
            return start.value >= (total.value if start.unit == total.unit else 1)
        first, last = _in_batches(start, state), _in_batches(total, state)
        return first is not None and last is not None and first >= last

    def _reversed(self, where: str = '') -> ConfigError:
        return ConfigError(
            f'start_dur must come before end_dur, got start_dur={self.start.to_timestring()!r} and '
            f'end_dur={self.end.to_timestring()!r}{where}'
        )

    def resolve(self, state: State) -> None:
        """Converts both ends to integer thresholds for this run; ``is_open`` calls it when ``max_duration`` changes.

        Raises:
            ConfigError: If a fraction cannot be resolved: ``max_duration`` is not set, is in seconds, or is in epochs
                of unknown length.
        """
        self._begins = None if self.start.value == 0 else self._after(self.start, state, 'start_dur')
        self._ends = None if self._never_ends else self._after(self.end, state, 'end_dur')
        self._resolved_for = state.max_duration

    def _after(self, moment: Time, state: State, name: str) -> Callable[[Timestamp], bool]:
        """A function that says whether a timestamp has reached ``moment``."""
        unit = moment.unit.value
        if unit != TimeUnit.DURATION.value:
            read, at = _READ[unit], math.ceil(moment.value)
            return lambda now: read(now) >= at
        total = state.max_duration
        if total is None:
            raise ConfigError(f'{name}={moment.to_timestring()!r} is a fraction of a run whose max_duration is not set')
        if total.unit == TimeUnit.EPOCH:
            return self._after_epochs(Fraction(str(moment.value)) * total.value, state, name)
        read = _READ.get(total.unit.value)  # type: ignore[assignment]
        if read is None:
            raise ConfigError(
                f'{name}={moment.to_timestring()!r} is a fraction of a run measured in {total.unit.value!r}; '
                "give a time in 'ep', 'ba', 'sp' or 'tok'"
            )
        at = math.ceil(Fraction(str(moment.value)) * total.value)
        return lambda now: read(now) >= at

    def _after_epochs(self, epochs: Fraction, state: State, name: str) -> Callable[[Timestamp], bool]:
        """The same for a number of epochs, converted to batches."""
        length = state.dataloader_len
        if length is None:
            raise ConfigError(
                f'{name} is a fraction of a run measured in epochs whose length is unknown; set '
                "train_subset_num_batches, or give a time in 'ep', 'ba', 'sp' or 'tok'"
            )
        batches = length.value
        at = math.ceil(epochs * batches)
        return lambda now: now.epoch.value * batches + now.batch_in_epoch.value >= at

    def __repr__(self) -> str:
        return f'Window(start={self.start.to_timestring()!r}, end={self.end.to_timestring()!r})'


def _in_batches(moment: Time, state: State) -> Fraction | None:
    """A time as the number of batches before it; ``None`` if it cannot be converted."""
    value, unit = Fraction(str(moment.value)), moment.unit
    if unit == TimeUnit.DURATION:
        total = None if state.max_duration is None else _in_batches(state.max_duration, state)
        return None if total is None else value * total
    if unit == TimeUnit.EPOCH:
        return None if state.dataloader_len is None else value * state.dataloader_len.value
    return value if unit == TimeUnit.BATCH else None


def _moment(value: Moment, name: str) -> Time:
    expected = "a fraction in [0, 1] such as 0.25 or '0.25dur', or a time such as '10ep', '500ba', '1000sp', '1e6tok'"
    try:
        if isinstance(value, bool):
            raise TypeError('a bool')
        if isinstance(value, (int, float)):
            time = Time(float(value), TimeUnit.DURATION)
        else:
            time = Time.from_input(value, TimeUnit.DURATION)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f'{name}: expected {expected}, got {value!r}') from error
    fraction = time.unit == TimeUnit.DURATION
    if time.unit.value not in _READ and not fraction:
        raise ConfigError(f'{name}: expected {expected}, got {value!r} in {time.unit.value!r}')
    if not math.isfinite(time.value) or time.value < 0 or (fraction and time.value > 1):
        raise ConfigError(f'{name}: expected {expected}, got {value!r}')
    return time


class Ramp:
    """A schedule that goes linearly from one value to another, and is constant before and after.

    Made for warm-up and decay: ``Match(DKD(), weight=Ramp(0.0, 1.0, end='20ep'))``. Composer's schedulers can be used
    in its place.

    Args:
        initial: The value until ``start``.
        final: The value from ``end`` on.
        end: When the final value is reached: a fraction of the run or a time, as ``start_dur`` of ``Distillation``.
        start: When the ramp starts, in the unit of ``end``, or 0.

    Raises:
        ConfigError: If a time cannot be parsed, or ``start`` is not before ``end``.

    Example:
        >>> Ramp(0.0, 1.0, end='20ep')
        Ramp(0.0, 1.0, end='20ep', start='0.0dur')
    """

    def __init__(self, initial: float, final: float, end: Moment = 1.0, start: Moment = 0.0) -> None:
        for name, value in (('initial', initial), ('final', final)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f'Ramp: {name} must be a finite number, got {value!r}')
        self.initial, self.final = float(initial), float(final)
        self.end, self.start = _moment(end, 'end'), _moment(start, 'start')
        if self.start.value and (self.start.unit != self.end.unit or self.start.value >= self.end.value):
            raise ConfigError(f'Ramp: start must come before end and in the same unit, got {self!r}')
        if not self.end.value:
            raise ConfigError(f'Ramp: end must be later than 0, got {self!r}')

    def __call__(self, state: State) -> float:
        """The value when the batch of ``state`` starts.

        Raises:
            ConfigError: If an end is a fraction of a run whose length is not given in ep, ba, sp or tok.
        """
        now, unit = state.timestamp, self.end.unit
        start, end = float(self.start.value), float(self.end.value)
        if unit == TimeUnit.DURATION:
            total = state.max_duration
            if total is None or total.unit.value not in _READ:
                raise ConfigError(f'{self!r} is a fraction of a run whose length is not given in ep, ba, sp or tok')
            start, end, unit = start * total.value, end * total.value, total.unit
        here = float(_READ[unit.value](now))
        if unit == TimeUnit.EPOCH and state.dataloader_len is not None:
            here += now.batch_in_epoch.value / state.dataloader_len.value
        done = min(1.0, max(0.0, (here - start) / (end - start)))
        return self.initial + (self.final - self.initial) * done

    def __repr__(self) -> str:
        end, start = self.end.to_timestring(), self.start.to_timestring()
        return f'Ramp({self.initial}, {self.final}, end={end!r}, start={start!r})'


def number_or_schedule(name: str, value: float | Schedule, least: float, strict: bool = False) -> float | Schedule:
    """Checks a setting that is a number or a schedule.

    Args:
        name: The setting's name, for the error.
        value: The setting.
        least: The lower bound.
        strict: Whether the number must be greater than ``least``; else it may be equal.

    Returns:
        The number as a float, or the schedule.

    Raises:
        ConfigError: If it is neither a schedule nor a finite number within the bound.
    """
    if callable(value):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (strict and value == least):
        bound = 'above' if strict else 'of at least'
        raise ConfigError(
            f'{name} must be a finite number {bound} {least:g}, or a schedule (a Ramp, a Composer scheduler), '
            f'got {value!r}'
        )
    return float(value)


def value_at(value: float | Schedule, state: State, name: str = 'A schedule', above_zero: bool = False) -> float:
    """The value of a number or schedule for the batch of ``state``.

    Args:
        value: The number, as a float, or the schedule.
        state: The state of the run.
        name: The setting's name, for the error.
        above_zero: Whether the value must be positive; else it may be 0.

    Raises:
        ConfigError: If the schedule returns something other than a finite number within the bound.
    """
    if isinstance(value, float):
        return value
    found = value(state)
    is_number = isinstance(found, numbers.Real) and math.isfinite(found)
    if not is_number or found < 0 or (above_zero and found == 0):
        bound = 'above' if above_zero else 'of at least'
        raise ConfigError(
            f'{name} must be a finite number {bound} 0, got {found!r} from {value!r} at batch '
            f'{state.timestamp.batch.value}'
        )
    return float(found)
