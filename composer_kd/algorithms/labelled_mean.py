"""The own loss of a classifier as a mean over the labels of a whole batch, where samples have none."""

from __future__ import annotations

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from composer.utils import dist
from typing_extensions import override

from composer_kd.algorithms.loss_parts import share_of_batch
from composer_kd.batches.counts import BatchCount
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.features.outputs import scalar_loss

__all__ = ['LabelledMean']


class LabelledMean(Algorithm):
    """Makes the loss of a batch in which samples have no label (-100) the mean over those that have one.

    Composer weights microbatches and ranks by their samples, and a mean over the labels of a microbatch that has none
    is undefined (NaN). With this algorithm the loss of a batch is the same for any microbatches and ranks, and 0 where
    it has no label at all. :class:`.Distillation` does so itself.

    The model's own loss must be a mean over labels other than -100.

    Example:
        >>> LabelledMean()
        LabelledMean()
    """

    def __init__(self) -> None:
        self._form, self._count = BatchFormat(), BatchCount()

    @override
    def match(self, event: Event, state: State) -> bool:
        if event is Event.BATCH_START:
            return self._count.is_needed(state, self._form.split(state.batch)[0])
        return event in (Event.INIT, Event.AFTER_LOSS)

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.INIT:
            self._form = BatchFormat.of(state.model)
            self._count = BatchCount(dist.get_world_size(), self._form)
        elif event is Event.BATCH_START:
            self._count.count(state, self._form.split(state.batch)[0])
        else:
            micro = Microbatch.read(state, self._form, self._count)
            state.loss = share_of_batch(scalar_loss(state.loss), state.outputs, micro, None)

    def __repr__(self) -> str:
        return 'LabelledMean()'
