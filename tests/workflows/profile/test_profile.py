"""Where the time of a step goes."""

import itertools
import json
import time

import numpy as np
import pytest
import torch
from composer.core import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Distillation, KLDivergence, Match, spans
from composer_kd.callbacks.phases import PHASES, PhaseLabels, StepClock
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.train import train
from composer_kd.workflows.profile.report import StepTimes, markdown, write_report
from composer_kd.workflows.profile.run import profile
from tests.helpers import mlp, mse, pairs, sgd, student, trainer

SLOW = 0.05
OVERRIDES = ['max_duration=1ep', 'train_loader.dataset.subset=96', 'global_train_batch_size=8']


class Slow(nn.Module):
    """Sleeps, then does what a module does."""

    def __init__(self, module, sleeps=True):
        super().__init__()
        self.module, self.sleeps = module, sleeps

    def forward(self, x):
        if self.sleeps:
            time.sleep(SLOW)
        return self.module(x)


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(SLOW)
        return grad


class SlowData(TensorDataset):
    def __getitems__(self, indices):
        time.sleep(SLOW)
        return [self[index] for index in indices]


class SlowSGD(torch.optim.SGD):
    def step(self, closure=None):
        loss = super().step(closure)
        time.sleep(SLOW)
        return loss


class SlowCallback(Callback):
    def before_train_batch(self, state, logger):
        time.sleep(SLOW)


class Watch(Callback):
    """An independent clock: from a request for data to the end of the batch."""

    def __init__(self):
        self.steps = []

    def before_dataloader(self, state, logger):
        self.begun = time.perf_counter()

    def batch_end(self, state, logger):
        self.steps.append(time.perf_counter() - self.begun)


def slow_loss(student, teacher):
    time.sleep(SLOW)
    return mse(student, teacher)


def slow_task_loss(outputs, labels):
    time.sleep(SLOW)
    return nn.functional.cross_entropy(outputs, labels)


def measured(slow, **options):
    """The median of each phase in a run in which one part is slow, and each step by both clocks."""
    module = mlp(seed=1)
    if slow == 'student forward':
        module = Slow(module)
    if slow == 'backward':
        module = nn.Sequential(module, nn.Identity())
        module[1].forward = SlowBackward.apply
    model = student(module, slow_task_loss if slow == 'task loss' else None)
    teacher = Slow(mlp(seed=5)) if slow == 'teacher forward' else mlp(seed=5)
    data = (SlowData if slow == 'data' else TensorDataset)(*pairs(48))
    optimizer = SlowSGD(model.parameters(), lr=0.1) if slow == 'optimizer' else sgd(model)
    algorithm = Distillation(teacher, slow_loss if slow == 'distillation loss' else KLDivergence(4.0))
    clock, watch = StepClock(), Watch()
    clock.start()
    others = [SlowCallback()] if slow == 'other' else []
    order = [*others, watch, PhaseLabels(), clock]
    run = trainer(model, DataLoader(data, batch_size=8), [algorithm], order, optimizer=optimizer, **options)
    run.fit()
    run.close()
    assert not spans.listeners
    assert len(clock.steps) == len(watch.steps) == 6
    return {name: np.median([step[name] for step in clock.steps]) for name in PHASES}, clock.steps, watch.steps


@pytest.mark.parametrize('slow', PHASES)
def test_what_is_slow_is_found_where_it_is_and_nowhere_else(slow):
    medians, steps, watched = measured(slow)
    assert SLOW <= medians.pop(slow) < 2 * SLOW
    assert max(medians.values()) < SLOW / 2, medians
    ratios = [sum(step.values()) / seconds for step, seconds in zip(steps, watched)]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.02)


def test_each_microbatch_counts():
    medians, *_ = measured('teacher forward', device_train_microbatch_size=4)
    assert 2 * SLOW <= medians.pop('teacher forward') < 3 * SLOW
    assert max(medians.values()) < SLOW / 2, medians


def test_an_optimizer_without_a_closure_is_found_too(monkeypatch):
    monkeypatch.setattr('composer.Trainer._use_closures', lambda self: False)
    medians, *_ = measured('optimizer')
    assert SLOW <= medians['optimizer'] < 2 * SLOW


def test_teachers_that_are_asked_one_by_one_count_together():
    clock = StepClock()
    clock.start()
    model = student(Slow(mlp(seed=1), sleeps=False))
    algorithm = Distillation(
        [Slow(mlp(seed=5)), Slow(mlp(seed=6))], [KLDivergence(4.0), Match(mse, on=('module.module.2', 'module.2'))]
    )
    run = trainer(model, DataLoader(TensorDataset(*pairs(32)), batch_size=8), [algorithm], [PhaseLabels(), clock])
    run.fit()
    run.close()
    teaching = np.median([step['teacher forward'] for step in clock.steps])
    assert 2 * SLOW <= teaching < 3 * SLOW


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    train(load_config('yamls/digits/teacher.yaml', ['progress_bar=false', 'max_duration=1ba', f'save_folder={folder}']))
    return f'variables.teacher={folder}/latest-rank0.pt'


