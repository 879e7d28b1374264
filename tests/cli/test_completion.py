"""Completion as a shell asks for it, through argcomplete's own protocol."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip('argcomplete')


def completed(line, folder):
    answer = folder / 'answer'
    asked = {
        '_ARGCOMPLETE': '1',
        '_ARGCOMPLETE_IFS': '\n',
        '_ARGCOMPLETE_SUPPRESS_SPACE': '0',
        '_ARGCOMPLETE_COMP_WORDBREAKS': ' \t\n"\'><;|&(',
        '_ARGCOMPLETE_STDOUT_FILENAME': str(answer),
        'COMP_LINE': line,
        'COMP_POINT': str(len(line)),
        'PYTHONPATH': os.getcwd(),
    }
    code = (
        'import sys, atexit\nfrom composer_kd.cli.main import main\nimport os\nleave = os._exit\n'
        "os._exit = lambda code: leave(90 if 'torch' in sys.modules else code)\nsys.argv[0] = 'composer-kd'\nmain()"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, **asked}, cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [one.strip() for one in answer.read_text().split('\n')]


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('composer-kd tr', ['train']),
        ('composer-kd s', ['schema', 'serve', 'sweep']),
        ('composer-kd --ver', ['--version']),
        ('composer-kd train --dry', ['--dry-run']),
        ('composer-kd init hug', ['huggingface']),
        ('composer-kd train @digits/kd', ['@digits/kd', *(f'@digits/kd_{one}' for one in ('cached', 'few_labels'))]),
        ('composer-kd train mi', ['mine.yaml']),
        ('composer-kd train @digits/kd optimizer.', ['optimizer.lr=', 'optimizer.name=']),
        ('composer-kd train mine.yaml see', ['seed=']),
        ('composer-kd report runs', ['runs/']),
        ('composer-kd export runs --to on', ['onnx']),
    ],
)
def test_the_shell_is_told_how_to_go_on(line, expected, tmp_path):
    (tmp_path / 'mine.yaml').write_text('optimizer: {lr: 1}')
    (tmp_path / 'mi.txt').touch()
    (tmp_path / 'runs').mkdir()
    found = completed(line, tmp_path)
    assert set(expected) <= set(found)
    assert all(one.startswith(line.split()[-1]) for one in found)
    assert 'mi.txt' not in found
