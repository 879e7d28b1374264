"""Plans, timing, FLOPs, memory, failures."""

import mmap
import random
import sys
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from composer_kd.bench import DEVICES, Latency, Row, Setting, devices, environment, plan
from composer_kd.bench.backends import OnnxRuntime, Target
from composer_kd.bench.batch_sizes import Sweep, sweep
from composer_kd.bench.failures import is_out_of_memory, reason
from composer_kd.bench.predictions import TopClasses, accuracy, answer, first_samples
from composer_kd.bench.size import count_flops
from composer_kd.bench.tables import quickest
from composer_kd.bench.timing import Blocks, as_latency, speed_up, time_blocks, time_calls
from composer_kd.errors import ConfigError


def test_percentiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    rounds = rng.exponential(size=(9, 50)).tolist()
    found = as_latency(rounds)
    assert (found.p50, found.p90, found.p99) == pytest.approx(np.percentile(np.ravel(rounds), [50, 90, 99]).tolist())
    low, high = np.percentile(np.median(rounds, axis=1), [25, 75])
    assert found.iqr == pytest.approx(high - low)
    assert found.calls == 450


def test_the_speed_up_is_taken_within_rounds():
    drifting = [[1.0], [2.0], [4.0], [8.0]]
    found = speed_up('teacher', drifting, [[one / 2] for (one,) in drifting])
    assert (found.low, found.median, found.high) == (2, 2, 2)
    assert found.is_clear
    assert not speed_up('teacher', [[1.0], [3.0], [1.0]], [[2.0], [1.0], [1.0]]).is_clear


def test_times_are_those_of_the_calls():
    runs = {'short': lambda: time.sleep(0.001), 'long': lambda: time.sleep(0.004)}
    estimates = {'short': 0.001, 'long': 0.004}
    found, failed = time_calls(runs, time.perf_counter, 0.15, estimates, random.Random(0))
    assert not failed
    assert 0.001 <= min(map(min, found['short'])) < 0.004 <= min(map(min, found['long']))
    blocks, _ = time_blocks(runs, time.perf_counter, 0.1, estimates, random.Random(0))
    assert 0.001 <= min(blocks['short'].medians) < 0.004 <= min(blocks['long'].medians)


def test_the_clock_waits_for_the_device_before_and_after_each_call():
    events = []

    def clock():
        events.append('clock')
        return time.perf_counter()

    found, _ = time_calls({'one': lambda: events.append('run')}, clock, 0.001, {'one': 1.0}, random.Random(0))
    assert sum(map(len, found.values())) >= 3
    assert events[:3] == ['clock', 'run', 'clock']


def test_models_take_turns_in_shuffled_order():
    order = []
    runs = {name: lambda name=name: (order.append(name), time.sleep(0.002)) for name in 'abc'}
    time_calls(runs, time.perf_counter, 0.004, dict.fromkeys(runs, 0.002), random.Random(3))
    turns = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert all(sorted(turn) == ['a', 'b', 'c'] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_a_failure_in_a_turn_leaves_the_others():
    def fail():
        raise RuntimeError('device-side assert')

    found, failed = time_calls(
        {'good': lambda: None, 'bad': fail}, time.perf_counter, 0.01, {'good': 1e-6, 'bad': 1e-6}, random.Random(0)
    )
    assert list(found) == ['good']
    assert failed == {'bad': 'RuntimeError: device-side assert'}


def test_a_failure_holds_no_memory_while_the_others_go_on():
    held, alive = [], []

    def fail():
        activations = torch.zeros(4)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError('out of memory') from ValueError('what a compiler wraps')

    runs = {'bad': fail, 'good': lambda: alive.extend(one() is not None for one in held)}
    _, failed = time_calls(runs, time.perf_counter, 0.001, dict.fromkeys(runs, 1e-6), random.Random(0))
    assert failed == {'bad': 'out of memory'}
    assert alive
    assert not any(alive)


def one_sweep(call, seconds=10.0, largest=1024):
    found = Sweep(call, lambda size: (torch.zeros(size, 1),), DEVICES['cpu'], seconds)
    sweep({'one': found}, DEVICES['cpu'], seconds / 50, largest, random.Random(0))
    return found


def test_the_sweep_ends_where_throughput_no_longer_rises():
    found = one_sweep(lambda x: time.sleep(0.002 * max(1, len(x) / 4)))  # 4 at once, for the price of one
    assert [one.batch for one in found.found[:5]] == [1, 2, 4, 8, 16]
    assert found.found[-1].batch < 256  # the machine may be busy, and 16 be better than 8
    assert found.note is None


def test_the_sweep_ends_with_its_budget_and_says_so():
    found = one_sweep(lambda x: time.sleep(0.01), seconds=0.4)
    assert 1 <= len(found.found) < 11
    assert 'still rose at batch' in found.note


def test_a_busy_moment_does_not_end_the_sweep():
    one = Sweep(lambda x: x, lambda size: (torch.zeros(size, 1),), DEVICES['cpu'], 10.0)
    for size, seconds in ((1, [1.0, 1.0, 1.0]), (2, [9.0, 9.0, 1.0]), (4, [9.0, 9.0, 1.0])):
        one.end(size, Blocks(seconds, 0.0))
    assert not one.done  # its best round says that four at once take no longer than one
    for size in (8, 16):
        one.end(size, Blocks([float(size)] * 3, 0.0))
    assert one.done
    assert [round(each.samples_per_second, 2) for each in one.found] == [1, 0.22, 0.44, 1, 1]


def test_files_that_were_read_are_free_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, '_CGROUP', tmp_path)
    for name, text in (('memory.max', '1000'), ('memory.current', '990')):
        (tmp_path / name).write_text(f'{text}\n')
    (tmp_path / 'memory.stat').write_text('anon 100\nfile 850\ninactive_file 600\nactive_file 200\n')
    assert DEVICES['cpu'].free_bytes() == 810
    (tmp_path / 'memory.max').write_text('max\n')
    assert DEVICES['cpu'].free_bytes() > 1000


