"""The page docs/how_to/script_runs.md: its Python blocks, and its YAML with the commands."""

import re
from pathlib import Path

import pytest

from composer_kd.cli.main import main

PAGE = (Path(__file__).parents[2] / 'docs/how_to/script_runs.md').read_text(encoding='utf-8')


def _blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    """The working folder, and the names, of the page's script."""
    folder, namespace = tmp_path_factory.mktemp('script'), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in _blocks('python'):
            exec(compile(block, 'docs/how_to/script_runs.md', 'exec'), namespace)
    (folder / 'student.yaml').write_text(_blocks('yaml')[0], encoding='utf-8')
    return folder, namespace


def test_python_blocks(script):
    folder, found = script
    rows = {row.model: row for row in found['timings'].rows}
    accuracy = found['found'].metrics['metrics/eval/MulticlassAccuracy']
    assert rows['student'].accuracy == pytest.approx(accuracy)
    assert rows['student'].speed_up.against == 'teacher'
    assert [group.role for group in found['page'].groups] == ['teacher', 'student alone', 'student distilled']
    assert (folder / 'runs/report/report.html').stat().st_size > 10_000
    assert 'curves' in {file.stem for file in (folder / 'runs/report').glob('*.png')}
    assert (folder / 'runs/export/state-dict/student.pt').is_file()


@pytest.mark.parametrize('command', [one.split() for one in _blocks('bash')[0].splitlines()])
def test_commands(script, command, monkeypatch, capsys):
    folder, found = script
    monkeypatch.chdir(folder)
    _, *arguments = command
    quick = {'bench': ['--budget', '0.05', '--max-batch', '2', '--threads', '1', '--precisions', 'fp32']}
    assert main([*arguments, *quick.get(arguments[0], [])]) == 0
    shown = capsys.readouterr().out
    if arguments[0] == 'evaluate':
        assert f'{100 * found["found"].metrics["metrics/eval/MulticlassAccuracy"]:.2f}' in shown


def test_lines_beside_the_checkpoint_make_a_run_folder(script, monkeypatch, capsys):
    folder, _ = script
    monkeypatch.chdir(folder)
    (folder / 'runs/student/config.yaml').write_text(_blocks('yaml')[0], encoding='utf-8')
    try:
        assert main(['evaluate', 'runs/student']) == 0
    finally:
        (folder / 'runs/student/config.yaml').unlink()
