"""What becomes of a benchmark where something fails, or answers wrongly."""

import numpy as np
import pytest
import torch
from torch import nn

from composer_kd.bench import Candidate, Limits, Setting, bench, plan, write
from composer_kd.bench.backends import Eager
from composer_kd.bench.setting_run import SettingRun
from composer_kd.errors import ConfigError
from tests.bench.test_bench import EAGER, QUICK, candidates
from tests.helpers import mlp, pairs


class Wrong(Eager):
    """Quick, and wrong: it answers in the opposite order."""

    name = 'wrong'

    def load(self, file, module, target):
        right = super().load(file, module, target)
        return lambda *tensors: -right(*tensors)


def test_a_backend_that_answers_wrongly_shows():
    x, y = pairs(24)
    found = bench(
        candidates(), [(x, y)], [Setting('cpu', 1, 'wrong', 'fp32')], limits=QUICK, backends={'wrong': Wrong()}
    )
    with torch.no_grad():
        wrong = mlp(seed=2)(x).numpy().argmin(1)
    assert found.rows[1].output_match == 0
    assert found.rows[1].accuracy == pytest.approx(np.mean(wrong == y.numpy()))


class Stubborn(nn.Module):
    """Decides by the data what to compute."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


def test_a_backend_that_fails_for_one_model_leaves_the_others_their_numbers(tmp_path):
    make = [Candidate('stubborn', Stubborn, 'teacher'), Candidate('plain', mlp)]
    settings = plan(['cpu'], ['export', 'eager'], ['fp32'], [1])
    found = bench(make, [pairs(8)], settings, limits=QUICK)
    assert [row.failed is None for row in found.rows] == [False, True, True, True]
    assert 'torch.export' in found.rows[0].failed
    assert found.rows[0].latency is None
    assert found.rows[0].parameters == 28
    write(found, tmp_path)
    assert 'stubborn: failed: ' in (tmp_path / 'bench.md').read_text()


def test_a_model_without_linear_layers_cannot_be_quantised():
    make = [Candidate('conv', lambda: nn.Sequential(nn.Conv1d(6, 4, 1), nn.Flatten()))]
    found = bench(make, [torch.randn(4, 6, 1)], [Setting('cpu', 1, 'int8-dynamic', 'int8')], limits=QUICK)
    assert 'nothing to quantise' in found.rows[0].failed


class Greedy(nn.Module):
    """Has too little memory for more than some samples."""

    def __init__(self, most, error):
        super().__init__()
        self.linear, self.most, self.error = nn.Linear(6, 4), most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return self.linear(x)


@pytest.mark.parametrize(
    'error', [torch.OutOfMemoryError('Tried to allocate 2 GiB'), RuntimeError('MPS backend out of memory')]
)
def test_out_of_memory_ends_the_sweep_of_one_model_and_nothing_else(error):
    make = [Candidate('greedy', lambda: Greedy(1, error), 'teacher'), Candidate('plain', mlp)]
    found = bench(make, [pairs(24)], EAGER, limits=Limits(2.0, 2))
    greedy, plain = found.rows
    assert greedy.failed is None
    assert [(one.batch, one.failed) for one in greedy.throughput] == [(1, None), (2, 'out of memory')]
    assert greedy.throughput[-1].samples_per_second is None
    assert greedy.accuracy is not None  # asked for fewer samples at once
    assert greedy.output_match == 1
    assert all(one.failed is None for one in plain.throughput)


def test_a_model_that_has_no_memory_for_one_sample_has_a_row_that_says_so():
    make = [Candidate('greedy', lambda: Greedy(0, MemoryError()), 'teacher'), Candidate('plain', mlp)]
    greedy, plain = bench(make, [pairs(8)], EAGER, limits=QUICK).rows
    assert greedy.failed == 'out of memory'
    assert plain.failed is None
    assert plain.speed_up is None


def test_answers_that_are_no_numbers_show():
    class NotANumber(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float('nan')

    row = bench([Candidate('nan', lambda: NotANumber(6, 4))], [pairs(8)], EAGER, limits=QUICK).rows[0]
    assert any('no numbers' in note for note in row.notes)


def test_teachers_that_choose_between_other_classes_end_nothing():
    make = [
        Candidate('a', lambda: mlp(seed=1), 'teacher'),
        Candidate('b', lambda: nn.Linear(6, 3), 'teacher'),
        Candidate('student', lambda: mlp(seed=2), taught_by=('a', 'b')),
    ]
    row = bench(make, [pairs(8)], EAGER, limits=QUICK).rows[2]
    assert (row.failed, row.agreement) == (None, None)
    assert row.accuracy is not None
    assert any('mean of its teachers' in note for note in row.notes)


def test_no_memory_for_the_inputs_is_a_reason_of_one_row(monkeypatch):
    at = SettingRun._at

    def refuse(self, model, *rest):
        if model.name == 'large':
            raise torch.OutOfMemoryError('CUDA out of memory')
        return at(self, model, *rest)

    monkeypatch.setattr(SettingRun, '_at', refuse)
    large, small = bench(candidates(), [pairs(8)], EAGER, limits=QUICK).rows
    assert large.failed == 'out of memory'
    assert small.failed is None


def test_a_backend_that_is_not_installed_names_the_extra():
    class Absent(Eager):
        packages, extra = ('no_such_package',), 'onnx'

    row = bench(candidates(), [pairs(8)], EAGER, limits=QUICK, backends={'eager': Absent()}).rows[0]
    assert row.failed == "no_such_package not installed: pip install 'composer_kd[onnx]'"


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'candidates': []}, 'under different names'),
        ({'candidates': [Candidate('a', mlp, taught_by=('b',))]}, "its teacher 'b' is no candidate"),
        ({'batches': []}, 'expected batches'),
        ({'limits': Limits(0.0)}, 'a budget above 0'),
        ({'settings': [Setting('cpu', 1, 'eagre', 'fp32')]}, "did you mean 'eager'"),
        ({'settings': [Setting('gpu', 1, 'eager', 'fp32')]}, "devices: 'gpu' is unknown"),
        ({'settings': [Setting('cpu', 1, 'eager', 'float16')]}, "precisions: 'float16' is unknown"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given = {'candidates': candidates(), 'batches': [pairs(8)], 'settings': EAGER, **change}
    with pytest.raises(ConfigError, match=message):
        bench(**given)
