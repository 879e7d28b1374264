"""The method cards of docs/methods: their code runs, their YAMLs are right, and their numbers were measured."""

import json
import re
from pathlib import Path

import pytest
import yaml

import composer_kd.losses
from benchmarks.cards import FIGURES, IMAGES, draw, gains
from composer_kd.config.load import load_config
from composer_kd.config.stages import has_stages, load_chain
from composer_kd.config.yaml_file import read_mapping

ROOT = Path(__file__).parents[1]
METHODS = ROOT / 'docs/methods'
RESULTS = '\n'.join(path.read_text(encoding='utf-8') for path in sorted((ROOT / 'benchmarks/results').rglob('*.md')))
CARDS = sorted(path.stem for path in METHODS.glob('*.md') if path.stem != 'README')
NUMBER = r'-?\d+\.\d+ ± \d+\.\d+'
PARTS = ('**Use it when**', '## How', '## Cost', '## Goes with', '## Pitfalls', '## Measured here', '**Paper')


def read(card):
    return (METHODS / f'{card}.md').read_text(encoding='utf-8')


def blocks(text, language):
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


@pytest.mark.parametrize('card', CARDS)
def test_code_of_the_cards_runs(card, tmp_path, monkeypatch):
    text = read(card)
    if 'import peft' in text:
        pytest.importorskip('peft')
    if 'transformers' in ''.join(blocks(text, 'python')):
        pytest.importorskip('transformers')
    monkeypatch.chdir(tmp_path)
    namespace = {}
    start = blocks(read('README'), 'python')[0].rpartition('\nfit(')[0]
    for block in [start, *blocks(text, 'python')]:
        exec(compile(block, f'docs/methods/{card}.md', 'exec'), namespace)


def test_code_of_the_start_runs():
    (start,) = blocks(read('README'), 'python')
    namespace = {}
    exec(compile(start, 'docs/methods/README.md', 'exec'), namespace)
    assert {'teacher', 'fit', 'shape'} <= namespace.keys()


@pytest.mark.parametrize('card', CARDS)
def test_yamls_of_the_cards_are_right(card, tmp_path):
    """Each in the place of the same keys of kd.yaml, whose teachers it has unless it names its own."""
    found = blocks(read(card), 'yaml')
    assert found
    for number, block in enumerate(found):
        settings = read_mapping(ROOT / 'yamls/digits/kd.yaml')
        teachers = settings['algorithms']['distillation']['teachers']
        settings.update(yaml.safe_load(block))
        for key, options in settings['algorithms'].items():
            if key == 'distillation' and 'stages' not in settings:
                options.setdefault('teachers', teachers)
        file = tmp_path / f'{card}-{number}.yaml'
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding='utf-8')
        if has_stages(file):
            load_chain(file)
        else:
            load_config(str(file))


@pytest.mark.parametrize('card', CARDS)
def test_cards_have_all_parts_and_are_short(card):
    text = read(card)
    assert [part for part in PARTS if part not in text] == []
    assert len(text.splitlines()) < 120
    assert f'({card}.md)' in read('README')


@pytest.mark.parametrize('card', [*CARDS, 'README', '../results'])
def test_numbers_with_an_error_are_those_of_the_results(card):
    measured = set(re.findall(NUMBER, RESULTS + (ROOT / 'docs/transformers.md').read_text('utf-8')))
    assert [number for number in re.findall(NUMBER, read(card)) if number not in measured] == []


@pytest.mark.parametrize('card', [*CARDS, 'README', '../results'])
def test_ratios_and_sizes_are_those_of_the_results(card):
    """Numbers with three decimals, and those with a unit that is measured; those of code and settings are chosen."""
    pattern = r'(?<![\d.])\d+\.\d{3}(?![\d.])|[\d.]+ [Mk]B|[\d.]+ \[-?[\d.]+, [\d.]+\]'
    told = re.sub(r'```.*?```|\n## Settings\n.*?(?=\n## )', '', read(card), flags=re.DOTALL)
    measured = RESULTS.replace(' us ', ' µs ')
    assert [number for number in re.findall(pattern, told) if number.rstrip(']') not in measured] == []


@pytest.mark.parametrize('card', CARDS)
def test_commands_of_the_cards_are_those_of_the_results(card):
    for command in re.findall(r'`(python benchmarks/[^`]*)`', read(card)):
        assert command in RESULTS, command


def test_every_loss_is_in_a_card():
    """By the name of its class, or of its function if it has none."""
    named = set(re.findall(r'\w+', '\n'.join(map(read, CARDS))))
    classes = {name.lower() for name in composer_kd.losses.__all__ if not name.islower()}
    functions = (
        name for name in composer_kd.losses.__all__ if name.replace('_', '') not in classes or not name.islower()
    )
    assert [name for name in functions if name not in named] == []


@pytest.mark.parametrize('name', FIGURES)
def test_figures_of_the_cards(name):
    shown = ''.join(map(read, CARDS))
    assert f'(images/{name}.png)' in shown
    assert (IMAGES / f'{name}.png').exists()


def test_gains_are_paired_by_seed():
    runs = json.loads((ROOT / 'benchmarks/results/schemes.json').read_text(encoding='utf-8'))['runs']
    gained = gains(runs, 'dense', setting='few')
    assert round(sum(gained) / len(gained), 1) == 22.5  # as in schemes.md
    assert len(gained) == 3


def test_a_figure_is_a_picture():
    assert draw('no_teacher').startswith(b'\x89PNG')
