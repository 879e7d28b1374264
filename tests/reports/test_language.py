"""What a report says of language models: perplexity against the speed of writing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from composer_kd.bench import Candidate, GenerationSpeed, SpeedUp, TextSpeed
from composer_kd.bench.results import BenchResults
from composer_kd.deploy import Inference
from composer_kd.presentation.units import TIMES
from composer_kd.reports import ALONE, DISTILLED, TEACHER, EvaluationSet, Report
from composer_kd.reports.groups import group
from composer_kd.reports.page import as_html, as_markdown_page
from composer_kd.reports.token_loss import TokenLosses
from composer_kd.reports.token_losses import cross_entropy, loss_difference, perplexity
from composer_kd.workflows.report.timings import TEXTS, measured_now
from composer_kd.workflows.report.token_losses import token_losses
from tests.deploy import tiny
from tests.reports.building import evidence, row, subject

WORDS = 'the models answer for tokens or pixels, and these sections are about one class for each sample'


def losses(mean, seed=0, texts=200, spread=0.1):
    rng = np.random.default_rng(seed)
    tokens = np.random.default_rng(9).integers(5, 20, texts)
    return TokenLosses(tokens * (mean + spread * rng.standard_normal(texts)), tokens)


def model(role, mean, seed=0, **changes):
    one = subject(role, seed, np.zeros(0, dtype=int), 0.5, answers=None, **changes)
    return dataclasses.replace(one, answers=None, token_losses=None if mean is None else losses(mean, seed + len(role)))


def written(name, seconds, ratio=None, prompt=32, **changes):
    speed = GenerationSpeed(
        prompt, 1, 16, 2 * seconds, 1e-4, prompt / seconds / 2, seconds, 1e-4, 1 / seconds, ratio, ratio
    )
    read = [TextSpeed(32, 1, 100 / seconds, 1.0, ratio), TextSpeed(128, 1, None, failed='beyond the budget of time')]
    return row(name, generation=[speed], texts=read, **changes)


TWICE, UNCLEAR = SpeedUp('teacher', 2.0, 1.9, 2.1), SpeedUp('teacher', 1.0, 0.9, 1.1)


def report(student=3.2, alone=3.5, ratio=TWICE, bench=True, seeds=(0,)):
    models = [model(TEACHER, 3.0)]
    models += [model(ALONE, alone, seed) for seed in seeds] if alone is not None else []
    models += [model(DISTILLED, student, seed) for seed in seeds]
    rows = [written('teacher', 4e-3), written('kd-0', 2e-3, ratio)]
    empty = EvaluationSet('texts', np.zeros(0, dtype=int), (), left_out=WORDS)
    return Report(evidence(models=tuple(models), evaluation=empty, bench=BenchResults(rows) if bench else None))


def test_the_verdict_weighs_perplexity_against_the_speed_of_writing():
    found = report()
    first, second = found.verdict[:2]
    assert "has a perplexity of 24.4 against its teacher's 19.8 (+0.2" in first
    assert f'writes the next token 2.0{TIMES} faster (CPU, 1 thread, after 32 tokens), at the price of 2' in first
    assert '% more perplexity' in first
    assert second.startswith('Distillation lowered the perplexity of the student from 33.')
    assert [one.label for one in found.tiles][:3] == [
        'perplexity',
        'nats per token over the student alone',
        'as fast at writing on CPU, 1 thread',
    ]


def test_what_is_within_the_noise_is_said():
    found = report(student=3.0, alone=3.0, ratio=UNCLEAR)
    assert "is within the noise of its teacher's perplexity" in found.verdict[0]
    assert 'not measurably faster or slower' in found.verdict[0]
    assert 'at no measurable cost in perplexity' in found.verdict[0]
    assert 'no clear difference: perplexity' in found.verdict[1]
    assert not any('writing' in one.label for one in found.tiles)


def test_without_timings_or_other_models_no_more_is_said_than_is_known():
    found = report(alone=None, bench=False)
    assert found.verdict[0].endswith('How fast it writes beside its teacher is not known.')
    assert 'What distillation itself gained cannot be said' in found.verdict[1]
    empty = EvaluationSet('texts', np.zeros(0, dtype=int), (), left_out=WORDS)
    alone = Report(evidence(models=(model(ALONE, 3.0),), evaluation=empty))
    assert alone.verdict == [
        'No distilled student is among these runs, so nothing is compared with a teacher. '
        f'Perplexity: alone-0 {perplexity(alone.groups[0]):.1f}.'
    ]


def test_the_student_with_the_least_cross_entropy_is_described():
    models = [model(TEACHER, 3.0), model(DISTILLED, 3.4, 1, name='worse'), model(DISTILLED, 3.1, 2, name='better')]
    models[1] = dataclasses.replace(models[1], settings={**models[1].settings, 'optimizer': {'lr': 9.0}})
    empty = EvaluationSet('texts', np.zeros(0, dtype=int), (), left_out=WORDS)
    found = Report(evidence(models=tuple(models), evaluation=empty))
    assert found.distilled.name == 'better'
    assert 'so its cross-entropy flatters it' in found.verdict[-1]


def test_a_difference_counts_each_text_by_its_tokens():
    mine, theirs = (group([model(role, mean)])[0] for role, mean in ((DISTILLED, 3.2), (TEACHER, 3.0)))
    difference = loss_difference(mine, theirs)
    assert difference.mean == pytest.approx(cross_entropy(mine).mean - cross_entropy(theirs).mean)
    assert difference.over == '200 texts'
    assert difference.low < difference.mean < difference.high
    far = dataclasses.replace(theirs.first, token_losses=losses(9.0, 1))
    assert loss_difference(group([far])[0], theirs).low > 5  # accuracies differ by 1 at most, losses do not
    other = dataclasses.replace(theirs.first, token_losses=TokenLosses(np.ones(3), np.ones(3, dtype=int)))
    assert loss_difference(mine, group([other])[0]) is None  # other texts


def test_seeds_are_compared_in_pairs():
    found = report(seeds=(0, 1, 2))
    assert 'over 3 seeds, in pairs' in found.verdict[1]
    assert perplexity(found.groups[0]) == pytest.approx(math.exp(cross_entropy(found.groups[0]).mean))


def test_the_page_has_the_tables_and_the_plot():
    found = report()
    assert list(found.texts) == ['Tokens per second: CPU, 1 thread', 'Writing: CPU, 1 thread']
    reading, writing = found.texts.values()
    assert [[cell.whole for cell in row[3:]] for row in reading.rows] == [['25.0 k', ''], [f'50.0 k (2.0{TIMES})', '']]
    assert f'Empty: beyond the budget of time (2{TIMES}).' in reading.caption
    assert [[cell.whole for cell in row[3:]] for row in writing.rows] == [
        ['1', '8.00', '4.00', '250'],
        ['1', f'4.00 (2.0{TIMES})', f'2.00 (2.0{TIMES})', '500'],
    ]
    assert [cell.text for cell in found.models.rows[0]].count('19.8') == 1
    assert 'texts' in found.drawings
    page, text = as_html(found), as_markdown_page(found)
    for part in ('Tokens per second: CPU, 1 thread', 'Writing: CPU, 1 thread', 'Reading and writing texts'):
        assert part in page
        assert part in text
    numbers = found.rows()[2]
    assert numbers['next_token_seconds_cpu_1_threads'] == 2e-3
    assert numbers['cross_entropy'] == pytest.approx(3.2, abs=0.03)


def test_only_prompts_that_all_were_timed_with_are_compared():
    found = report()
    longer = dataclasses.replace(found.evidence.bench.rows[1].generation[0], prompt=64, token_seconds=9e-3)
    found.evidence.bench.rows[1].generation.append(longer)
    timing = next(one for one in found.speed.timings if one.group.role == DISTILLED)
    assert found.speed.writing(timing)[0].prompt == 32


def test_a_short_measurement_runs_few_texts():
    candidate = Candidate('teacher', tiny.gpt2_module, TEACHER)
    one = dataclasses.replace(model(TEACHER, 3.0), candidate=candidate)
    results, _ = measured_now([one], [tiny.tokens(12), tiny.tokens(12)])
    assert results.samples == TEXTS
    assert [row.failed for row in results.rows if row.generation] == [None] * len(results.rows)


@pytest.mark.parametrize('kind', ['causal', 'masked', 'seq2seq'])
def test_the_cross_entropy_is_that_of_transformers(kind):
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
        t5 = {'d_model': 16, 'd_kv': 8, 'd_ff': 32, 'num_layers': 1, 'num_heads': 2, 'decoder_start_token_id': 0}
        make = {
            'causal': tiny.gpt2_module,
            'masked': lambda: BertForMaskedLM(BertConfig(vocab_size=tiny.WORDS, **sizes)).eval(),
            'seq2seq': lambda: T5ForConditionalGeneration(T5Config(vocab_size=tiny.WORDS, **t5)).eval(),
        }
        made = make[kind]()
    batches = [tiny.tokens(5, seed=1), tiny.tokens(3, seed=2)]
    for batch in batches:
        batch['labels'] = batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)
    found = token_losses(Inference(made, batches[0]), batches, torch.device('cpu'))
    with torch.no_grad():
        parts = [(made(**batch).loss.item(), (batch['labels'][:, kind == 'causal' :] >= 0).sum()) for batch in batches]
    expected = sum(loss * count for loss, count in parts) / sum(count for _, count in parts)
    assert found.mean == pytest.approx(expected.item(), rel=1e-5)
    assert len(found.nll) == 8
