"""What runs, reports and profiles ask of any algorithm that distils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer.core import Algorithm

from composer_kd.schedules import Window
from composer_kd.teachers import Teacher

__all__ = ['DistillationAlgorithm']


class DistillationAlgorithm(Algorithm):
    """Base of the algorithms that distil; :class:`.Distillation` is one.

    ``composer-kd`` knows algorithms by what is here alone: teachers are tried on a sample before training, the window
    tells a profile whether it is open, and final metrics go into ``metrics.json``. A run with such an algorithm counts
    as distilled. In a YAML an algorithm's parameters are read by their annotations: one annotated
    :data:`composer_kd.teachers.Teachers` is a list of teachers, one annotated :data:`composer_kd.matches.match.Losses`
    losses and matches.

    Example:
        >>> class Mine(DistillationAlgorithm):
        ...     def match(self, event, state): return False
        ...     def apply(self, event, state, logger): ...
        >>> Mine().teachers, Mine().window, Mine().final_metrics()
        ((), None, {})
    """

    @property
    def window(self) -> Window | None:
        """When it distils; ``None`` for an algorithm that does so from the first batch to the last."""
        return None

    @property
    def teachers(self) -> Sequence[Teacher]:
        """What answers for batches beside the student; empty for an algorithm without teachers of its own."""
        return ()

    def final_metrics(self) -> Mapping[str, float]:
        """What it measured last, by the names that it logged it under."""
        return {}
