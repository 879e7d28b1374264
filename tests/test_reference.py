"""The reference of docs/reference: written from the code, and complete."""

import dataclasses
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import composer_kd
from composer_kd.cli.main import COMMANDS
from composer_kd.config.schema import LoaderConfig, PeerConfig, RunConfig, TeacherConfig

FOLDER = Path(__file__).parents[1] / 'docs/reference'
SPEC = importlib.util.spec_from_file_location('generate_reference', FOLDER / 'generate.py')
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


@pytest.fixture(scope='module')
def pages():
    return dict(generate.pages())


def test_the_pages_are_those_that_the_code_gives(pages):
    old = [name for name, page in pages.items() if (FOLDER / name).read_text(encoding='utf-8') != page]
    assert old == [], 'run: python docs/reference/generate.py'


def test_every_key_of_a_run_has_its_row(pages):
    shown = pages['yaml.md']
    for field in dataclasses.fields(RunConfig):
        assert f'\n| `{field.name}` | ' in shown
    assert '| `global_train_batch_size` |  | The number of samples in a batch, over all processes.<br>a whole' in shown
    assert '| `save_interval` | `1ep` |' in shown


@pytest.mark.parametrize('section', [RunConfig, LoaderConfig, TeacherConfig, PeerConfig])
def test_every_key_has_a_meaning(section):
    of_trainer = generate._of_trainer() if section is RunConfig else None
    assert [name for name, text in generate.keys(section, of_trainer).items() if not text] == []


def test_every_row_says_what_it_means(pages):
    assert re.findall(r'^.*\| \.<br>.*$', pages['yaml.md'], re.MULTILINE) == []


def test_comments_beside_and_above_keys_are_read():
    meant = generate.keys(LoaderConfig)
    assert meant['shuffle'] == 'null: true for training, false for evaluation'
    assert meant['samples_per_epoch'].startswith('Samples per epoch: the data set is repeated')


def test_options_of_losses_are_those_of_their_docstrings(pages):
    rows = pages['yaml.md'].partition('#### KLDivergence\n')[2].partition('####')[0]
    assert '| `temperature` | `4.0` | `T > 0`' in rows
    assert '#### kl_divergence' not in pages['yaml.md']  # the function that it wraps


def test_every_command_is_there_with_its_options(pages):
    shown = pages['command_line.md']
    for name in COMMANDS:
        assert f'\n## {name}\n' in shown
    assert '| `--format FORMAT` | dense (default), topk, sampled or hidden |' in shown
    assert '| `--to FORMAT [FORMAT ...]` |' in shown
    assert '%(' not in shown  # defaults as numbers
    assert '| `--samples N` | number of evaluation samples, default: 1000 |' in shown


def test_every_public_name_has_a_page():
    """Those of the package, and of the rooms that the pages document, are all there."""
    documented = set()
    for page in FOLDER.glob('*.md'):
        text = page.read_text(encoding='utf-8')
        for module in re.findall(r'\.\. automodule:: ([\w.]+)', text):
            documented |= set(importlib.import_module(module).__all__)
        documented |= {path.rpartition('.')[2] for path in re.findall(r'\.\. auto\w+:: ([\w.]+)', text)}
    assert sorted(set(composer_kd.__all__) - documented) == []
    for room in ('algorithms', 'losses', 'models', 'data', 'callbacks', 'testing'):
        public = importlib.import_module(f'composer_kd.{room}').__all__
        assert sorted(set(public) - documented) == [], room
