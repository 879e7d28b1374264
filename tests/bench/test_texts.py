"""Models of texts are timed at lengths without padding, and those that write as they write."""

import csv
import dataclasses
import io
import json
import random
import time

import pytest
import torch
from torch import nn

from composer_kd.bench import (
    BACKENDS,
    DEVICES,
    BenchResults,
    Candidate,
    Limits,
    Setting,
    SpeedUp,
    TextOptions,
    bench,
    block,
    write,
)
from composer_kd.bench.backends import Eager
from composer_kd.bench.doubts import doubts
from composer_kd.bench.guard import Guard
from composer_kd.bench.reading import Reader, read_cells
from composer_kd.bench.results import Row
from composer_kd.bench.texts import Cell, Texts, text_plan
from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.features.generation import Stopwatch, write_greedily
from tests.deploy import tiny

EAGER = Setting('cpu', 1, 'eager', 'fp32')
QUICK = Limits(0.1, 2)
FEW = TextOptions([8, 20], [1, 2], 4)


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def t5_module():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {'num_layers': 1, 'd_model': 16, 'd_kv': 8, 'd_ff': 32, 'num_heads': 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=tiny.WORDS, decoder_start_token_id=0, **sizes)).eval()


def bench_of(make, settings=(EAGER,), texts=FEW, batch=None, **changes):
    candidates = [
        Candidate('large', lambda: seeded(make, 1), 'teacher', shift_labels=None),
        Candidate('small', lambda: seeded(make, 2), taught_by=('large',), shift_labels=None),
    ]
    return bench(candidates, [batch or tiny.tokens(6)], settings, limits=QUICK, texts=texts, **changes)


def test_texts_of_one_length_are_made_of_tokens_that_are_attended():
    batch = {**tiny.tokens(4), 'position_ids': torch.arange(tiny.LENGTH).expand(4, -1), 'labels': torch.zeros(4)}
    model = seeded(tiny.bert_module)
    texts = Texts.of(Inference(model, batch), batch)
    made = dict(zip(Inference(model, batch).keys, texts.inputs(Cell(20, 6))))
    assert made['attention_mask'].tolist() == [[1] * 20] * 6
    assert made['position_ids'].tolist() == [list(range(20))] * 6
    for row in range(6):
        ids = [one for one in batch['input_ids'][row % 4].tolist() if one]  # 0 is the padding
        assert made['input_ids'][row].tolist() == [ids[place % len(ids)] for place in range(20)]
    assert texts.most == 32
    assert not texts.writes


def test_other_data_has_no_texts():
    batch = torch.zeros(2, 3), torch.zeros(2)
    assert Texts.of(Inference(nn.Linear(3, 2), batch), batch) is None
    assert text_plan([None], TextOptions()).texts == ()
    with pytest.raises(ConfigError, match='expected models of texts'):
        text_plan([None], TextOptions([16]))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'lengths': [0]}, 'lengths: expected whole numbers'),
        ({'lengths': []}, 'lengths: expected whole numbers'),
        ({'batch_sizes': [-1]}, 'batch sizes: expected'),
        ({'new_tokens': 1}, 'new tokens: expected 2 or more'),
    ],
)
def test_lengths_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TextOptions(**options)


def test_the_default_lengths_are_those_that_all_models_take():
    batch = tiny.tokens(4)
    short, long = (Texts.of(Inference(seeded(make), batch), batch) for make in (tiny.gpt2_module, t5_module))
    assert (short.most, long.most) == (32, None)
    assert {cell.length for cell in text_plan([long], TextOptions()).texts} == {32, 128, 512}
    plan = text_plan([short, long], TextOptions(new_tokens=8))
    assert {cell.length for cell in plan.texts} == {32}
    assert {cell.length for cell in plan.prompts} == {24}
    assert [cell.batch for cell in plan.texts] == [1, 8, 32]


class Mean(nn.Module):
    """Depends on every token."""

    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(tiny.WORDS, 3)

    def forward(self, input_ids):
        return self.words(input_ids)


