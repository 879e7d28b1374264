"""What the package says of itself: its dependencies, its version, the files that it ships."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import composer_kd
from composer_kd.config.shipped import FOLDERS as FOLDERS_OF_YAMLS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
PROJECT = PYPROJECT['project']
EXTRAS = PROJECT['optional-dependencies']
FOLDERS = ('composer_kd', 'tests', 'benchmarks', 'yamls', 'docs', 'examples')
FOR_DEVELOPERS = {'dev', 'docs', 'bench'}
OWN = {'composer_kd', 'tests', 'benchmarks'}
CALLED_OTHERWISE = {  # where a distribution is not installed here, its name cannot be asked for
    'composer': 'mosaicml',
    'optuna': 'optuna',
    'pynvml': 'nvidia-ml-py',
    'streaming': 'mosaicml-streaming',
    'timm': 'timm',
    'tomli': 'pytest',  # brings it to Python 3.10
    'torchdistill': 'torchdistill',
}


def normal(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def distribution(requirement):
    return normal(re.match(r'[\w.-]+', requirement).group())


def declared(*extras):
    requirements = [*PROJECT['dependencies'], *(one for extra in extras for one in EXTRAS[extra])]
    return {distribution(one) for one in requirements} - {'composer-kd'}


def third_party(folder):
    """Top-level names of other people's packages, with a file that imports each; dynamic imports are not seen."""
    found = {}
    for file in sorted((ROOT / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            found.update({name.split('.')[0]: file.relative_to(ROOT).as_posix() for name in names})
    return {name: file for name, file in found.items() if name not in OWN and name not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    ('folder', 'extras'),
    [('composer_kd', EXTRAS.keys() - FOR_DEVELOPERS), ('tests', EXTRAS), ('benchmarks', EXTRAS)],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_is_imported_is_declared(folder, extras):
    homes = importlib.metadata.packages_distributions()
    known = declared(*extras)
    imports = third_party(folder)
    assert {'torch', 'composer'} <= imports.keys()
    undeclared = {}
    for name, file in imports.items():
        brought_by = {normal(home) for home in homes.get(name, [CALLED_OTHERWISE.get(name, name)])}
        if not brought_by & known and CALLED_OTHERWISE.get(name) not in known:
            undeclared[name] = file
    assert not undeclared, f'declare them in pyproject.toml: {undeclared}'


def test_all_is_every_extra_but_those_for_developers():
    (everything,) = EXTRAS['all']
    assert distribution(everything) == 'composer-kd'
    assert set(re.findall(r'[\w-]+', everything.split('[')[1])) == EXTRAS.keys() - {'all'} - FOR_DEVELOPERS
    assert {'mlflow', 'tensorboard', 'streaming', 'nlp', 'onnx', 'sweep', 'energy', 'wandb', 'timm'} <= EXTRAS.keys()


def test_the_readme_lists_every_extra():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    (listed,) = re.findall(r'^Extras: (.*?)\n\n', readme, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r'`([\w-]+)`', listed)) >= EXTRAS.keys()


def test_constraints_name_versions_and_no_place():
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.+]+( ; [^/]+)?', line) for line in pins)
    assert not any('://' in line for line in lines)
    missing = declared(*EXTRAS) - {distribution(line) for line in pins}
    assert not missing, 'run the command in the head of constraints.txt'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """An sdist and a wheel of this source tree, built in a copy."""
    pytest.importorskip('setuptools', minversion=PYPROJECT['build-system']['requires'][0].split('>=')[1])
    folder = tmp_path_factory.mktemp('packaging')
    source = folder / 'source'
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in FOLDERS:
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns('__pycache__'))
        elif path.is_file():
            shutil.copy(path, source)
    template = source / 'composer_kd/deploy/templates/of_any_room.md.j2'
    template.parent.mkdir(exist_ok=True)
    template.touch()
    code = f"""
import setuptools.build_meta as backend
backend.build_sdist({str(folder)!r})
backend.build_wheel({str(folder)!r})
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_an_sdist_holds_what_its_tests_read(built):
    (file,) = built.glob('*.tar.gz')
    with tarfile.open(file) as sdist:
        held = {name.partition('/')[2] for name in sdist.getnames()}
    files = [
        path.relative_to(built / 'source')
        for folder in FOLDERS
        for path in (built / 'source' / folder).rglob('*')
        if path.is_file()
    ]
    assert len(files) > 300
    assert not [file for file in files if file.as_posix() not in held]
    assert {'CHANGELOG.md', 'LICENSE', 'Makefile', 'README.md', 'constraints.txt', 'pyproject.toml', 'setup.py'} <= held


def test_a_wheel_holds_the_package_with_its_templates_and_no_more(built):
    (file,) = built.glob('*.whl')
    with zipfile.ZipFile(file) as wheel:
        held = {name for name in wheel.namelist() if '.dist-info/' not in name}
        metadata = wheel.read(f'composer_kd-{composer_kd.__version__}.dist-info/METADATA').decode()
        scripts = wheel.read(f'composer_kd-{composer_kd.__version__}.dist-info/entry_points.txt').decode()
    package = {
        path.relative_to(built / 'source').as_posix()
        for path in (built / 'source' / 'composer_kd').rglob('*')
        if path.is_file()
    }
    yamls = {name for name in held if name.startswith('composer_kd/yamls/')}
    assert held - yamls == package
    assert {name.split('/')[2] for name in yamls} == set(FOLDERS_OF_YAMLS)
    beside = {path.relative_to(built / 'source').as_posix() for path in (built / 'source/yamls').rglob('*.yaml')}
    assert yamls == {f'composer_kd/{name}' for name in beside if name.split('/')[1] in FOLDERS_OF_YAMLS}
    assert {'composer_kd/py.typed', 'composer_kd/reports/page.html', 'composer_kd/reports/page.css'} <= held
    assert any(name.endswith('.j2') for name in held)
    assert 'Author: composer_kd developers' in metadata
    assert 'License-Expression: Apache-2.0' in metadata
    assert 'composer-kd = composer_kd.cli.main:main' in scripts


@pytest.fixture(scope='module')
def installed(built):
    """The folder that the wheel is unpacked in."""
    (file,) = built.glob('*.whl')
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(built / 'installed')
    return built / 'installed'


def run_installed(installed, folder, *arguments):
    environment = {**os.environ, 'PYTHONPATH': str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_what_a_wheel_holds_runs_from_an_empty_folder(installed, tmp_path):
    done = run_installed(installed, tmp_path, '-m', 'composer_kd', '--help')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'profile' in done.stdout


def test_the_yamls_of_a_wheel_run_from_an_empty_folder(installed, tmp_path):
    code = """
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.shipped import named, names
from composer_kd.config.stages import has_stages, load_chain
from composer_kd.workflows.sweep.sweep_file import read_sweep

for name in names():
    if name.startswith('sweeps/'):
        assert load_config(read_sweep(f'@{name}').base).run_name == f'{name[7:]}-kd'
    elif has_stages(f'@{name}'):
        load_chain(f'@{name}')
    else:
        load_config(f'@{name}')
print(named('digits'))
assert main(['init', 'digits']) == 0
assert main(['train', 'digits.yaml', '--dry-run']) == 0
assert main(['train', '@digits/student', 'max_duration=1ba']) == 0
"""
    done = run_installed(installed, tmp_path, '-W', 'ignore', '-c', code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(installed / 'composer_kd/yamls/start/digits.yaml') in done.stdout
    assert (tmp_path / 'runs/digits-student/metrics.json').is_file()
