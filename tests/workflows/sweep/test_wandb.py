"""The same file for Weights & Biases, whose functions are replaced where they would need a server."""

from __future__ import annotations

import re

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from composer_kd.cli.main import main, make_parser
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.workflows.sweep.sweep_file import ARGUMENTS, read_sweep
from composer_kd.workflows.sweep.wandb import run_wandb_sweep
from tests.workflows.sweep.tools import SMALL, write

SHIPPED = ('yamls/sweeps/digits.yaml', 'yamls/sweeps/cifar10.yaml')
# What W&B's schema of a sweep allows, of the kinds that the shipped files use.
TOP = {'name', 'project', 'program', 'method', 'run_cap', 'metric', 'early_terminate', 'command', 'parameters'}
KINDS = [
    ({'values'}, set()),
    ({'value'}, set()),
    ({'min', 'max'}, set()),
    ({'distribution', 'min', 'max'}, {'uniform', 'log_uniform_values', 'int_uniform'}),
    ({'distribution', 'min', 'max', 'q'}, {'q_uniform', 'q_log_uniform_values'}),
]


@pytest.fixture
def server(monkeypatch):
    """Stands for W&B's server and agent; what they are called with."""
    calls = []
    monkeypatch.delenv('WANDB_MODE', raising=False)
    monkeypatch.setattr(wandb, 'sweep', lambda sweep, **places: calls.append(('sweep', sweep, places)) or 'abc123')
    monkeypatch.setattr(wandb, 'agent', lambda sweep_id, **places: calls.append(('agent', sweep_id, places)))
    return calls


def as_agent(sweep, **values):
    """The command line that W&B's agent runs for some values, by its own functions."""
    macros = create_sweep_command_args({'args': {key: {'value': value} for key, value in values.items()}})
    words = []
    for word in map(str, create_sweep_command(list(sweep['command']))):
        macro = word.startswith('${') and word.endswith('}')
        words += macros[word[2:-1]] if macro else [word]
    return words


@pytest.mark.parametrize('path', SHIPPED)
def test_the_shipped_sweeps_are_in_wandbs_format(path):
    sweep = load_sweep_config(path)
    assert set(sweep) <= TOP
    assert {'method', 'metric', 'parameters', 'command'} <= set(sweep)
    assert all(re.fullmatch(r'[A-Za-z_][A-Za-z0-9_.-]*', key) for key in sweep['parameters'])
    for spec in sweep['parameters'].values():
        assert any(set(spec) == keys and (not kinds or spec['distribution'] in kinds) for keys, kinds in KINDS), spec
        assert all(isinstance(spec[key], (int, float)) for key in ('min', 'max', 'q') if key in spec)
    assert isinstance(sweep['command'], list)
    assert ARGUMENTS in sweep['command']
    assert sweep.get('early_terminate', {'type': 'hyperband'})['type'] == 'hyperband'


@pytest.mark.parametrize('path', SHIPPED)
def test_an_agent_runs_what_a_trial_here_runs(path):
    sweep = read_sweep(path)
    values = {parameter.key: parameter.representatives()[-1] for parameter in sweep.parameters}
    words = as_agent(load_sweep_config(path), **values)
    assert words[:2] == ['composer-kd', 'train']
    options = make_parser().parse_args(words[1:])
    config = load_config(options.yaml, options.overrides)
    assert 'wandb' in config.loggers
    assert config.train_loader.hold_out is not None
    assert config.optimizer.options['lr'] == values['optimizer.lr']
    assert config.global_train_batch_size == values['global_train_batch_size']


def test_values_of_any_kind_reach_the_run_as_they_are(tmp_path):
    chosen = {'name': 'DecoupledSGDW', 'lr': 1e-05, 'momentum': 0.9, 'nesterov': True}
    file = write(tmp_path, parameters={'optimizer': {'values': [chosen]}})
    words = as_agent(load_sweep_config(str(file)), optimizer=chosen)
    config = load_config(words[2], words[3:])
    assert config.optimizer.options == {key: value for key, value in chosen.items() if key != 'name'}


def test_the_file_is_sent_and_an_agent_works_on_it(server, tmp_path):
    quick = [SMALL[0], *SMALL[2:]]  # says nothing of what is held out, or of logging
    run_wandb_sweep(write(tmp_path, *quick, project='p', entity='e'), trials=9)
    (_, sent, places), agent = server
    assert places == {'entity': 'e', 'project': 'p'}
    assert agent == ('agent', 'abc123', places)
    assert sent['run_cap'] == 9
    assert sent['command'][-1] == ARGUMENTS
    assert set(sent['command']) >= {'train_loader.hold_out=0.1', 'loggers={wandb: {}}', *quick}
    config = load_config(sent['command'][2], sent['command'][3:-1])
    assert config.train_loader.hold_out == 0.1
    assert 'wandb' in config.loggers
    assert yaml.safe_load((tmp_path / 'sweep.yaml').read_text())['parameters'] == sent['parameters']


def test_what_is_wrong_is_said_before_the_server_is_asked(server, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        run_wandb_sweep(write(tmp_path, parameters={'optimizer.lrr': {'value': 1.0}}))
    with pytest.raises(ConfigError, match='W&B has hyperband alone, got median'):
        run_wandb_sweep(write(tmp_path, early_terminate={'type': 'median'}))
    assert server == []


@pytest.mark.parametrize('mode', ['offline', 'disabled', 'dryrun'])
def test_without_a_server_it_is_refused_with_the_way_out(server, tmp_path, monkeypatch, capsys, mode):
    monkeypatch.setenv('WANDB_MODE', mode)
    assert main(['sweep', str(write(tmp_path)), '--wandb']) == 2
    said = capsys.readouterr().err
    assert f"WANDB_MODE is '{mode}': unset it, or leave --wandb out to search on this machine" in said
    assert server == []


@pytest.mark.parametrize('options', [['--out', 'there'], ['--no-pruning']])
def test_options_of_this_machine_are_not_passed_over(server, tmp_path, capsys, options):
    assert main(['sweep', str(write(tmp_path)), '--wandb', *options]) == 2
    assert '--out and --no-pruning are for a sweep on this machine' in capsys.readouterr().err
    assert server == []


def test_a_server_that_refuses_is_named(server, tmp_path, monkeypatch):
    def refuse(sweep, **places):
        raise wandb.errors.UsageError('api_key not configured (no-tty)')

    monkeypatch.setattr(wandb, 'sweep', refuse)
    with pytest.raises(ConfigError, match=r'did not take the sweep: api_key not configured .* `wandb login`'):
        run_wandb_sweep(write(tmp_path))


def test_without_wandb_the_extra_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'composer_kd\[wandb\]'"):
        run_wandb_sweep(write(tmp_path))