def test_the_command_leaves_trace_chart_and_numbers_and_no_run(teacher, tmp_path, capsys):
    run, out = tmp_path / 'run', tmp_path / 'profile'
    settings = [teacher, *OVERRIDES, f'save_folder={run}', 'autoresume=true']
    assert main(['profile', 'yamls/digits/kd.yaml', *settings, '--batches', '4', '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PHASES)
    assert not run.exists()
    assert sorted(file.name for file in out.iterdir()) == ['profile.md', 'profile.png', 'steps.json', 'trace.json']
    numbers = json.loads((out / 'steps.json').read_text())
    assert len(numbers['steps']) == 4
    assert all(set(step) == set(PHASES) and min(step.values()) > 0 for step in numbers['steps'])
    assert not numbers['notes']
    spans = {}
    for event in json.loads((out / 'trace.json').read_text())['traceEvents']:
        if str(event.get('name')).startswith('composer_kd/') and event.get('cat') == 'user_annotation':
            spans.setdefault(event['name'].removeprefix('composer_kd/'), []).append((event['ts'], event['dur']))
    assert set(spans) == set(PHASES) - {'other'}
    assert len(spans['optimizer']) == 2
    ordered = sorted(span for found in spans.values() for span in found)
    assert all(start + length <= after + 0.01 for (start, length), (after, _) in itertools.pairwise(ordered))


def test_only_files_that_are_there_are_named(tmp_path, capsys):
    (tmp_path / 'trace.json').write_text('of an earlier profile')
    short = [*OVERRIDES, 'max_duration=5ba']
    assert main(['profile', 'yamls/digits/student.yaml', *short, '--batches', '2', '--out', str(tmp_path)]) == 0
    assert f'profile.md, profile.png, steps.json are in {tmp_path}\n' in capsys.readouterr().out
    assert not (tmp_path / 'trace.json').exists()


def test_a_profile_says_when_no_teacher_ran_and_when_the_run_was_too_short(teacher, tmp_path):
    late = load_config('yamls/digits/kd.yaml', [teacher, *OVERRIDES, 'algorithms.distillation.start_dur=0.9'])
    times = profile(late, batches=2, folder=tmp_path)
    assert 'No teacher ran' in times.notes[0]
    short = load_config('yamls/digits/student.yaml', [*OVERRIDES, 'max_duration=5ba'])
    times = profile(short, batches=9, folder=tmp_path)
    assert len(times.steps) == 2
    assert 'after 2 of the 9 steps' in times.notes[0]
    assert '**The run ended' in (tmp_path / 'profile.md').read_text()
    with pytest.raises(ConfigError, match='over after 2 steps'):
        profile(load_config('yamls/digits/student.yaml', [*OVERRIDES, 'max_duration=2ba']), folder=tmp_path)


def test_a_profile_does_not_go_into_the_runs_own_folder(tmp_path):
    config = load_config('yamls/digits/student.yaml', [*OVERRIDES, f'save_folder={tmp_path}'])
    with pytest.raises(ConfigError, match='folder of the run itself'):
        profile(config, folder=tmp_path)


@pytest.mark.parametrize('extra', [[], ['profiler.record_shapes=true', 'profiler.profile_memory=true']])
def test_a_run_with_the_key_profiler_leaves_labelled_traces(teacher, tmp_path, extra):
    settings = [teacher, *OVERRIDES, f'save_folder={tmp_path}', 'progress_bar=false', 'eval_loader=null']
    train(load_config('yamls/digits/kd.yaml', [*settings, 'profiler={active: 2}', *extra]))
    merged = json.loads((tmp_path / 'profile' / 'merged_trace.json').read_text())
    names = [event.get('name') for event in merged]
    assert {f'composer_kd/{name}' for name in PHASES if name != 'other'} <= set(names)
    assert names.count('composer_kd/optimizer') == 2
    assert json.loads((tmp_path / 'metrics.json').read_text())['time/batch'] == 12


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('profiler={activ: 2}', 'profiler.activ'),
        ('profiler={active: 0}', 'profiler.active: .*positive'),
        ('profiler={wait: -1}', 'profiler.wait: .*zero or more'),
        ('profiler={warmup: 0}', 'profiler.warmup: the very first batch'),
        ('profiler={folder: "s3://traces"}', 'profiler.folder: .*folder of this machine'),
    ],
)
def test_a_wrong_profiler_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config('yamls/digits/student.yaml', [setting])


def test_a_profiler_that_would_record_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'profiler\.folder: needs a save_folder'):
        load_config('yamls/digits/student.yaml', ['profiler={}', 'save_folder=null'])
    settings = [*OVERRIDES, f'save_folder={tmp_path}', 'profiler={active: 40}', 'progress_bar=false']
    with pytest.raises(ConfigError, match='take 41 batches, and an epoch has 12'):
        train(load_config('yamls/digits/student.yaml', settings))


class Event:
    """Stands for an event in a stream whose clock runs twice as fast as the CPU's."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.seconds = 2 * time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.seconds - self.seconds) * 1e3


def test_the_clock_of_a_gpu_is_shown_beside_that_of_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    clock = StepClock()
    clock._on_cuda = True  # there is none here
    clock.start()
    algorithm = Distillation(Slow(mlp(seed=5)), KLDivergence(4.0))
    data = DataLoader(TensorDataset(*pairs(24)), batch_size=8)
    run = trainer(student(), data, [algorithm], [PhaseLabels(), clock])
    run.fit()
    run.close()
    assert len(clock.steps) == len(clock.device_steps) == 3
    for by_cpu, by_gpu in zip(clock.steps, clock.device_steps):
        assert by_gpu['teacher forward'] == pytest.approx(2 * by_cpu['teacher forward'], rel=0.2)
    times = StepTimes('a-run', clock.steps, clock.device_steps, 0, {'GPU': 'one'})
    assert '| phase | CPU | quartiles | share, % | GPU | quartiles | share, % |' in markdown(times)
    write_report(times, tmp_path)
    assert (tmp_path / 'profile.png').stat().st_size > 10_000
