"""An earlier state of the student, as its teacher."""

from __future__ import annotations

from composer.core import State, Time, TimeUnit

from composer_kd.teachers.ema import check_known, positive_time
from composer_kd.teachers.student_copy import StudentCopy

__all__ = ['SnapshotTeacher', 'is_due']


class SnapshotTeacher(StudentCopy):
    """The student as it was at the end of an earlier epoch, or after a number of batches, as its teacher.

    Kim et al., *Self-Knowledge Distillation with Progressive Refinement of Targets* (arXiv 2006.12000), where the
    student of the last epoch teaches that of the next. The snapshot is saved with the run, and restored in a resume.

    There is no teacher before the first snapshot: give the :class:`.Distillation` a window that opens with it, as
    ``start_dur='1ep'``. An earlier one is refused when training starts.

    Args:
        every: The time between snapshots: batches (``'500ba'``) or epochs (``'1ep'``).
        name: Its name in messages, and in ``Match(..., teacher=name)``.

    Raises:
        ConfigError: If ``every`` is not a positive time in batches or epochs.
        TeacherError: If the student is sharded (FSDP).

    Example:
        >>> from composer_kd import Distillation, KLDivergence
        >>> Distillation(SnapshotTeacher(every='1ep'), KLDivergence(temperature=2.0), start_dur='1ep').teachers
        [SnapshotTeacher(every='1ep')]
    """

    def __init__(self, every: str | Time = '1ep', name: str = 'snapshot') -> None:
        super().__init__(name)
        self.every = positive_time('SnapshotTeacher', 'every', every)

    @property
    def first_answer(self) -> Time:
        """The time of the first snapshot, before which the teacher must not be asked."""
        return self.every

    def check_start(self, state: State) -> None:
        """Refuses epochs of unknown length."""
        check_known(self.every, state, repr(self))

    def end_batch(self, state: State) -> None:
        """Takes a snapshot if it is time for one."""
        if is_due(self.every, state, repr(self)):
            self.follow(state, 1.0)

    def settings(self) -> dict[str, str]:
        """What its answers depend on: ``every``."""
        return {'every': self.every.to_timestring()}

    def __repr__(self) -> str:
        return f'SnapshotTeacher(every={self.every.to_timestring()!r})'


def is_due(every: Time, state: State, owner: str) -> bool:
    """Whether, at the end of a batch, it is time for something that recurs.

    Args:
        every: The time between two of them, in batches or epochs.
        state: The state of the run, at ``BATCH_END``.
        owner: What asks, for the message.

    Raises:
        TeacherError: If ``every`` is in epochs, whose length is unknown.
    """
    now = state.timestamp
    if every.unit == TimeUnit.BATCH:
        return now.batch.value % every.value == 0
    check_known(every, state, owner)
    # At the end of the last batch, the epoch itself is not counted yet.
    is_last = now.batch_in_epoch.value == state.dataloader_len.value
    return is_last and (now.epoch.value + 1) % every.value == 0
