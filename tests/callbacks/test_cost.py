"""What a run cost."""

import json
import math
import mmap
import time

import pytest
import torch
from composer.core import Callback
from composer.loggers import InMemoryLogger
from torch import nn

from composer_kd.bench.memory import ResidentPeak
from composer_kd.callbacks import cost as cost_module
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.config.load import load_config
from composer_kd.presentation.units import cost_text
from composer_kd.runs.train import train
from tests.helpers import EventSpy, loader, pairs, student, trainer
from tests.helpers import train as train_model


def sleeping(event, seconds):
    return EventSpy(event, lambda state: time.sleep(seconds))


def test_training_evaluation_and_checkpoints_are_told_apart(tmp_path):
    cost, memory = TrainingCost(), InMemoryLogger()
    sleeps = [sleeping('batch_start', 0.05), sleeping('eval_start', 0.3), sleeping('epoch_checkpoint', 0.2)]
    begun = time.perf_counter()
    train_model(
        student(),
        loader(*pairs(32)),
        callbacks=[cost, *sleeps],
        max_duration='2ep',
        eval_dataloader=loader(*pairs(8)),
        loggers=[memory],
        save_folder=str(tmp_path),
        save_interval='1ep',
    )
    whole = time.perf_counter() - begun
    values = cost.values
    assert values['cost/train_seconds'] > 8 * 0.05
    assert values['cost/eval_seconds'] > 2 * 0.3
    assert values['cost/checkpoint_seconds'] > 2 * 0.2
    seconds = [values[f'cost/{phase}_seconds'] for phase in ('train', 'eval', 'checkpoint')]
    assert 1.4 < sum(seconds) < whole
    assert values['cost/samples_per_second'] == pytest.approx(64 / values['cost/train_seconds'])
    assert {key: found[-1][1] for key, found in memory.data.items() if key.startswith('cost/')} == values


def test_evaluation_after_the_last_batch_counts(tmp_path):
    cost = TrainingCost()
    train_model(
        student(),
        loader(*pairs(16)),
        callbacks=[cost, sleeping('eval_start', 0.2)],
        max_duration='1ep',
        eval_dataloader=loader(*pairs(8)),
        eval_interval='5ep',
    )
    assert cost.values['cost/eval_seconds'] > 0.2


def test_a_resumed_run_adds_up_its_parts(tmp_path):
    def fit(*callbacks):
        cost = TrainingCost()
        run = trainer(
            student(),
            loader(*pairs(32)),
            callbacks=[cost, sleeping('batch_start', 0.05), *callbacks],
            max_duration='4ep',
            run_name='cost',
            save_folder=str(tmp_path),
            autoresume=True,
        )
        try:
            run.fit()
        finally:
            run.close()
        return cost.values

    def stop(state):
        if int(state.timestamp.batch) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(EventSpy('batch_start', stop))
    values = fit()
    assert values['cost/train_seconds'] > 16 * 0.05
    assert values['cost/samples_per_second'] == pytest.approx(128 / values['cost/train_seconds'])
    # A run that had ended knows its cost from its checkpoint.
    cost = TrainingCost()
    trainer(
        student(),
        loader(*pairs(32)),
        callbacks=[cost],
        max_duration='4ep',
        run_name='cost',
        save_folder=str(tmp_path),
        autoresume=True,
    ).close()
    assert cost.values['cost/train_seconds'] == pytest.approx(values['cost/train_seconds'], rel=0.05)


def test_the_peak_of_an_earlier_fit_is_not_forgotten():
    cost, model = TrainingCost(), student(Hungry())
    run = trainer(model, loader(*pairs(8)), callbacks=[cost])
    run.fit()
    first = dict(cost.values)
    model.module.size = 1
    run.fit(duration='1ep')
    run.close()
    assert cost.values['cost/peak_memory_bytes'] >= first['cost/peak_memory_bytes']
    assert cost.values.get('cost/memory_growth_bytes', 0) >= first.get('cost/memory_growth_bytes', 0)


