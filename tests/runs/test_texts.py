"""Runs on texts: trained, resumed, stored, evaluated; and what is refused before them."""

import json

import pytest
import torch
import yaml

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from composer_kd.workflows.cache import cache
from tests.texts import TINY, save_jsonl, save_model, save_sst2, save_tokenizer

pytest.importorskip('transformers')


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_sst2(tmp_path)
    save_model(tmp_path / 'bert', id2label={0: 'negative', 1: 'positive'})
    return tmp_path


def written(place, **changes):
    """The path of a YAML that trains a student of one layer, taught by the whole model."""
    data = {'name': 'glue', 'task': 'sst2', 'tokenizer': 'bert', 'root': '.', 'max_length': 16}
    content = {
        'model': {'name': 'hf_classifier', 'pretrained': 'bert', 'config': {'num_hidden_layers': 1}},
        'optimizer': {'name': 'DecoupledAdamW', 'lr': 0.01},
        'train_loader': {'dataset': {**data, 'split': 'train'}},
        'eval_loader': {'dataset': {**data, 'split': 'validation'}},
        'algorithms': {
            'distillation': {
                'teachers': [{'model': {'name': 'hf_classifier', 'pretrained': 'bert'}}],
                'kd_loss_fn': {'name': 'KLDivergence', 'temperature': 2.0},
            }
        },
        'max_duration': '2ep', 'global_train_batch_size': 8, 'progress_bar': False, 'save_folder': 'runs/{run_name}',
        **changes,
    }  # fmt: skip
    (place / 'run.yaml').write_text(yaml.safe_dump(content))
    return place / 'run.yaml'


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


def test_a_run_resumes_bit_for_bit_and_is_evaluated(place):
    file = written(place)
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    train(load_config(file, ['run_name=parts', 'max_duration=4ba', 'save_interval=1ba']), quiet=True)
    train(load_config(file, ['run_name=parts', 'autoresume=true', 'save_interval=1ba']), quiet=True)
    straight, parts = (weights(place / 'runs' / name) for name in ('straight', 'parts'))
    assert all(torch.equal(straight[name], parts[name]) for name in straight)
    found = evaluate(place / 'runs' / 'straight').metrics
    assert found['metrics/eval/MulticlassAccuracy'] == metrics['metrics/eval/MulticlassAccuracy']
    assert found['metrics/eval/CrossEntropy'] == pytest.approx(metrics['metrics/eval/CrossEntropy'], rel=1e-6)


def test_microbatches_give_the_same_numbers(place):
    config = {'num_hidden_layers': 1, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}
    file = written(place, model={'name': 'hf_classifier', 'pretrained': 'bert', 'config': config}, max_duration='3ba')
    whole = train(load_config(file, ['save_folder=null']), quiet=True)
    parts = train(load_config(file, ['save_folder=null', 'device_train_microbatch_size=3']), quiet=True)
    for name in ('loss/train/total', 'loss/train/task', 'loss/train/kd'):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


def test_stored_answers_teach_like_the_teacher(place):
    file = written(place, max_duration='1ep')
    live = train(load_config(file, ['run_name=live']), quiet=True)
    cache(load_config(file), out=place / 'store')
    teachers = 'algorithms.distillation.teachers=[{cache: store}]'
    stored = train(load_config(file, ['run_name=stored', teachers]), quiet=True)
    assert stored['loss/train/kd'] == pytest.approx(live['loss/train/kd'], rel=2e-3)
    assert json.loads((place / 'runs' / 'stored' / 'metrics.json').read_text())['time/batch'] == 3


def refused(file, *overrides):
    with pytest.raises(ConfigError) as error:
        train(load_config(file, ['save_folder=null', *overrides]), quiet=True)
    return str(error.value)


def test_texts_that_are_not_meant_for_the_model(place):
    save_tokenizer(place / 'more', [f'word{number}' for number in range(99)])
    save_tokenizer(place / 'other', ['good', 'bad'])
    model = {'name': 'hf_classifier', 'architecture': 'bert', 'config': {**TINY, 'vocab_size': 50}}
    file = written(place, model=model, algorithms={})
    said = refused(file, 'train_loader.dataset.tokenizer=more')
    assert (
        'train_loader.dataset.tokenizer: has 104 tokens, and BertForSequenceClassification has embeddings for 50'
        in said
    )
    file = written(place, algorithms={})
    said = refused(file, 'train_loader.dataset.tokenizer=other')
    assert "is another than that of the model: 2 tokens have other numbers, such as 'good', 5 here and 12 there" in said
    model['config'].update(max_position_embeddings=7, vocab_size=23)
    said = refused(written(place, model=model, algorithms={}))
    assert 'its longest sample has 11 tokens, and BertForSequenceClassification takes 7' in said
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'num_labels': 3}
    assert "has 2 classes, ['negative', 'positive'], and the model 3 outputs" in refused(
        written(place, model=model, algorithms={})
    )
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'problem': 'regression'}
    assert 'the model one score (problem: regression)' in refused(written(place, model=model, algorithms={}))


def test_labels_in_another_order_than_the_models(place):
    save_model(place / 'turned', id2label={0: 'Positive', 1: 'Negative'})
    model = {'name': 'hf_classifier', 'pretrained': 'turned'}
    file = written(place, model=model, algorithms={})
    said = refused(file)
    assert "another order; write labels: ['positive', 'negative'] beside the task" in said
    order = 'dataset.labels=[positive,negative]'
    train(load_config(file, ['save_folder=null', 'max_duration=1ba', f'train_loader.{order}', f'eval_loader.{order}']))


def test_scores_and_several_kinds_of_labels(place):
    rows = [{'sentence1': 'a film', 'sentence2': 'a good film', 'label': score / 4} for score in range(8)]
    for name in ('train', 'dev'):
        save_jsonl(place / 'glue' / 'STS-B' / f'{name}.jsonl', rows)
    data = ['train_loader.dataset.task=stsb', 'eval_loader.dataset.task=stsb', 'save_folder=null']
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'problem': 'regression'}
    file = written(place, model=model, algorithms={}, max_duration='1ep')
    assert 'metrics/eval/SpearmanCorrCoef' in train(load_config(file, data), quiet=True)
    assert 'has scores for labels, and the model classes' in refused(written(place, algorithms={}), *data)
