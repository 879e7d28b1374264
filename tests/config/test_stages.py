"""YAMLs of stages: how the settings of each run come about, and the faults of all stages in one error."""

import pytest
import yaml

from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.schema import TeacherConfig
from composer_kd.config.stages import load_chain
from composer_kd.errors import ConfigError

BORN_AGAIN = 'yamls/digits/born_again.yaml'
KD = 'algorithms.distillation.teachers'


def teachers(stage):
    return stage.config.algorithms['distillation'].options['teachers']


@pytest.fixture
def write(tmp_path):
    """Writes a YAML with the settings of the shipped chain beside the given stages."""

    def write(stages, name='chain.yaml', **settings):
        with open(BORN_AGAIN, encoding='utf-8') as file:
            content = yaml.safe_load(file)
        path = tmp_path / name
        path.write_text(yaml.safe_dump({**content, 'stages': stages, **settings}, sort_keys=False))
        return path

    return write


def refusal(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_chain(path, overrides)
    return str(caught.value)


def test_a_stage_is_the_shared_settings_with_its_own(write):
    chain = load_chain(
        write(
            {
                'big': {'algorithms': None, 'model.name': 'DeepCNN', 'optimizer.lr': 0.05},
                'small': {KD: {'stage': 'big'}},
            }
        ),
        ['max_duration=2ep', 'stages.small.max_duration=5ep', 'run_name=mine'],
    )
    big, small = chain.stages
    assert (big.config.model.name, big.config.optimizer.options['lr'], big.config.max_duration) == (
        'DeepCNN',
        0.05,
        '2ep',
    )
    assert (small.config.model.name, small.config.optimizer.options['lr'], small.config.max_duration) == (
        'ShallowCNN', 0.01, '5ep',
    )  # fmt: skip
    assert (big.config.run_name, str(big.folder)) == ('mine-big', 'runs/mine/big')
    (teacher,) = teachers(small)
    assert as_mapping(teacher.model) == as_mapping(big.config.model)
    assert (teacher.checkpoint, teacher.name) == ('runs/mine/big/latest-rank0.pt', 'big')
    assert list(small.taught_by.values()) == ['big']


def test_the_settings_of_a_stage_are_those_of_an_ordinary_run(write, tmp_path):
    small = load_chain(write({'big': {'algorithms': None}, 'small': {KD: [{'stage': 'big'}]}})).stages[1]
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(as_mapping(small.config), sort_keys=False))
    assert load_config(path) == small.config


def test_generations_have_seeds_of_their_own_and_one_data_set():
    chain = load_chain(BORN_AGAIN, ['train_loader.dataset.n_labels=50', 'train_loader.dataset.seed=${seed}'])
    assert [stage.config.seed for stage in chain.stages] == [17, 18, 19, 20]
    assert {stage.config.train_loader.dataset.options['seed'] for stage in chain.stages} == {17}


def test_teachers_are_earlier_stages_beside_others(write):
    live = {'model': {'name': 'ShallowCNN'}, 'checkpoint': 'teacher.pt', 'name': 'live'}
    stages = {
        'born': {'generations': 2, KD: [live, {'stage': 'previous', 'name': 'last'}]},
        'end': {KD: [{'stage': 'born', 'input_adapter': {'name': 'NormalizationAdapter', 'mean_original': [0.5],
                'std_original': [0.5], 'mean_required': [0.5], 'std_required': [0.25]}}, {'stage': 'born-1'}]},
    }  # fmt: skip
    stages = {'first': {'algorithms': None}, **stages}
    chain = load_chain(write(stages))
    assert [[*stage.taught_by.values()] for stage in chain.stages] == [[], ['first'], ['born-1'], ['born-2', 'born-1']]
    assert [teacher.name for teacher in teachers(chain['born-2'])] == ['live', 'last']
    assert teachers(chain['end'])[0].input_adapter.name == 'NormalizationAdapter'
    assert all(isinstance(teacher, TeacherConfig) for teacher in teachers(chain['end']))


def test_a_stage_may_start_from_another_yaml(write, tmp_path):
    with open('yamls/digits/student.yaml', encoding='utf-8') as file:
        (tmp_path / 'alone.yaml').write_text(file.read())
    chain = load_chain(
        write({'one': {'yaml': 'alone.yaml', 'variables.num_classes': 12}, 'two': {KD: {'stage': 'one'}}})
    )
    one, two = chain.stages
    assert one.config.algorithms == {}
    assert one.config.model.options['num_classes'] == 12
    assert (one.config.run_name, two.config.model.options['num_classes']) == ('digits-born-again-one', 10)
    path = write({'one': {'yaml': 'alone.yaml'}})
    assert 'optimizer: no stage takes it, because each has a yaml of its own' in refusal(path)


