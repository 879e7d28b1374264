"""The recipes of yamls/text: each trains, on tiny models and a few sentences."""

import json
import pathlib

import pytest
import torch
import yaml

from composer_kd import losses
from composer_kd.cli.main import main
from composer_kd.config.construct import construct
from composer_kd.config.stages import load_chain
from composer_kd.data.docstrings import PACKAGES
from composer_kd.errors import ConfigError
from composer_kd.presentation.units import metric_text, number_text
from composer_kd.runs.evaluate import evaluate_all
from composer_kd.runs.stages import stage_folders
from composer_kd.students.layer_choice import chosen_layers
from composer_kd.workflows.stages import train_stages
from tests.texts import save_model, save_sst2, sentences

pytest.importorskip('transformers')

YAMLS = pathlib.Path('yamls/text').resolve()
HEADS = {'hidden_size': 24, 'num_hidden_layers': 6, 'num_attention_heads': 12, 'intermediate_size': 32}
RECIPES = {
    'pkd': ['variables.task=sst2'],
    'tinybert': ['variables.task=sst2', 'variables.corpus=a.txt'],
    'minilm': ['variables.task=sst2', 'variables.corpus=a.txt', 'stages.distilled.train_loader.dataset.length=32'],
    'distilbert': ['variables.corpus=a.txt', 'variables.validation=a.txt'],
    'causal_lm': ['variables.corpus=a.txt', 'variables.validation=a.txt'],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COMPOSER_KD_DATA', str(tmp_path))
    save_sst2(tmp_path)
    save_model(tmp_path / 'my-bert', 'BertModel', sizes=HEADS)
    (tmp_path / 'a.txt').write_text('\n'.join(sentences(600)))
    return tmp_path


def trained(name, *overrides, batches=2):
    """Trains all stages of a recipe; returns the metrics of each."""
    place = 'tokenizer' if name == 'causal_lm' else 'pretrained'
    short = [
        f'max_duration={batches}ba',
        f'variables.{place}=my-bert',
        'global_train_batch_size=4',
        'eval_interval=1ba',
    ]
    chain = load_chain(YAMLS / f'{name}.yaml', [*short, 'save_interval=1ba', *RECIPES[name], *overrides])
    train_stages(chain, quiet=True)
    return {stage.name: json.loads((stage.folder / 'metrics.json').read_text()) for stage in chain.stages}


@pytest.mark.parametrize('name', RECIPES)
def test_each_recipe_trains(place, name):
    small = ['eval_loader.dataset.subset=4'] if name in ('distilbert', 'causal_lm') else []
    found = trained(name, *small)
    for stage, metrics in found.items():
        found_losses = {key: value for key, value in metrics.items() if key.startswith('loss/train/')}
        assert all(torch.isfinite(torch.tensor(value)) for value in found_losses.values()), (stage, found_losses)
    last = list(found)[-1]
    assert any(key.startswith('metrics/eval/') for key in found[last])


def test_the_next_token_is_taught_by_the_divergence_that_is_chosen():
    found = {}
    for name in ('forward', 'reverse', 'skewed', 'skewed_reverse', 'jsd'):
        chain = load_chain(YAMLS / 'causal_lm.yaml', [f'variables.divergence={name}'])
        found[chain.name] = repr(construct(chain['student'].config.algorithms['distillation'].options['kd_loss_fn']))
    assert found == {
        'text-causal_lm-forward': repr(losses.KLDivergence(1.0)),
        'text-causal_lm-reverse': repr(losses.ReverseKL(1.0)),
        'text-causal_lm-skewed': repr(losses.SkewedKL(0.1, 1.0)),
        'text-causal_lm-skewed_reverse': repr(losses.SkewedReverseKL(0.1, 1.0)),
        'text-causal_lm-jsd': repr(losses.GeneralizedJSD(0.5, 1.0)),
    }


@pytest.mark.parametrize('name', ['pkd', 'tinybert', 'minilm'])
def test_the_classes_are_those_of_the_data(name):
    config = load_chain(YAMLS / f'{name}.yaml').stages[-1].config
    assert config.train_loader.dataset.name == 'docstrings'
    labels = yaml.safe_load((YAMLS / f'{name}.yaml').read_text())['variables']['tasks']['docstrings']['labels']
    assert tuple(labels) == PACKAGES


def test_distilbert_starts_from_the_layers_that_it_says():
    first, middle, last = chosen_layers('spaced', 6, 3)
    assert f'Layers {first}, {middle} and {last} of' in (YAMLS / 'distilbert.yaml').read_text()


@pytest.mark.parametrize('name', ['tinybert', 'minilm'])
def test_attention_is_compared_without_the_dropout_that_follows_it(name):
    """The maps that models return have gone through dropout: of equal models they would differ in training."""
    config = load_chain(YAMLS / f'{name}.yaml').stages[0 if name == 'minilm' else 1].config
    assert 'outputs.attentions' in repr(config.algorithms['distillation'].options['kd_loss_fn'])
    assert config.model.options['config']['attention_probs_dropout_prob'] == 0


@pytest.mark.parametrize('name', ['causal_lm', 'distilbert'])
def test_evaluate_and_report_say_the_perplexity(place, name, capsys):
    found = trained(name, 'eval_loader.dataset.subset=4', 'run_name=lm', batches=1)
    folders = [f'runs/lm/{stage}' for stage in ('teacher', 'student')]
    capsys.readouterr()
    assert main(['evaluate', *folders]) == 0
    said = capsys.readouterr().out
    assert 'perplexity' in said
    assert main(['report', *folders, '--no-bench', '--out', 'report']) == 0
    written = pathlib.Path('report/report.md').read_text()
    for metrics in found.values():
        perplexity = metrics['metrics/eval/LanguagePerplexity']
        assert metric_text(perplexity) in said
        assert number_text(perplexity) in written


def test_stages_that_measure_nothing_are_left_out_of_comparisons(place, capsys):
    trained('minilm', 'run_name=chain', batches=1)
    capsys.readouterr()
    assert stage_folders(['runs/chain']) == [pathlib.Path('runs/chain/finetuned')]
    (found,) = evaluate_all(['runs/chain'])
    assert found.metrics['metrics/eval/MulticlassAccuracy'] >= 0
    assert main(['report', 'runs/chain', '--no-bench', '--out', 'report']) == 0
    assert 'pretrained' not in capsys.readouterr().out  # its head is random, and so would be its accuracy
    with pytest.raises(ConfigError, match='distilled: the run has no eval_loader'):
        evaluate_all(['runs/chain/distilled'])