class Sleeper(nn.Module):
    """Takes the same time for any text."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, input_ids):
        time.sleep(0.004)
        return self.head(input_ids.float().mean(1, keepdim=True))


def test_the_rate_is_all_tokens_of_the_batch_in_the_time_of_a_call():
    found = bench([Candidate('one', Sleeper)], [tiny.tokens(6)], [EAGER], limits=Limits(0.2, 1), texts=FEW).rows[0]
    assert [(one.length, one.batch) for one in found.texts] == [(8, 1), (8, 2), (20, 1), (20, 2)]
    for one in found.texts:
        assert 0.3 * one.length * one.batch / 0.004 < one.tokens_per_second <= one.length * one.batch / 0.004
    assert found.generation == []


def test_tokens_of_padded_data_are_those_that_are_attended():
    batch = tiny.tokens(6)
    row = bench_of(tiny.bert_module, batch=batch).rows[0]
    for one in row.throughput:
        assert one.tokens == pytest.approx(batch['attention_mask'][: one.batch].sum(1).double().mean().item())
        assert one.positions == tiny.LENGTH
        assert one.tokens_per_second == pytest.approx(one.samples_per_second * one.tokens)


def test_a_model_that_writes_is_timed_as_it_writes(tmp_path):
    found = bench_of(tiny.gpt2_module)
    teacher, student = found.rows
    for row in found.rows:
        assert [(one.prompt, one.batch, one.new_tokens) for one in row.generation] == [
            (8, 1, 4), (8, 2, 4), (20, 1, 4), (20, 2, 4),
        ]  # fmt: skip
        for one in row.generation:
            assert one.failed in (None, 'beyond the budget of time')
    one = student.generation[0]
    assert one.tokens_per_second == pytest.approx(1 / one.token_seconds)
    assert one.prompt_tokens_per_second == pytest.approx(8 / one.first_token_seconds)
    assert one.speed_up.against == one.first_token_speed_up.against == student.texts[0].speed_up.against == 'large'
    assert teacher.generation[0].speed_up is None
    write(found, tmp_path)
    assert BenchResults.read(tmp_path) == found
    with (tmp_path / 'bench_texts.csv').open() as file:
        lines = list(csv.DictReader(file))
    assert {line['what'] for line in lines} == {'reading', 'first token', 'next token'}
    assert '### Writing 4 tokens' in (tmp_path / 'bench.md').read_text()
    assert 'next token after 8' in str(_plain(block(found.rows)))


def _plain(renderable):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize('make', [tiny.gpt2_module, t5_module])
def test_writing_is_greedy_and_no_token_ends_it(make):
    model = seeded(make)
    ids = torch.randint(2, tiny.WORDS, (3, 6), generator=torch.Generator().manual_seed(0))
    is_t5 = model.config.is_encoder_decoder
    written = torch.zeros(3, 1, dtype=torch.long) if is_t5 else ids

    def logits(written):
        return model(input_ids=ids, decoder_input_ids=written) if is_t5 else model(input_ids=written)

    with torch.no_grad():
        for _ in range(5):
            written = torch.cat([written, logits(written).logits[:, -1].argmax(-1, keepdim=True)], 1)
        # The first token that all texts write anyway would end them.
        model.generation_config.eos_token_id = written[0, -3].item()
        watch = Stopwatch(time.perf_counter)
        found = write_greedily(model, {'input_ids': ids, 'attention_mask': torch.ones_like(ids)}, 5, watch)
    assert torch.equal(found, written)
    assert len(watch.times) == 5
    assert watch.times == sorted(watch.times)


@pytest.mark.parametrize('of_decoder', ['decoder_input_ids', 'labels'])
def test_an_encoder_decoder_is_timed_by_its_source_and_as_it_writes(of_decoder):
    batch = {**tiny.tokens(6), of_decoder: torch.ones(6, 5, dtype=torch.long)}
    row = bench_of(t5_module, batch=batch).rows[1]
    assert row.failed is None
    assert row.texts[0].tokens_per_second > 0
    assert row.generation[0].tokens_per_second > 0


def test_prompts_beyond_the_room_of_a_model_are_said():
    row = bench_of(tiny.gpt2_module, texts=TextOptions([8, 30, 40], [1], 4)).rows[0]
    assert [one.failed for one in row.texts] == [None, None, 'it takes 32 tokens at most']
    assert row.generation[1].failed == 'it takes 32 tokens at most, and 30 of the prompt and 4 new ones are more'


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('export', 'onnxruntime')]


@pytest.mark.parametrize('backend', ['torchscript', *SLOW])
def test_graphs_read_texts_of_any_length_and_say_why_they_do_not_write(backend):
    row = bench_of(tiny.gpt2_module, [Setting('cpu', 1, backend, 'fp32')], TextOptions([8, 20], [1], 4)).rows[1]
    assert row.failed is None
    assert all(one.tokens_per_second for one in row.texts)
    assert row.generation == []
    assert any('without the cache of keys and values' in note for note in row.notes)


def test_int8_writes_too():
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama():
        sizes = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=tiny.WORDS, **sizes)).eval()

    row = bench_of(llama, [Setting('cpu', 1, 'int8-dynamic', 'int8')], TextOptions([8], [1], 4)).rows[1]
    assert row.generation[0].token_seconds > 0


class Frozen(Eager):
    """A graph that was made for one length: others are cut, without an error."""

    name, recorded = 'frozen', True

    def load(self, file, module, target):
        loaded = super().load(file, module, target)
        return lambda *tensors: loaded(*(tensor[:, : tiny.LENGTH] for tensor in tensors))


def test_a_graph_that_answers_wrongly_at_another_length_has_no_speed():
    backends = {**BACKENDS, 'frozen': Frozen()}
    row = bench_of(Mean, [Setting('cpu', 1, 'frozen', 'fp32')], backends=backends).rows[0]
    assert row.latency is not None
    assert [one.failed is None for one in row.texts if one.batch == 1] == [True, False]
    assert 'differ by' in row.texts[2].failed
    tokens = bench_of(tiny.gpt2_module, [Setting('cpu', 1, 'frozen', 'fp32')], backends=backends).rows[0]
    assert 'at this length it returns (1, 9, 40), in eager mode (1, 20, 40)' in tokens.texts[2].failed
    # The larger batch of that length is not timed either.
    assert [one.tokens_per_second for one in tokens.texts if one.length == 20] == [None, None]


def test_one_model_that_fails_leaves_the_others_timed():
    batch = tiny.tokens(4)

    def broken(*tensors):
        if tensors[0].shape[1] > 8:
            raise RuntimeError('no kernel for this length')
        return inference(*tensors)

    inference = Inference(seeded(tiny.bert_module), batch)
    texts = Texts.of(inference, batch)
    readers = {
        'right': Reader(inference, texts, inference, ''),
        'broken': Reader(broken, texts, inference, 'right'),
    }
    with torch.inference_mode():
        cells = (Cell(8, 1), Cell(16, 1))
        found = read_cells(readers, cells, DEVICES['cpu'], 0.1, 'fp32', random.Random(0))
    assert [one.failed for one in found['right']] == [None, None]
    assert [one.failed for one in found['broken']] == [None, 'RuntimeError: no kernel for this length']


def test_what_would_take_too_long_or_too_much_is_not_tried(monkeypatch):
    monkeypatch.setattr(DEVICES['cpu'], 'free_bytes', lambda: 1_000)
    monkeypatch.setattr(DEVICES['cpu'], 'growth', lambda run: (run(), 100)[1])
    guard = Guard(DEVICES['cpu'], 10.0, [Cell(8, 1), Cell(8, 4), Cell(32, 1)], 1)
    assert guard.refuses(Cell(1000, 1000)) is None  # the first one
    guard.first_calls(Cell(8, 1), lambda: None, 0.0, 1)
    assert guard.refuses(Cell(8, 4)) is None
    assert 'out of memory: would take about 1.60 kB' in guard.refuses(Cell(32, 1))
    guard.fail(Cell(8, 4), 'out of memory')
    assert guard.refuses(Cell(8, 5)) == 'out of memory'
    assert guard.refuses(Cell(4, 4)) is None
    slow = Guard(DEVICES['cpu'], 0.01, [Cell(4, 1), Cell(4, 2)], 4)
    assert slow.first_calls(Cell(4, 1), lambda: time.sleep(0.004), 0.0, 1) >= 0.004
    with pytest.raises(ConfigError, match='beyond the budget of time'):
        slow.first_calls(Cell(4, 2), lambda: time.sleep(0.004), 0.0, 1)
    assert slow.refuses(Cell(5, 1)) is None  # each length has its time in the smallest batch
    assert slow.refuses(Cell(64, 1)) == slow.refuses(Cell(8, 2)) == 'beyond the budget of time'


def test_no_writing_is_timed_where_none_is_wanted():
    row = bench_of(tiny.gpt2_module, texts=TextOptions([8], [1], 0)).rows[0]
    assert (len(row.texts), row.generation) == (1, [])


def test_files_of_earlier_versions_are_read(tmp_path):
    found = bench_of(tiny.bert_module)
    content = found.as_mapping()
    for row in content['rows']:
        del row['texts'], row['generation']
        for one in row['throughput']:
            del one['tokens'], one['positions']
    (tmp_path / 'bench.json').write_text(json.dumps(content))
    assert BenchResults.read(tmp_path).rows[0].texts == []


def test_doubts_are_one_line_for_each_pair_of_models():
    noisy, clear = SpeedUp('teacher', 1.0, 0.9, 1.1), SpeedUp('teacher', 2.0, 1.9, 2.1)
    settings = [Setting('cpu', threads, 'eager', 'fp32') for threads in range(1, 9)]
    rows = [Row('student', 'student alone', one, speed_up=noisy) for one in settings]
    rows[3] = dataclasses.replace(rows[3], speed_up=clear)
    rows += [Row('other', 'student alone', one, speed_up=clear) for one in settings]
    (said,) = doubts(rows)
    assert said.startswith('student and teacher: the difference is within the noise for latency in 7 of 8 comparisons')
    assert said.endswith('(cpu, 1 thread, eager, fp32: 1.00; cpu, 2 threads, eager, fp32: 1.00; 5 more)')