def test_a_backend_that_has_one_sample_to_itself_is_swept_on():
    # As TorchScript was seen to do: 28.7 k samples a second at batch 1, 14.9 k at 2, 29.1 k at 4, 48 k at 8.
    one = Sweep(lambda x: x, lambda size: (torch.zeros(size, 1),), DEVICES['cpu'], 10.0)
    for size, rate in ((1, 28_742.0), (2, 14_850.0), (4, 29_058.0), (8, 48_000.0)):
        assert not one.done
        one.end(size, Blocks([size / rate] * 3, 0.0))
    for size in (16, 32):  # and it ends where nothing rises any more
        one.end(size, Blocks([size / 48_000.0] * 3, 0.0))
    assert one.done


def test_the_sweep_asks_for_no_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr(DEVICES['cpu'], 'free_bytes', lambda: 1_000_000)
    monkeypatch.setattr(
        DEVICES['cpu'], 'growth', lambda run: (run(), 250_000 * len(run.__closure__[1].cell_contents[0]))[1]
    )
    found = one_sweep(lambda x: time.sleep(0.001))
    assert found.found[-1].samples_per_second is None
    assert 'out of memory: would take about' in found.found[-1].failed


@pytest.mark.parametrize(('kind', 'gates'), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_counted(kind, gates):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(8, 16, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0][:, -1]

    assert count_flops(Last().eval(), (torch.zeros(1, 5, 8),)) == 2 * 5 * gates * 16 * (8 + 16)


def test_convolutions_and_attention_are_counted():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    assert count_flops(conv, (torch.zeros(1, 3, 4, 4),)) == 2 * 3 * 8 * 9 * 16
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    expected = 2 * 5 * 16 * (3 * 16 + 16 + 32 + 32) + 2 * 2 * 5 * 5 * 16
    assert count_flops(encoder, (torch.zeros(1, 5, 16),)) == expected
    assert torch.backends.mkldnn.enabled


def test_what_the_counter_does_not_know_is_not_zero():
    assert count_flops(nn.Embedding(5, 3), (torch.zeros(1, dtype=torch.long),)) is None
    assert count_flops(nn.Flatten(), (torch.zeros(1, 2),)) == 0


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the system does not tell')
def test_the_growth_of_memory_is_what_was_held_at_once():
    def hold():
        # Pages of the system's own: what the heap keeps of memory that was freed depends on the tests before.
        for size in (20, 40):
            with mmap.mmap(-1, size * 1_000_000) as pages:
                for _ in range(size):
                    pages.write(b'x' * 1_000_000)

    grown = min(DEVICES['cpu'].growth(hold) for _ in range(3))
    assert 40e6 <= grown < 1.2 * 40e6
    assert min(DEVICES['cpu'].growth(lambda: None) for _ in range(3)) < 2e6


def test_the_plan_lists_what_is_here():
    settings = plan(['cpu'], threads=[1])
    assert {one.backend for one in settings} == {'eager', 'torchscript', 'export', 'onnxruntime', 'int8-dynamic'}
    assert ('int8-dynamic', 'int8') in {(one.backend, one.precision) for one in settings}
    assert 'fp16' not in {one.precision for one in settings}
    assert 'compile' in {one.backend for one in plan(['cpu'], ['all'], threads=[1])}
    assert [str(one) for one in plan(['cpu'], ['eager'], ['fp32'], [1, 2])] == [
        'cpu, 1 thread, eager, fp32',
        'cpu, 2 threads, eager, fp32',
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'devices': ['cpuu']}, "did you mean 'cpu'"),
        ({'devices': ['xla']}, "no 'xla' on this machine.*present: cpu"),
        ({'backends': ['onnx-runtime']}, "did you mean 'onnxruntime'"),
        ({'precisions': ['float16']}, 'did you mean|valid: bf16'),
        ({'backends': ['int8-dynamic'], 'precisions': ['fp32']}, 'int8-dynamic runs in int8 on cpu'),
        ({'threads': [0]}, 'whole numbers of 1 or more'),
        ({'backends': ['eager'], 'precisions': ['fp32', 'int8']}, 'int8 is left with no backend on cpu.*int8-dynamic'),
    ],
)
def test_a_plan_of_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan(**{'devices': ['cpu'], **arguments})


