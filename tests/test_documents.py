"""What the documents say is run: the Python blocks of some pages, every docstring's example, the Makefile's help."""

import doctest
import importlib
import importlib.util
import json
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

import composer_kd
from composer_kd.config.construct import construct
from composer_kd.config.load import load_config
from composer_kd.config.yaml_file import read_mapping
from tests.launching import launched

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
SCHEMES = (ROOT / 'docs/schemes.md').read_text(encoding='utf-8')
MODULES = [
    module.name
    for module in pkgutil.walk_packages(composer_kd.__path__, 'composer_kd.')
    if not module.name.endswith('__main__')
]


def test_example_of_schemes_in_two_processes(tmp_path):
    (block,) = re.findall(r'<!-- run with two processes -->\n```python\n(.*?)```', SCHEMES, re.DOTALL)
    (tmp_path / 'script.py').write_text(block, encoding='utf-8')
    shown = launched(2, 'script.py', cwd=tmp_path)
    assert 'metrics/eval/group-1/MulticlassAccuracy' in shown


def test_examples_of_schemes(tmp_path, monkeypatch, capsys):
    """The Python blocks of docs/schemes.md, in one namespace and in order."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r'(?<!-->\n)```python\n(.*?)```', SCHEMES, re.DOTALL):
        if 'import peft' in block and importlib.util.find_spec('peft') is None:
            continue
        exec(compile(block, 'docs/schemes.md', 'exec'), namespace)
    shown = capsys.readouterr().out
    assert 'accuracy of the generations together' in shown
    assert 'metrics/eval/slow/MulticlassAccuracy' in shown
    assert 'metrics/eval/exit.features.3/MulticlassAccuracy' in shown


def test_examples_of_transformers(tmp_path, monkeypatch, capsys):
    """The Python blocks of docs/transformers.md, in one namespace and in order; and its table of layers."""
    from composer_kd.students.layer_choice import chosen_layers

    monkeypatch.chdir(tmp_path)
    namespace = {}
    text = (ROOT / 'docs/transformers.md').read_text(encoding='utf-8')
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(compile(block, 'docs/transformers.md', 'exec'), namespace)
    shown = capsys.readouterr().out
    assert '6 [1, 3, 5, 7, 9, 11]' in shown
    assert "'decoder': [0, 5]" in shown
    rows = re.findall(r"^\| `'(\w+)'` \| ([\d ]+) \|", text, re.MULTILINE)
    assert len(rows) == 5
    for strategy, kept in rows:
        assert chosen_layers(strategy, 12, 6) == [int(index) for index in kept.split()]


def test_examples_of_language_models(tmp_path, monkeypatch):
    text = (ROOT / 'docs/language_models.md').read_text(encoding='utf-8')
    for block in re.findall(r'```yaml\n(.*?)```', text, re.DOTALL):
        (tmp_path / 'part.yaml').write_text(block, encoding='utf-8')
        written = read_mapping(tmp_path / 'part.yaml')['algorithms']['distillation']
        options = [f'algorithms.distillation.{key}={json.dumps(value)}' for key, value in written.items()]
        config = load_config(str(ROOT / 'yamls/digits/kd.yaml'), options)
        losses = config.algorithms['distillation'].options['kd_loss_fn']
        assert all(construct(one) for one in (losses if isinstance(losses, list) else [losses]))
    pytest.importorskip('transformers')
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(compile(block, 'docs/language_models.md', 'exec'), namespace)
    assert namespace['algorithm'].pool.vocabulary == 11


def test_examples_of_hugging_face(tmp_path, monkeypatch):
    """The Python blocks of docs/hugging_face.md, in one namespace and in order, with a tiny model in the folder."""
    pytest.importorskip('transformers')
    from tests.texts import save_model, save_sst2

    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / 'my-bert')
    save_sst2(tmp_path / 'data')
    namespace = {}
    text = (ROOT / 'docs/hugging_face.md').read_text(encoding='utf-8')
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(compile(block, 'docs/hugging_face.md', 'exec'), namespace)
    assert namespace['student'].config.num_hidden_layers == 1


def test_examples_of_benches_of_texts():
    """The Python blocks of docs/bench_texts.md, in one namespace and in order."""
    pytest.importorskip('transformers')
    namespace: dict[str, object] = {}
    text = (ROOT / 'docs/bench_texts.md').read_text(encoding='utf-8')
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
        exec(compile(block, 'docs/bench_texts.md', 'exec'), namespace)


@pytest.mark.parametrize('name', ['composer_kd', *MODULES])
def test_examples_in_docstrings(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize('name', composer_kd.__all__)
def test_public_things_explain_themselves(name):
    thing = getattr(composer_kd, name)
    assert thing.__doc__
    if not (isinstance(thing, type) and issubclass(thing, Exception)):
        assert 'Example:' in thing.__doc__


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_make_help_explains_itself():
    shown = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ('demo', 'test', 'lint', 'bench'):
        assert re.search(rf'make {target}\s+\S', shown)
