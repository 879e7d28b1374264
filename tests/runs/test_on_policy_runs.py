"""Runs from YAML on the student's own texts: the recipe, a resume, and what is refused before it."""

from pathlib import Path

import pytest
import torch
import yaml

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.train import train
from tests.texts import VOCABULARY, save_tokenizer, sentences

pytest.importorskip('transformers')
RECIPE = Path(__file__).parents[2] / 'yamls/text/on_policy.yaml'
SIZES = {'n_layer': 1, 'n_embd': 8, 'n_head': 2, 'n_positions': 16, 'vocab_size': VOCABULARY, 'initializer_range': 0.5}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path / 'words')
    (tmp_path / 'corpus.txt').write_text('\n'.join(sentences(60)))
    return tmp_path


def written(place, **changes):
    data = {'name': 'text', 'path': 'corpus.txt', 'tokenizer': 'words', 'length': 10, 'objective': 'causal'}
    model = {'name': 'hf_causal_lm', 'architecture': 'gpt2', 'tokenizer': 'words', 'config': SIZES}
    distillation = {
        'teachers': [{'model': model, 'name': 'teacher', 'checkpoint': changes.pop('checkpoint', None)}],
        'kd_loss_fn': {'name': 'GeneralizedJSD', 'beta': 0.5},
        'on_policy': {'fraction': 0.5, 'max_new_tokens': 4, 'prompt_length': 5, **changes.pop('on_policy', {})},
    }
    content = {
        'model': model, 'optimizer': {'name': 'DecoupledAdamW', 'lr': 0.01},
        'train_loader': {'dataset': data}, 'algorithms': {'distillation': distillation},
        'max_duration': '8ba', 'global_train_batch_size': 4, 'progress_bar': False, 'save_folder': 'runs/{run_name}',
        **changes,
    }  # fmt: skip
    (place / 'run.yaml').write_text(yaml.safe_dump(content))
    return place / 'run.yaml'


@pytest.fixture
def teacher(place):
    train(load_config(written(place, algorithms={}, max_duration='1ba'), ['run_name=teacher']), quiet=True)
    return 'runs/teacher/latest-rank0.pt'


def test_a_run_resumes_bit_for_bit_in_other_microbatches(place, teacher):
    file = written(place, checkpoint=teacher, save_interval='1ba')
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    train(load_config(file, ['run_name=parts', 'max_duration=3ba']), quiet=True)
    train(load_config(file, ['run_name=parts', 'autoresume=true']), quiet=True)
    both = [torch.load(f'runs/{name}/latest-rank0.pt', weights_only=False) for name in ('straight', 'parts')]
    ours, theirs = (one['state']['model'] for one in both)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert metrics is not None


def test_wrong_settings_are_found_with_all_other_faults(place, teacher):
    file = written(place, checkpoint=teacher, on_policy={'fraction': 2.0, 'max_new_token': 3})
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert 'on_policy.max_new_token' in str(refused.value)
    assert 'fraction: expected a number from 0 to 1, got 2.0' in str(refused.value)


def test_texts_without_a_prompt_are_refused_before_the_run(place, teacher):
    file = written(place, checkpoint=teacher, on_policy={'prompt_length': None})
    with pytest.raises(ConfigError, match=r'distillation.on_policy: .*prompt_length'):
        train(load_config(file, ['run_name=none']), quiet=True)


def test_the_recipe_trains(place):
    sizes = ', '.join(f'{name}: {value}' for name, value in {**SIZES, 'n_layer': 2, 'n_positions': 64}.items())
    options = [
        'variables.tokenizer=words', 'variables.corpus=corpus.txt', 'max_duration=4ba',
        f'stages.teacher.model.config={{{sizes}}}',
        'global_train_batch_size=2', 'eval_interval=4ba', 'save_interval=4ba', 'progress_bar=false',
        'stages.student.model.num_layers=1', 'eval_loader.dataset.subset=2',
    ]  # fmt: skip
    assert main(['train', str(RECIPE), *options]) in (0, None)
    history = next((place / 'runs').glob('**/student/history.jsonl')).read_text()
    assert 'on_policy/fraction' in history
    assert 'on_policy/new_tokens' in history
