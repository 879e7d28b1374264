"""The command line as a user meets it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import composer_kd
from composer_kd.cli.main import main
from composer_kd.errors import ConfigError


def test_help_explains_itself(capsys):
    with pytest.raises(SystemExit) as left:
        main(['--help'])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for word in ('train', 'cache', 'evaluate', 'layers', 'serve', 'demo', 'init', 'schema', '@digits/kd'):
        assert word in printed


def test_without_arguments_it_helps(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0
    assert 'composer-kd init' in capsys.readouterr().out


def test_versions_are_told(capsys):
    with pytest.raises(SystemExit) as left:
        main(['--version'])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f'composer_kd {composer_kd.__version__} (mosaicml 0.')
    assert f'torch {importlib.metadata.version("torch")}' in said


@pytest.mark.parametrize(('slip', 'meant'), [('trian', 'train'), ('evalute', 'evaluate'), ('rport', 'report')])
def test_the_nearest_command_is_named(slip, meant, capsys):
    with pytest.raises(SystemExit) as left:
        main([slip, 'x.yaml'])
    assert left.value.code == 2
    assert f'unknown command {slip!r}; did you mean {meant!r}' in capsys.readouterr().err


def test_quiet_prints_results_alone_and_verbose_what_is_logged(tmp_path, capsys, caplog):
    overrides = [f'save_folder={tmp_path}', 'max_duration=1ba', 'train_loader.dataset.subset=128']
    assert main(['train', '@digits/student', *overrides, '-q']) == 0
    quiet = capsys.readouterr()
    assert 'MulticlassAccuracy' in quiet.out
    assert 'are in' not in quiet.out
    assert not quiet.err
    assert main(['train', '@digits/student', *overrides, 'save_overwrite=true', '-v']) == 0
    loud = capsys.readouterr()
    assert 'are in' in loud.out
    assert 'composer.trainer' in loud.err
    with pytest.raises(SystemExit):
        main(['train', '@digits/student', '-q', '-v'])


def test_wrong_input_is_one_message_and_status_2(capsys):
    assert main(['train', 'yamls/digits/kd.yaml', 'optimzer.lr=1', 'algorithms.distilation.x=1']) == 2
    said = capsys.readouterr().err
    assert said.startswith('composer-kd: yamls/digits/kd.yaml: 2 faults; nothing was started')
    assert "did you mean 'optimizer'" in said
    assert "did you mean 'Distillation'" in said


def test_debug_shows_the_traceback():
    with pytest.raises(ConfigError):
        main(['train', 'yamls/digits/kd.yaml', 'optimzer.lr=1', '--debug'])


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(config):
        raise ZeroDivisionError

    monkeypatch.setattr('composer_kd.runs.train.train', fail)
    with pytest.raises(ZeroDivisionError):
        main(['train', 'yamls/digits/student.yaml'])


@pytest.mark.parametrize(
    'arguments',
    [
        ['train'], ['evaluate'], ['layers'], ['demo', '--seeds', '0'], ['serve'],
        ['serve', 'runs/a', '--port', '65536'],
    ],
)  # fmt: skip
def test_incomplete_commands_are_refused(arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2


def test_a_seed_count_that_is_no_number_is_said_readably(capsys):
    with pytest.raises(SystemExit):
        main(['demo', '--seeds', 'abc'])
    assert "expected a whole number of 1 or more, got 'abc'" in capsys.readouterr().err


def test_a_missing_file_is_found_out_before_torch_is_imported():
    code = (
        "import sys\nfrom composer_kd.cli.main import main\nmain(['train', 'no.yaml'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no configuration file 'no.yaml'" in done.stderr


def test_training_from_the_command_line(tmp_path, capsys):
    overrides = ['max_duration=2ba', f'save_folder={tmp_path}', 'progress_bar=false', 'train_loader.dataset.subset=128']
    assert main(['train', 'yamls/digits/student.yaml', *overrides]) == 0
    assert 'metrics/eval/MulticlassAccuracy' in capsys.readouterr().out


def test_it_runs_as_a_module(tmp_path):
    # The way of the `composer` launcher; dotted paths to code in the working folder must resolve.
    (tmp_path / 'mine.py').write_text('from composer_kd.models import ShallowCNN as Net\n')
    (tmp_path / 'run.yaml').write_text('model: {name: mine.Net, in_chanels: 1}\n')
    command = [sys.executable, '-m', 'composer_kd', 'train', 'run.yaml']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "model.in_chanels: unknown option of ShallowCNN; did you mean 'in_channels'?" in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    'arguments',
    [
        ['layers', 'ShallowCNN', '--input', '2,1,8,8', 'in_channels=1', 'image_size=8'],
        ['layers', 'ShallowCNN', 'in_channels=1', '--input', '2,1,8,8', 'image_size=8'],
        ['layers', '--input', '2,1,8,8', 'ShallowCNN', 'in_channels=1', 'image_size=8'],
    ],
)
def test_settings_may_stand_behind_options(arguments, capsys):
    assert main(arguments) == 0
    assert '2, 16, 8, 8' in capsys.readouterr().out


@pytest.mark.parametrize('more', [['--input', '1', '--no-such'], ['--input', '1', '-x', 'a=1']])
def test_unknown_options_are_refused_all_the_same(more, capsys):
    with pytest.raises(SystemExit) as left:
        main(['layers', 'ShallowCNN', *more])
    assert left.value.code == 2
    assert 'unrecognized arguments' in capsys.readouterr().err
