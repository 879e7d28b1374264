"""What a YAML file may name: what is of its kind, from a package that may be named; nothing else is called."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml
from composer import Callback
from omegaconf import OmegaConf

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.markers import Component
from composer_kd.config.registry import resolve
from composer_kd.config.trust import trusting
from composer_kd.errors import ConfigError
from composer_kd.runs.saved import open_run

KD = 'yamls/digits/kd.yaml'
called: list[str] = []


def refusal(*overrides, file=KD):
    with pytest.raises(ConfigError) as error:
        load_config(file, list(overrides))
    return str(error.value)


ANYWHERE = {
    'callback': 'callbacks={{{name}: {options}}}',
    'algorithm': 'algorithms={{{name}: {options}}}',
    'logger': 'loggers={{{name}: {options}}}',
    'loss': 'algorithms.distillation.kd_loss_fn={{name: {name}}}',
    'projector': 'algorithms.distillation.kd_loss_fn={{loss: mse, on: features, project: {{name: {name}}}}}',
    'model': 'model={{name: {name}}}',
    'data set': 'train_loader.dataset={{name: {name}}}',
    'teacher': 'algorithms.distillation.teachers=[{{name: {name}}}]',
    'scheduler': 'scheduler={{name: {name}}}',
    'optimizer': 'optimizer={{name: {name}}}',
}
CODE = (
    *('subprocess.run', 'subprocess.Popen', 'os.system', 'builtins.exec', 'torch.os.system', 'functools.partial'),
    *('torch.utils.data.dataloader.os.system', 'composer_kd.config.registry.importlib.import_module', 'torch.hub.load'),
    *('composer_kd.__main__.main', 'torch.load', 'torch.ops.load_library', 'torch.nn.Module.__init__'),
)


@pytest.mark.parametrize('place', ANYWHERE)
def test_nothing_that_runs_code_is_called_or_imported(place, tmp_path):
    for name in CODE:
        options = f'{{args: [touch, {tmp_path}/ran], command: touch {tmp_path}/ran}}'
        written = ANYWHERE[place].format(name=name, options=options)
        for allowed in ([], ['allow_imports=[subprocess, os, builtins]']):
            said = refusal(written, *allowed)
            assert name in said
            assert 'is not imported' in said or 'is not called' in said or 'is no ' in said
    assert not (tmp_path / 'ran').exists()


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A package outside the working folder that leaves a trace when it is imported."""
    text = 'import pathlib, torch\npathlib.Path(__file__).with_suffix(".ran").touch()\n'
    (tmp_path / 'strange_kd.py').write_text(f'{text}class Loss(torch.nn.MSELoss): pass\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / 'strange_kd.ran'
    sys.modules.pop('strange_kd', None)


def test_a_strange_package_is_imported_only_when_it_is_allowed(stranger, tmp_path):
    loss = 'algorithms.distillation.kd_loss_fn=strange_kd.Loss'
    assert "run code of 'strange_kd'. If you trust it: allow_imports: [strange_kd] in the YAML" in refusal(loss)
    assert not stranger.exists()
    config = load_config(KD, [loss, 'allow_imports=[strange_kd]'])
    assert config.allow_imports == ['strange_kd']
    assert stranger.exists()
    file = tmp_path / 'run.yaml'
    OmegaConf.save({**OmegaConf.load(KD), 'allow_imports': 'strange_kd'}, file)
    assert 'expected a list' in refusal(loss, file=file)
    OmegaConf.save({**OmegaConf.load(KD), 'allow_imports': ['strange_kd']}, file)
    assert load_config(file, [loss]).algorithms['distillation'].options['kd_loss_fn'].target.__name__ == 'Loss'


def test_an_allowed_package_is_not_allowed_afterwards(stranger):
    with trusting(['strange_kd']):
        assert resolve('loss', 'strange_kd.Loss').__name__ == 'Loss'
    with pytest.raises(ConfigError, match='is not imported'):
        resolve('loss', 'strange_kd.Loss')


def saved(folder, model, **more):
    folder.mkdir(parents=True)
    torch.save({'state_dict': torch.nn.Linear(64, 10).state_dict()}, folder / 'latest-rank0.pt')
    data = {'dataset': {'name': 'digits', 'split': 'test'}}
    (folder / 'config.yaml').write_text(yaml.safe_dump({'model': {'name': model}, 'eval_loader': data, **more}))
    return folder


@pytest.mark.parametrize('command', ['evaluate', 'bench', 'report', 'export'])
def test_the_record_of_a_run_does_not_allow_itself_anything(command, stranger, tmp_path, capsys):
    folder = saved(tmp_path / 'sent', 'strange_kd.Net', allow_imports=['strange_kd'])
    more = (
        ['--to', 'state-dict']
        if command == 'export'
        else []
        if command == 'evaluate'
        else ['--out', str(tmp_path / 'o')]
    )
    assert main([command, str(folder), *more]) == 2
    assert '--allow-imports strange_kd on the command line' in capsys.readouterr().err
    assert not stranger.exists()
    assert main([command, str(folder), *more, '--allow-imports', 'strange_kd']) == 2
    assert "'strange_kd' has no 'Net'" in capsys.readouterr().err


@pytest.mark.parametrize('place', ['.', 'runs/sent'])
def test_a_module_that_comes_with_a_run_is_not_imported(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = 'evil_kd' if place == '.' else 'runs.sent.evil_kd'
    folder = saved(tmp_path / place / 'run' if place == '.' else tmp_path / place, f'{name}.Net')
    if place == '.':
        for file in folder.iterdir():
            file.rename(tmp_path / file.name)
        folder = tmp_path
    (folder / 'evil_kd.py').write_text('import pathlib\npathlib.Path("ran").touch()\n')
    with pytest.raises(ConfigError, match='lies with the run that names it'):
        open_run(folder)
    with pytest.raises(ConfigError, match='lies with the run that names it'):
        load_config(folder / 'config.yaml')
    assert not (tmp_path / 'ran').exists()


def test_modules_of_the_working_folder_need_no_permission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'mine_kd.py').write_text('import torch\nclass Net(torch.nn.Linear): pass\n')
    assert resolve('model', 'mine_kd.Net').__name__ == 'Net'


def unannotated(**options):
    called.append('unannotated')
    return Callback()


def annotated() -> Callback:
    called.append('annotated')
    return Callback()


def of_another_kind() -> torch.nn.Module:
    called.append('another')
    return torch.nn.Identity()


def test_a_function_is_called_by_the_check_only_if_it_says_that_it_gives_the_kind():
    called.clear()
    load_config(KD, [f'callbacks={{{__name__}.unannotated: {{}}, {__name__}.annotated: {{}}}}'])
    assert called == ['annotated']
    assert 'is not called as a callback: it returns Module' in refusal(
        f'callbacks={{{__name__}.of_another_kind: {{}}}}'
    )
    assert called == ['annotated']


@pytest.mark.parametrize(
    ('scope', 'name', 'expected'),
    [
        ('model', 'torch.optim.SGD', 'expected a class derived from torch.nn.Module'),
        ('optimizer', 'torch.nn.Linear', 'expected a class derived from torch.optim.Optimizer'),
        ('dataset', 'torch.nn.Linear', 'expected a class derived from torch.utils.data.Dataset'),
        ('loss', 'torch.Size', 'expected a class'),
        ('loss', 'torch.manual_seed', r'expected a function of \(student, teacher\)'),
        ('teacher', 'torch.nn.Linear', 'expected one with prepare and outputs and end_batch'),
        ('model', 'torch.nn', 'expected a class or function'),
    ],
)
def test_what_is_of_another_kind_is_refused(scope, name, expected):
    with pytest.raises(ConfigError, match='is no ' + r'[\w ]+: ' if 'class derived' not in expected else expected):
        resolve(scope, name)


@pytest.mark.parametrize(
    ('scope', 'name'),
    [
        ('model', 'torchvision.models.resnet18'),
        ('model', 'torch.nn.Linear'),
        ('dataset', 'torchvision.datasets.FakeData'),
        ('loss', 'torch.nn.functional.mse_loss'),
        ('loss', 'torch.nn.MSELoss'),
        ('optimizer', 'torch.optim.AdamW'),
        ('model', 'transformers.AutoModelForSequenceClassification.from_pretrained'),
    ],
)
def test_what_is_of_its_kind_needs_no_permission(scope, name):
    if name.startswith('transformers'):
        pytest.importorskip('transformers')
    assert callable(resolve(scope, name))


def test_weights_that_bring_code_need_permission():
    pytest.importorskip('transformers')
    model = '{name: transformers.AutoModel.from_pretrained, pretrained_model_name_or_path: x, trust_remote_code: true}'
    key = f'algorithms.distillation.teachers=[{{model: {model}}}]'
    assert 'trust_remote_code: runs code that comes with the weights' in refusal(key)
    load_config(KD, [key, 'allow_imports=[transformers]'])


@pytest.mark.parametrize(('module', 'said'), [('raises', "KeyError: 'on import'"), ('leaves', 'SystemExit: 3')])
def test_a_module_that_cannot_be_imported_is_a_fault_like_others(module, said):
    text = refusal(f'model=tests.config.{module}.Net', 'no_such_key=1')
    assert f"'tests.config.{module}.Net' cannot be imported: {said}" in text
    assert 'no_such_key' in text


def test_components_of_a_script_are_the_script_s_own():
    assert Component('loss', f'{__name__}.pairwise').target is pairwise


def pairwise(student, teacher):
    return (student - teacher).square().mean()
