"""Chains of stages: what each trains, and what is left alone, refused or evaluated when it is started again."""

import json
import shutil

import pytest
import torch

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.stages import load_chain
from composer_kd.data import digits
from composer_kd.errors import ConfigError
from composer_kd.models import ShallowCNN
from composer_kd.runs.saved import open_runs
from composer_kd.runs.stages import check_last_checkpoint
from composer_kd.runs.train import train
from composer_kd.workflows.report.ensembles import ensemble_notes
from composer_kd.workflows.stages import train_stages

QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=100', 'max_duration=2ep']
BORN_AGAIN = 'yamls/digits/born_again.yaml'
ASSISTANT = 'yamls/digits/assistant.yaml'
TO = ['--to', 'state-dict']


def chain(folder, *overrides, yaml=BORN_AGAIN):
    return train_stages(load_chain(yaml, [*QUICK, f'save_folder={folder}', *overrides]), quiet=True)


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope='module')
def born_again(tmp_path_factory):
    """A chain of a teacher and two generations, which no test may change."""
    folder = tmp_path_factory.mktemp('born') / 'again'
    return folder, chain(folder, 'stages.student.generations=2')


def test_generations_are_the_runs_that_one_would_train_one_after_the_other(born_again, tmp_path):
    folder, metrics = born_again
    shared = [*QUICK, 'kd_loss_fn={name: KLDivergence, temperature: 1.0}', 'kd_loss_weight=0.5', 'org_loss_weight=0.5']
    shared = [f'algorithms.distillation.{one}' if one.startswith(('kd', 'org')) else one for one in shared]
    alone = train(load_config('yamls/digits/student.yaml', [*QUICK, f'save_folder={tmp_path / "teacher"}']), quiet=True)
    previous, by_hand = 'teacher', {'teacher': alone}
    for number in (1, 2):
        name = f'student-{number}'
        taught = [
            'algorithms.distillation.teachers=[{model: {name: ShallowCNN, in_channels: 1, image_size: 8, '
            f'num_classes: 10}}, checkpoint: {tmp_path / previous / "latest-rank0.pt"}}}]'
        ]
        settings = [*shared, *taught, f'seed={17 + number}', f'save_folder={tmp_path / name}']
        by_hand[name] = train(load_config('yamls/digits/kd.yaml', settings), quiet=True)
        previous = name
    for name, found in by_hand.items():
        assert same(weights(folder / name), weights(tmp_path / name)), name
        assert metrics[name]['loss/train/total'] == found['loss/train/total']
    assert not same(weights(folder / 'student-1'), weights(folder / 'student-2'))


def test_the_ensemble_is_the_mean_of_the_probabilities(born_again):
    folder, metrics = born_again
    data = digits('test', subset=100)
    x, y = torch.stack([torch.as_tensor(one[0]) for one in data]), torch.tensor([int(one[1]) for one in data])
    probabilities = []
    for name in ('student-1', 'student-2'):
        net = ShallowCNN(in_channels=1, image_size=8, num_classes=10)
        net.load_state_dict({key.removeprefix('module.'): value for key, value in weights(folder / name).items()})
        probabilities.append(net.eval()(x).detach().double().softmax(1))
    mean = (probabilities[0] + probabilities[1]) / 2
    found = metrics['student']
    assert found['metrics/eval/MulticlassAccuracy'] == pytest.approx(float((mean.argmax(1) == y).double().mean()))
    expected = -mean[torch.arange(len(y)), y].log().mean()
    assert found['metrics/eval/CrossEntropy'] == pytest.approx(float(expected), rel=1e-5)
    written = json.loads((folder / 'stages.json').read_text())
    assert [stage['taught_by'] for stage in written['stages']] == [[], ['teacher'], ['student-1']]
    (ensemble,) = written['ensembles']
    assert ensemble == {
        'stage': 'student',
        'of': ['student-1', 'student-2'],
        'mean_of': 'probabilities',
        'metrics': {name: value for name, value in found.items() if name.startswith('metrics/')},
    }


def test_started_again_it_trains_nothing(born_again, capsys):
    folder, metrics = born_again
    before = {file: file.stat().st_mtime_ns for file in folder.rglob('*') if file.name not in ('.lock', 'stages.json')}
    assert chain(folder, 'stages.student.generations=2') == metrics
    after = {file: file.stat().st_mtime_ns for file in folder.rglob('*') if file.name not in ('.lock', 'stages.json')}
    assert before == {file: time for file, time in after.items() if file in before}
    assert 'student-2 has finished' in capsys.readouterr().out


