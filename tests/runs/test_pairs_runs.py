"""Runs on pairs of texts: an encoder-decoder and a causal model, from files to metrics; and what does not fit."""

import pytest
import torch
import yaml

from composer_kd.config.load import load_config
from composer_kd.data import text_pairs
from composer_kd.errors import ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from tests.texts import VOCABULARY, save_jsonl, save_tokenizer, sentences

transformers = pytest.importorskip('transformers')
T5 = {
    'vocab_size': VOCABULARY, 'd_model': 8, 'd_kv': 4, 'd_ff': 8, 'num_layers': 1, 'num_heads': 2,
    'decoder_start_token_id': 0, 'pad_token_id': 0, 'eos_token_id': 3, 'initializer_factor': 3.0, 'dropout_rate': 0.0,
}  # fmt: skip
GPT2 = {
    'n_layer': 1, 'n_embd': 8, 'n_head': 2, 'n_positions': 32, 'vocab_size': VOCABULARY, 'initializer_range': 0.5,
    'eos_token_id': 3, 'resid_pdrop': 0.0, 'embd_pdrop': 0.0, 'attn_pdrop': 0.0,
}  # fmt: skip
MODELS = {
    'seq2seq': {'name': 'hf_seq2seq', 'architecture': 't5', 'tokenizer': 'words', 'config': T5},
    'causal': {'name': 'hf_causal_lm', 'architecture': 'gpt2', 'tokenizer': 'words', 'config': GPT2},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path / 'words')
    for name, count, seed in (('train', 24, 0), ('validation', 10, 1)):
        rows = [{'text': text, 'reply': ' '.join(text.split()[:3])} for text in sentences(count, seed)]
        save_jsonl(tmp_path / f'{name}.jsonl', rows)
    return tmp_path


def written(place, objective, **changes):
    data = {
        'name': 'text_pairs',
        'source': '{text} and',
        'target': 'reply',
        'tokenizer': 'words',
        'max_source_length': 16,
    }
    data['objective'] = objective
    content = {
        'model': MODELS[objective], 'optimizer': {'name': 'SGD', 'lr': 0.05},
        'train_loader': {'dataset': {**data, 'path': 'train.jsonl'}},
        'eval_loader': {'dataset': {**data, 'path': 'validation.jsonl'}},
        'max_duration': '2ep', 'global_train_batch_size': 8, 'device_eval_batch_size': 4, 'progress_bar': False,
        'save_folder': 'runs/{run_name}', **changes,
    }  # fmt: skip
    (place / 'run.yaml').write_text(yaml.safe_dump(content))
    return place / 'run.yaml'


def distilled(objective, **options):
    teacher = {'model': MODELS[objective], 'checkpoint': 'runs/teacher/latest-rank0.pt'}
    return {'distillation': {'teachers': [teacher], 'kd_loss_fn': {'name': 'ReverseKL'}, **options}}


@pytest.mark.parametrize('objective', ['seq2seq', 'causal'])
def test_a_teacher_and_a_student_are_trained_measured_and_opened_again(place, objective):
    train(load_config(written(place, objective), ['run_name=teacher']), quiet=True)
    file = written(place, objective, algorithms=distilled(objective), max_duration='1ba')
    metrics = train(load_config(file, ['run_name=kd', 'seed=1']), quiet=True)
    train(load_config(file, ['run_name=parts', 'seed=1', 'device_train_microbatch_size=3']), quiet=True)
    found = evaluate(place / 'runs' / 'kd').metrics
    name = 'metrics/eval/LanguageCrossEntropy'
    assert found[name] == pytest.approx(metrics[name], rel=1e-5)
    student, other = (open_run(place / 'runs' / one).model().model.eval() for one in ('kd', 'parts'))
    for mine, theirs in zip(student.parameters(), other.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert metrics[name] == pytest.approx(plain_loss(student, objective), rel=1e-4)


def plain_loss(net, objective):
    """The mean over all tokens of answers, each sample by itself without padding, by transformers alone."""
    data = text_pairs(
        'validation.jsonl', source='{text} and', target='reply', tokenizer='words', objective=objective,
        max_source_length=16,
    )  # fmt: skip
    total, count = 0.0, 0
    for sample in data:
        with torch.no_grad():
            loss = net(**{name: torch.tensor([value]) for name, value in sample.items()}).loss
        tokens = sum(label != -100 for label in sample['labels'])
        total, count = total + float(loss) * tokens, count + tokens
    return total / count


@pytest.mark.parametrize('objective', ['seq2seq', 'causal'])
def test_students_answer_prompts_by_themselves(place, objective):
    train(load_config(written(place, objective, max_duration='1ba'), ['run_name=teacher']), quiet=True)
    file = written(place, objective, algorithms=distilled(objective, on_policy={'fraction': 1.0, 'max_new_tokens': 4}))
    train(load_config(file, ['run_name=own']), quiet=True)
    history = (place / 'runs' / 'own' / 'history.jsonl').read_text()
    assert 'on_policy/new_tokens' in history
    assert 'loss/train/task' not in history


@pytest.mark.parametrize(('objective', 'other'), [('seq2seq', 'causal'), ('causal', 'seq2seq')])
def test_pairs_for_another_kind_of_model_are_refused(place, objective, other):
    file = written(place, objective, model=MODELS[other])
    with pytest.raises(ConfigError, match=rf"objective: '{objective}' does not fit .*; write objective: {other}"):
        train(load_config(file, ['run_name=other']), quiet=True)
