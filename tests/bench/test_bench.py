"""The benchmark as a whole, on small models."""

import functools
import io

import numpy as np
import pytest
import torch
from composer.loss import soft_cross_entropy
from composer.models import ComposerClassifier
from rich.console import Console
from torch import nn

from composer_kd.bench import (
    BACKENDS,
    DEVICES,
    BenchResults,
    Candidate,
    Device,
    Limits,
    Setting,
    Watcher,
    bench,
    block,
    write,
)
from composer_kd.bench.backends import Eager, Export, TorchScript
from composer_kd.bench.saved_forms import SavedForms
from tests.deploy import tiny
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


def test_accuracy_agreement_and_output_match_are_those_of_numpy():
    x, y = pairs(24, unlabelled=(3, 7))
    found = bench(candidates(), [(x[:16], y[:16]), (x[16:], y[16:])], EAGER, limits=QUICK)
    large, small = top(mlp(seed=1), x), top(mlp(seed=2), x)
    known = y.numpy() != -100
    teacher, student = found.rows
    assert teacher.accuracy == pytest.approx(np.mean(large[known] == y.numpy()[known]))
    assert student.accuracy == pytest.approx(np.mean(small[known] == y.numpy()[known]))
    assert student.agreement == pytest.approx(np.mean(small == large)) != 1  # also where there is no label
    assert (teacher.agreement, teacher.output_match, student.output_match) == (1, 1, 1)
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
        assert row.output_match >= (0.9 if backend == 'int8-dynamic' else 1)
        assert row.accuracy == pytest.approx(np.mean(top(mlp(seed=seed), x) == y.numpy()), abs=0.1)
        assert row.file_bytes > 0
        assert row.latency.calls >= 3


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_halves_the_file(precision):
    make = [Candidate('wide', lambda: nn.Linear(6, 4000))]
    found = bench(make, [pairs(8)[0]], [*EAGER, Setting('cpu', 1, 'eager', precision)], limits=QUICK)
    full, half = found.rows
    assert half.file_bytes == pytest.approx(full.file_bytes / 2, rel=0.1)
    assert half.output_match >= 0.5


@pytest.mark.slow
def test_torch_compile_answers_as_the_model_does(capfd):
    x, y = pairs(24)
    found = bench(candidates(), [(x, y)], [Setting('cpu', 1, 'compile', 'fp32')], limits=QUICK)
    assert [(row.failed, row.output_match) for row in found.rows] == [(None, 1), (None, 1)]
    assert found.rows[1].load_seconds > 0.3 * found.rows[0].load_seconds > 0.3  # not from a cache, on disk or not
    assert 'CUDA' not in capfd.readouterr().err


def test_nothing_is_said_of_the_accuracy_of_random_weights():
    rows = bench(candidates(trained=False), [pairs(24)], EAGER, limits=QUICK).rows
    assert rows[0].accuracy is not None
    assert (rows[1].accuracy, rows[1].agreement, rows[1].output_match) == (None, None, 1)
    assert 'random weights: no accuracy' in rows[1].notes


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


def test_a_causal_language_model_is_known_as_one():
    labels = torch.randint(tiny.WORDS, (6, tiny.LENGTH))
    batch = {**tiny.tokens(6), 'labels': labels}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = tiny.gpt2_module()
    make = [Candidate(name, lambda: model, shift_labels=shift) for name, shift in [('known', None), ('not', False)]]
    known, plain = bench(make, [batch], EAGER, limits=QUICK).rows
    with torch.no_grad():
        predicted = model(**tiny.tokens(6)).logits.argmax(-1)
    assert known.accuracy == pytest.approx((predicted[:, :-1] == labels[:, 1:]).float().mean().item())
    assert plain.accuracy == pytest.approx((predicted == labels).float().mean().item())


