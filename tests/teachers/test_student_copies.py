"""Teachers that the student itself is: its moving average, and its earlier states, in real Trainers."""

import copy

import pytest
import torch
from composer.algorithms import BlurPool
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import (
    ConfigError,
    Distillation,
    EMATeacher,
    KLDivergence,
    Match,
    SnapshotTeacher,
    TeacherError,
)
from composer_kd.losses import hint
from tests.distilling import images
from tests.helpers import Recorder, loader, mlp, mse, pairs, student, train, weights


class Weights(Recorder):
    """Keeps the student's tensors after each step."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def batch_end(self, state, logger):
        super().batch_end(state, logger)
        self.kept.append({name: value.clone() for name, value in state.model.state_dict().items()})


def norm_student():
    return student(mlp(seed=1, norm=True))


def run(teacher, duration='2ep', loss=None, seen=(), model=None, **options):
    model = model or norm_student()
    start = options.pop('start_dur', 0.0)
    matches = loss or KLDivergence(2.0)
    return train(
        model,
        loader(*pairs()),
        [Distillation(teacher, matches, start_dur=start)],
        seen,
        max_duration=duration,
        **options,
    )


@pytest.mark.parametrize(('half_life', 'batches'), [('2ba', 2), ('1ep', 3)])
def test_the_average_is_that_of_an_independent_computation(half_life, batches):
    teacher, seen, model = EMATeacher(half_life), Weights(), norm_student()
    expected = copy.deepcopy(model.state_dict())
    run(teacher, model=model, seen=[seen])
    for step, after in enumerate(seen.kept, start=1):
        kept = min(2 ** (-1 / batches), 1 - 1 / (step + 1))
        for name, value in after.items():
            if value.is_floating_point():
                expected[name] = kept * expected[name] + (1 - kept) * value
            else:
                expected[name] = value
    assert len(seen.kept) == 6
    for name, value in teacher.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


def test_the_average_teaches_in_eval_mode_from_the_second_batch_on():
    seen = Weights()
    model = student()
    run(EMATeacher('2ba'), '2ba', mse, [seen], model)
    before, after = (copy.deepcopy(student()) for _ in range(2))
    after.load_state_dict(seen.kept[0])
    average = {name: (value + after.state_dict()[name]) / 2 for name, value in before.state_dict().items()}
    before.load_state_dict(average)
    x = pairs()[0][8:16]
    assert seen.batches[0]['kd'] == pytest.approx(0.0, abs=1e-10)
    assert seen.batches[1]['kd'] == pytest.approx(mse(after.module(x), before.module(x)).item(), rel=1e-4)


@pytest.mark.parametrize(('every', 'kept'), [('1ep', [2, 2, 2, 5, 5, 5]), ('2ba', [1, 1, 3, 3])])
def test_the_snapshot_is_the_student_of_that_time(every, kept):
    """The teacher of each batch is the student as it was after the batch with the number given."""
    seen, model = Weights(), student()
    first = {'1ep': 3, '2ba': 2}[every]
    run(SnapshotTeacher(every), '3ep' if every == '1ep' else '2ep', mse, [seen], model, start_dur=f'{first}ba')
    values = [batch['kd'] for batch in seen.batches if 'kd' in batch]
    starts = range(first, first + len(kept))
    x = pairs()[0]
    assert len(values) >= len(kept)
    for value, start, taken in zip(values, starts, kept):
        ours, theirs = student(), student()
        ours.load_state_dict(seen.kept[start - 1])
        theirs.load_state_dict(seen.kept[taken])
        part = slice(8 * (start % 3), 8 * (start % 3) + 8)
        assert value == pytest.approx(mse(ours.module(x[part]), theirs.module(x[part])).item(), rel=1e-4, abs=1e-10)


@pytest.mark.parametrize('teacher', [lambda: EMATeacher('2ba'), lambda: SnapshotTeacher('2ba')])
@pytest.mark.parametrize('stop', ['3ba', '4ba'])
def test_a_resume_inside_an_epoch_and_at_its_end_is_bit_equal(tmp_path, teacher, stop):
    def go(duration, folder, **options):
        teachers = teacher()
        done = run(
            teachers, duration, start_dur='2ba', save_folder=str(tmp_path / folder), save_interval='1ba', **options
        )
        return weights(done.state.model), teachers.model.state_dict()

    straight = go('6ba', 'straight')
    go(stop, 'first')
    resumed = go('6ba', 'second', load_path=str(tmp_path / 'first' / 'latest-rank0.pt'))
    assert torch.equal(straight[0], resumed[0])
    assert all(torch.equal(value, resumed[1][name]) for name, value in straight[1].items())


def test_the_copy_has_no_projector_and_its_layers_can_be_matched():
    teacher = EMATeacher('2ba')
    seen = Recorder()
    run(teacher, loss=[Match(hint, on=('0', '0'), project=nn.Linear(8, 8)), mse], seen=[seen])
    assert {name.split('.')[0] for name in teacher.model.state_dict()} == {'module'}
    assert seen.batches[-1]['hint_0'] > 0
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


@pytest.mark.parametrize('order', [1, -1])
def test_surgery_before_or_after_it_in_the_list_reaches_the_copy(order):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
        )
    teacher, seen = EMATeacher('2ba'), Recorder()
    algorithms = [Distillation(teacher, mse), BlurPool(min_channels=1)][::order]
    train(ComposerClassifier(net, num_classes=4), images(), algorithms, [seen])
    assert 'BlurConv2d' in {type(part).__name__ for part in teacher.model.modules()}
    assert seen.batches[0]['kd'] == pytest.approx(0.0, abs=1e-10)
    assert seen.batches[-1]['kd'] > 0


class Keeping(nn.Module):
    """A net that keeps what it has computed, with its graph."""

    def __init__(self):
        super().__init__()
        self.net, self.last = mlp(seed=1, norm=True), None

    def forward(self, x):
        self.last = [self.net(x)]
        return self.last[0]


def compiled_part():
    net = mlp(seed=1, norm=True)
    net[0] = torch.compile(net[0], backend='eager')
    return student(net)


@pytest.mark.parametrize(
    'make', [lambda: torch.compile(norm_student(), backend='eager'), compiled_part, lambda: student(Keeping())]
)
def test_a_compiled_student_and_one_that_keeps_outputs_are_copied(make):
    plain, other = Recorder(), Recorder()
    run(EMATeacher('2ba'), seen=[plain])
    model = make()
    model.eval()(next(iter(loader(*pairs()))))  # as in an earlier run, without its BatchNorm statistics
    run(EMATeacher('2ba'), seen=[other], model=model)
    assert other.batches[-1]['kd'] > 0
    assert [one['kd'] for one in other.batches] == pytest.approx([one['kd'] for one in plain.batches], abs=1e-6)


def test_a_second_run_starts_anew():
    teacher = EMATeacher('2ba')
    run(teacher, model=student())
    seen = Recorder()
    run(teacher, seen=[seen], model=student())
    assert seen.batches[0]['kd'] == pytest.approx(0.0, abs=1e-6)


def test_a_window_that_opens_before_the_first_snapshot_is_refused():
    for start in (0.0, '2ba', 0.1, '1sp'):
        with pytest.raises(ConfigError, match=r"no answer before 1ep, .*start_dur='1ep'"):
            run(SnapshotTeacher('1ep'), start_dur=start)


@pytest.mark.parametrize('time', ['0ba', '-1ep', 'soon', '0.5dur', '10sp', 3])
def test_other_times_are_refused(time):
    for make in (EMATeacher, SnapshotTeacher):
        with pytest.raises(ConfigError, match='must be a positive time in batches or epochs'):
            make(time)


def test_they_stand_beside_frozen_teachers_and_matches_name_them():
    seen = Recorder()
    teachers = [EMATeacher('2ba'), mlp(seed=7)]
    matches = [Match(mse, teacher='average', name='self', weight=0.5), Match(mse, teacher='Sequential', name='other')]
    train(student(), loader(*pairs()), [Distillation(teachers, matches)], [seen])
    assert seen.batches[0]['self'] == pytest.approx(0.0, abs=1e-10)
    assert seen.batches[0]['other'] > 0


def test_buffers_that_a_module_replaces_are_followed():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('mean', torch.zeros(8))

        def forward(self, x):
            self.mean = self.mean * 0.5 + 0.5 * x.detach().mean(0)  # another tensor each time
            return x

    net = mlp(seed=1)
    net[1] = Counts()
    teacher, model = EMATeacher('1ba'), student(net)
    run(teacher, loss=mse, model=model)
    assert (teacher.model.module[1].mean - net[1].mean).abs().max() < net[1].mean.abs().max()
    assert teacher.model.module[1].mean.abs().max() > 0


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(*pairs()))


@pytest.mark.parametrize('teacher', [EMATeacher('1ep'), SnapshotTeacher('1ep')])
def test_epochs_of_unknown_length_are_refused_before_the_first_batch(teacher):
    seen = Recorder()
    data = torch.utils.data.DataLoader(Endless(), batch_size=8)
    algorithm = Distillation(teacher, KLDivergence(2.0), start_dur='1ep', end_dur='9ep')
    with pytest.raises(TeacherError, match='the number of batches in an epoch is unknown; give the time in batches'):
        train(norm_student(), data, [algorithm], [seen], max_duration='4ba')
    assert not seen.seen