def test_the_faults_of_all_stages_come_together_and_a_shared_one_once(write):
    path = write(
        {
            'one': {'algorithms': None, 'optimizer.lrr': 1},
            'two': {KD: [{'stage': 'onne'}], 'run_name': 'x'},
            'previous': {},
            'three': {KD: [{'stge': 'one'}], 'generations': 0},
        },
        optimizr=3,
    )
    said = refusal(path, 'stages.tow.seed=3', 'autoresume=false', 'max_duration=2')
    assert said.count('optimizr') == 1
    for part in (
        'stages.one.optimizer.lrr: unknown option',
        f"stages.two.{KD}.0.stage: there is no 'onne' before this stage; did you mean 'one'?",
        'stages.two.run_name: is of all stages',
        "stages.previous: 'previous' means the run before",
        f'stages.three.{KD}.0.stge: unknown key',
        'stages.three.generations: expected a whole number from 1 to 100, got 0',
        "'stages.tow.seed=3': expected stages.NAME.key=value; did you mean 'two'?",
        'autoresume: stages go on where they stopped',
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ('stages', 'settings', 'named'),
    [
        (['one'], {}, "stages: expected a mapping from the name of each stage to its settings, got ['one']"),
        ({}, {}, 'stages: expected a mapping'),
        ({'one': 3}, {}, 'stages.one: expected the settings of a stage, got 3'),
        ({'a/b': {'algorithms': None}}, {}, 'stages.a/b: expected a name of letters'),
        ({'a': {'generations': 2, 'algorithms': None}, 'a-2': {'algorithms': None}}, {}, "would be called 'a-2'"),
        ({'one': {'algorithms': None}}, {'save_overwrite': 'ture'}, 'save_overwrite: expected a boolean'),
        ({'one': {'algorithms': None}}, {'run_name': ['a']}, "run_name: expected a string or null, got ['a']"),
        ({'one': {'algorithms': None}}, {'save_folder': None}, 'save_folder: stages teach from their folders'),
        ({'one': {'algorithms': None}}, {'save_folder': 's3://b/x'}, 'save_folder: stages teach from their folders'),
        ({'one': {'yaml': 'no.yaml'}}, {}, 'stages.one.yaml: no configuration file'),
        ({'one': {'yaml': 'chain.yaml'}}, {}, 'stages.one.yaml: chain.yaml has stages itself'),
        ({'one': {'algorithms': None, 'load_path': 'runs/digits-born-again/x.pt'}}, {}, 'stages.one.load_path: '),
        ({'one': {'algorithms': None}, 'b': {KD: {'model': {'name': 'ShallowCNN'},
          'checkpoint': 'runs/digits-born-again/one/latest-rank0.pt'}}}, {}, f'stages.b.{KD}: runs/digits-born-again'),
        ({'one': {'algorithms': {'mutual_learning': {'peers': [{'model': {'name': 'ShallowCNN'},
          'checkpoint': 'runs/digits-born-again/one/latest-rank0.pt'}]}}}}, {},
         'stages.one.algorithms.mutual_learning.peers: runs/digits-born-again/one/latest-rank0.pt is of a stage'),
        ({'one': {KD: [{'cache': 'runs/digits-born-again/store'}]}}, {},
         f'stages.one.{KD}.0: runs/digits-born-again/store is in the folder of this YAML'),
        ({'one': {KD: {'stage': 'previous'}}}, {}, "the first stage has none before it, got 'previous'"),
        ({'one': {'algorithms': None, 'ensemble': 3}}, {}, 'stages.one.ensemble: expected true or false, got 3'),
    ],
)  # fmt: skip
def test_what_is_refused(write, stages, settings, named):
    assert named in refusal(write(stages, **settings))


def test_a_stage_outside_of_stages_is_refused():
    with pytest.raises(ConfigError, match='names a stage, and this YAML has none'):
        load_config('yamls/digits/kd.yaml', [f'{KD}=[{{stage: one}}]'])
    with pytest.raises(ConfigError, match=r'has stages \(teacher, student\), each of which is a run of its own'):
        load_config(BORN_AGAIN)


def test_an_override_is_not_for_stages_that_leave_its_part_out(write):
    weight = 'algorithms.distillation.kd_loss_weight=0.7'
    chain = load_chain(BORN_AGAIN, [weight])
    assert chain.stages[0].config.algorithms == {}
    assert [one.config.algorithms['distillation'].options['kd_loss_weight'] for one in chain.stages[1:]] == [0.7] * 3
    assert f"'{weight}': every stage leaves that out" in refusal(write({'one': {'algorithms': None}}), weight)
    assert 'stages.teacher.algorithms' in refusal(BORN_AGAIN, f'stages.teacher.{weight}')