class Watts:
    """A meter of a device that takes a hundred watts."""

    source, whole_machine = 'test', False

    def __init__(self, breaks_after=math.inf):
        self.breaks_after = breaks_after

    def start(self):
        self.begun = time.perf_counter()

    def joules(self):
        seconds = time.perf_counter() - self.begun
        if seconds > self.breaks_after:
            raise OSError('gone')
        return 100 * seconds


@pytest.mark.parametrize('meter', [Watts(), None, Watts(breaks_after=0.1)], ids=['metered', 'none', 'broken'])
def test_energy_is_there_where_all_of_it_was_metered(monkeypatch, meter):
    monkeypatch.setattr(cost_module, 'meter_for', lambda device: meter)
    cost = TrainingCost()
    sleeps = [sleeping('batch_start', 0.05), sleeping('eval_start', 0.2)]
    data = loader(*pairs(32))
    train_model(student(), data, callbacks=[cost, *sleeps], eval_dataloader=loader(*pairs(8)))
    keys = {'cost/energy_joules', 'cost/eval_energy_joules'}
    if meter is None or meter.breaks_after < math.inf:
        assert not keys & cost.values.keys()
    else:
        trained = cost.values['cost/train_seconds'] + cost.values['cost/checkpoint_seconds']
        assert cost.values['cost/energy_joules'] == pytest.approx(100 * trained, rel=0.05)
        assert cost.values['cost/eval_energy_joules'] == pytest.approx(100 * cost.values['cost/eval_seconds'], rel=0.05)


class Hungry(nn.Module):
    """Holds 256 MiB while it answers."""

    def __init__(self):
        super().__init__()
        self.layer, self.size = nn.Linear(6, 4), 2**26

    def forward(self, x):
        # Not by malloc, which runs tell to keep what is freed: that would count as held.
        held = torch.frombuffer(mmap.mmap(-1, 4 * self.size), dtype=torch.float32).fill_(1)
        return self.layer(x) + held[0] * 0


def test_peak_memory_is_that_of_the_fit():
    torch.ones(2**27).sum()  # what was held before it and freed does not count
    cost = TrainingCost()
    train_model(student(Hungry()), loader(*pairs(16)), callbacks=[cost])
    peak = ResidentPeak()
    peak.start()
    if not peak.forgets:
        pytest.skip('this system cannot forget the peak')
    growth = cost.values['cost/memory_growth_bytes']
    assert 240 * 2**20 < growth < 400 * 2**20
    assert cost.values['cost/peak_memory_bytes'] > growth


def test_every_run_says_what_it_cost(tmp_path, capsys):
    overrides = ['progress_bar=false', 'max_duration=2ba', f'save_folder={tmp_path}', 'eval_subset_num_batches=1']
    metrics = train(load_config('yamls/digits/student.yaml', overrides))
    found = {key: value for key, value in metrics.items() if key.startswith('cost/')}
    assert found.keys() >= {'cost/train_seconds', 'cost/eval_seconds', 'cost/samples_per_second'}
    assert json.loads((tmp_path / 'metrics.json').read_text()).items() >= found.items()
    assert cost_text('cost/train_seconds', found['cost/train_seconds']) in capsys.readouterr().out


def test_it_costs_microseconds_a_step():
    events = [name for name in vars(TrainingCost) if name in vars(Callback)]
    cost = TrainingCost()
    run = trainer(student(), loader(*pairs(8)))
    cost.fit_start(run.state, run.logger)
    per_step = ('before_dataloader', 'batch_end', 'batch_checkpoint')
    assert set(events) >= set(per_step)
    rounds = []
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(100):
            for event in per_step:
                getattr(cost, event)(run.state, run.logger)
        rounds.append((time.perf_counter() - begun) / 100)
    run.close()
    assert min(rounds) < 20e-6
