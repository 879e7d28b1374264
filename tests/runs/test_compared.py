"""The models of a comparison."""

from __future__ import annotations

import shutil

import pytest
import torch
from omegaconf import OmegaConf

from composer_kd.bench import Limits, Setting, bench
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.runs.compared import compared_models, evaluation_run
from composer_kd.runs.saved import open_run, open_runs
from composer_kd.runs.train import train

SHORT = ['max_duration=2ba', 'progress_bar=false']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folders of a teacher, a student alone, and a student distilled."""
    folder = tmp_path_factory.mktemp('runs')
    for name in ('teacher', 'student', 'kd'):
        more = [f'variables.teacher={folder}/teacher/latest-rank0.pt'] if name == 'kd' else []
        config = load_config(f'yamls/digits/{name}.yaml', [*SHORT, f'save_folder={folder}/{name}', *more])
        train(config, quiet=True)
    return folder


def listed(runs):
    return [(one.name, one.role, one.taught_by) for one in compared_models(runs)]


def test_a_teacher_that_is_given_itself_is_listed_once(runs):
    found = listed(open_runs([runs / 'kd', runs / 'student', runs / 'teacher']))
    assert found == [
        ('digits-teacher', TEACHER, ()),
        ('digits-kd', DISTILLED, ('digits-teacher',)),
        ('digits-student', ALONE, ()),
    ]


def test_a_teacher_that_is_only_named_is_listed_too_and_has_its_weights(runs):
    teacher, student = compared_models([open_run(runs / 'kd')])
    assert (teacher.name, teacher.role, teacher.trained) == ('digits-teacher', TEACHER, True)
    assert student.taught_by == ('digits-teacher',)
    batch = next(iter(open_run(runs / 'kd').loader()))
    own = open_run(runs / 'teacher').model().module
    with torch.no_grad():
        inference = teacher.inference(batch)
        assert torch.equal(inference(*inference.inputs_of(batch)), own(batch[0]))
        assert teacher.make()(batch[0]).shape == (len(batch[0]), 10)


def test_students_of_one_teacher_share_it(runs, tmp_path):
    shutil.copytree(runs / 'kd', tmp_path / 'again')
    content = OmegaConf.load(tmp_path / 'again' / 'config.yaml')
    content.run_name = 'again'
    OmegaConf.save(content, tmp_path / 'again' / 'config.yaml')
    found = listed(open_runs([runs / 'kd', tmp_path / 'again']))
    assert [name for name, _, _ in found] == ['digits-teacher', 'digits-kd', 'again']
    assert found[1][2] == found[2][2] == ('digits-teacher',)


def test_different_teachers_of_one_architecture_have_different_names(runs, tmp_path):
    for name in ('one', 'another'):  # weights that come without a run: named after their architecture
        shutil.copytree(runs / 'kd', tmp_path / name)
        shutil.copy(runs / 'teacher' / 'latest-rank0.pt', tmp_path / f'{name}.pt')
        content = OmegaConf.load(tmp_path / name / 'config.yaml')
        content.run_name = name
        content.algorithms.distillation.teachers[0].checkpoint = str(tmp_path / f'{name}.pt')
        OmegaConf.save(content, tmp_path / name / 'config.yaml')
    found = listed(open_runs([tmp_path / 'one', tmp_path / 'another']))
    assert [(name, by) for name, _, by in found] == [
        ('DeepCNN', ()),
        ('DeepCNN 2', ()),
        ('one', ('DeepCNN',)),
        ('another', ('DeepCNN 2',)),
    ]


def test_a_teacher_whose_weights_are_gone_is_left_out_with_a_warning(runs, tmp_path):
    shutil.copytree(runs / 'kd', tmp_path / 'kd')
    content = OmegaConf.load(tmp_path / 'kd' / 'config.yaml')
    content.algorithms.distillation.teachers[0].checkpoint = str(tmp_path / 'gone.pt')
    OmegaConf.save(content, tmp_path / 'kd' / 'config.yaml')
    with pytest.warns(UserWarning, match='a teacher is left out of the comparison'):
        found = listed([open_run(tmp_path / 'kd')])
    assert found == [('digits-kd', DISTILLED, ())]


def test_a_teacher_in_a_folder_of_weights(runs, tmp_path):
    shutil.copytree(runs / 'kd', tmp_path / 'kd')
    (tmp_path / 'pretrained').mkdir()
    weights = open_run(runs / 'teacher').model().state_dict()
    torch.save(weights, tmp_path / 'pretrained' / 'pytorch_model.bin')
    content = OmegaConf.load(tmp_path / 'kd' / 'config.yaml')
    content.algorithms.distillation.teachers[0].update(checkpoint=str(tmp_path / 'pretrained'), name='folder')
    OmegaConf.save(content, tmp_path / 'kd' / 'config.yaml')
    teacher, _ = compared_models([open_run(tmp_path / 'kd')])
    assert (teacher.name, teacher.role) == ('folder', TEACHER)
    found = teacher.make().state_dict().values()
    assert all(any(torch.equal(value, mine) for mine in found) for value in weights.values())


def test_a_compared_model_answers_as_its_run(runs):
    (student,) = compared_models([open_run(runs / 'student')])
    run = open_run(runs / 'student')
    batch = next(iter(run.loader()))
    inference = student.inference(batch)
    with torch.no_grad():
        assert torch.equal(inference(*inference.inputs_of(batch)), run.model()(batch))
    assert student.trained


def test_compared_models_are_candidates_of_a_benchmark(runs):
    run = open_run(runs / 'kd')
    batch = next(iter(run.loader()))
    settings = [Setting('cpu', 1, 'eager', 'fp32')]
    teacher, student = bench(compared_models([run]), [batch], settings, limits=Limits(0.02, 2)).rows
    assert (teacher.model, teacher.role) == ('digits-teacher', TEACHER)
    assert (student.model, student.role) == ('digits-kd', DISTILLED)
    with torch.no_grad():
        theirs, mine = open_run(runs / 'teacher').model()(batch), run.model()(batch)
    assert student.agreement == pytest.approx((theirs.argmax(1) == mine.argmax(1)).float().mean().item())


def test_random_weights_are_no_result(tmp_path):
    content = OmegaConf.load('yamls/digits/student.yaml')
    content.save_folder = str(tmp_path / 'nothing')
    OmegaConf.save(content, tmp_path / 'new.yaml')
    (student,) = compared_models([open_run(tmp_path / 'new.yaml')])
    assert not student.trained


def test_one_evaluation_set_for_all(runs, tmp_path):
    kd, student = open_runs([runs / 'kd', runs / 'student'])
    assert evaluation_run([kd, student]) is kd
    shutil.copytree(runs / 'student', tmp_path / 'other')
    content = OmegaConf.load(tmp_path / 'other' / 'config.yaml')
    content.eval_loader.dataset.split = 'train'
    OmegaConf.save(content, tmp_path / 'other' / 'config.yaml')
    other = open_run(tmp_path / 'other')
    with pytest.raises(ConfigError, match=r"(?s)digits-kd and digits-student.*'test'.*'train'"):
        evaluation_run([kd, other])
    content.eval_loader = None
    OmegaConf.save(content, tmp_path / 'other' / 'config.yaml')
    without = open_run(tmp_path / 'other')
    assert evaluation_run([without, kd]) is kd
    with pytest.raises(ConfigError, match='none of the runs has an eval_loader'):
        evaluation_run([without])


def test_a_teacher_is_known_from_another_working_folder(runs, tmp_path):
    # The student names it by a relative path, as the runs of YAMLs do, and the comparison is made elsewhere.
    shutil.copytree(runs / 'kd', tmp_path / 'kd')
    content = OmegaConf.load(tmp_path / 'kd' / 'config.yaml')
    for written in (f'{runs.name}/teacher/latest-rank0.pt', f'{runs.name}/teacher'):
        content.algorithms.distillation.teachers[0].checkpoint = written
        OmegaConf.save(content, tmp_path / 'kd' / 'config.yaml')
        assert listed(open_runs([runs / 'teacher', tmp_path / 'kd'])) == [
            ('digits-teacher', TEACHER, ()),
            ('digits-kd', DISTILLED, ('digits-teacher',)),
        ]


@pytest.mark.parametrize(
    'content',
    [
        b'run_name: ${nope}\n',
        b'\xff\xfe\x00',
        b'- a\n',
        b'run_name: [a]\n',
        b'&a [*a]\n',
        b'a: !!python/name:x\n',
    ],
)
def test_a_damaged_record_beside_a_teacher_gives_it_no_name(content, runs, tmp_path):
    shutil.copy(runs / 'teacher' / 'latest-rank0.pt', tmp_path / 'w.pt')
    (tmp_path / 'config.yaml').write_bytes(content)
    student = open_run(runs / 'kd')
    (config,) = student.config.teachers
    config.checkpoint = str(tmp_path / 'w.pt')
    assert compared_models([student])[0].name == config.model.name
