"""What a training run cost: time, throughput, memory and energy."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.bench.energy import EnergyMeter, meter_for
from composer_kd.bench.memory import PeakMemory, peak_for

__all__ = ['PREFIX', 'TrainingCost']

PREFIX = 'cost/'

_SECONDS_BETWEEN_READINGS = 60.0  # the counters of some processors wrap around
_PHASES = ('train', 'eval', 'checkpoint')


class TrainingCost(Callback):
    """Measures what ``fit()`` costs, and logs it when it ends; ``composer-kd train`` adds it by itself.

    ==============================  ===================================================================================
    ``cost/train_seconds``          wall time of ``fit()`` without the next two
    ``cost/eval_seconds``           wall time of evaluation during ``fit()``
    ``cost/checkpoint_seconds``     wall time of saving checkpoints
    ``cost/samples_per_second``     samples of all ranks per second of ``train_seconds``
    ``cost/tokens_per_second``      likewise, where the data counts tokens
    ``cost/peak_memory_bytes``      the most held at once: on CUDA allocated by torch on a GPU, elsewhere resident in
                                    main memory; of the process that held most
    ``cost/memory_growth_bytes``    that minus what was held when ``fit()`` began, where the system can tell
    ``cost/energy_joules``          energy of training and checkpoints, of all devices, where they tell it
    ``cost/eval_energy_joules``     energy of evaluation
    ==============================  ===================================================================================

    A run that goes on from a checkpoint adds up what led to the checkpoint and what follows. Energy is what
    :func:`composer_kd.bench.energy.meter_for` reads: that of the GPUs on CUDA, else of the processors; the keys are
    missing where one part of a run was not metered. Put it before other callbacks, so that their time counts where it
    belongs.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._seconds = dict.fromkeys(_PHASES, 0.0)
        self._joules: dict[str, float] | None = {'train': 0.0, 'eval': 0.0}  # None: not known of all parts
        self._peak = 0
        self._growth: int | None = 0  # None: not known of all parts
        self._first: tuple[int, int] | None = None  # samples and tokens at the very start
        self._phase: str | None = None
        self._since = self._read_at = self._read = 0.0
        self._memory: PeakMemory | None = None
        self._meter: EnergyMeter | None = None

    # What Composer calls ---------------------------------------------------------------------------------------------

    def after_load(self, state: State, logger: Logger) -> None:
        """A run that had ended already has its cost from the checkpoint."""
        if self._first is not None:
            self.values = self._totals(state)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Starts the clock and the meters."""
        self.values = {}
        if self._first is None:
            self._first = _counted(state)
        self._peak, self._growth = self._most()  # of an earlier fit
        self._memory = peak_for(_device(state))
        self._memory.start()
        self._meter = self._started_meter(state)
        self._switch('train')

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """After evaluation and checkpoints, training goes on."""
        if self._phase == 'checkpoint':
            self._switch('train')

    def batch_end(self, state: State, logger: Logger) -> None:
        """Reads a counter of energy before it wraps around."""
        if self._meter is not None and time.perf_counter() - self._read_at > _SECONDS_BETWEEN_READINGS:
            self._meter_into('train')

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Until the next batch, checkpoints are saved."""
        self._switch('checkpoint')

    def epoch_end(self, state: State, logger: Logger) -> None:
        """An epoch's end is training."""
        self._switch('train')

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        """Until the next epoch, checkpoints are saved."""
        self._switch('checkpoint')

    def eval_before_all(self, state: State, logger: Logger) -> None:
        """Evaluation during training, or after its last batch."""
        self._meter_into('train')
        self._switch('eval')

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Training goes on, or all is over."""
        self._meter_into('eval')
        over = bool(self.values)
        self._switch(None if over else 'train')
        if over:
            self._report(state, logger)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Logs; Composer may evaluate once more after that, and then it is logged again."""
        self._meter_into('train')
        self._switch(None)
        self._report(state, logger)

    def state_dict(self) -> dict[str, Any]:
        """What it cost so far; asked on every rank, as Composer does when it saves."""
        self._switch(self._phase)
        self._meter_into('train')
        peak, growth = self._most()
        joules = None if self._joules is None else {name: _over_ranks(j, 'SUM') for name, j in self._joules.items()}
        return {
            **{'seconds': dict(self._seconds), 'joules': joules},
            **{'peak': peak, 'growth': growth, 'first': self._first},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._seconds = dict(state['seconds'])
        self._peak, self._growth, self._first = state['peak'], state['growth'], state['first']
        first_rank = dist.get_global_rank() == 0  # what all ranks took is added up again
        joules = state['joules']
        self._joules = joules if joules is None or first_rank else dict.fromkeys(joules, 0.0)

    # Measuring --------------------------------------------------------------------------------------------------------

    def _switch(self, phase: str | None) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def _started_meter(self, state: State) -> EnergyMeter | None:
        """The meter of this rank; none unless every rank has one, for part of the energy is not the energy."""
        meter = meter_for(_device(state))
        if _over_ranks(float(meter is not None), 'MIN') == 0.0:
            self._joules = None
            return None
        assert meter is not None
        if meter.whole_machine and dist.get_local_rank() != 0:
            return None  # counted by another rank
        self._read_at, self._read = time.perf_counter(), 0.0
        meter.start()
        return meter

    def _meter_into(self, phase: str) -> None:
        if self._meter is None or self._joules is None:
            return
        try:
            read = self._meter.joules()
        except OSError:
            read = math.nan  # and so is every sum from now on, on every rank
        self._joules[phase] += read - self._read
        self._read_at, self._read = time.perf_counter(), read

    def _most(self) -> tuple[int, int | None]:
        """Peak and growth of memory, over all parts of the run so far."""
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
