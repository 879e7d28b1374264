"""Each fault in the lists beside this file is brought back, one after the other, in a copy; its tests must fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]
LISTS = sorted(path.stem for path in Path(__file__).parent.glob('faults_*.py'))
COPIED = ['composer_kd', 'tests', 'yamls', 'benchmarks', 'docs', 'README.md', 'CHANGELOG.md', 'pyproject.toml']


def _mutations(name: str) -> list[Mutation]:
    module = __import__(f'tests.mutations.{name}', fromlist=['MUTATIONS'])
    return list(module.MUTATIONS)


ALL = [pytest.param(one, id=f'{name[7:]}-{number}') for name in LISTS for number, one in enumerate(_mutations(name))]


@pytest.mark.parametrize('mutation', ALL)
def test_the_lists_are_of_the_code_as_it_is(mutation):
    text = (ROOT / mutation.path).read_text(encoding='utf-8')
    assert text.count(mutation.before) == 1, f'{mutation.fault}: {mutation.path} has changed'
    assert mutation.after != mutation.before
    compile(text.replace(mutation.before, mutation.after), mutation.path, 'exec')
    for test in mutation.tests:
        assert (ROOT / test.partition('::')[0]).exists()


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('copy')
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('mutation', ALL)
def test_a_fault_that_comes_back_is_noticed(mutation, copy):
    path = copy / mutation.path
    whole = path.read_text(encoding='utf-8')
    path.write_text(whole.replace(mutation.before, mutation.after), encoding='utf-8')
    try:
        command = [sys.executable, '-B', '-m', 'pytest', '-q', '-x', '-m', '', *mutation.tests]
        environment = os.environ | {'PYTHONPATH': str(copy)}
        ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    finally:
        path.write_text(whole, encoding='utf-8')
    # 1: tests failed. Anything else: they passed, or could not be collected, which would be noticed for another reason.
    assert ended.returncode == 1, f'{mutation.fault}: nothing failed\n{ended.stdout[-3000:]}'
