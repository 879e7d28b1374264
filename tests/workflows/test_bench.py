"""``composer-kd bench``."""

import json
import shutil
import types
import warnings

import pytest

from composer_kd.bench import BenchResults
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.markers import Component
from composer_kd.config.schema import LoaderConfig
from composer_kd.runs.compared import data_in_words
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from composer_kd.workflows import bench as command

QUICK = ['--devices', 'cpu', '--threads', '1', '--budget', '0.02', '--max-batch', '2']
EAGER = [*QUICK, '--backends', 'eager', '--precisions', 'fp32']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folders of a teacher and of a student that it taught, a few batches each."""
    folder = tmp_path_factory.mktemp('runs')
    quiet = ['max_duration=6ba', 'eval_interval=6ba', 'progress_bar=false']
    train(load_config('yamls/digits/teacher.yaml', [*quiet, f'save_folder={folder}/teacher']))
    weights = f'variables.teacher={folder}/teacher/latest-rank0.pt'
    train(load_config('yamls/digits/kd.yaml', [*quiet, weights, f'save_folder={folder}/kd']))
    return folder / 'teacher', folder / 'kd'


def test_the_accuracy_is_that_of_evaluate(runs, tmp_path, capsys):
    teacher, student = runs
    assert main(['bench', str(student), str(teacher), '--out', str(tmp_path), *EAGER]) == 0
    results = BenchResults.read(tmp_path)
    assert [(row.model, row.role) for row in results.rows] == [
        ('digits-teacher', 'teacher'),
        ('digits-kd', 'student distilled'),
    ]
    for row, folder in zip(results.rows, (teacher, student)):
        expected = evaluate(folder).metrics['metrics/eval/MulticlassAccuracy']
        assert row.accuracy == pytest.approx(expected, abs=1e-6)
    assert results.samples == 500
    assert 'digits(split=test)' in results.data
    said = capsys.readouterr().out
    assert 'cpu, 1 thread, eager, fp32' in said
    assert 'digits-kd' in said
    assert (tmp_path / 'bench.csv').is_file()
    assert '| digits-kd |' in (tmp_path / 'bench.md').read_text()


def test_the_teacher_of_a_run_comes_with_it(runs, tmp_path):
    assert main(['bench', str(runs[1]), '--out', str(tmp_path), '--samples', '30', *EAGER]) == 0
    results = BenchResults.read(tmp_path)
    assert [row.role for row in results.rows] == ['teacher', 'student distilled']
    assert 0 < results.rows[1].agreement <= 1
    assert results.samples == 30


def test_a_yaml_is_timed_with_random_weights(tmp_path, capsys):
    text = load_text('yamls/digits/student.yaml').replace('runs/{run_name}', str(tmp_path / 'nothing'))
    (tmp_path / 'mine.yaml').write_text(text)
    assert main(['bench', str(tmp_path / 'mine.yaml'), '--out', str(tmp_path), *EAGER]) == 0
    (row,) = BenchResults.read(tmp_path).rows
    assert (row.accuracy, row.parameters, row.output_match) == (None, 21_690, 1)
    assert row.latency is not None
    assert 'random weights' in capsys.readouterr().out


def load_text(file):
    with open(file, encoding='utf-8') as content:
        return content.read()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['no/such/folder'], 'no checkpoint'),
        (['no_such.yaml'], 'no configuration file'),
        (['KD', '--backends', 'onnx-runtime'], "did you mean 'onnxruntime'"),
        (['KD', '--devices', 'gpu'], 'is unknown'),
        (['KD', '--devices', 'xla'], "no 'xla' on this machine"),
        (['KD', '--precisions', 'fp61'], "did you mean 'fp16'"),
    ],
)
def test_wrong_input_is_said_before_anything_is_timed(runs, arguments, message, tmp_path, capsys):
    arguments = [str(runs[1]) if one == 'KD' else one for one in arguments]
    assert main(['bench', *arguments, '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, capsys):
    assert main(['bench', str(tmp_path)]) == 2
    assert 'latest-rank0.pt' in capsys.readouterr().err


def test_a_run_without_evaluation_data_is_refused(tmp_path, capsys):
    text = load_text('yamls/digits/student.yaml')
    start, end = text.index('eval_loader:'), text.index('max_duration:')
    (tmp_path / 'mine.yaml').write_text(text[:start] + text[end:])
    assert main(['bench', str(tmp_path / 'mine.yaml'), '--out', str(tmp_path / 'out')]) == 2
    assert 'eval_loader' in capsys.readouterr().err


def test_held_out_data_is_what_a_run_is_timed_and_judged_with(tmp_path, capsys):
    quiet = ['max_duration=1ba', 'eval_interval=1ba', 'progress_bar=false', f'save_folder={tmp_path}/run']
    train(load_config('yamls/digits/student.yaml', [*quiet, 'train_loader.hold_out=0.1', 'eval_loader=null']))
    assert main(['bench', str(tmp_path / 'run'), '--out', str(tmp_path), *EAGER]) == 0
    results = BenchResults.read(tmp_path)
    expected = evaluate(tmp_path / 'run').metrics['metrics/eval/MulticlassAccuracy']
    assert results.rows[0].accuracy == pytest.approx(expected, abs=1e-6)
    assert results.data == 'digits(split=train, hold_out=0.1)'


def test_results_name_no_folder_of_this_machine(tmp_path):
    loader = LoaderConfig(Component('dataset', 'image_folder', {'root': str(tmp_path / 'birds'), 'split': 'val'}))
    run = types.SimpleNamespace(config=types.SimpleNamespace(evaluation=loader))
    assert data_in_words(run) == 'image_folder(root=birds, split=val)'


@pytest.mark.parametrize(('home', 'expected'), [('/home/me', '~/runs/a'), ('/', '/home/me/runs/a')])
def test_the_command_is_kept_without_the_users_name(home, expected, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(command, 'bench_runs', lambda *rest: kept.append(rest[-1]))
    monkeypatch.setattr('sys.argv', ['composer-kd', 'bench', '/home/me/runs/a', 'my run'])
    monkeypatch.setenv('HOME', home)
    assert main(['bench', '/home/me/runs/a', 'my run', '--out', str(tmp_path)]) == 0
    assert kept == [f"composer-kd bench {expected} 'my run'"]


def test_a_teacher_that_is_gone_is_said_in_plain_words(runs, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / 'kd')
    config = tmp_path / 'kd' / 'config.yaml'
    config.write_text(config.read_text().replace(f'{runs[0]}/latest-rank0.pt', 'gone/latest-rank0.pt'))
    with warnings.catch_warnings():
        warnings.simplefilter('default')
        assert main(['bench', str(tmp_path / 'kd'), '--out', str(tmp_path), *EAGER]) == 0
    shown = capsys.readouterr()
    assert 'a teacher is left out of the comparison' in shown.out
    assert 'UserWarning' not in shown.out + shown.err


@pytest.mark.parametrize('bad', [['--budget', '0'], ['--threads', '0'], ['--max-batch', '-1'], ['--devices', ',']])
def test_numbers_out_of_range_are_refused(bad, capsys):
    with pytest.raises(SystemExit):
        main(['bench', 'x', *bad])
    assert 'expected' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('signal', 'status'), [(KeyboardInterrupt, 130), (SystemExit(130), 130), (SystemExit(143), 143)]
)  # Composer turns the first into the second
def test_what_is_measured_survives_a_stop(signal, status, runs, tmp_path, monkeypatch, capsys):
    def stop(self, setting, number, of):
        if number == 2:
            raise signal

    monkeypatch.setattr(command._Shown, 'start', stop)
    assert main(['bench', str(runs[1]), '--out', str(tmp_path), *QUICK, '--backends', 'eager']) == status
    content = json.loads((tmp_path / 'bench.json').read_text())
    assert len(content['rows']) == 2
    shown = capsys.readouterr()
    assert shown.err == f'composer-kd: stopped by {"Ctrl-C" if status == 130 else "SIGTERM"}\n'
    assert 'bench.json' in shown.out
    assert 'The best way of each model' in shown.out
