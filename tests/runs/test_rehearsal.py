"""``composer-kd train ... --dry-run``: everything up to the first batch is checked; nothing is trained or written."""

from __future__ import annotations

import pytest

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.rehearsal import rehearse_run

SMALL = ['train_loader.dataset.subset=128', 'precision=fp32', 'progress_bar=false']


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.rglob('*')}


@pytest.mark.parametrize('name', ['digits', 'huggingface', 'timm', 'digits/student', 'digits/self', 'digits/mutual'])
def test_what_is_shipped_fits_together_and_nothing_is_written(name, elsewhere, capsys):
    if name in ('huggingface', 'timm'):
        pytest.importorskip('timm' if name == 'timm' else 'transformers')
    assert main(['train', f'@{name}', '--dry-run']) == 0
    said = capsys.readouterr().out
    assert 'parameters that train, in fp32 on the CPU; saved in runs/' in said
    assert said.endswith('nothing was trained or written\n')
    assert not tree(elsewhere)


@pytest.mark.parametrize(
    ('length', 'told'),
    [('3ep', '6 batches of 64 samples'), ('7ba', '7 batches of 64'), ('1000sp', '1,000 samples in batches of 64')],
)
def test_it_tells_how_long_the_run_is(length, told):
    assert f'digits-student: {told}' in rehearse_run(load_config('@digits/student', [*SMALL, f'max_duration={length}']))


@pytest.mark.parametrize(
    ('name', 'wrong', 'told'),
    [
        ('digits/kd', [], 'No checkpoint at runs/digits-teacher/latest-rank0.pt'),
        ('digits/student', ['load_path=no.pt'], 'load_path: '),
        ('digits/student', ['model.num_classes=7'], 'model: has 7 classes, and train_loader.dataset has 10'),
        ('digits/student', ['model.in_channels=3'], 'fails on the first sample'),
        ('digits/student', ['save_folder=afile/runs'], 'save_folder: afile/runs cannot be used: '),
        ('digits/student', ['loggers.file_logger={flush_interval: 0, capture_stdout: 3, filename: 3}'], 'filename'),
        ('digits', ['stages.alone.model.in_channels=3'], 'alone: model: fails on the first sample'),
    ],
)
def test_what_would_end_the_run_is_told(name, wrong, told, elsewhere, capsys):
    (elsewhere / 'afile').touch()
    before = tree(elsewhere)
    assert main(['train', f'@{name}', '--dry-run', *wrong]) == 2
    assert told in capsys.readouterr().err
    assert tree(elsewhere) == before


def test_of_a_run_that_goes_on_it_tells_from_where_and_leaves_its_folder_alone(elsewhere):
    main(['train', '@digits/student', *SMALL, 'max_duration=1ep'])
    (elsewhere / 'runs/digits-student/latest-rank0.pt').unlink()  # the run itself would mend it
    before = tree(elsewhere)
    longer = [*SMALL, 'max_duration=2ep']
    with pytest.raises(ConfigError, match='holds a run that has finished'):
        rehearse_run(load_config('@digits/student', longer))
    assert 'goes on after batch 2' in rehearse_run(load_config('@digits/student', [*longer, 'autoresume=true']))
    with pytest.raises(ConfigError, match='holds a run with other settings'):
        rehearse_run(load_config('@digits/student', [*longer, 'autoresume=true', 'optimizer.lr=3']))
    assert tree(elsewhere) == before


def test_stages_that_have_finished_are_told(elsewhere, capsys):
    lengths = [f'stages.{name}.max_duration=1ba' for name in ('alone', 'distilled')]
    few = ['eval_interval=1ba', 'save_interval=1ba', 'progress_bar=false', *lengths]
    assert main(['train', '@digits', *few, 'stages.teacher.max_duration=1ba']) == 0
    capsys.readouterr()
    before = tree(elsewhere)
    assert main(['train', '@digits', *few, 'stages.teacher.max_duration=1ba', '--dry-run']) == 0
    assert 'teacher has finished\nalone has finished\ndistilled has finished\n' in capsys.readouterr().out
    assert main(['train', '@digits', *few, 'stages.teacher.max_duration=2ba', '--dry-run']) == 2
    after = {file: was for file, was in tree(elsewhere).items() if file.is_file()}
    assert after == {file: was for file, was in before.items() if file.is_file()}
