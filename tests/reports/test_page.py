"""The page opens anywhere, shows what it is given as text, and has what it promises."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from composer_kd.bench.results import BenchResults, Setting
from composer_kd.reports import Report, write_report
from composer_kd.reports.page import as_html, as_markdown_page
from tests.reports.building import called, evidence, row, timings

HOSTILE = '<script>alert("1")</script>&|`*'


class Reader(HTMLParser):
    """Notes tags, attributes and text, and that every tag is closed."""

    EMPTY = ('meta', 'link', 'img', 'br', 'hr', 'input')

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.ids, self.text, self.open = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == 'id']
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope='module')
def report():
    return Report(evidence(bench=timings()))


@pytest.fixture(scope='module')
def page(report):
    return Reader(as_html(report))


def test_the_page_needs_nothing_from_elsewhere(page):
    assert not page.open
    assert not {'script', 'link', 'iframe', 'object', 'img'} & set(page.tags)
    for key, value in page.attributes:
        assert not key.startswith('on')
        if key in ('src', 'href', 'xlink:href', 'srcset', 'action'):
            assert value.startswith(('#', 'data:')), value
        assert 'url(http' not in (value or '')
    assert '@import' not in ''.join(page.text)
    assert 'url(' not in ''.join(page.text)


def test_names_inside_the_page_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    references = [value[1:] for key, value in page.attributes if key == 'href' and value.startswith('#')]
    assert references
    assert set(references) <= set(page.ids)


def test_the_page_says_everything(page, report):
    text = ' '.join(' '.join(page.text).split())
    for said in [
        *report.verdict,
        *report.notes,
        *report.commands(),
        'a <fast> one',
        'of the benchmark',
        'failed: no int8 kernels',
    ]:
        assert ' '.join(said.split()) in text
    for drawing in report.drawings.values():
        assert drawing.caption in text
    assert page.attributes.count(('role', 'img')) == len(report.drawings) == 7


def test_hostile_names_are_text():
    given = evidence(seeds=(0,))
    names = {one.name: f'{HOSTILE}{index}' for index, one in enumerate(given.models)}
    models = tuple(
        dataclasses.replace(
            called(one, names[one.name], taught_by=tuple(names[name] for name in one.taught_by)),
            settings={**one.settings, HOSTILE: f'{HOSTILE}{index}'},
        )
        for index, one in enumerate(given.models)
    )
    evaluation = dataclasses.replace(given.evaluation, classes=tuple(f'${HOSTILE}{index}' for index in range(5)))
    report = Report(dataclasses.replace(given, models=models, evaluation=evaluation, notes=(HOSTILE,)))
    markup = as_html(report)
    page = Reader(markup)
    assert 'script' not in page.tags
    assert HOSTILE in ''.join(page.text)
    assert '<script>' not in markup
    assert '<script>' not in as_markdown_page(report)


def test_files_hold_the_same_numbers(tmp_path, report):
    files = write_report(report, tmp_path)
    assert sorted(file.name for file in files) == sorted(
        ['report.html', 'report.md', 'report.json', 'report.csv', *(f'{name}.png' for name in report.drawings)]
    )
    whole = json.loads((tmp_path / 'report.json').read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'report.csv').read_text())))
    assert [float(line['accuracy']) for line in rows] == [one['accuracy'] for one in whole['models']]
    assert whole['verdict'] == report.verdict
    assert whole['gain']['low'] < whole['gain']['mean'] < whole['gain']['high']
    assert sum(whole['models'][0]['reliability']['counts']) == 400
    assert whole['settings']['run_name']['kd'] == 'student distilled-0, student distilled-1, student distilled-2'
    markdown = (tmp_path / 'report.md').read_text()
    for name in report.drawings:
        assert f']({name}.png)' in markdown
        assert Image.open(tmp_path / f'{name}.png').width > 600


@pytest.fixture
def small():
    """A report of one run: few plots."""
    whole = evidence(seeds=(0,))
    return Report(dataclasses.replace(whole, models=whole.models[1:2]))


def test_plots_of_an_earlier_report_are_not_left_as_if_they_were_of_this_one(tmp_path, small):
    for name in ('pareto.png', 'mine.png'):
        (tmp_path / name).write_bytes(b'an earlier plot')
    files = write_report(small, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(['mine.png', *(file.name for file in files)])


def test_the_same_report_is_the_same_page(tmp_path, small):
    before = as_html(small)
    write_report(small, tmp_path)
    assert (tmp_path / 'report.html').read_text() == before


def test_long_tables_are_folded_and_every_section_is_in_the_contents(page):
    assert 'nav' in page.tags
    assert {'#speed', '#timings', '#again'} <= {value for key, value in page.attributes if key == 'href'}
    assert ('class', 'folded') not in page.attributes  # the timings have six rows
    settings = [Setting('cpu', threads, 'eager', 'fp32') for threads in (1,)]
    settings += [Setting('cpu', 1, f'backend {number}', 'fp32') for number in range(13)]
    many = BenchResults([row('kd-0', setting) for setting in settings], {}, '')
    assert ('class', 'folded') in Reader(as_html(Report(evidence(seeds=(0,), bench=many)))).attributes
