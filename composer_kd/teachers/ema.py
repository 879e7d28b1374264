"""The exponential moving average of the student, as its teacher."""

from __future__ import annotations

from typing import Any

from composer.core import State, Time, TimeUnit

from composer_kd.errors import ConfigError, TeacherError
from composer_kd.teachers.student_copy import StudentCopy

__all__ = ['EMATeacher', 'check_known', 'positive_time']


class EMATeacher(StudentCopy):
    r"""The exponential moving average of the student's weights, as its teacher.

    Tarvainen and Valpola, *Mean teachers are better role models* (arXiv 1703.01780). After each optimizer step ``n``,
    counted from 1, the teacher's weights :math:`\theta'` move towards the student's :math:`\theta`:

    .. math:: \theta' \leftarrow \alpha_n \theta' + (1 - \alpha_n) \theta, \qquad
              \alpha_n = \min\left(2^{-1/h}, 1 - \frac{1}{n + 1}\right)

    with the half-life :math:`h` in optimizer steps. While :math:`n` is small, this is the mean of all weights so far,
    the initial ones among them. Statistics of BatchNorm are averaged too; integers are copied. The average is saved
    with the run, and restored in a resume.

    Args:
        half_life: The time after which a past student counts half: batches (``'100ba'``) or epochs (``'0.5ep'`` is not
            a Composer time; take batches for parts of an epoch).
        name: Its name in messages, and in ``Match(..., teacher=name)``.

    Raises:
        ConfigError: If ``half_life`` is not a positive time in batches or epochs.
        TeacherError: If the student is sharded (FSDP).

    Example:
        >>> from composer_kd import Distillation, KLDivergence
        >>> Distillation(EMATeacher(half_life='100ba'), KLDivergence(temperature=2.0)).teachers
        [EMATeacher(half_life='100ba')]
    """

    def __init__(self, half_life: str | Time = '100ba', name: str = 'average') -> None:
        super().__init__(name)
        self.half_life = positive_time('EMATeacher', 'half_life', half_life)
        self.steps = 0

    def prepare(self, state: State) -> None:
        """Starts the average from the student as it is now."""
        super().prepare(state)
        self.steps = 0

    def check_start(self, state: State) -> None:
        """Refuses epochs of unknown length."""
        check_known(self.half_life, state, repr(self))

    def end_batch(self, state: State) -> None:
        """Moves the average towards the student."""
        self.steps += 1
        kept = min(0.5 ** (1.0 / self._batches(state)), 1.0 - 1.0 / (self.steps + 1))
        self.follow(state, 1.0 - kept)

    def _batches(self, state: State) -> int:
        if self.half_life.unit == TimeUnit.BATCH:
            return self.half_life.value
        check_known(self.half_life, state, repr(self))
        return self.half_life.value * state.dataloader_len.value

    def settings(self) -> dict[str, str]:
        """What its answers depend on: ``half_life``."""
        return {'half_life': self.half_life.to_timestring()}

    def state_dict(self) -> dict[str, Any]:
        """The average, and the number of steps in it."""
        return {**super().state_dict(), 'steps': self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the average."""
        super().load_state_dict(state)
        self.steps = state['steps']

    def __repr__(self) -> str:
        return f'EMATeacher(half_life={self.half_life.to_timestring()!r})'


def check_known(every: Time, state: State, owner: str) -> None:
    """Checks that it can be known when something recurs.

    Args:
        every: The time between two of them, in batches or epochs.
        state: The state of a run that has its training data.
        owner: What asks, for the message.

    Raises:
        TeacherError: If ``every`` is in epochs, whose length is unknown.
    """
    if every.unit != TimeUnit.BATCH and state.dataloader_len is None:
        raise TeacherError(f'{owner}: the number of batches in an epoch is unknown; give the time in batches, as 500ba')


def positive_time(owner: str, name: str, value: str | Time) -> Time:
    """A positive time in batches or epochs.

    Raises:
        ConfigError: If it is something else.

    Example:
        >>> positive_time('EMATeacher', 'half_life', '0ba')
        Traceback (most recent call last):
        ...
        composer_kd.errors.ConfigError: EMATeacher: half_life must be a positive time in batches or epochs, such as \
'100ba' or '1ep', got '0ba'
    """
    try:
        time = Time.from_input(value)
        if time.unit in (TimeUnit.BATCH, TimeUnit.EPOCH) and time.value > 0:
            return time
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ConfigError(
        f"{owner}: {name} must be a positive time in batches or epochs, such as '100ba' or '1ep', got {value!r}"
    )
