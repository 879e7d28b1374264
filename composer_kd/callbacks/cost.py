"""Measures the cost of a training run: time, throughput, memory and energy."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from typing_extensions import override

from composer_kd.bench.energy import EnergyMeter, meter_for
from composer_kd.bench.memory import PeakMemory, peak_for

__all__ = ['PREFIX', 'TrainingCost']

PREFIX = 'cost/'

_SECONDS_BETWEEN_READINGS = 60.0  # the energy counters of some processors wrap around
_PHASES = ('train', 'eval', 'checkpoint')


class TrainingCost(Callback):
    """Measures the cost of ``fit()`` and logs it at the end; ``composer-kd train`` adds this callback automatically.

    ==============================  ===================================================================================
    ``cost/train_seconds``          wall time of ``fit()``, without evaluation and checkpoints
    ``cost/eval_seconds``           wall time of evaluation during ``fit()``
    ``cost/checkpoint_seconds``     wall time of saving checkpoints
    ``cost/samples_per_second``     samples of all ranks per second of ``train_seconds``
    ``cost/tokens_per_second``      the same for tokens, if the data counts them
    ``cost/peak_memory_bytes``      peak memory: on CUDA the memory that torch allocated on the GPU, otherwise resident
                                    main memory; the maximum over the processes
    ``cost/memory_growth_bytes``    peak memory minus the memory held when ``fit()`` began, if the system reports it
    ``cost/energy_joules``          energy of training and checkpoints, over all devices, if they report it
    ``cost/eval_energy_joules``     energy of evaluation
    ==============================  ===================================================================================

    A resumed run includes the cost up to its checkpoint. Energy is read by
    :func:`composer_kd.bench.energy.meter_for`: on CUDA from the GPUs, otherwise from the processors; its keys are
    missing if any part of the run was not metered. Put this callback before all others, so that their time is counted
    in the right phase.

    Attributes:
        values: The costs by name, once ``fit()`` has ended.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._seconds = dict.fromkeys(_PHASES, 0.0)
        self._joules: dict[str, float] | None = {'train': 0.0, 'eval': 0.0}  # None: unknown for a part of the run
        self._peak = 0
        self._growth: int | None = 0  # None: unknown for a part of the run
        self._first: tuple[int, int] | None = None  # samples and tokens at the start of the first fit
        self._phase: str | None = None
        self._since = self._read_at = self._read = 0.0
        self._memory: PeakMemory | None = None
        self._meter: EnergyMeter | None = None

    # Composer's interface ---------------------------------------------------------------------------------------------

    @override
    def after_load(self, state: State, logger: Logger) -> None:
        """Takes the costs from the checkpoint, because a complete run does not train again."""
        if self._first is not None:
            self.values = self._totals(state)

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        """Starts the clock and the meters."""
        self.values = {}
        if self._first is None:
            self._first = _counted(state)
        self._peak, self._growth = self._most()  # includes an earlier fit
        self._memory = peak_for(_device(state))
        self._memory.start()
        self._meter = self._started_meter(state)
        self._switch('train')

    @override
    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Ends the phase of saving checkpoints."""
        if self._phase == 'checkpoint':
            self._switch('train')

    @override
    def batch_end(self, state: State, logger: Logger) -> None:
        """Reads the energy counter regularly, before it wraps around."""
        if self._meter is not None and time.perf_counter() - self._read_at > _SECONDS_BETWEEN_READINGS:
            self._meter_into('train')

    @override
    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Starts the phase of saving checkpoints, which lasts until the next batch."""
        self._switch('checkpoint')

    @override
    def epoch_end(self, state: State, logger: Logger) -> None:
        """Counts the end of an epoch as training."""
        self._switch('train')

    @override
    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Starts the phase of saving checkpoints, which lasts until the next epoch."""
        self._switch('checkpoint')

    @override
    def eval_before_all(self, state: State, logger: Logger) -> None:
        """Starts the evaluation phase, during training or after its last batch."""
        self._meter_into('train')
        self._switch('eval')

    @override
    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Returns to the training phase or, after ``fit_end``, logs the final costs again."""
        self._meter_into('eval')
        over = bool(self.values)
        self._switch(None if over else 'train')
        if over:
            self._report(state, logger)

    @override
    def fit_end(self, state: State, logger: Logger) -> None:
        """Logs the costs. Composer may evaluate once more afterwards; then they are logged again."""
        self._meter_into('train')
        self._switch(None)
        self._report(state, logger)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Returns the costs so far, with energy summed over ranks; called on every rank, as Composer does."""
        self._switch(self._phase)
        self._meter_into('train')
        peak, growth = self._most()
        joules = None if self._joules is None else {name: _over_ranks(j, 'SUM') for name, j in self._joules.items()}
        return {
            **{'seconds': dict(self._seconds), 'joules': joules},
            **{'peak': peak, 'growth': growth, 'first': self._first},
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the costs in a checkpoint."""
        self._seconds = dict(state['seconds'])
        self._peak, self._growth, self._first = state['peak'], state['growth'], state['first']
        first_rank = dist.get_global_rank() == 0  # the sum over ranks; on rank 0 only, because it is summed again
        joules = state['joules']
        self._joules = joules if joules is None or first_rank else dict.fromkeys(joules, 0.0)

    # Measuring --------------------------------------------------------------------------------------------------------

    def _switch(self, phase: str | None) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def _started_meter(self, state: State) -> EnergyMeter | None:
        """Starts the meter of this rank; None unless every rank has one, because a partial sum would mislead."""
        meter = meter_for(_device(state))
        if _over_ranks(float(meter is not None), 'MIN') == 0.0:
            self._joules = None
            return None
        assert meter is not None
        if meter.whole_machine and dist.get_local_rank() != 0:
            return None  # local rank 0 counts the machine
        self._read_at, self._read = time.perf_counter(), 0.0
        meter.start()
        return meter

    def _meter_into(self, phase: str) -> None:
        if self._meter is None or self._joules is None:
            return
        try:
            read = self._meter.joules()
        except OSError:
            read = math.nan  # makes all later sums NaN on every rank, so that no energy is logged
        self._joules[phase] += read - self._read
        self._read_at, self._read = time.perf_counter(), read

    def _most(self) -> tuple[int, int | None]:
        """Returns the peak and the growth of memory over all parts of the run so far."""
        if self._memory is None:
            return self._peak, self._growth
        growth = self._memory.growth()
        known = None if growth is None or self._growth is None else max(self._growth, growth)
        return max(self._peak, self._memory.peak()), known

    def _report(self, state: State, logger: Logger) -> None:
        self.values = self._totals(state)
        logger.log_metrics(self.values)

    def _totals(self, state: State) -> dict[str, float]:
        assert self._first is not None
        peak, growth = self._most()
        train = self._seconds['train']
        samples, tokens = (now - then for now, then in zip(_counted(state), self._first))
        found: dict[str, float] = {f'{phase}_seconds': seconds for phase, seconds in self._seconds.items()}
        if train:
            found['samples_per_second'] = samples / train
        if train and tokens:
            found['tokens_per_second'] = tokens / train
        found['peak_memory_bytes'] = int(_over_ranks(peak, 'MAX'))
        if growth is not None:
            found['memory_growth_bytes'] = int(_over_ranks(growth, 'MAX'))
        if self._joules is not None:
            joules = {phase: _over_ranks(value, 'SUM') for phase, value in self._joules.items()}
            if not math.isnan(sum(joules.values())):
                found |= {'energy_joules': joules['train'], 'eval_energy_joules': joules['eval']}
        return {f'{PREFIX}{name}': value for name, value in found.items()}


def _counted(state: State) -> tuple[int, int]:
    return state.timestamp.sample.value, state.timestamp.token.value


def _device(state: State) -> torch.device:
    return next((parameter.device for parameter in state.model.parameters()), torch.device('cpu'))


def _over_ranks(value: float, how: str) -> float:
    if dist.get_world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64)
    if torch.cuda.is_available() and torch.distributed.get_backend() == 'nccl':
        tensor = tensor.cuda()
    dist.all_reduce(tensor, reduce_operation=how)
    return float(tensor.item())