def test_the_environment_names_neither_the_machine_nor_its_user():
    import getpass
    import platform

    facts = environment()
    assert {'processor', 'torch', 'composer', 'python', 'load at start', 'torch threads'} <= set(facts)
    said = ' '.join(map(str, facts.values()))
    assert platform.node() not in said
    assert f'/{getpass.getuser()}' not in said


def test_reasons_are_short_and_out_of_memory_is_known():
    assert reason(RuntimeError('DefaultCPUAllocator: not enough memory: you tried')) == 'out of memory'
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError('out of range'))
    assert len(reason(ValueError('x' * 5000))) == 300
    assert reason(ConfigError('expected one\nthing')) == 'expected one thing'


def test_segmentation_has_its_classes_in_the_second_dimension():
    logits = torch.randn(3, 5, 4, 6)
    labels = logits.argmax(1)
    batch = torch.zeros(3, 1), labels
    found = answer(lambda x: logits, [(torch.zeros(3, 1),)], [batch], torch.device('cpu'))
    assert found.classes == 5
    assert accuracy(found, [batch]) == 1


def test_a_single_output_chooses_nothing():
    assert (
        accuracy(TopClasses([torch.zeros(4, dtype=torch.long)], 1, True), [(torch.zeros(4, 2), torch.zeros(4))]) is None
    )


def test_the_last_batch_is_cut():
    batches = [{'x': torch.arange(4), 'labels': torch.arange(4)}] * 2
    kept = first_samples(batches, 5)
    assert [batch['x'].tolist() for batch in kept] == [[0, 1, 2, 3], [0]]
    assert len(first_samples(batches, None)) == 2


def test_a_way_that_could_not_answer_for_the_data_is_not_proposed():
    def row(backend, seconds, output_match):
        timed = Latency(seconds, seconds, seconds, 0.0, 9)
        return Row('a', 'teacher', Setting('cpu', 1, backend, 'fp32'), latency=timed, output_match=output_match)

    right, wrong, unknown = row('eager', 3.0, 1.0), row('export', 2.0, 0.5), row('torchscript', 1.0, None)
    assert quickest([right, wrong, unknown]) is right
    assert quickest([unknown]) is unknown  # it has no classes


def test_onnxruntime_that_falls_back_to_the_cpu_is_no_gpu(monkeypatch, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    OnnxRuntime().save(nn.Linear(2, 3).eval(), (torch.zeros(2, 2),), tmp_path / 'model.onnx')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CUDAExecutionProvider'])
    with pytest.warns(UserWarning, match='CUDAExecutionProvider'), pytest.raises(ConfigError, match='fell back'):
        OnnxRuntime().load(tmp_path / 'model.onnx', nn.Identity(), Target(torch.device('cuda')))
