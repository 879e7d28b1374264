"""Runs of each task, saved by a real training of one batch, and the tasks made of their folders."""

import pytest
import torch
import transformers
import yaml

from composer_kd.config.load import load_config
from composer_kd.runs.train import train
from composer_kd.workflows.serve.tasks import open_task
from tests.texts import save_jsonl, save_model, save_sst2, save_tokenizer, sentences

SHORT = ['max_duration=1ba', 'progress_bar=false', 'train_loader.dataset.subset=64']
LANGUAGE = {'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'n_positions': 32, 'vocab_size': 23}


def trained(place, name, model, data, **others):
    """The folder of a run of one batch."""
    content = {
        'model': model,
        'optimizer': {'name': 'DecoupledAdamW', 'lr': 0.01},
        'train_loader': {'dataset': data}, 'eval_loader': {'dataset': {**data, **others.pop('evaluation', {})}},
        'max_duration': '1ba', 'global_train_batch_size': 4, 'progress_bar': False, 'run_name': name,
        'save_folder': str(place / name), **others,
    }  # fmt: skip
    file = place / f'{name}.yaml'
    file.write_text(yaml.safe_dump(content))
    train(load_config(file), quiet=True)
    return str(place / name)


def distilled_from(model, checkpoint):
    teacher = {'model': model, 'checkpoint': f'{checkpoint}/latest-rank0.pt'}
    return {'distillation': {'teachers': [teacher], 'kd_loss_fn': {'name': 'KLDivergence', 'temperature': 2.0}}}


@pytest.fixture(scope='session')
def digits_runs(tmp_path_factory):
    """A teacher, and a student that was distilled from it."""
    folder = tmp_path_factory.mktemp('digits')
    train(load_config('yamls/digits/teacher.yaml', [*SHORT, f'save_folder={folder}/teacher']), quiet=True)
    wanted = [*SHORT, f'save_folder={folder}/kd', f'variables.teacher={folder}/teacher/latest-rank0.pt']
    train(load_config('yamls/digits/kd.yaml', wanted), quiet=True)
    return [str(folder / 'teacher'), str(folder / 'kd')]


@pytest.fixture(scope='session')
def text_runs(tmp_path_factory):
    """A teacher of the sentiment of sentences, and a student with its first layer."""
    folder = tmp_path_factory.mktemp('texts')
    save_sst2(folder)
    save_model(folder / 'bert', id2label={0: 'negative', 1: 'positive'})
    data = {'name': 'glue', 'task': 'sst2', 'tokenizer': str(folder / 'bert'), 'root': str(folder), 'max_length': 16}
    model = {'name': 'hf_classifier', 'pretrained': str(folder / 'bert')}
    evaluation = {'split': 'validation'}
    teacher = trained(folder, 'teacher', model, data, evaluation=evaluation)
    small = {**model, 'config': {'num_hidden_layers': 1}}
    student = trained(
        folder, 'student', small, data, evaluation=evaluation, algorithms=distilled_from(model, teacher)
    )  # fmt: skip
    return [teacher, student]


@pytest.fixture(scope='session')
def pair_runs(tmp_path_factory):
    """One model of premises and hypotheses."""
    folder = tmp_path_factory.mktemp('pairs')
    words, classes = sentences(12), ['entailment', 'neutral', 'contradiction']
    rows = [{'premise': one, 'hypothesis': one[::-1], 'label': number % 3} for number, one in enumerate(words)]
    save_jsonl(folder / 'glue' / 'MNLI' / 'train.jsonl', rows)
    save_model(folder / 'bert', num_labels=3, id2label=dict(enumerate(classes)))
    data = {'name': 'glue', 'task': 'mnli', 'tokenizer': str(folder / 'bert'), 'root': str(folder), 'max_length': 32}
    return [trained(folder, 'pairs', {'name': 'hf_classifier', 'pretrained': str(folder / 'bert')}, data)]


@pytest.fixture(scope='session')
def language_runs(tmp_path_factory):
    """Two causal language models that read words."""
    folder = tmp_path_factory.mktemp('language')
    words = save_tokenizer(folder / 'words')
    (folder / 'text.txt').write_text('\n'.join(sentences(60)))
    data = {'name': 'text', 'path': str(folder / 'text.txt'), 'tokenizer': words, 'length': 16}
    runs = []
    for seed, name in enumerate(['large', 'small']):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = transformers.GPT2LMHeadModel(transformers.GPT2Config(**LANGUAGE, initializer_range=0.6))
            net.transformer.wte.weight.data[:5] = 0  # special tokens, which are then never the most probable
            net.save_pretrained(folder / f'gpt-{name}')
        save_tokenizer(folder / f'gpt-{name}')
        model = {'name': 'hf_causal_lm', 'pretrained': str(folder / f'gpt-{name}')}
        runs.append(trained(folder, name, model, data))
    return runs


@pytest.fixture(scope='session')
def digits_task(digits_runs):
    return open_task(digits_runs)


@pytest.fixture(scope='session')
def text_task(text_runs):
    return open_task(text_runs)


@pytest.fixture(scope='session')
def pair_task(pair_runs):
    return open_task(pair_runs)


@pytest.fixture(scope='session')
def language_task(language_runs):
    return open_task(language_runs)