def test_more_generations_go_on_from_those_that_are_there(born_again, tmp_path, capsys):
    folder, metrics = born_again
    first = chain(tmp_path, 'stages.student.generations=1')
    assert 'student' not in first
    both = chain(tmp_path, 'stages.student.generations=2')
    assert same(weights(tmp_path / 'student-2'), weights(folder / 'student-2'))
    assert both['student'] == metrics['student']
    assert 'any more' not in capsys.readouterr().out
    chain(tmp_path, 'stages.student.generations=1')
    assert f'{tmp_path / "student-2"} is no stage of this YAML any more: it stays as it is' in capsys.readouterr().out
    stages = json.loads((tmp_path / 'stages.json').read_text())['stages']
    assert [one['stage'] for one in stages] == ['teacher', 'student-1']
    assert same(weights(tmp_path / 'student-2'), weights(folder / 'student-2'))


@pytest.mark.parametrize(
    ('override', 'named'),
    [
        ('max_duration=3ep', 'teacher: has finished with other settings: max_duration'),
        ('stages.student.optimizer.lr=0.02', 'student-1: has finished with other settings: optimizer.lr'),
        ('seed=18', 'student-2: has finished with other settings: seed: 19 → 20'),
    ],
)
def test_a_finished_stage_is_not_mixed_with_other_settings(born_again, override, named):
    folder, _ = born_again
    with pytest.raises(ConfigError, match='stages that do not belong') as error:
        chain(folder, 'stages.student.generations=2', override)
    assert named in str(error.value)
    assert f'rm -r {folder}' in str(error.value)


def test_a_stage_whose_teacher_is_another_one_is_refused(tmp_path):
    chain(tmp_path, 'stages.student.generations=1')
    other = tmp_path / 'teacher/latest-rank0.pt'
    content = torch.load(other, weights_only=False)
    content['state']['model']['module.classifier.4.bias'] += 1
    torch.save(content, other)
    with pytest.raises(ConfigError, match='student-1: was taught by teacher with other weights'):
        chain(tmp_path, 'stages.student.generations=1')
    shutil.rmtree(tmp_path / 'teacher')
    with pytest.raises(ConfigError, match='student-1: was taught by teacher, which has not finished'):
        chain(tmp_path, 'stages.student.generations=1')


def test_only_the_stages_that_are_concerned_are_named_to_be_removed(tmp_path):
    short = ['stages.student.max_duration=1ba', 'stages.assistant.algorithms=null', 'max_duration=1ba']
    short.append('stages.student.algorithms.distillation.teachers=[{stage: teacher}]')
    chain(tmp_path, *short, yaml=ASSISTANT)
    with pytest.raises(ConfigError, match=f'rm -r {tmp_path}/teacher {tmp_path}/student;'):
        chain(tmp_path, *short, 'stages.teacher.optimizer.lr=0.02', yaml=ASSISTANT)


def test_a_run_and_a_chain_do_not_share_a_folder(born_again, tmp_path):
    folder, _ = born_again
    alone = [*QUICK, 'max_duration=1ba']
    with pytest.raises(ConfigError, match='is the folder of a chain of stages'):
        train(load_config('yamls/digits/student.yaml', [*alone, f'save_folder={folder}', 'save_overwrite=true']))
    train(load_config('yamls/digits/student.yaml', [*alone, f'save_folder={tmp_path}']), quiet=True)
    for overrides in ([], ['save_overwrite=true']):
        with pytest.raises(ConfigError, match='holds a run that is no stage'):
            chain(tmp_path, 'stages.student.generations=1', *overrides)


def test_save_overwrite_trains_everything_anew(tmp_path):
    short = ['stages.student.generations=1', 'max_duration=1ba']
    first = chain(tmp_path, *short)
    again = chain(tmp_path, *short, 'seed=3', 'save_overwrite=true')
    assert all(again[name]['loss/train/total'] != first[name]['loss/train/total'] for name in first)
    assert chain(tmp_path, *short, 'seed=3') == again


def test_save_overwrite_keeps_what_is_there_if_the_new_stages_cannot_be_built(tmp_path):
    short = ['stages.student.generations=1', 'max_duration=1ba']
    first = chain(tmp_path, *short)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ConfigError, match='n_labels') as error:
        chain(tmp_path, *short, 'save_overwrite=true', 'stages.student.train_loader.dataset.n_labels=100000')
    assert 'student-1: ' in str(error.value)
    assert sorted(tmp_path.rglob('*')) == before
    assert chain(tmp_path, *short) == first


@pytest.mark.parametrize(
    ('override', 'named'),
    [
        (
            'stages.student.algorithms.distillation.kd_loss_fn=[{loss: {name: hint}, on: [features.2, features.99]}]',
            'student: .*features.99',
        ),
        ('stages.student.train_loader.dataset.n_labels=100000', 'student: .*n_labels'),
        ('stages.student.model.num_classes=7', 'student: '),
        ('stages.assistant.load_path=nowhere.pt', 'assistant: load_path'),
    ],
)
def test_a_slip_in_a_late_stage_is_told_before_the_first_trains(tmp_path, override, named):
    with pytest.raises(ConfigError, match=named):
        chain(tmp_path, override, yaml=ASSISTANT)
    assert not (tmp_path / 'teacher').exists() or not list((tmp_path / 'teacher').glob('*.pt'))
    assert not (tmp_path / '.rehearsal').exists()


