"""``composer-kd bench`` and ``report`` on texts."""

import pytest

from composer_kd.bench import BenchResults
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from tests.texts import run_yaml, save_model, save_sst2, save_tokenizer, sentences

pytest.importorskip('transformers')

EAGER = [
    *('--devices', 'cpu', '--threads', '1', '--budget', '0.1', '--max-batch', '2'),
    *('--backends', 'eager', '--precisions', 'fp32', '--batch-sizes', '1,2', '--new-tokens', '4'),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_sst2(tmp_path)
    save_model(tmp_path / 'bert', id2label={0: 'negative', 1: 'positive'})
    return tmp_path


def test_a_classifier_of_padded_texts_is_timed_at_lengths(place, capsys):
    train(load_config(run_yaml(place, max_duration='1ba'), ['run_name=one']), quiet=True)
    assert main(['bench', 'runs/one', '--out', 'bench', *EAGER, '--lengths', '8,64,65']) == 0
    teacher, student = BenchResults.read('bench').rows
    assert student.accuracy == pytest.approx(evaluate('runs/one').metrics['metrics/eval/MulticlassAccuracy'])
    assert {one.length for one in student.texts} == {8, 64, 65}
    assert {one.failed for one in student.texts if one.length == 65} == {'it takes 64 tokens at most'}
    assert teacher.generation == []
    said = capsys.readouterr().out
    assert 'tokens/s at 8' in said
    assert 'are attended in the mean' in said
    assert 'bench_texts.csv' in said


def test_lengths_of_models_without_texts_are_refused(tmp_path, capsys):
    arguments = ['bench', 'yamls/digits/student.yaml', '--out', str(tmp_path), *EAGER]
    assert main([*arguments, '--lengths', '8']) == 2
    assert 'expected models of texts' in capsys.readouterr().err
    assert main([*arguments, '--lengths', '8', '--new-tokens', '1']) == 2
    assert 'new tokens: expected 2 or more' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_report_of_language_models_has_the_perplexity_of_their_evaluation(place, capsys):
    save_tokenizer(place / 'words')
    (place / 'a.txt').write_text('\n'.join(sentences(200)))
    data = {'name': 'text', 'path': 'a.txt', 'tokenizer': 'words', 'length': 16, 'objective': 'causal'}
    sizes = {'n_layer': 1, 'n_embd': 8, 'n_head': 2, 'n_positions': 32, 'vocab_size': 23}
    big = {'name': 'hf_causal_lm', 'architecture': 'gpt2', 'tokenizer': 'words', 'config': sizes}
    loaders = {'train_loader': {'dataset': data}, 'eval_loader': {'dataset': data}}
    file = run_yaml(place, model=big, algorithms={}, max_duration='2ba', **loaders)
    train(load_config(file, ['run_name=teacher']), quiet=True)
    teaching = {
        'teachers': [{'model': big, 'checkpoint': 'runs/teacher/latest-rank0.pt'}],
        'kd_loss_fn': {'name': 'KLDivergence'},
    }
    file = run_yaml(place, model=big, algorithms={'distillation': teaching}, max_duration='2ba', **loaders)
    train(load_config(file, ['run_name=kd']), quiet=True)
    assert main(['bench', 'runs/teacher', 'runs/kd', '--out', 'runs/bench', *EAGER]) == 0
    assert 'next token after 28' in capsys.readouterr().out
    assert main(['report', 'runs/teacher', 'runs/kd', '--out', 'runs/report']) == 0
    expected = evaluate('runs/kd').metrics['metrics/eval/LanguagePerplexity']
    page = (place / 'runs' / 'report' / 'report.md').read_text()
    assert f'perplexity of {expected:.1f} against its teacher' in page or f'({expected:.1f} against' in page
    assert '## Writing: CPU, 1 thread' in page
