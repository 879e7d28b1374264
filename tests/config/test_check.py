"""What the check of a run's YAML accepts and refuses."""

from __future__ import annotations

import pathlib
import shlex

import pytest
import torch
from composer import Algorithm
from omegaconf import OmegaConf

from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.schema import RunConfig
from composer_kd.config.stages import has_stages, load_chain
from composer_kd.errors import ConfigError

YAMLS = sorted(path for path in pathlib.Path('yamls').rglob('*.yaml') if path.parent.name != 'sweeps')
KD = 'yamls/digits/kd.yaml'
SMALL_MODEL = {'name': 'ShallowCNN', 'in_channels': 1, 'image_size': 8, 'num_classes': 10}


def refusal(path: str | pathlib.Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> pathlib.Path:
        content = OmegaConf.to_container(OmegaConf.load(KD), resolve=False)
        content.update(changes)
        file = tmp_path / 'run.yaml'
        OmegaConf.save(OmegaConf.create(content), file)
        return file

    return write


@pytest.mark.parametrize('path', YAMLS, ids=lambda path: '/'.join(path.parts[1:]))
def test_every_yaml_of_the_repository_is_valid(path):
    if has_stages(path):
        chain = load_chain(path)
        configs, folder = [stage.config for stage in chain.stages], pathlib.Path('runs') / chain.name
        assert [stage.folder for stage in chain.stages] == [folder / stage.name for stage in chain.stages]
    else:
        configs, folder = [load_config(path)], pathlib.Path('runs') / load_config(path).run_name
        assert configs[0].folder == folder
    assert all(isinstance(config, RunConfig) and config.progress_bar for config in configs)


def test_both_data_sets_have_the_promised_runs():
    promised = {'teacher', 'student', 'kd', 'kd_two_teachers', 'kd_few_labels'}
    for folder in ('digits', 'cifar10'):
        assert promised <= {path.stem for path in YAMLS if path.parent.name == folder}


def test_a_config_survives_being_written_and_read(tmp_path):
    config = load_config('yamls/digits/kd_two_teachers.yaml', ['callbacks={lr_monitor: {}}'])
    file = tmp_path / 'config.yaml'
    OmegaConf.save(OmegaConf.create(as_mapping(config)), file)
    assert load_config(file) == config


def test_overrides_replace_values_of_every_kind():
    config = load_config(
        KD,
        [
            'algorithms.distillation.kd_loss_fn.temperature=2',
            'algorithms.distillation.teachers.0.checkpoint=other.pt',
            'scheduler=null',
            'optimizer={name: Adam, lr: 1e-3}',
            'seed=3',
        ],
    )
    distillation = config.algorithms['distillation'].options
    assert distillation['kd_loss_fn'].options == {'temperature': 2}
    assert distillation['teachers'][0].checkpoint == 'other.pt'
    assert config.scheduler is None
    assert config.optimizer.options == {'lr': 0.001}
    assert config.seed == 3


def test_one_error_names_every_fault_with_the_nearest_valid_names(write):
    path = write(
        modle={'name': 'ShallowCNN'},
        model={'name': 'ShalowCNN'},
        optimizer={'name': 'SGD', 'lr': -1.0, 'momentun': 0.9},
        scheduler={'name': 'cosine_annealing', 't_max': '10 epochs'},
        train_loader={'dataset': {'name': 'digits', 'splitt': 'train', 'n_labels': 'fifty'}, 'drop_lst': True},
        eval_loader={'dataset': {'name': 'didgits'}, 'num_workers': -1},
        algorithms={
            'distillation': {
                'teachers': {'model': {'name': 'DeepCNN', 'in_channels': '1'}, 'chekpoint': 'x'},
                'kd_loss_fn': {'name': 'KLDivergence', 'temperature': -1, 'softmaxdim': 1},
                'kd_loss_weight': -0.5,
                'start_dur': 0.5,
                'end_dur': 0.25,
            },
            'mixup': {'interpolate_los': True},
        },
        callbacks={'lr_monitr': {}, 'nan_monitor': {'x': 1}},
        loggers={'wandbb': {}},
        max_duration='10xx',
        global_train_batch_size=0,
        device_train_microbatch_size='auto',
        precision='fp31',
        save_interval='${variables.interval}',
        fsdp_config={'mixed_precison': 'PURE'},
    )
    text = refusal(path, 'optimzer.lr=1', 'noequals', 'seed=abc', 'save_folder=')
    for expected in [
        "modle: unknown key; did you mean 'model'?",
        "model: unknown model 'ShalowCNN'; did you mean 'ShallowCNN'?",
        'optimizer.lr: Invalid learning rate: -1.0',
        "optimizer.momentun: unknown option of SGD; did you mean 'momentum'?",
        "scheduler.t_max: expected a Composer time such as '10ep' or '500ba', got '10 epochs'",
        "train_loader.dataset.splitt: unknown option of digits; did you mean 'split'?",
        "train_loader.dataset.n_labels: expected an integer or null, got 'fifty'",
        "train_loader.drop_lst: unknown key; did you mean 'drop_last'?",
        "eval_loader.dataset: unknown data set 'didgits'; did you mean 'digits'?",
        'eval_loader.num_workers: expected an integer that is zero or more, got -1',
        "algorithms.distillation.teachers.model.in_channels: expected an integer, got '1'",
        "algorithms.distillation.teachers.chekpoint: unknown key; did you mean 'checkpoint'?",
        'algorithms.distillation.kd_loss_fn.temperature: ',
        "kd_loss_fn.softmaxdim: unknown option of KLDivergence; did you mean 'softmax_dim'?",
        'algorithms.distillation.kd_loss_weight: ',
        'start_dur must come before end_dur',
        "algorithms.mixup.interpolate_los: unknown option of MixUp; did you mean 'interpolate_loss'?",
        "callbacks.lr_monitr: unknown callback 'lr_monitr'; did you mean 'LRMonitor'",
        'callbacks.nan_monitor.x: unknown option of NaNMonitor',
        "loggers.wandbb: unknown logger 'wandbb'; did you mean 'WandBLogger'?",
        'max_duration: expected a Composer time',
        'global_train_batch_size: expected an integer that is positive, got 0',
        "precision: expected one of 'fp32'",
        "save_interval: '${variables.interval}' cannot be resolved: there is no 'variables.interval'",
        "fsdp_config.mixed_precison: unknown setting; did you mean 'mixed_precision'?",
        "optimzer: unknown key; did you mean 'optimizer'?",
        "'noequals': expected an override key.sub=value",
        "seed: expected an integer, got 'abc'",
        "'save_folder=': the value is empty",
    ]:
        assert expected in text


def test_missing_keys_are_named(tmp_path):
    file = tmp_path / 'run.yaml'
    file.write_text('algorithms: {distillation: {teachers: [{checkpoint: x}]}}\ntrain_loader: {}\n')
    text = refusal(file)
    for line in [
        'algorithms.distillation.kd_loss_fn: required option of Distillation is missing; '
        'expected a distillation loss: {name: ..., its options}, or a match: {loss: ..., on: ..., weight: ...}, '
        'or a list of these',
        'algorithms.distillation.teachers.0.model: required key is missing; expected a model: {name: ..., its options}',
        'global_train_batch_size: required key is missing; expected an integer',
        "max_duration: required key is missing; expected a Composer time such as '10ep' or '500ba' or an integer",
        'model: required key is missing; expected a model: {name: ..., its options}',
        'optimizer: required key is missing; expected an optimizer: {name: ..., its options}',
        'train_loader.dataset: required key is missing; expected a data set: {name: ..., its options}',
    ]:
        assert f'  {line}' in text.splitlines()


@pytest.mark.parametrize(
    'override',
    ['variables.techer=x', 'model.arch=resnet18', 'model.options.x=1', 'loggers.wandb.init_kwargs.mod=offline'],
)
def test_an_added_key_that_nothing_can_check_is_refused(override, write):
    model = {'name': 'torchvision_model', 'architecture': 'resnet18', 'num_classes': 10}
    path = write(model=model, loggers={'wandb': {'init_kwargs': {'mode': 'offline'}}})
    assert 'typo could not be noticed' in refusal(path, override)
    assert f'{override.split("=")[0]}: the override adds a key' in refusal(path, override)


def test_the_same_key_in_the_file_can_be_overridden(write):
    path = write(loggers={'wandb': {'init_kwargs': {'mode': 'offline'}}})
    config = load_config(path, ['loggers.wandb.init_kwargs.mode=online', 'variables.teacher=x.pt'])
    assert config.loggers['wandb'].options['init_kwargs'] == {'mode': 'online'}
    assert config.algorithms['distillation'].options['teachers'][0].checkpoint == 'x.pt'


def test_conflicts_are_told_together_with_other_faults():
    text = refusal(KD, 'model.nmae=x', 'device_train_microbatch_size=65')
    assert 'model.nmae' in text
    assert 'device_train_microbatch_size' in text


def test_a_batch_must_divide_among_the_processes(monkeypatch):
    monkeypatch.setattr('composer.utils.dist.get_world_size', lambda: 3)
    assert 'global_train_batch_size: expected a multiple of the 3 processes, got 64' in refusal(KD)


def test_a_missing_file_names_the_nearest():
    assert "did you mean 'yamls/digits/kd.yaml'" in refusal('yamls/digit/kd.yaml')


@pytest.mark.parametrize(('folder', 'images'), [('digits', 1297), ('cifar10', 50_000)])
def test_the_documented_baseline_has_the_same_labels_steps_and_evaluations(folder, images):
    comment = pathlib.Path(f'yamls/{folder}/student.yaml').read_text().split('variables:')[0].split('With few')[1]
    command = comment[comment.index('composer-kd') :].replace('#', '').replace('\\\n', ' ')
    _, _, path, *overrides = shlex.split(command)
    alone = load_config(path, [*overrides, 'seed=5'])
    distilled = load_config(f'yamls/{folder}/kd_few_labels.yaml', ['seed=5'])
    labels = distilled.train_loader.dataset.options
    assert labels['seed'] == 5
    assert alone.train_loader.dataset.options == {**labels, 'keep_unlabelled': False}
    assert alone.train_loader.samples_per_epoch == images
    assert labels['keep_unlabelled']  # the distilled one goes through them all
    for key in ('max_duration', 'eval_interval', 'global_train_batch_size', 'optimizer', 'scheduler', 'model'):
        assert as_mapping(getattr(alone, key)) == as_mapping(getattr(distilled, key))
    assert alone.train_loader.drop_last == distilled.train_loader.drop_last


def test_a_folder_is_named_as_such():
    assert "'yamls/digits' is a folder: expected a YAML file; " in refusal('yamls/digits')


def test_the_search_for_the_nearest_file_does_not_walk_the_disk(tmp_path, monkeypatch):
    (tmp_path / 'deep' / 'deeper').mkdir(parents=True)
    (tmp_path / 'deep' / 'deeper' / 'kd.yaml').touch()
    monkeypatch.chdir(tmp_path)
    assert 'there are no .yaml files' in refusal('kd.yaml')


def test_unknown_keys_are_not_read_further():
    text = refusal(KD, 'optimizer.extra.sub=1', 'model.teachers=[]')
    assert text.splitlines()[0].endswith('2 faults; nothing was started')
    assert 'optimizer.extra: unknown option' in text


def test_keys_with_nothing_behind_them_are_empty(write):
    config = load_config(write(algorithms=None, callbacks=None, loggers=None, variables=None, model=SMALL_MODEL))
    assert (config.algorithms, config.callbacks, config.loggers, config.variables) == ({}, {}, {}, {})


def test_only_distillation_has_teachers_of_its_own_yaml():
    text = refusal(KD, 'algorithms={' + f'{__name__}.Other' + ': {teachers: 3}}')
    assert 'teachers: expected a list (each a number), got 3' in text


def test_a_teacher_with_pretrained_weights_or_of_ones_own_needs_no_checkpoint():
    for model in ('{name: torchvision_model, architecture: resnet18, weights: DEFAULT}', f'{__name__}.OwnModel'):
        load_config(KD, [f'algorithms.distillation.teachers={{model: {model}}}'])


class OwnModel(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)


def test_which_weights_of_a_checkpoint_teach():
    path = 'algorithms.distillation.teachers'
    config = load_config(KD, [f'{path}.0.checkpoint=x.pt', f'{path}.0.entry=ema'])
    assert config.algorithms['distillation'].options['teachers'][0].entry == 'ema'
    model = f'{{model: {__name__}.OwnModel, entry: ema}}'
    assert f"{path}.entry: names weights in a checkpoint, and there is none; got 'ema'" in refusal(
        KD, f'{path}={model}'
    )


class Other(Algorithm):
    def __init__(self, teachers: list[float] = ()):
        self.teachers = teachers


@pytest.mark.parametrize('text', ['', '- a\n- b\n', 'a: [', 'seed: 1\nseed: 2\n', 'hello', '3'])
def test_what_is_no_mapping_is_refused(text, tmp_path):
    file = tmp_path / 'run.yaml'
    file.write_text(text)
    said = refusal(file)
    assert str(file) in said
    assert 'expected keys such as model' in said or 'not valid YAML' in said


def test_dotted_paths_name_anything():
    config = load_config(KD, ['algorithms.distillation.kd_loss_fn=torch.nn.MSELoss', 'optimizer.name=torch.optim.SGD'])
    assert config.algorithms['distillation'].options['kd_loss_fn'].name == 'torch.nn.MSELoss'
    mistyped = 'algorithms.distillation.kd_loss_fn={name: torch.nn.MSELoss, reductoin: x}'
    assert 'kd_loss_fn.reductoin' in refusal(KD, mistyped)
