"""What a type checker says of a script that uses the package."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests import typed_script

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tests' / 'typed_script.py'


def run(*command, **options):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_a_script_passes_mypy_strict(tmp_path):
    """With the settings that a new project has, not this repository's: Composer's own types are followed."""
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT.read_text(encoding='utf-8'), encoding='utf-8')
    wrong = tmp_path / 'wrong.py'
    wrong.write_text("from composer_kd import Ramp\n\nramp = Ramp('ten', 0.0)\n", encoding='utf-8')
    done = run('-m', 'mypy', '--strict', '--config-file=', '--cache-dir=cache', str(script), str(wrong), cwd=tmp_path)
    assert done.stdout.splitlines() == [
        'wrong.py:3: error: Argument 1 to "Ramp" has incompatible type "str"; expected "float"  [arg-type]',
        'Found 1 error in 1 file (checked 2 source files)',
    ], done.stdout + done.stderr


def test_the_script_does_what_its_types_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    warnings.simplefilter('ignore')
    typed_script.main(tmp_path)
    assert 'MulticlassAccuracy' in capsys.readouterr().out
