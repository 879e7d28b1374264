"""The benchmark as a whole, on small models."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from composer_kd.bench import BACKENDS, BenchResults, Candidate, Limits, Setting, Watcher, bench, block, plan, write
from composer_kd.bench.backends import Eager
from composer_kd.errors import ConfigError
from tests.helpers import TokenModel, mlp, pairs

QUICK = Limits(0.02, 4)
EAGER = [Setting('cpu', 1, 'eager', 'fp32')]


def candidates(**student):
    return [
        Candidate('large', lambda: mlp(seed=1), 'teacher'),
        Candidate('small', lambda: mlp(seed=2), 'student distilled', taught_by=('large',), **student),
    ]


def top(module, x):
    with torch.no_grad():
        return module(x).numpy().argmax(1)


def test_accuracy_agreement_and_fidelity_are_those_of_numpy():
    x, y = pairs(24, unlabelled=(3, 7))
    found = bench(candidates(), [(x[:16], y[:16]), (x[16:], y[16:])], EAGER, limits=QUICK)
    large, small = top(mlp(seed=1), x), top(mlp(seed=2), x)
    known = y.numpy() != -100
    teacher, student = found.rows
    assert teacher.accuracy == pytest.approx(np.mean(large[known] == y.numpy()[known]))
    assert student.accuracy == pytest.approx(np.mean(small[known] == y.numpy()[known]))
    assert student.agreement == pytest.approx(np.mean(small == large)) != 1  # also where there is no label
    assert (teacher.agreement, teacher.fidelity, student.fidelity) == (1, 1, 1)
    assert found.samples == 24


def test_a_row_says_what_a_model_costs():
    x, y = pairs(24)
    row = bench(candidates(), [(x, y)], EAGER, limits=QUICK).rows[1]
    assert row.parameters == 6 * 8 + 8 + 8 * 4 + 4
    assert row.flops == 2 * (6 * 8 + 8 * 4)
    assert 4 * row.parameters < row.file_bytes < 4 * row.parameters + 5000
    assert 0 < row.load_seconds < 5
    assert 0 < row.latency.p50 <= row.latency.p90 <= row.latency.p99
    assert row.latency.calls >= 3
    assert [one.batch for one in row.throughput] == [1, 2, 4][: len(row.throughput)]
    assert row.speed_up.against == 'large'
    assert row.speed_up.low <= row.speed_up.median <= row.speed_up.high


@pytest.mark.parametrize('backend', ['torchscript', 'export', 'onnxruntime', 'int8-dynamic'])
def test_every_backend_answers_as_the_model_does(backend):
    x, y = pairs(24)
    setting = Setting('cpu', 1, backend, 'int8' if backend == 'int8-dynamic' else 'fp32')
    found = bench(candidates(), [(x, y)], [setting], limits=QUICK)
    assert [row.failed for row in found.rows] == [None, None]
    for row, seed in zip(found.rows, (1, 2)):
        assert row.fidelity >= (0.9 if backend == 'int8-dynamic' else 1)
        assert row.accuracy == pytest.approx(np.mean(top(mlp(seed=seed), x) == y.numpy()), abs=0.1)
        assert row.file_bytes > 0
        assert row.latency.calls >= 3


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_halves_the_file(precision):
    make = [Candidate('wide', lambda: nn.Linear(6, 4000))]
    found = bench(make, [pairs(8)[0]], [*EAGER, Setting('cpu', 1, 'eager', precision)], limits=QUICK)
    full, half = found.rows
    assert half.file_bytes == pytest.approx(full.file_bytes / 2, rel=0.1)
    assert half.fidelity >= 0.5


@pytest.mark.slow
def test_torch_compile_answers_as_the_model_does():
    x, y = pairs(24)
    found = bench(candidates(), [(x, y)], [Setting('cpu', 1, 'compile', 'fp32')], limits=QUICK)
    assert [(row.failed, row.fidelity) for row in found.rows] == [(None, 1), (None, 1)]
    assert found.rows[1].load_seconds > 0.2  # it compiled its own, and did not use that of the first


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
    assert found.rows[1].fidelity == 0
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
    assert greedy.fidelity == 1
    assert all(one.failed is None for one in plain.throughput)


def test_a_model_that_has_no_memory_for_one_sample_has_a_row_that_says_so():
    make = [Candidate('greedy', lambda: Greedy(0, MemoryError()), 'teacher'), Candidate('plain', mlp)]
    greedy, plain = bench(make, [pairs(8)], EAGER, limits=QUICK).rows
    assert greedy.failed == 'out of memory'
    assert plain.failed is None
    assert plain.speed_up is None


def test_nothing_is_said_of_the_accuracy_of_random_weights():
    rows = bench(candidates(trained=False), [pairs(24)], EAGER, limits=QUICK).rows
    assert rows[0].accuracy is not None
    assert (rows[1].accuracy, rows[1].agreement, rows[1].fidelity) == (None, None, 1)
    assert 'random weights: no accuracy' in rows[1].notes


def test_answers_that_are_no_numbers_show():
    class NotANumber(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float('nan')

    row = bench([Candidate('nan', lambda: NotANumber(6, 4))], [pairs(8)], EAGER, limits=QUICK).rows[0]
    assert any('no numbers' in note for note in row.notes)


class Tokens(nn.Module):
    """Logits for each position."""

    def __init__(self, seed):
        super().__init__()
        self.model = TokenModel(seed=seed)

    def forward(self, input_ids):
        return self.model({'input_ids': input_ids})


def test_token_models_are_asked_for_the_positions_that_count():
    labels = torch.randint(11, (6, 5))
    labels[:, 3:] = -100
    batch = {'input_ids': torch.randint(11, (6, 5)), 'labels': labels}
    make = [
        Candidate('teacher', lambda: Tokens(1), 'teacher'),
        Candidate('student', lambda: Tokens(2), taught_by=('teacher',)),
        Candidate('next', lambda: Tokens(2), shift_labels=True),
    ]
    rows = bench(make, [batch], EAGER, limits=QUICK).rows
    with torch.no_grad():
        one, other = (TokenModel(seed=seed)(batch).numpy().argmax(-1) for seed in (1, 2))
    valid = labels.numpy() != -100
    assert rows[1].accuracy == pytest.approx(np.mean(other[valid] == labels.numpy()[valid]))
    assert rows[1].agreement == pytest.approx(np.mean(one[valid] == other[valid]))
    assert rows[2].accuracy == pytest.approx(np.mean(other[:, :2] == labels.numpy()[:, 1:3]))


def test_a_student_of_two_teachers_is_compared_with_their_mean():
    x, y = pairs(24)
    make = [
        Candidate('a', lambda: mlp(seed=1), 'teacher'),
        Candidate('b', lambda: mlp(seed=3), 'teacher'),
        Candidate('student', lambda: mlp(seed=2), taught_by=('a', 'b')),
    ]
    rows = bench(make, [(x, y)], EAGER, limits=QUICK).rows
    with torch.no_grad():
        both = (mlp(seed=1)(x) + mlp(seed=3)(x)).numpy().argmax(1)
    assert rows[2].agreement == pytest.approx(np.mean(top(mlp(seed=2), x) == both))


def test_equal_models_are_in_doubt_and_threads_are_set_back():
    make = [Candidate('a', mlp, 'teacher'), *(Candidate(name, mlp) for name in 'bcdef')]
    found = bench(make, [pairs(8)], [Setting('cpu', 2, 'eager', 'fp32')], limits=Limits(0.1, 1))
    assert any('noise' in warning for warning in found.warnings)
    assert torch.get_num_threads() == 1


def test_results_are_told_after_each_setting_and_read_back(tmp_path):
    class Writer(Watcher):
        seen = ()

        def finish(self, results, rows):
            write(results, tmp_path)
            self.seen = (*self.seen, len(BenchResults.read(tmp_path).rows))

    watcher = Writer()
    settings = [*EAGER, Setting('cpu', 1, 'eager', 'bf16')]
    found = bench(candidates(), [pairs(8)], settings, limits=QUICK, command='me', data='noise', watcher=watcher)
    assert watcher.seen == (2, 4)
    assert BenchResults.read(tmp_path) == found
    lines = (tmp_path / 'bench.csv').read_text().splitlines()
    assert len(lines) == 5
    assert lines[1].startswith('large,teacher,cpu,1,eager,fp32,')
    assert not list(tmp_path.glob('*.part'))


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
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given = {'candidates': candidates(), 'batches': [pairs(8)], 'settings': EAGER, **change}
    with pytest.raises(ConfigError, match=message):
        bench(**given)


def test_the_callers_model_is_left_as_it_is():
    model = mlp(dropout=0.5).double().train()
    bench([Candidate('mine', lambda: model)], [pairs(8)], [Setting('cpu', 1, 'eager', 'bf16')], limits=QUICK)
    assert model.training
    assert next(model.parameters()).dtype == torch.float64
    assert set(BACKENDS) == {'eager', 'compile', 'torchscript', 'export', 'onnxruntime', 'int8-dynamic'}


@pytest.mark.parametrize('width', [60, 100, 200])
def test_tables_fit_the_terminal_and_name_every_model(width):
    console = Console(width=width, record=True, file=io.StringIO())
    found = bench(candidates(), [pairs(24)], EAGER, limits=QUICK)
    console.print(block(found.rows, width))
    text = console.export_text()
    assert all(f'\n{name} ' in text for name in ('large', 'small'))
    assert 'latency' in text
    assert 'fidelity' in text
    assert ('p90' in text) == (width == 200)


def test_onnxruntime_tells_what_an_answer_takes():
    make = [Candidate('conv', lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)))]
    images = torch.randn(2, 3, 128, 128)
    for backend in ('eager', 'onnxruntime'):
        found = bench(make, [images], [Setting('cpu', 1, backend, 'fp32')], limits=Limits(0.05, 1))
        assert 64 * 126 * 126 * 4 < found.rows[0].peak_memory_bytes < 40e6