def test_matches_on_features_and_a_student_with_projectors_as_teacher(tmp_path):
    features = (
        'algorithms.distillation.kd_loss_fn=[{name: KLDivergence}, '
        '{loss: {name: hint}, on: [features.2, features.2], '
        'project: {name: torch.nn.Conv2d, in_channels: 16, out_channels: 16, kernel_size: 1}, teacher: previous}]'
    )
    chain(tmp_path, 'stages.student.generations=2', f'stages.student.{features}')
    assert any(name.startswith('composer_kd.') for name in weights(tmp_path / 'student-2'))


def test_an_ensemble_that_has_no_classes_is_refused_before_the_first_stage(tmp_path, monkeypatch):
    def refuse(self, logits, batch):
        raise ConfigError('an ensemble averages probabilities over classes')

    monkeypatch.setattr('composer_kd.runs.ensemble.Ensemble._mean', refuse)
    with pytest.raises(ConfigError, match=r'Leave it out: stages\.student\.ensemble=false'):
        chain(tmp_path, 'stages.student.generations=2')
    assert not (tmp_path / 'teacher').exists()
    found = chain(tmp_path, 'stages.student.generations=2', 'stages.student.ensemble=false', 'max_duration=1ba')
    assert set(found) == {'teacher', 'student-1', 'student-2'}


def test_last_weights_that_are_not_saved_are_told(tmp_path):
    stage = load_chain(BORN_AGAIN, [*QUICK, f'save_folder={tmp_path}', 'max_duration=1ba']).stages[0]
    metrics = train(stage.config, quiet=True)
    check_last_checkpoint(stage, metrics)
    with pytest.raises(ConfigError, match='its last weights are not saved'):
        check_last_checkpoint(stage, {**metrics, 'time/batch': 2})


def test_a_stored_stage_teaches_in_the_next_chain(tmp_path):
    chain(tmp_path / 'live', 'stages.student.generations=1', 'max_duration=1ba')
    store = tmp_path / 'store'
    assert main(['cache', str(tmp_path / 'live/student-1/config.yaml'), '--out', str(store)]) == 0
    stored = f'stages.student.algorithms.distillation.teachers=[{{cache: {store}}}]'
    found = chain(tmp_path / 'stored', 'stages.student.generations=1', stored, 'max_duration=1ba')
    live = json.loads((tmp_path / 'live/student-1/metrics.json').read_text())
    assert found['student-1']['loss/train/kd'] == pytest.approx(live['loss/train/kd'], abs=1e-4)


def test_the_command_and_what_can_be_done_with_a_chain(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')  # for paths in tables
    folder = tmp_path / 'chain'
    assert main(['train', ASSISTANT, *QUICK, 'max_duration=1ep', f'save_folder={folder}']) == 0
    out = capsys.readouterr().out
    assert all(f'{name} ({number} of 3)' in out for number, name in enumerate(('teacher', 'assistant', 'student'), 1))
    assert 'accuracy' in out
    assert 'trained for' in out
    assert [run.folder for run in open_runs([folder])] == [
        folder / name for name in ('teacher', 'assistant', 'student')
    ]
    assert main(['evaluate', str(folder)]) == 0
    assert capsys.readouterr().out.count('latest-rank0.pt') == 3
    (folder / 'stages.json').write_text(
        (folder / 'stages.json')
        .read_text()
        .replace(
            '"ensembles": []',
            '"ensembles": [{"of": ["a", "b"], "mean_of": "probabilities", "metrics": {"metrics/eval/X": 0.5}}]',
        )
    )
    assert ensemble_notes([folder, 'elsewhere']) == [
        'Together, by the mean of their probabilities, a and b reach X 0.5000.'
    ]


def test_other_commands_name_the_stages_of_a_chain(born_again, tmp_path, capsys):
    folder, _ = born_again
    for command in (['bench', ASSISTANT], ['evaluate', ASSISTANT], ['export', ASSISTANT, *TO], ['layers', ASSISTANT]):
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert 'has stages (teacher, assistant, student), each of which is a run of its own' in said, command
    assert main(['export', str(folder), *TO]) == 2
    assert f'give that of one, {folder / "teacher"} or {folder / "student-1"} or' in capsys.readouterr().err
    begun = tmp_path / 'begun'
    begun.mkdir()
    (begun / 'stages.json').write_text((folder / 'stages.json').read_text())
    for command, *options in (['evaluate'], ['bench'], ['export', *TO], ['report']):
        assert main([command, str(begun), *options]) == 2, command
        assert 'the stages teacher, student-1, student-2, of which none has a checkpoint' in capsys.readouterr().err
    (begun / 'stages.json').write_text('{')
    assert main(['evaluate', str(begun)]) == 2
    assert 'stages.json is damaged' in capsys.readouterr().err
