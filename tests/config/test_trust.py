"""What a YAML file may name: what is of its kind, from a package that may be named; nothing else is called."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest
import torch
import yaml
from composer import Callback
from omegaconf import OmegaConf

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.markers import Component
from composer_kd.config.registry import is_shown, resolve
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
    *(
        'torch.utils.data.dataloader.os.system',
        'composer_kd.config.dotted_paths.importlib.import_module',
        'torch.hub.load',
    ),
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


def of_one_of_two() -> torch.nn.Linear | torch.nn.Conv2d:
    return torch.nn.Linear(2, 2)


def of_one_or_none() -> torch.nn.Module | None:
    return None


def test_a_class_of_a_library_that_has_no_base_class_can_be_trusted():
    pytest.importorskip('transformers')
    name = 'transformers.DataCollatorWithPadding'
    with pytest.raises(ConfigError, match=r'expected a class of composer_kd.*If you trust it: allow_imports') as error:
        resolve('collate', name)
    assert 'derived from a class of' not in str(error.value)
    with trusting(['transformers']):
        resolve('collate', name)


def test_a_function_of_your_own_may_return_one_of_several():
    for function in (of_one_of_two, of_one_or_none):
        assert resolve('model', f'{__name__}.{function.__name__}') is function


def test_what_is_trusted_already_is_not_to_be_trusted_once_more():
    said = refusal(f'callbacks={{{__name__}.of_another_kind: {{}}}}')
    assert 'allow_imports' not in said
    assert 'Write a function of your own around it, or correct what it is annotated to return' in said


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


together = functools.partial(torch.utils.data.default_collate)


def pairwise(student, teacher):
    return (student - teacher).square().mean()


ANYWHERE_ELSE = {
    'collate function': 'train_loader.collate_fn={name}',
    'function that calls a teacher': 'algorithms.distillation.teachers.0.forward={name}',
}
MORE_CODE = (
    # compilers of strings, found by their annotations, as class methods, and among private names
    *('torch.fx.graph_module.reduce_graph_module', 'torch._inductor.codecache.CppCodeCache.load', 'torch.compile'),
    *('torch._inductor.codecache.PyCodeCache.load', 'torch.utils.cpp_extension.load_inline'),
    'torch._C.import_ir_module',
    # what unpickles, or starts a script
    *('torch.hub.load_state_dict_from_url', 'torch.utils.model_zoo.load_url', 'torch.distributed.run.main'),
    # through a module of one's own
    *(f'{__name__}.torch.hub.load', f'{__name__}.torch.fx.graph_module.reduce_graph_module', f'{__name__}.main'),
    # class methods of other classes, and classes that happen to have the methods
    *('transformers.AutoConfig.from_pretrained', 'transformers.AutoTokenizer.from_pretrained'),
    'torch.package.PackageImporter',
)  # fmt: skip


@pytest.mark.parametrize('place', ANYWHERE | ANYWHERE_ELSE)
def test_functions_that_take_code_in_a_string_or_a_file_are_called_nowhere(place):
    for name in MORE_CODE:
        said = refusal((ANYWHERE | ANYWHERE_ELSE)[place].format(name=name, options='{}'))
        assert 'is not imported' in said or 'is not called' in said or 'is no ' in said, said


def test_the_check_compiles_no_string_for_a_projector(tmp_path):
    code = "{_code: 'def forward(self): pass', _graph: x}"
    block = f'"import pathlib; pathlib.Path(\'{tmp_path}/ran\').touch()\\n"'
    project = f'{{name: torch.fx.graph_module.reduce_graph_module, body: {code}, import_block: {block}}}'
    assert 'is not called as a projector' in refusal(
        f'algorithms.distillation.kd_loss_fn={{loss: mse, on: features, project: {project}}}'
    )
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    ('scope', 'name'),
    [
        ('collate', 'torch.utils.data.default_collate'),
        ('collate', 'default_collate'),
        ('collate', f'{__name__}.pairwise'),
        ('collate', f'{__name__}.together'),
        ('collate', 'transformers.default_data_collator'),
        ('collate', 'transformers.DefaultDataCollator'),
        ('call', f'{__name__}.pairwise'),
        ('loss', 'torch.nn.functional.cosine_similarity'),
        ('adapter', 'torchvision.transforms.v2.Resize'),
        ('scheduler', 'composer.optim.LinearScheduler'),
        ('model', 'transformers.BertModel.from_pretrained'),
        ('model', 'transformers.VisionEncoderDecoderModel.from_encoder_decoder_pretrained'),
        ('model', 'torchvision.models.get_model'),
        ('model', 'timm.create_model'),
    ],
)
def test_what_people_name_needs_no_permission(scope, name):
    pytest.importorskip(name.partition('.')[0] if '.' in name else 'torch')
    assert callable(resolve(scope, name))


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ('weights_only: false', 'weights_only: runs what is pickled with the weights'),
        ('model_kwargs: {trust_remote_code: true}', 'model_kwargs.trust_remote_code: runs code that comes with'),
        ('encoder_trust_remote_code: true', 'encoder_trust_remote_code: runs code that comes with the weights'),
        ('attn_implementation: someone/kernel', 'attn_implementation: runs a kernel from a repository'),
    ],
)
def test_options_that_run_what_comes_with_the_weights_need_permission(options, said):
    pytest.importorskip('transformers')
    model = f'{{name: transformers.AutoModel.from_pretrained, pretrained_model_name_or_path: x, {options}}}'
    key = f'algorithms.distillation.teachers=[{{model: {model}}}]'
    assert said in refusal(key)
    load_config(KD, [key, 'allow_imports=[transformers]'])


def test_a_file_in_a_sent_folder_takes_the_place_of_no_library(tmp_path):
    """The installed command starts without the working folder on the path."""
    folder = saved(tmp_path / 'sent', 'torch.nn.Linear')
    for name in ('yaml', 'composer', 'rich', 'timm', 'lmdb', 'flash_attn', 'torch', 'optuna', 'safetensors'):
        (folder / f'{name}.py').write_text(f'open({str(tmp_path / "ran")!r}, "a").write({name!r})\nraise ImportError\n')
    code = 'import sys; sys.path = [p for p in sys.path if p]; from composer_kd.cli.main import main; sys.exit(main())'
    environment = {**os.environ, 'PYTHONPATH': os.getcwd(), 'PYTHONSAFEPATH': '1'}
    ended = subprocess.run(
        [sys.executable, '-c', code, 'evaluate', '.'], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert 'Traceback' not in ended.stderr
    assert not (tmp_path / 'ran').exists(), (tmp_path / 'ran').read_text()


def test_a_library_that_lies_with_a_record_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'timm', raising=False)
    folder = saved(tmp_path / 'sent', 'timm.create_model')
    for file in folder.iterdir():
        file.rename(tmp_path / file.name)
    (tmp_path / 'timm.py').write_text('import pathlib\npathlib.Path("ran").touch()\n')
    with pytest.raises(ConfigError, match='lies with the run that names it'):
        open_run(tmp_path)
    assert not (tmp_path / 'ran').exists()


def test_the_working_folder_is_searched_first_once_a_file_names_a_module_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [one for one in sys.path if one not in ('', str(tmp_path))])
    (tmp_path / 'mine_of_here.py').write_text('import torch\nclass Net(torch.nn.Linear): pass\n')
    assert resolve('model', 'mine_of_here.Net').__name__ == 'Net'
    assert sys.path[0] == str(tmp_path)


def test_weights_of_a_projector_that_bring_code_need_permission():
    pytest.importorskip('transformers')
    name = 'transformers.BertModel.from_pretrained'
    project = f'{{name: {name}, pretrained_model_name_or_path: x, weights_only: false}}'
    said = refusal(f'algorithms.distillation.kd_loss_fn={{loss: mse, on: features, project: {project}}}')
    assert 'project.weights_only: runs what is pickled with the weights' in said


@pytest.mark.parametrize(
    'name', ['transformers.BertModel.from_pretrained', 'timm.create_model', 'torchvision.models.resnet18']
)
def test_the_check_calls_no_function_of_a_library(name):
    """Such a function may fetch weights, and unpickle them."""
    pytest.importorskip(name.partition('.')[0])
    assert not is_shown('projector', resolve('projector', name))
    with trusting([name.partition('.')[0]]):
        assert is_shown('projector', resolve('projector', name))


def test_a_callback_says_what_it_saves_and_loads():
    load_config(KD, ['callbacks={CheckpointSaver: {folder: x, weights_only: false}}'])


@pytest.mark.parametrize(
    'options',
    ['pretrained_cfg_overlay: {file: x.pth}', 'pretrained_cfg: {file: x.pth}', 'checkpoint_path: x.pth'],
)
def test_a_file_that_releases_of_timm_unpickle_needs_permission(options):
    pytest.importorskip('timm')
    key = f'model={{name: timm.create_model, model_name: resnet18, {options}}}'
    assert 'older releases of timm run what is pickled in this file' in refusal(key)
    load_config(KD, [key, 'allow_imports=[timm]'])


def test_a_release_of_timm_that_does_not_say_what_it_builds_does(monkeypatch):
    timm = pytest.importorskip('timm')
    monkeypatch.delitem(timm.create_model.__annotations__, 'return', raising=False)
    assert resolve('model', 'timm.create_model') is timm.create_model
    with pytest.raises(ConfigError, match='is not called as a projector'):
        resolve('projector', 'timm.create_model')
