"""The JSON schema for editors accepts what the check accepts, and marks slips."""

from __future__ import annotations

import json
import pathlib

import pytest

from composer_kd.cli.main import main
from composer_kd.config.bare_names import find, known_names
from composer_kd.config.json_schema import json_schema
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.registry import SCOPES
from composer_kd.config.stages import has_stages
from composer_kd.config.yaml_file import read_mapping
from composer_kd.config.yaml_source import read_source
from composer_kd.errors import ConfigError

jsonschema = pytest.importorskip('jsonschema')

YAMLS = sorted(file.as_posix() for file in pathlib.Path('yamls').glob('*/*.yaml'))
RUNS = [file for file in YAMLS if 'sweeps' not in file]


@pytest.fixture(scope='module')
def validator():
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize('file', RUNS)
def test_every_yaml_of_the_repository_is_valid(file, validator):
    assert not list(validator.iter_errors(read_mapping(pathlib.Path(file))))


@pytest.mark.parametrize('file', [file for file in RUNS if '/digits/' in file and not has_stages(file)])
def test_what_a_run_records_of_itself_is_valid(file, validator):
    recorded = json.loads(json.dumps(as_mapping(load_config(file)), default=str))
    assert not list(validator.iter_errors(recorded))


ALSO_RIGHT = [
    'optimizer={name: sgd, lr: 0.1}',
    'scheduler=constant',
    'scheduler={name: multi_step, milestones: [5ep]}',
    'algorithms.label_smoothing={smoothing: 0.1}',
    'algorithms.label_smoothing=null',
    'algorithms.distillation.kd_loss_fn=[{loss: KLDivergence, weight: {name: Ramp, initial: 1.0, final: 0.0}}]',
    'algorithms.distillation.kd_loss_fn=[{loss: {name: hint}, on: layer2, project: auto, weight: 3}]',
    'algorithms.distillation.kd_loss_fn=torch.nn.functional.mse_loss',
    'algorithms.distillation.teachers={cache: runs/x}',
    'algorithms.distillation.teachers=[{model: {name: DeepCNN, in_channels: 1, image_size: 8}, checkpoint: x.pt}]',
    'max_duration=30',
    'precision=FP32',
    'loggers={wandb: {project: x}}',
    'evaluators=[{label: more, dataset: {name: digits, split: test}}]',
    'compile_config={}',
    'train_loader.collate_fn=default',
    'profiler={active: 2}',
]
WRONG = [
    'optimzer={name: SGD, lr: 0.1}',
    'optimizer={name: SDG, lr: 0.1}',
    'optimizer.learning_rate=0.1',
    'optimizer.lr=fast',
    'optimizer={lr: 0.1}',
    'model.in_chanels=3',
    'model.in_channels=one',
    'train_loader.num_wokers=2',
    'train_loader.num_workers=-1',
    'train_loader.hold_out=2',
    'train_loader={with_index: true}',
    'algorithms.distilation={}',
    'algorithms.distillation.temperature=2',
    'algorithms.distillation.kd_loss_fn={name: KLDivergense}',
    'algorithms.distillation.kd_loss_fn={name: KLDivergence, temprature: 2.0}',
    'algorithms.distillation.kd_loss_fn=[{loss: {name: hint}, onn: layer2}]',
    'algorithms.distillation.teachers=[{modle: {name: DeepCNN}}]',
    'algorithms={distillation: {kd_loss_weight: 1.0}}',
    'callbacks={speed_monitr: {}}',
    'max_duration=[1]',
    'precision=fp17',
    'seed=1.5',
    'global_train_batch_size=0',
    'evaluators=[{dataset: {name: digits}}]',
    'fsdp_config={shard: 1}',
    'profiler={activ: 2}',
]


@pytest.mark.parametrize('override', ALSO_RIGHT)
def test_other_ways_to_write_it_are_valid(override, validator):
    load_config('yamls/digits/kd.yaml', [override])
    assert not list(validator.iter_errors(read_source('yamls/digits/kd.yaml', [override]).data))


def test_values_may_be_those_of_other_keys(validator):
    content = read_mapping(pathlib.Path('yamls/digits/kd.yaml'))
    content['optimizer']['lr'] = content['eval_loader'] = content['seed'] = '${variables.x}'
    content['model']['name'] = '???'
    content |= {'precision': 'AMP_BF16', 'device_train_microbatch_size': 'auto'}  # of a GPU
    assert not list(validator.iter_errors(content))


@pytest.mark.parametrize('override', WRONG)
def test_slips_are_marked_that_the_check_refuses_too(override, validator, tmp_path):
    source = read_source('yamls/digits/kd.yaml', [override])
    assert list(validator.iter_errors(source.data))
    file = tmp_path / 'run.yaml'
    file.write_text(json.dumps(source.data))
    with pytest.raises(ConfigError):
        load_config(file)


@pytest.mark.parametrize(
    'stages',
    [
        {'one': {'max_duratio': 3}}, {'one': {'optimzer.lr': 0.1}}, {'one': {'seed': 'x'}}, [],
        {'one': {'generations': 0}},
    ],
)  # fmt: skip
def test_slips_in_stages_are_marked(stages, validator):
    content = read_mapping(pathlib.Path('yamls/start/digits.yaml'))
    assert list(validator.iter_errors({**content, 'stages': stages}))


NAMED = [scope for scope in SCOPES if SCOPES[scope].modules and scope not in ('algorithm', 'callback', 'logger')]


@pytest.mark.parametrize('scope', NAMED)
def test_names_are_accepted_in_every_spelling_that_the_check_accepts(scope, validator):
    definitions = validator.schema['definitions']
    part = validator.evolve(schema={**definitions[scope], 'definitions': definitions})
    for name in known_names(scope):
        short = name.removesuffix(SCOPES[scope].suffix) or name
        for spelling in (name, name.lower(), name.upper(), short, short.lower()):
            assert find(scope, spelling)
            assert part.is_valid(spelling), spelling
    assert not part.is_valid('no_such_thing')


def test_editors_are_told_what_keys_and_options_mean(validator):
    keys = validator.schema['properties']
    assert keys['seed']['anyOf'][0] == {'type': 'integer', 'default': 17}
    assert 'a link to the last one' in keys['save_latest_filename']['anyOf'][0]['description']
    loss = validator.schema['definitions']['loss/KLDivergence:']
    assert 'KL' in loss['description']
    assert loss['properties']['temperature']['anyOf'][0]['description']


def test_the_command_prints_it(capsys, validator):
    assert main(['schema']) == 0
    assert json.loads(capsys.readouterr().out) == validator.schema
