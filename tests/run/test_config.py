"""What the check of a run's YAML accepts and refuses."""

from __future__ import annotations

import pathlib

import pytest
from omegaconf import OmegaConf

from composer_kd.errors import ConfigError
from composer_kd.run.config import RunConfig, as_mapping, load_config

YAMLS = sorted(pathlib.Path('yamls').rglob('*.yaml'))
KD = 'yamls/digits/kd.yaml'


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
    config = load_config(path)
    assert isinstance(config, RunConfig)
    assert config.progress_bar
    assert config.folder == pathlib.Path('runs') / config.run_name


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
        "scheduler.t_max: expected a Composer time such as '10ep', '500ba' or '0.5dur', got '10 epochs'",
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
    for key in ('model', 'optimizer', 'max_duration', 'global_train_batch_size', 'train_loader.dataset'):
        assert f'  {key}: required key is missing' in text
    assert 'algorithms.distillation.teachers.0.model: required key is missing' in text
    assert 'algorithms.distillation.kd_loss_fn: required option of Distillation is missing' in text


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


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        (['device_train_microbatch_size=65'], 'device_train_microbatch_size: expected at most 64'),
        (['autoresume=true', 'save_overwrite=true'], 'save_overwrite: true would overwrite'),
        (['autoresume=true', 'save_folder=null'], 'autoresume: needs a save_folder'),
        (['algorithms.distillation.teachers.3.name=x'], 'is a list of 1 entries'),
        (['seed.sub=3'], 'seed is 17, not a mapping'),
        (['model={name: '], 'the value is not valid YAML'),
        (['algorithms.distillation.teachers=[]'], 'expected at least one entry'),
        (['algorithms.distillation.n_teachers_to_sample=2'], 'n_teachers_to_sample'),
        (['model=my_package.Net'], "no module named 'my_package'"),
        (['model=torch.nn.Liner'], "did you mean 'Linear'"),
        (['optimizer.params=[1]'], 'optimizer.params: unknown option'),
        (['train_loader.dataset.split=???'], "is '???', so it must be given"),
        (['seed=true'], 'seed: expected an integer, got True'),
    ],
)
def test_refused_overrides(overrides, expected):
    assert expected in refusal(KD, *overrides)


def test_conflicts_are_told_together_with_other_faults():
    text = refusal(KD, 'model.nmae=x', 'device_train_microbatch_size=65')
    assert 'model.nmae' in text
    assert 'device_train_microbatch_size' in text


def test_a_batch_must_divide_among_the_processes(monkeypatch):
    monkeypatch.setattr('composer.utils.dist.get_world_size', lambda: 3)
    assert 'global_train_batch_size: expected a multiple of the 3 processes, got 64' in refusal(KD)


def test_a_missing_file_names_the_nearest():
    assert "did you mean 'yamls/digits/kd.yaml'" in refusal('yamls/digit/kd.yaml')


@pytest.mark.parametrize('text', ['', '- a\n- b\n', 'a: [', 'seed: 1\nseed: 2\n'])
def test_what_is_no_mapping_is_refused(text, tmp_path):
    file = tmp_path / 'run.yaml'
    file.write_text(text)
    assert str(file) in refusal(file)


def test_dotted_paths_name_anything():
    config = load_config(KD, ['algorithms.distillation.kd_loss_fn=torch.nn.MSELoss', 'optimizer.name=torch.optim.SGD'])
    assert config.algorithms['distillation'].options['kd_loss_fn'].name == 'torch.nn.MSELoss'
    mistyped = 'algorithms.distillation.kd_loss_fn={name: torch.nn.MSELoss, reductoin: x}'
    assert 'kd_loss_fn.reductoin' in refusal(KD, mistyped)
