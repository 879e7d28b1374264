"""Docstrings of installed packages: as texts, and as a task."""

import inspect
import json
import sys

import pytest
import torch

from composer_kd import ConfigError
from composer_kd.data import HeldOut, docstrings
from composer_kd.data.documentation import documentation
from tests.texts import save_tokenizer

pytest.importorskip('transformers')

SENTENCE = 'This is a sentence of {} with number {} in it.'


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages, of which each has 40 sentences in 20 modules, and one that both have."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, animal in (('kd_cats', 'cat'), ('kd_dogs', 'dog')):
        (tmp_path / name / '_private').mkdir(parents=True)
        (tmp_path / name / 'tests').mkdir()
        (tmp_path / name / '__init__.py').write_text('"""A sentence that both of the packages have."""')
        for place in ('_private/a.py', 'tests/a.py', 'test_a.py'):
            (tmp_path / name / place).write_text('"""A sentence from a place that is left out."""')
        (tmp_path / name / 'broken.py').write_text('"""A sentence in what does not compile."""\nif')
        for number in range(20):
            first, second = (SENTENCE.format(animal, 2 * number + more) for more in (0, 1))
            (tmp_path / name / f'm{number:02}.py').write_text(
                f'raise SystemExit\ndef f():\n    """{first}\n\n    And more of it.\n    """\n    def g(x):\n'
                f'        """{second}"""\nclass A:\n    """Too short."""\n    def h():\n'
                f'        """What a sentence about {name}.{animal}s is this?"""\n'
            )
    return ['kd_cats', 'kd_dogs']


def test_docstrings_are_those_of_inspect():
    found = dict.fromkeys(text for _, text in documentation('package:json'))
    for one in (json, json.loads, json.JSONEncoder, json.JSONEncoder.iterencode):
        assert inspect.getdoc(one) in found
    paths = [path for path, _ in documentation('package:json')]
    assert paths == sorted(paths)
    assert {'__init__.py', 'decoder.py'} <= set(paths)


def test_nothing_is_run_and_what_is_no_documentation_is_left_out(packages):
    found = documentation('package:kd_cats')
    assert 'kd_cats' not in sys.modules
    assert {path for path, _ in found} == {'__init__.py', *(f'm{number:02}.py' for number in range(20))}
    assert found[1][1] == 'This is a sentence of cat with number 0 in it.\n\nAnd more of it.'


def texts_of(data):
    return {data.tokenizer.decode(item['input_ids'], skip_special_tokens=True): item['labels'] for item in data}


def test_sentences_and_their_packages(packages, tmp_path):
    vocabulary = [*'this is a sentence of cat dog with number in it .'.split(), *map(str, range(40))]  # noqa: SIM905
    words = save_tokenizer(tmp_path / 'words', vocabulary)
    train, validation = (docstrings(split, tokenizer=words, packages=packages) for split in ('train', 'validation'))
    assert train.classes == packages
    found, others = texts_of(train), texts_of(validation)
    expected = {
        f'this is a sentence of {animal} with number {number} in it.': label
        for label, animal in enumerate(('cat', 'dog')) for number in range(40)
    }  # fmt: skip
    assert {**found, **others} == expected
    assert not set(found) & set(others)
    assert 0 < len(others) < len(found)
    numbers = {(text.split()[5], int(text.split()[8]) // 2) for text in found}  # both sentences of a file
    assert not numbers & {(text.split()[5], int(text.split()[8]) // 2) for text in others}


def test_few_labels_and_samples(packages, tmp_path):
    words = save_tokenizer(tmp_path / 'words')
    data = docstrings(tokenizer=words, packages=packages, subset=20, n_labels=6, seed=3)
    assert (data.texts, data.max_length) == (('sentence',), 32)  # what the page asks for, and cuts
    assert (len(data), [data.targets.count(label) for label in (0, 1, -100)]) == (20, [3, 3, 14])
    few = docstrings(tokenizer=words, packages=packages, subset=20, n_labels=6, keep_unlabelled=False, seed=3)
    assert sorted(few.targets) == [0, 0, 0, 1, 1, 1]
    assert len(HeldOut(few, 0.5)) == 3
    assert torch.equal(few.collate_fn([few[0]])['attention_mask'], torch.ones(1, len(few[0]['input_ids']), dtype=int))


def test_bad_settings(packages, tmp_path):
    words = save_tokenizer(tmp_path / 'words')
    for settings, said in (
        ({'packages': ['kd_cats']}, 'the number of packages: expected an integer from 2'),
        ({'packages': ['kd_cats', 'kd_cats']}, 'names of different packages'),
        ({'packages': ['kd_cats', 'kd.dogs']}, 'as they are imported'),
        ({'packages': ['kd_cats', 'kd_birds']}, 'package:kd_birds: there is no such package here'),
        ({'packages': [*packages, 'this']}, 'package:this: there is no such package'),
        ({'subset': 1000}, 'subset: expected an integer from 1 to'),
        ({'max_length': 1}, 'max_length: expected from 3'),
    ):
        with pytest.raises(ConfigError, match=said):
            docstrings(**{'tokenizer': words, 'packages': packages, **settings})


def test_a_package_without_sentences(packages, tmp_path):
    folder = tmp_path / 'kd_silent'
    folder.mkdir()
    (folder / '__init__.py').write_text('x = 1')
    words = save_tokenizer(tmp_path / 'words')
    with pytest.raises(ConfigError, match=r'package:kd_silent: no module in .* has a docstring'):
        docstrings(tokenizer=words, packages=[*packages, 'kd_silent'])
    (folder / '__init__.py').write_text('"""Two words."""')
    documentation.__globals__['_read'].cache_clear()
    with pytest.raises(ConfigError, match="'kd_silent' has no sentences of 5 to 30 words"):
        docstrings(tokenizer=words, packages=[*packages, 'kd_silent'])