def test_the_label_that_a_models_own_loss_ignores_does_not_count():
    def model(seed):
        torch.manual_seed(seed)
        loss = functools.partial(soft_cross_entropy, ignore_index=255)
        return ComposerClassifier(nn.Conv2d(2, 3, 1), num_classes=3, loss_fn=loss)

    x, labels = torch.randn(4, 2, 5, 5), torch.randint(3, (4, 5, 5), dtype=torch.uint8)
    labels[:, :3] = 255
    one, other = (model(seed).eval() for seed in (1, 2))
    with torch.no_grad():
        first, second = (net((x, labels)).argmax(1) for net in (one, other))
    make = [
        Candidate('teacher', lambda: one, 'teacher', shift_labels=None),
        Candidate('student', lambda: other, taught_by=('teacher',), shift_labels=None),
    ]
    _, row = bench(make, [(x, labels)], EAGER, limits=QUICK).rows
    known = labels != 255
    assert row.accuracy == pytest.approx((second == labels)[known].float().mean().item())
    assert row.agreement == pytest.approx((first == second)[known].float().mean().item())


def test_one_candidate_may_be_in_several_benchmarks():
    one = Candidate('named', tiny.Keywords)
    for batch in (tiny.Measured(8).columns, {**tiny.Measured(4).columns, 'more': torch.zeros(4)}):
        (row,) = bench([one], [batch], EAGER, limits=QUICK).rows
        assert (row.failed, row.output_match) == (None, 1)


def test_a_model_that_takes_any_keyword_is_timed():
    batch = tiny.Measured().columns
    settings = [*EAGER, Setting('cpu', 1, 'export', 'fp32'), Setting('cpu', 1, 'torchscript', 'fp32')]
    rows = bench([Candidate('keywords', tiny.Keywords)], [batch], settings, limits=QUICK).rows
    assert [(row.failed, row.output_match) for row in rows] == [(None, 1)] * 3
    expected = top(mlp(seed=3), pairs(24)[0]) == pairs(24)[1].numpy()
    assert rows[0].accuracy == pytest.approx(np.mean(expected))


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


class Meta(Device):
    """A device that has no memory, to see what is put there."""

    name, absent = 'meta', ''

    def available(self):
        return True


@pytest.mark.parametrize(('backend', 'place'), [(TorchScript, 'meta'), (Export, 'cpu')])
def test_a_trace_is_made_where_it_runs(backend, place, monkeypatch, tmp_path):
    seen = []

    class Recorder(backend):
        def save(self, module, inputs, file):
            seen.extend((module.weight.device.type, inputs[0].device.type))
            torch.save(None, file)

        def load(self, file, module, target):
            return module.to(target.device)

    monkeypatch.setitem(DEVICES, 'meta', Meta())
    module = nn.Linear(6, 4)
    forms = SavedForms(module, (torch.zeros(3, 6),), tmp_path)
    forms.load(Setting('meta', None, 'recorder', 'fp32'), Recorder(), Meta())
    assert seen == [place, place]
    assert module.weight.device.type == 'cpu'


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
    assert 'output match' in text
    assert ('p90' in text) == (width == 200)


def test_onnxruntime_tells_what_an_answer_takes():
    make = [Candidate('conv', lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)))]
    images = torch.randn(2, 3, 128, 128)
    for backend in ('eager', 'onnxruntime'):
        found = bench(make, [images], [Setting('cpu', 1, backend, 'fp32')], limits=Limits(0.05, 1))
        assert 64 * 126 * 126 * 4 < found.rows[0].peak_memory_bytes < 40e6


def test_what_is_loaded_with_its_objects_lies_where_nobody_else_can_write(monkeypatch):
    folders = []
    save = Eager.save

    def seen(self, module, inputs, file):
        folders.append((file.parent.parent.stat().st_mode & 0o777, file.exists(), file.parent.parent))
        save(self, module, inputs, file)

    monkeypatch.setattr(Eager, 'save', seen)
    bench(candidates(), [pairs(8)], EAGER, limits=QUICK)
    assert [(mode, existed) for mode, existed, _ in folders] == [(0o700, False)] * 2
    assert not any(folder.exists() for _, _, folder in folders)
