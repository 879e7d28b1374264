"""An algorithm and a teacher of another package: trained with from Python and from a YAML."""

import json

import pytest

from composer_kd import ConfigError, KLDivergence
from composer_kd.algorithms import Distillation
from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.markers import Component
from composer_kd.matches.match import Losses
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train as run
from composer_kd.teachers import Teachers
from composer_kd.workflows.profile.run import profile
from tests.helpers import Recorder, loader, mlp, pairs, student, train
from tests.outside import AverageTeacher, MatchTeachers

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=64', 'eval_loader.dataset.subset=50', 'max_duration=1ep']
AVERAGE = '{name: tests.outside.AverageTeacher, decay: 0.9}'
MINE = f'algorithms={{tests.outside.MatchTeachers: {{scale: 0.5, teachers: [{AVERAGE}]}}}}'
OURS = 'algorithms={distillation: {kd_loss_fn: KLDivergence, teachers: [{name: tests.outside.AverageTeacher}]}}'


def test_trains_from_python():
    teacher, recorder = AverageTeacher(), Recorder()
    train(student(), loader(*pairs()), [MatchTeachers([teacher])], [recorder])
    assert teacher.told == 3
    assert recorder.batches[0]['distance'] == 0
    assert recorder.batches[-1]['distance'] > 0


@pytest.mark.parametrize('algorithm', [MINE, OURS])
def test_trains_from_a_yaml(tmp_path, algorithm):
    config = load_config('yamls/digits/student.yaml', [*QUICK, algorithm, f'save_folder={tmp_path}'])
    metrics = run(config, quiet=True)
    assert metrics['time/batch'] == 1
    again = load_config(tmp_path / 'config.yaml')
    assert as_mapping(again)['algorithms'] == as_mapping(config)['algorithms']
    assert open_run(tmp_path).is_distilled


def test_its_final_metrics_are_among_the_run_s(tmp_path):
    run(load_config('yamls/digits/student.yaml', [*QUICK, MINE, f'save_folder={tmp_path}']), quiet=True)
    assert json.loads((tmp_path / 'metrics.json').read_text())['metrics/mine/distance'] == pytest.approx(0, abs=1e-6)


def test_its_teachers_are_tried_before_training(tmp_path):
    algorithm = MINE.replace('tests.outside.AverageTeacher, decay: 0.9', 'tests.algorithms.test_base.Mute')
    config = load_config('yamls/digits/student.yaml', [*QUICK, algorithm, f'save_folder={tmp_path}'])
    with pytest.raises(ConfigError, match=r"MatchTeachers\.teachers: the teacher 'mute'.*I do not answer"):
        run(config, quiet=True)


class Mute(AverageTeacher):
    name = 'mute'

    def outputs(self, batch, index=None):
        raise RuntimeError('I do not answer')


def test_options_of_a_kind_of_teacher_are_checked():
    wrong = MINE.replace('decay', 'dekay')
    with pytest.raises(ConfigError, match=r"dekay: unknown option of AverageTeacher; did you mean 'decay'\?"):
        load_config('yamls/digits/student.yaml', [*QUICK, wrong])


def test_a_match_may_be_bound_to_a_kind_of_teacher_by_its_name():
    bound = OURS.replace('kd_loss_fn: KLDivergence', 'kd_loss_fn: [{loss: KLDivergence, teacher: average}]')
    assert isinstance(load_config('yamls/digits/student.yaml', [*QUICK, bound]).algorithms['distillation'], Component)


def test_a_profile_knows_its_window(tmp_path):
    more = [*QUICK, 'global_train_batch_size=8', 'max_duration=8ba', MINE]
    times = profile(load_config('yamls/digits/student.yaml', more), batches=2, folder=tmp_path)
    assert any('No teacher ran' in note for note in times.notes)  # it names no span of a teacher


def test_distillation_is_one():
    algorithm = Distillation(mlp(), KLDivergence(), end_dur=0.5)
    assert isinstance(algorithm, DistillationAlgorithm)
    assert [teacher.name for teacher in algorithm.teachers] == ['Sequential']
    assert str(algorithm.window) == "Window(start='0.0dur', end='0.5dur')"


def test_a_match_may_be_bound_to_a_name_that_only_the_object_has():
    named = ', '.join(f'{{name: tests.algorithms.test_base.Named, called: {name}}}' for name in ('big', 'small'))
    algorithm = OURS.replace('kd_loss_fn: KLDivergence', 'kd_loss_fn: [{loss: KLDivergence, teacher: small}]')
    algorithm = algorithm.replace('{name: tests.outside.AverageTeacher}', named)
    config = load_config('yamls/digits/student.yaml', [*QUICK, algorithm, 'save_folder=null'])
    assert run(config, quiet=True)['time/batch'] == 1
    wrong = algorithm.replace('teacher: small', 'teacher: tiny')
    with pytest.raises(ConfigError, match="no teacher of that name, 'tiny'"):
        run(load_config('yamls/digits/student.yaml', [*QUICK, wrong, 'save_folder=null']), quiet=True)


class Named(AverageTeacher):
    def __init__(self, called):
        super().__init__()
        self.name = called


class Unannotated(Distillation):
    def __init__(self, teachers, kd_loss_fn, strength=0.5):
        super().__init__(teachers, kd_loss_fn, kd_loss_weight=strength)


class Optional(MatchTeachers):
    def __init__(self, teachers: Teachers | None = None):
        super().__init__(teachers or [])


def make(teachers: Teachers, kd_loss_fn: Losses):
    return Distillation(teachers, kd_loss_fn)


@pytest.mark.parametrize('written', ['Unannotated', 'make'])
def test_subclasses_and_factories_are_read_alike(tmp_path, written):
    algorithm = OURS.replace('distillation', f'tests.algorithms.test_base.{written}')
    run(load_config('yamls/digits/student.yaml', [*QUICK, algorithm, f'save_folder={tmp_path}']), quiet=True)
    assert open_run(tmp_path).is_distilled


@pytest.mark.parametrize('teachers', ['null', f'[{AVERAGE}]'])
def test_teachers_may_be_optional(teachers):
    algorithm = f'algorithms={{tests.algorithms.test_base.Optional: {{teachers: {teachers}}}}}'
    load_config('yamls/digits/student.yaml', [*QUICK, algorithm])


def test_a_frozen_model_without_its_model_is_told_so():
    algorithm = OURS.replace('tests.outside.AverageTeacher', 'resnet-1.5')
    with pytest.raises(ConfigError, match=r'teachers\.0\.model: required key is missing'):
        load_config('yamls/digits/student.yaml', [*QUICK, algorithm])
